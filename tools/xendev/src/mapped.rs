//! Pages that somebody else may write at any time: read and written by copy, never borrowed.
//!
//! UNSAFETY: maps memory and copies to and from it through raw pointers; every access checks its range first. Words are
//! atomic, runs of bytes are copied by string instructions that the compiler assumes nothing about.
#![expect(
    unsafe_code,
    reason = "memory shared with other domains is reached by raw pointers"
)]

use std::arch::asm;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Result;
use rustix::mm::{MapFlags, ProtFlags, mlock, mmap, mmap_anonymous, munmap};

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// A run of mapped pages, unmapped when dropped.
///
/// All accesses panic where they reach beyond the pages: offsets are the caller's, not the other domain's.
#[derive(Debug)]
pub struct MappedPages {
    start: NonNull<u8>,
    /// Bytes that may be accessed.
    len: usize,
    /// Bytes to unmap: more where a guard page follows.
    reserved: usize,
    writable: bool,
}

// SAFETY: the mapping belongs to the process, not to a thread; accesses are atomic or opaque to the compiler.
unsafe impl Send for MappedPages {}
// SAFETY: as above: `&self` methods make no references to the memory.
unsafe impl Sync for MappedPages {}

impl MappedPages {
    /// Maps fresh zeroed pages: for buffers, and for tests of code that serves shared pages.
    ///
    /// # Errors
    /// The kernel's, where it has no memory.
    pub fn anonymous(pages: usize) -> Result<Self> {
        let len = bytes(pages)?;
        let flags = MapFlags::PRIVATE;
        // SAFETY: the kernel chooses a free range.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, read_write(), flags) }?;
        Self::owned(start.cast(), len, len, true)
    }

    /// Maps `pages` pages of a file or device from byte `offset`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of_file(fd: impl AsFd, pages: usize, offset: u64, writable: bool) -> Result<Self> {
        let len = bytes(pages)?;
        let protection = if writable {
            read_write()
        } else {
            ProtFlags::READ
        };
        // SAFETY: the kernel chooses a free range.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                protection,
                MapFlags::SHARED,
                fd,
                offset,
            )
        }?;
        Self::owned(start.cast(), len, len, writable)
    }

    /// Maps single pages of a file, in any order: what a fake of foreign mapping needs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of_file_pages(fd: impl AsFd, indices: &[u64]) -> Result<Self> {
        let len = bytes(indices.len())?;
        let mapped = Self::reserve(len, len, true)?;
        for (nth, index) in indices.iter().enumerate() {
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            // SAFETY: inside the reservation, which has a page for each index.
            let at = unsafe { mapped.start.as_ptr().add(nth * PAGE_SIZE) };
            let offset = index * PAGE_SIZE as u64;
            // SAFETY: replaces a page of our own reservation.
            unsafe {
                mmap(
                    at.cast(),
                    PAGE_SIZE,
                    read_write(),
                    flags,
                    fd.as_fd(),
                    offset,
                )
            }?;
        }
        Ok(mapped)
    }

    /// Maps `pages` pages of a device with an inaccessible page behind them; where there is no device, locked memory.
    pub(crate) fn guarded(device: Option<&std::fs::File>, pages: usize) -> Result<Self> {
        let len = bytes(pages)?;
        let mapped = Self::reserve(len, len + PAGE_SIZE, true)?;
        let at = mapped.start.as_ptr().cast();
        match device {
            Some(device) => {
                let flags = MapFlags::SHARED | MapFlags::FIXED;
                // SAFETY: replaces the front of our own reservation.
                unsafe { mmap(at, len, read_write(), flags, device, 0) }?;
            }
            None => {
                let flags = MapFlags::PRIVATE | MapFlags::FIXED;
                // SAFETY: replaces the front of our own reservation.
                unsafe { mmap_anonymous(at, len, read_write(), flags) }?;
                // SAFETY: that memory, which stays mapped until it is unlocked by unmapping.
                unsafe { mlock(at, len) }?;
            }
        }
        Ok(mapped)
    }

    fn reserve(len: usize, reserved: usize, writable: bool) -> Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses a free range.
        let start =
            unsafe { mmap_anonymous(std::ptr::null_mut(), reserved, ProtFlags::empty(), flags) }?;
        Self::owned(start.cast(), len, reserved, writable)
    }

    fn owned(start: *mut u8, len: usize, reserved: usize, writable: bool) -> Result<Self> {
        let start = NonNull::new(start).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self {
            start,
            len,
            reserved,
            writable,
        })
    }

    /// The bytes that are mapped.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True where nothing is mapped, which no constructor makes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of the first byte, for the kernel and the hypervisor.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    /// Reads a word at a multiple of 4.
    #[must_use]
    pub fn load_u32(&self, offset: usize, order: Ordering) -> u32 {
        self.word(offset).load(order)
    }

    /// Writes a word at a multiple of 4.
    pub fn store_u32(&self, offset: usize, value: u32, order: Ordering) {
        assert!(self.writable, "the pages are mapped for reading");
        self.word(offset).store(value, order);
    }

    /// Copies `out.len()` bytes out from `offset` on.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        let from = self.at(offset, out.len());
        // SAFETY: `at` checked the source; the target is exclusively ours; they do not overlap, as nobody has
        // references into the mapping.
        unsafe { copy(from, out.as_mut_ptr(), out.len()) };
    }

    /// Copies `data` in at `offset`.
    pub fn write(&self, offset: usize, data: &[u8]) {
        assert!(self.writable, "the pages are mapped for reading");
        let to = self.at(offset, data.len());
        // SAFETY: `at` checked the target, which is writable; the source is a live slice; they do not overlap.
        unsafe { copy(data.as_ptr(), to, data.len()) };
    }

    /// Zeroes `len` bytes from `offset` on.
    pub fn zero(&self, offset: usize, len: usize) {
        assert!(self.writable, "the pages are mapped for reading");
        let to = self.at(offset, len);
        // SAFETY: `at` checked the target, which is writable.
        unsafe { clear(to, len) };
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4), "a word lies at a multiple of 4");
        let at = self.at(offset, 4);
        // SAFETY: in range, aligned, mapped as long as `self` is borrowed; all other accesses by Rust to such words are
        // atomic as well.
        unsafe { AtomicU32::from_ptr(at.cast()) }
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        let end = offset.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.len),
            "{offset}+{len} lies in the mapped pages"
        );
        // SAFETY: in the mapping, checked above.
        unsafe { self.start.as_ptr().add(offset) }
    }
}

