//! /dev/xen/privcmd: hypercalls from a process, and other domains' memory in its address space.
//!
//! The hypervisor reads and writes a caller's memory by linear address and does not wait for a page fault, so arguments
//! travel through pages that stay where they are: /dev/xen/hypercall's, else locked ones. Behind them lies a page that
//! cannot be accessed: a struct that promises more room than its buffer has ends in EFAULT, not in somebody's heap.
//!
//! Source: Linux, `include/uapi/xen/privcmd.h`.
//!
//! UNSAFETY: tells the kernel and the hypervisor the addresses of that memory.
#![expect(unsafe_code, reason = "the kernel is told addresses")]

use std::fs::File;
use std::sync::{Mutex, PoisonError};

use guest_abi::Errno;
use rustix::fs::OFlags;
use rustix::io::Errno as OsErrno;
use rustix::ioctl::Opcode;

use crate::Error;
use crate::device::open_device;
use crate::ioctl::{number, request};
use crate::mapped::{MappedPages, PAGE_SIZE};

const DEVICE: &str = "/dev/xen/privcmd";
const REMEDY: &str = "load the module xen-privcmd (modprobe xen-privcmd)";
const BUFFERS: &str = "/dev/xen/hypercall";
/// Pages kept for arguments; a call with more gets its own.
const KEPT_PAGES: usize = 16;

#[repr(C)]
struct Hypercall {
    op: u64,
    args: [u64; 5],
}

#[repr(C)]
struct MmapBatchV2 {
    num: u32,
    dom: u16,
    _pad: u16,
    addr: u64,
    gfns: u64,
    errs: u64,
}

#[repr(C)]
struct MmapResource {
    dom: u16,
    _pad: u16,
    kind: u32,
    id: u32,
    idx: u32,
    num: u64,
    addr: u64,
}

const HYPERCALL: Opcode = number(b'P', 0, size_of::<Hypercall>());
const MMAPBATCH_V2: Opcode = number(b'P', 4, size_of::<MmapBatchV2>());
const MMAP_RESOURCE: Opcode = number(b'P', 7, size_of::<MmapResource>());

/// One argument of a hypercall.
#[derive(Debug)]
pub enum Arg<'a> {
    /// A number.
    Value(u64),
    /// The address of these bytes, which the hypervisor may change.
    Bytes(&'a mut [u8]),
    /// The address of a struct, in which some fields are addresses themselves.
    Struct {
        /// The struct.
        bytes: &'a mut [u8],
        /// What its address fields point at.
        handles: &'a mut [Handle<'a>],
    },
}

/// An address field of a struct that is an argument.
#[derive(Debug)]
pub struct Handle<'a> {
    /// Offset of the field (8 bytes) in the struct.
    pub at: usize,
    /// What it points at, which the hypervisor may change. The field itself keeps its value for the caller.
    pub data: &'a mut [u8],
}

/// The open device.
#[derive(Debug)]
pub struct Privcmd {
    file: File,
    buffers: Option<File>,
    kept: Mutex<MappedPages>,
}

impl Privcmd {
    /// Opens /dev/xen/privcmd.
    ///
    /// # Errors
    /// Where it is not there or not ours to open.
    pub fn open() -> Result<Self, Error> {
        let file = open_device(DEVICE, REMEDY, OFlags::empty())?;
        let buffers = open_device(BUFFERS, REMEDY, OFlags::empty()).ok();
        let kept = MappedPages::guarded(buffers.as_ref(), KEPT_PAGES)
            .map_err(|errno| Error::request(DEVICE, "memory for arguments", errno))?;
        Ok(Self {
            file,
            buffers,
            kept: Mutex::new(kept),
        })
    }

