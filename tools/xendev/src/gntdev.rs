//! /dev/xen/gntdev: pages that another domain granted.
//!
//! Source: Linux, `include/uapi/xen/gntdev.h`.
//!
//! UNSAFETY: the request to map takes a run of references behind its fixed part.
#![expect(unsafe_code, reason = "a request with a variable tail")]

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::ioctl::Opcode;

use crate::Error;
use crate::device::open_device;
use crate::ioctl::{number, plain, request};
use crate::mapped::MappedPages;

const DEVICE: &str = "/dev/xen/gntdev";
const REMEDY: &str = "load the module xen-gntdev (modprobe xen-gntdev)";

/// References that one mapping may have here.
const MAX_REFS: usize = 64;

#[repr(C)]
struct MapGrantRef {
    count: u32,
    pad: u32,
    index: u64,
    refs: [[u32; 2]; MAX_REFS],
}

/// The size in the number is that of a request with one reference.
const MAP: Opcode = number(b'G', 0, 24);
const UNMAP: Opcode = number(b'G', 1, 16);

/// The open device.
#[derive(Debug)]
pub struct Gntdev {
    file: Arc<File>,
}

/// Granted pages, unmapped and given back when dropped.
#[derive(Debug)]
pub struct GrantMapping {
    pages: Option<MappedPages>,
    file: Arc<File>,
    index: u64,
    count: u32,
}

impl Gntdev {
    /// Opens /dev/xen/gntdev.
    ///
    /// # Errors
    /// Where it is not there or not ours to open.
    pub fn open() -> Result<Self, Error> {
        let file = Arc::new(open_device(DEVICE, REMEDY, OFlags::empty())?);
        Ok(Self { file })
    }

    /// Maps pages that `domid` granted, in the order of their references.
    ///
    /// # Errors
    /// EINVAL where a reference is not granted to this domain (or for writing), or for none or more than 64.
    pub fn map(&self, domid: u16, refs: &[u32], writable: bool) -> Result<GrantMapping, Error> {
        let failed = |errno| {
            Error::request(
                DEVICE,
                format!("mapping grants {refs:?} of domain {domid}"),
                errno,
            )
        };
        let count = u32::try_from(refs.len()).map_err(|_| failed(Errno::INVAL))?;
        if refs.is_empty() || refs.len() > MAX_REFS {
            return Err(failed(Errno::INVAL));
        }
        let mut map = MapGrantRef {
            count,
            pad: 0,
            index: 0,
            refs: [[0; 2]; MAX_REFS],
        };
        for (slot, reference) in map.refs.iter_mut().zip(refs) {
            *slot = [domid.into(), *reference];
        }
        // SAFETY: the argument is what the request takes, with room for `count` references, and has no addresses.
        unsafe { request(self.file.as_fd(), MAP, &mut map) }.map_err(failed)?;
        // from here on dropping it gives the references back
        let mut mapping = GrantMapping {
            pages: None,
            file: Arc::clone(&self.file),
            index: map.index,
            count,
        };
        let pages = MappedPages::of_file(self.file.as_fd(), refs.len(), map.index, writable);
        mapping.pages = Some(pages.map_err(failed)?);
        Ok(mapping)
    }
}

impl GrantMapping {
    /// The pages.
    #[must_use]
    pub const fn pages(&self) -> &MappedPages {
        self.pages
            .as_ref()
            .expect("`map` hands out complete mappings")
    }
}

impl Drop for GrantMapping {
    fn drop(&mut self) {
        self.pages = None;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the two halves of the index"
        )]
        let mut unmap = [self.index as u32, (self.index >> 32) as u32, self.count, 0];
        // nothing can be done where it fails; closing the device gives everything back
        let _ = plain(self.file.as_fd(), UNMAP, &mut unmap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_numbers_and_layout_are_linux_ones() {
        assert_eq!([MAP, UNMAP], [0x18_4700, 0x10_4701]);
        assert_eq!(std::mem::offset_of!(MapGrantRef, refs), 16);
    }
}
