//! /dev/xen/evtchn: ports of this process.
//!
//! A port that fired is masked until it is unmasked again: read it with [`Evtchn::pending`], serve it, then
//! [`Evtchn::unmask`]. The device is non-blocking and can be polled for reading. Ports are closed with it.
//!
//! Source: Linux, `include/uapi/xen/evtchn.h`.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::ioctl::Opcode;

use crate::Error;
use crate::device::open_device;
use crate::ioctl::{number, plain};

const DEVICE: &str = "/dev/xen/evtchn";
const REMEDY: &str = "load the module xen-evtchn (modprobe xen-evtchn)";

const BIND_VIRQ: Opcode = number(b'E', 0, 4);
const BIND_INTERDOMAIN: Opcode = number(b'E', 1, 8);
const UNBIND: Opcode = number(b'E', 3, 4);
const NOTIFY: Opcode = number(b'E', 4, 4);

/// A port of this domain.
pub type Port = u32;

/// The open device.
#[derive(Debug)]
pub struct Evtchn {
    file: File,
}

impl AsFd for Evtchn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Evtchn {
    /// Opens /dev/xen/evtchn.
    ///
    /// # Errors
    /// Where it is not there or not ours to open.
    pub fn open() -> Result<Self, Error> {
        let file = open_device(DEVICE, REMEDY, OFlags::NONBLOCK)?;
        Ok(Self { file })
    }

    /// Binds a virtual interrupt (`VIRQ_*`); returns the new port.
    ///
    /// # Errors
    /// EEXIST where another process has it, and the hypervisor's.
    pub fn bind_virq(&self, virq: u32) -> Result<Port, Error> {
        self.port(BIND_VIRQ, [virq], || {
            format!("binding virtual interrupt {virq}")
        })
    }

    /// Binds to a port that `domid` keeps for this domain; returns the new local port.
    ///
    /// # Errors
    /// The hypervisor's: EINVAL where the far port is not unbound or not for us.
    pub fn bind_interdomain(&self, domid: u16, remote: Port) -> Result<Port, Error> {
        self.port(BIND_INTERDOMAIN, [domid.into(), remote], || {
            format!("binding to port {remote} of domain {domid}")
        })
    }

    /// Closes a port.
    ///
    /// # Errors
    /// ENOTCONN where it is not a port of this process.
    pub fn unbind(&self, port: Port) -> Result<(), Error> {
        self.port(UNBIND, [port], || format!("closing port {port}"))
            .map(drop)
    }

    /// Sends an event to the far end of a port.
    ///
    /// # Errors
    /// ENOTCONN where it is not a port of this process.
    pub fn notify(&self, port: Port) -> Result<(), Error> {
        self.port(NOTIFY, [port], || format!("notifying port {port}"))
            .map(drop)
    }

    /// Appends the ports that fired to `ports`, without waiting; each is masked until [`Evtchn::unmask`].
    ///
    /// # Errors
    /// EFBIG where the device's ring overflowed.
    pub fn pending(&self, ports: &mut Vec<Port>) -> Result<(), Error> {
        let mut buffer = [0; 256];
        loop {
            match (&self.file).read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(got) => {
                    let (words, _) = buffer.get(..got).unwrap_or_default().as_chunks::<4>();
                    ports.extend(words.iter().map(|word| u32::from_ne_bytes(*word)));
                    if got < buffer.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("reading the ports that fired", &error)),
            }
        }
    }

    /// Lets a port fire again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn unmask(&self, port: Port) -> Result<(), Error> {
        (&self.file)
            .write_all(&port.to_ne_bytes())
            .map_err(|error| failed(&format!("unmasking port {port}"), &error))
    }

    fn port<const N: usize>(
        &self,
        opcode: Opcode,
        mut words: [u32; N],
        step: impl Fn() -> String,
    ) -> Result<Port, Error> {
        let result = plain(&self.file, opcode, &mut words)
            .map_err(|errno| Error::request(DEVICE, step(), errno))?;
        u32::try_from(result).map_err(|_| Error::request(DEVICE, step(), Errno::INVAL))
    }
}

fn failed(step: &str, error: &std::io::Error) -> Error {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    Error::request(DEVICE, step, errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_numbers_are_linux_ones() {
        assert_eq!(
            [BIND_VIRQ, BIND_INTERDOMAIN, UNBIND, NOTIFY],
            [0x4_4500, 0x8_4501, 0x4_4503, 0x4_4504]
        );
    }
}