    /// Makes a hypercall; the arguments' bytes come back as the hypervisor left them.
    ///
    /// # Errors
    /// The hypervisor's error number; ENOMEM where there is no memory for the arguments.
    pub fn hypercall(&self, op: u64, args: &mut [Arg<'_>]) -> Result<i64, Errno> {
        let needed = Layout::of(args).pages();
        if needed <= KEPT_PAGES {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            return self.call_through(&kept, op, args);
        }
        let own = MappedPages::guarded(self.buffers.as_ref(), needed).map_err(|_| Errno::ENOMEM)?;
        self.call_through(&own, op, args)
    }

    fn call_through(
        &self,
        pages: &MappedPages,
        op: u64,
        args: &mut [Arg<'_>],
    ) -> Result<i64, Errno> {
        let mut call = Hypercall { op, args: [0; 5] };
        copy_in(pages, args, &mut call.args)?;
        // SAFETY: the argument is what the request takes; the addresses in it are those of `pages`, behind which
        // nothing is mapped.
        let result = unsafe { request(&self.file, HYPERCALL, &mut call) };
        copy_out(pages, args);
        match result {
            Ok(value) => Ok(value.into()),
            Err(errno) => Err(errno_of(errno)),
        }
    }

    /// Maps guest frames of another domain, in the order given.
    ///
    /// # Errors
    /// Where some cannot be mapped: then none is.
    pub fn map_foreign(
        &self,
        domid: u16,
        gfns: &[u64],
        writable: bool,
    ) -> Result<MappedPages, Error> {
        let (pages, errs) = self.map_batch(domid, gfns, writable)?;
        let Some((errno, gfn)) = errs.iter().zip(gfns).find(|(errno, _)| **errno != 0) else {
            return Ok(pages);
        };
        Err(Error::Foreign {
            domid,
            total: gfns.len(),
            failed: errs.iter().filter(|&&errno| errno != 0).count(),
            gfn: *gfn,
            errno: OsErrno::from_raw_os_error(errno.saturating_neg().clamp(1, 4095)),
        })
    }

    /// Maps those guest frames of another domain that are there, for reading; tells which are. To touch another one's
    /// place ends in SIGBUS.
    ///
    /// # Errors
    /// The kernel's.
    pub fn map_present(&self, domid: u16, gfns: &[u64]) -> Result<(MappedPages, Vec<bool>), Error> {
        let (pages, errs) = self.map_batch(domid, gfns, false)?;
        Ok((pages, errs.iter().map(|errno| *errno == 0).collect()))
    }

    /// Maps guest frames; the second list has 0 or a negative number for each.
    fn map_batch(
        &self,
        domid: u16,
        gfns: &[u64],
        writable: bool,
    ) -> Result<(MappedPages, Vec<i32>), Error> {
        let refused = |errno| {
            let step = format!("mapping {} pages of domain {domid}", gfns.len());
            Error::request(DEVICE, step, errno)
        };
        let num = u32::try_from(gfns.len()).map_err(|_| refused(OsErrno::INVAL))?;
        let pages = MappedPages::of_file(&self.file, gfns.len(), 0, writable).map_err(refused)?;
        let mut errs = vec![0i32; gfns.len()];
        let mut batch = MmapBatchV2 {
            num,
            dom: domid,
            _pad: 0,
            addr: pages.address(),
            gfns: gfns.as_ptr().expose_provenance() as u64,
            errs: errs.as_mut_ptr().expose_provenance() as u64,
        };
        // SAFETY: the argument is what the request takes; `pages` is a fresh mapping of this device with `num` pages,
        // and the arrays have `num` elements.
        let result = unsafe { request(&self.file, MMAPBATCH_V2, &mut batch) };
        match result {
            // what failed is in the list
            Err(errno) if errs.iter().all(|&errno| errno == 0) => Err(refused(errno)),
            _ => Ok((pages, errs)),
        }
    }

    /// Maps `count` frames of a resource of a domain (`XENMEM_resource_*`) from `first` on.
    ///
    /// # Errors
    /// The kernel's or the hypervisor's.
    pub fn map_resource(
        &self,
        domid: u16,
        kind: u16,
        id: u32,
        first: u32,
        count: u32,
    ) -> Result<MappedPages, Error> {
        let step = || format!("mapping resource {kind}.{id} of domain {domid}");
        let length = usize::try_from(count).unwrap_or(0);
        let pages = MappedPages::of_file(&self.file, length, 0, true)
            .map_err(|errno| Error::request(DEVICE, step(), errno))?;
        let mut resource = MmapResource {
            dom: domid,
            _pad: 0,
            kind: kind.into(),
            id,
            idx: first,
            num: count.into(),
            addr: pages.address(),
        };
        // SAFETY: the argument is what the request takes; `pages` is a fresh mapping of this device with `count` pages.
        unsafe { request(&self.file, MMAP_RESOURCE, &mut resource) }
            .map_err(|errno| Error::request(DEVICE, step(), errno))?;
        Ok(pages)
    }
}

/// Where the arguments' parts lie in the pages: one behind the other, at multiples of 16.
#[derive(Default)]
struct Layout {
    used: usize,
}

impl Layout {
    fn of(args: &[Arg<'_>]) -> Self {
        let mut layout = Self::default();
        for arg in args {
            match arg {
                Arg::Value(_) => {}
                Arg::Bytes(bytes) => _ = layout.place(bytes.len()),
                Arg::Struct { bytes, handles } => {
                    layout.place(bytes.len());
                    for handle in handles.iter() {
                        layout.place(handle.data.len());
                    }
                }
            }
        }
        layout
    }

    fn place(&mut self, len: usize) -> usize {
        let at = self.used;
        self.used = (at + len).next_multiple_of(16);
        at
    }

    fn pages(&self) -> usize {
        self.used.div_ceil(PAGE_SIZE).max(1)
    }
}

fn copy_in(pages: &MappedPages, args: &[Arg<'_>], words: &mut [u64; 5]) -> Result<(), Errno> {
    let mut layout = Layout::default();
    let base = pages.address();
    if args.len() > words.len() {
        return Err(Errno::EINVAL);
    }
    for (arg, word) in args.iter().zip(words) {
        *word = match arg {
            Arg::Value(value) => *value,
            Arg::Bytes(bytes) => {
                let at = layout.place(bytes.len());
                pages.write(at, bytes);
                base + at as u64
            }
            Arg::Struct { bytes, handles } => {
                let at = layout.place(bytes.len());
                pages.write(at, bytes);
                for handle in handles.iter() {
                    let data = layout.place(handle.data.len());
                    if handle.at.checked_add(8).is_none_or(|end| end > bytes.len()) {
                        return Err(Errno::EINVAL);
                    }
                    pages.write(data, handle.data);
                    pages.write(at + handle.at, &(base + data as u64).to_le_bytes());
                }
                base + at as u64
            }
        };
    }
    Ok(())
}

fn copy_out(pages: &MappedPages, args: &mut [Arg<'_>]) {
    let mut layout = Layout::default();
    for arg in args {
        match arg {
            Arg::Value(_) => {}
            Arg::Bytes(bytes) => pages.read(layout.place(bytes.len()), bytes),
            Arg::Struct { bytes, handles } => {
                let at = layout.place(bytes.len());
                let fields: Vec<[u8; 8]> = handles
                    .iter()
                    .map(|handle| field(bytes, handle.at))
                    .collect();
                pages.read(at, bytes);
                for (handle, kept) in handles.iter_mut().zip(fields) {
                    pages.read(layout.place(handle.data.len()), handle.data);
                    if let Some(place) = bytes
                        .get_mut(handle.at..)
                        .and_then(|rest| rest.first_chunk_mut())
                    {
                        *place = kept;
                    }
                }
            }
        }
    }
}

fn field(bytes: &[u8], at: usize) -> [u8; 8] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or_default()
}

/// The hypervisor's number for the kernel's: they are the same ones.
fn errno_of(errno: OsErrno) -> Errno {
    let code = u8::try_from(errno.raw_os_error()).ok();
    code.and_then(Errno::from_code).unwrap_or(Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_numbers_are_linux_ones() {
        assert_eq!(HYPERCALL, 0x0030_5000);
        assert_eq!(MMAPBATCH_V2, 0x0020_5004);
        assert_eq!(MMAP_RESOURCE, 0x0020_5007);
    }

    #[test]
    fn arguments_travel_through_the_pages_and_back() {
        let pages = MappedPages::anonymous(1).unwrap();
        let (mut outer, mut inner) = (*b"12345678HANDLE..", *b"inner");
        let mut handles = [Handle {
            at: 8,
            data: &mut inner,
        }];
        let mut args = [
            Arg::Value(7),
            Arg::Struct {
                bytes: &mut outer,
                handles: &mut handles,
            },
        ];
        let mut words = [0; 5];
        copy_in(&pages, &args, &mut words).unwrap();
        assert_eq!(words, [7, pages.address(), 0, 0, 0]);
        let mut seen = [0; 21];
        pages.read(0, &mut seen);
        assert_eq!(seen[8..16], (pages.address() + 16).to_le_bytes());
        assert_eq!(&seen[16..], b"inner");
        pages.write(0, b"AB");
        pages.write(16, b"I");
        copy_out(&pages, &mut args);
        assert_eq!(&outer, b"AB345678HANDLE..");
        assert_eq!(&inner, b"Inner");
    }

    #[test]
    fn a_handle_outside_its_struct_is_refused() {
        let pages = MappedPages::anonymous(1).unwrap();
        let (mut outer, mut inner) = ([0; 12], [0; 1]);
        let mut handles = [Handle {
            at: 8,
            data: &mut inner,
        }];
        let args = [Arg::Struct {
            bytes: &mut outer,
            handles: &mut handles,
        }];
        assert_eq!(copy_in(&pages, &args, &mut [0; 5]), Err(Errno::EINVAL));
    }
}
