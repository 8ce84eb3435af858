//! A large zeroed buffer of our own, in huge pages where the kernel has them.
//!
//! Unpacking a kernel touches 50 MiB once: by pages of 4 KiB that is 13 000 page faults.
//!
//! UNSAFETY: maps memory that nobody else has, and lends it as a slice.
#![expect(unsafe_code, reason = "memory from mmap becomes a slice")]

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use rustix::io::{Errno, Result};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Zeroed memory, given back when dropped.
#[derive(Debug)]
pub struct Scratch {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its memory.
unsafe impl Send for Scratch {}
// SAFETY: as a slice.
unsafe impl Sync for Scratch {}

impl Scratch {
    /// Maps `len` bytes, at least one.
    ///
    /// # Errors
    /// ENOMEM where there is no such memory, EINVAL for none at all.
    pub fn new(len: usize) -> Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses a free range.
        let start =
            unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, MapFlags::PRIVATE) }?;
        // SAFETY: our own new mapping; without huge pages it is only slower.
        let _ = unsafe { madvise(start, len, Advice::LinuxHugepage) };
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { start, len })
    }
}

impl Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped, initialised (zeroed) and ours alone.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped, initialised (zeroed), and borrowed exclusively through `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: our own mapping, of which no borrow is left.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_zeroed_and_writable() {
        let mut scratch = Scratch::new(5 << 20).unwrap();
        assert!(scratch.iter().all(|&byte| byte == 0));
        scratch[5 * 1024 * 1024 - 1] = 1;
        assert_eq!(scratch.len(), 5 << 20);
        assert!(Scratch::new(0).is_err());
    }
}