impl Drop for MappedPages {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which nobody has references; nothing can be done where it fails.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.reserved) };
    }
}

fn read_write() -> ProtFlags {
    ProtFlags::READ | ProtFlags::WRITE
}

fn bytes(pages: usize) -> Result<usize> {
    let len = pages.checked_mul(PAGE_SIZE).filter(|&len| len > 0);
    len.ok_or(rustix::io::Errno::INVAL)
}

/// Copies by `rep movsq`, which fits memory that changes while it is read.
///
/// # Safety
/// `len` bytes at `from` may be read, at `to` written; they do not overlap.
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: as promised by the caller; the direction flag is clear by the ABI.
    unsafe {
        asm!(
            "rep movsq", "mov rcx, {tail}", "rep movsb",
            tail = in(reg) len % 8,
            inout("rcx") len / 8 => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Zeroes by `rep stosq`.
///
/// # Safety
/// `len` bytes at `to` may be written.
unsafe fn clear(to: *mut u8, len: usize) {
    // SAFETY: as promised by the caller; the direction flag is clear by the ABI.
    unsafe {
        asm!(
            "rep stosq", "mov rcx, {tail}", "rep stosb",
            tail = in(reg) len % 8,
            inout("rcx") len / 8 => _, inout("rdi") to => _, in("rax") 0u64,
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_and_bytes_are_the_same_memory() {
        let pages = MappedPages::anonymous(1).unwrap();
        pages.store_u32(8, 0x0403_0201, Ordering::Release);
        let mut out = [0; 6];
        pages.read(7, &mut out);
        assert_eq!(out, [0, 1, 2, 3, 4, 0]);
    }

    #[test]
    #[should_panic(expected = "lies in the mapped pages")]
    fn nothing_beyond_the_pages_is_reached() {
        MappedPages::anonymous(1).unwrap().write(4090, &[0; 7]);
    }

    #[test]
    fn guarded_pages_are_there_without_a_device() {
        let pages = MappedPages::guarded(None, 2).unwrap();
        assert_eq!(pages.len(), 8192);
        pages.write(8190, b"ok");
    }

    #[test]
    fn pages_of_a_file_come_in_the_order_asked() {
        let fd = rustix::fs::memfd_create("pages", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, 4 * 4096).unwrap();
        MappedPages::of_file(&fd, 4, 0, true)
            .unwrap()
            .write(2 * 4096, b"third");
        let mapped = MappedPages::of_file_pages(&fd, &[3, 2]).unwrap();
        let mut out = [0; 5];
        mapped.read(4096, &mut out);
        assert_eq!(&out, b"third");
    }

    proptest! {
        #[test]
        fn runs_of_any_length_and_place_are_copied_whole(at in 0usize..4000, data in proptest::collection::vec(any::<u8>(), 0..90)) {
            let pages = MappedPages::anonymous(1).unwrap();
            pages.write(0, &[0xee; 4096]);
            pages.write(at, &data);
            let mut all = vec![0; 4096];
            pages.read(0, &mut all);
            let mut model = vec![0xee; 4096];
            model[at..at + data.len()].copy_from_slice(&data);
            prop_assert_eq!(&all, &model);
            pages.zero(at, data.len());
            pages.read(0, &mut all);
            model[at..at + data.len()].fill(0);
            prop_assert_eq!(all, model);
        }
    }
}
