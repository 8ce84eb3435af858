//! The hypervisor's messages, copied to a log as they come.
//!
//! The hypervisor raises VIRQ_CON_RING when its ring has more; the ring is read from where the last read ended, so
//! nothing is cleared for `xl dmesg`.

use std::time::SystemTime;

use guest_abi::sysctl::{
    XEN_SYSCTL_INTERFACE_VERSION, XEN_SYSCTL_readconsole, XenSysctl, XenSysctlReadconsole,
};
use guest_abi::xen::{__HYPERVISOR_sysctl, VIRQ_CON_RING};
use xendev::evtchn::{Evtchn, Port};
use xendev::{Arg, Errno, Handle, Privcmd};
use zerocopy::{FromBytes, IntoBytes};

use crate::log::Log;

/// Bytes asked for at a time.
const PIECE: usize = 16384;

/// Where the body's buffer address lies in the argument.
const BUFFER_AT: usize =
    std::mem::offset_of!(XenSysctl, u) + std::mem::offset_of!(XenSysctlReadconsole, buffer);

/// Why the messages cannot be copied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A device.
    #[error(transparent)]
    Device(#[from] xendev::Error),
    /// The hypervisor.
    #[error("reading the hypervisor's messages: {0:?}")]
    Refused(Errno),
    /// The file.
    #[error("logging the hypervisor's messages: {0}")]
    Log(#[from] std::io::Error),
}

/// A log of the hypervisor's messages.
#[derive(Debug)]
pub(crate) struct HypervisorLog {
    privcmd: Privcmd,
    port: Port,
    log: Log,
    index: u32,
}

impl HypervisorLog {
    /// Starts with what the ring holds.
    ///
    /// # Errors
    /// The device is missing, another program has the virtual interrupt, or the first read failed.
    pub(crate) fn start(evtchn: &Evtchn, log: Log) -> Result<Self, Error> {
        let port = evtchn.bind_virq(VIRQ_CON_RING)?;
        let mut this = Self {
            privcmd: Privcmd::open()?,
            port,
            log,
            index: 0,
        };
        this.copy()?;
        Ok(this)
    }

    /// Returns the port that tells of more.
    pub(crate) fn port(&self) -> Port {
        self.port
    }

    /// Opens the log anew.
    ///
    /// # Errors
    /// It cannot be opened; the old one stays in use.
    pub(crate) fn reopen(&mut self) -> Result<(), Error> {
        Ok(self.log.reopen()?)
    }

    /// Copies what is new.
    ///
    /// # Errors
    /// The hypervisor's, or the file's.
    pub(crate) fn copy(&mut self) -> Result<(), Error> {
        let mut piece = vec![0; PIECE];
        loop {
            let count = self.read(&mut piece)?;
            let new = piece.get(..count).unwrap_or_default();
            self.log.write(new, SystemTime::now())?;
            if count < PIECE {
                return Ok(());
            }
        }
    }

    fn read(&mut self, piece: &mut [u8]) -> Result<usize, Error> {
        let body = XenSysctlReadconsole {
            incremental: 1,
            index: self.index,
            count: u32::try_from(piece.len()).unwrap_or(u32::MAX),
            ..XenSysctlReadconsole::default()
        };
        let mut sysctl = XenSysctl {
            cmd: XEN_SYSCTL_readconsole,
            interface_version: XEN_SYSCTL_INTERFACE_VERSION,
            u: [0; 16],
        };
        if let Some(place) = sysctl.u.as_mut_bytes().get_mut(..size_of_val(&body)) {
            place.copy_from_slice(body.as_bytes());
        }
        let mut handles = [Handle {
            at: BUFFER_AT,
            data: piece,
        }];
        let mut args = [Arg::Struct {
            bytes: sysctl.as_mut_bytes(),
            handles: &mut handles,
        }];
        self.privcmd
            .hypercall(__HYPERVISOR_sysctl, &mut args)
            .map_err(Error::Refused)?;
        let (answer, _) = XenSysctlReadconsole::read_from_prefix(sysctl.u.as_bytes())
            .expect("the body is shorter than the argument");
        self.index = answer.index;
        Ok(usize::try_from(answer.count).unwrap_or(0).min(PIECE))
    }
}
