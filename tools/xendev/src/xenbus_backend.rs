//! /dev/xen/xenbus_backend: how xenstored meets the kernel of the domain it runs in.
//!
//! dom0's own ring is a page that its kernel allocates; here it is mapped, and its port told.
//!
//! Source: Linux, `include/xen/xenbus_dev.h`.

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::ioctl::Opcode;

use crate::Error;
use crate::device::open_device;
use crate::evtchn::Port;
use crate::ioctl::{number, plain};
use crate::mapped::MappedPages;

const DEVICE: &str = "/dev/xen/xenbus_backend";
const REMEDY: &str = "the kernel needs CONFIG_XEN_BACKEND";
const EVTCHN: Opcode = number(b'B', 0, 0);

/// dom0's xenstore ring and the port to bind to.
#[derive(Debug)]
pub struct LocalRing {
    /// The ring's page.
    pub page: MappedPages,
    /// The unbound port of this domain, for [`crate::evtchn::Evtchn::bind_interdomain`] with this domain's id.
    pub port: Port,
}

/// Maps this domain's xenstore ring and asks for its port.
///
/// # Errors
/// Where the device is not there, or the kernel has no ring (EINVAL, ENODEV).
pub fn local_ring() -> Result<LocalRing, Error> {
    let file = open_device(DEVICE, REMEDY, OFlags::empty())?;
    let port = plain(&file, EVTCHN, &mut [0u32; 1])
        .and_then(|port| u32::try_from(port).map_err(|_| Errno::INVAL))
        .map_err(|errno| Error::request(DEVICE, "asking for xenstore's port", errno))?;
    let page = MappedPages::of_file(&file, 1, 0, true)
        .map_err(|errno| Error::request(DEVICE, "mapping xenstore's ring", errno))?;
    Ok(LocalRing { page, port })
}
