//! Opening a device, with the reason where it is not there.

use std::fs::File;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::Error;

/// Opens `device` for reading and writing; `remedy` is what to try where it is missing.
pub(crate) fn open_device(
    device: &'static str,
    remedy: &'static str,
    extra: OFlags,
) -> Result<File, Error> {
    match open(
        Path::new(device),
        OFlags::RDWR | OFlags::CLOEXEC | extra,
        Mode::empty(),
    ) {
        Ok(fd) => Ok(File::from(fd)),
        Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => Err(Error::Missing { device, remedy }),
        Err(errno) => Err(Error::Open { device, errno }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_named_with_its_remedy() {
        let error = open_device("/dev/xen/nothing", "load the module x", OFlags::empty());
        assert_eq!(
            error.unwrap_err().to_string(),
            "/dev/xen/nothing: not there; load the module x, and check that this is dom0 of a Xen host"
        );
    }
}
