//! What we need of the host: guests' pages, event channels, and the state of domains.
//!
//! [`XenDevices`] is the real thing; [`NoDevices`] serves where there is no hypervisor, and then there are no guests.

use std::os::fd::{AsFd, BorrowedFd};

use guest_abi::domctl::{
    XEN_DOMCTL_INTERFACE_VERSION, XEN_DOMCTL_getdomaininfo, XEN_DOMINF_dying, XEN_DOMINF_shutdown,
    XenDomctl, XenDomctlGetdomaininfo,
};
use guest_abi::grant_table::GNTTAB_RESERVED_XENSTORE;
use guest_abi::xen::{__HYPERVISOR_domctl, VIRQ_DOM_EXC};
use xendev::{
    Arg, Errno, Error, MappedPages, Privcmd,
    evtchn::{Evtchn, Port},
    gntdev::{Gntdev, GrantMapping},
    xenbus_backend::local_ring,
};
use xenstore::Domid;
use zerocopy::{FromBytes, IntoBytes};

/// A mapped ring.
pub(crate) trait RingPage: std::fmt::Debug {
    /// The page.
    fn page(&self) -> &MappedPages;
}

impl RingPage for MappedPages {
    fn page(&self) -> &MappedPages {
        self
    }
}

impl RingPage for GrantMapping {
    fn page(&self) -> &MappedPages {
        self.pages()
    }
}

/// How a domain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It lives.
    Alive,
    /// It has shut down, crashed or been suspended.
    ShutDown,
    /// It is being destroyed, or is no more.
    Gone,
}

/// The host, as far as rings need it.
pub(crate) trait Devices: std::fmt::Debug {
    /// Maps a guest's ring.
    ///
    /// # Errors
    /// Neither grant 1 nor the frame can be mapped.
    fn map(&self, domid: Domid, gfn: u64) -> Result<Box<dyn RingPage>, Error>;

    /// Maps our own kernel's ring, and tells the port to bind to.
    ///
    /// # Errors
    /// There is no such device.
    fn map_own(&self) -> Result<(Box<dyn RingPage>, Port), Error>;

    /// Binds to a domain's port.
    ///
    /// # Errors
    /// The hypervisor's.
    fn bind(&self, domid: Domid, port: Port) -> Result<Port, Error>;

    /// Closes a port of ours.
    fn unbind(&self, port: Port);

    /// Sends an event.
    fn notify(&self, port: Port);

    /// Appends the ports that fired, and lets them fire again.
    ///
    /// # Errors
    /// The device's.
    fn fired(&self, ports: &mut Vec<Port>) -> Result<(), Error>;

    /// The port that fires when some domain has shut down or ended.
    fn ends(&self) -> Option<Port>;

    /// What to poll for [`Devices::fired`].
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Asks how a domain is.
    fn state(&self, domid: Domid) -> State;
}

/// The devices under /dev/xen.
#[derive(Debug)]
pub(crate) struct XenDevices {
    evtchn: Evtchn,
    gntdev: Gntdev,
    privcmd: Privcmd,
    ends: Port,
}

impl XenDevices {
    /// Opens the devices and binds the interrupt that tells of domains' ends.
    ///
    /// # Errors
    /// A device is missing: the error names it and the remedy. EEXIST: another xenstored is running.
    pub(crate) fn open() -> Result<Self, Error> {
        let evtchn = Evtchn::open()?;
        let ends = evtchn.bind_virq(VIRQ_DOM_EXC)?;
        Ok(Self {
            evtchn,
            gntdev: Gntdev::open()?,
            privcmd: Privcmd::open()?,
            ends,
        })
    }

    /// Asks the hypervisor for a domain, or the next one that exists.
    fn info(&self, domid: Domid) -> Result<XenDomctlGetdomaininfo, Errno> {
        let mut domctl = XenDomctl {
            cmd: XEN_DOMCTL_getdomaininfo,
            interface_version: XEN_DOMCTL_INTERFACE_VERSION,
            domain: domid,
            _pad: [0; 3],
            u: [0; 16],
        };
        let mut args = [Arg::Bytes(domctl.as_mut_bytes())];
        self.privcmd.hypercall(__HYPERVISOR_domctl, &mut args)?;
        let (info, _) = XenDomctlGetdomaininfo::read_from_prefix(domctl.u.as_bytes())
            .map_err(|_| Errno::EINVAL)?;
        Ok(info)
    }
}

impl Devices for XenDevices {
    fn map(&self, domid: Domid, gfn: u64) -> Result<Box<dyn RingPage>, Error> {
        match self.gntdev.map(domid, &[GNTTAB_RESERVED_XENSTORE], true) {
            Ok(granted) => Ok(Box::new(granted)),
            Err(error) => {
                log::debug!("d{domid}: {error}; mapping gfn {gfn:#x} instead");
                let pages = self.privcmd.map_foreign(domid, &[gfn], true)?;
                Ok(Box::new(pages))
            }
        }
    }

    fn map_own(&self) -> Result<(Box<dyn RingPage>, Port), Error> {
        let ring = local_ring()?;
        Ok((Box::new(ring.page), ring.port))
    }

    fn bind(&self, domid: Domid, port: Port) -> Result<Port, Error> {
        self.evtchn.bind_interdomain(domid, port)
    }

    fn unbind(&self, port: Port) {
        if let Err(error) = self.evtchn.unbind(port) {
            log::debug!("{error}");
        }
    }

    fn notify(&self, port: Port) {
        if let Err(error) = self.evtchn.notify(port) {
            log::debug!("{error}");
        }
    }

    fn fired(&self, ports: &mut Vec<Port>) -> Result<(), Error> {
        self.evtchn.pending(ports)?;
        // Before the rings are looked at, so that nothing that comes later is missed.
        ports.iter().try_for_each(|port| self.evtchn.unmask(*port))
    }

    fn ends(&self) -> Option<Port> {
        Some(self.ends)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.evtchn.as_fd())
    }

    fn state(&self, domid: Domid) -> State {
        match self.info(domid) {
            Ok(info) if info.domain != domid => State::Gone,
            Ok(info) if info.flags & XEN_DOMINF_dying != 0 => State::Gone,
            Ok(info) if info.flags & XEN_DOMINF_shutdown != 0 => State::ShutDown,
            Ok(_) => State::Alive,
            Err(Errno::ESRCH) => State::Gone,
            Err(error) => {
                // Better a domain too many than a live one dropped.
                log::error!("d{domid}: cannot ask the hypervisor for its state: {error:?}");
                State::Alive
            }
        }
    }
}

/// No hypervisor.
#[derive(Debug)]
pub(crate) struct NoDevices;

impl NoDevices {
    fn missing() -> Error {
        Error::Missing {
            device: "/dev/xen/gntdev",
            remedy: "start xenstored without --no-domain-init",
        }
    }
}

impl Devices for NoDevices {
    fn map(&self, _domid: Domid, _gfn: u64) -> Result<Box<dyn RingPage>, Error> {
        Err(Self::missing())
    }

    fn map_own(&self) -> Result<(Box<dyn RingPage>, Port), Error> {
        Err(Self::missing())
    }

    fn bind(&self, _domid: Domid, _port: Port) -> Result<Port, Error> {
        Err(Self::missing())
    }

    fn unbind(&self, _port: Port) {}

    fn notify(&self, _port: Port) {}

    fn fired(&self, _ports: &mut Vec<Port>) -> Result<(), Error> {
        Ok(())
    }

    fn ends(&self) -> Option<Port> {
        None
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn state(&self, _domid: Domid) -> State {
        State::Alive
    }
}
