//! Frames that guests, devices or other CPUs change at the same time.
//!
//! UNSAFETY: a frame is reached by its address. See the module above for what makes that sound.
#![expect(unsafe_code)]

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use hv_core::addr::{Hpa, Mfn, PAGE_BYTES};
use hv_core::mem::SharedWords;

use super::copy::copy;
use super::{base, hva, is_frame_outside_rust};

/// One frame that others change at the same time: a handle to copy and keep. It does not own the frame: whoever keeps
/// one keeps the frame's use count, or the p2m in which it was found from changing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedFrame {
    /// Where the frame is mapped: that it is, outside Rust's objects, is what a handle proves.
    start: usize,
}

impl SharedFrame {
    /// A handle of frame `mfn`, or `None` where the frame is past the end of the direct map or holds the hypervisor's
    /// own objects.
    #[must_use]
    pub fn new(mfn: Mfn) -> Option<Self> {
        is_frame_outside_rust(mfn).then(|| Self {
            start: hva(mfn.base()).expose_provenance(),
        })
    }
    #[must_use]
    pub fn mfn(self) -> Mfn {
        Mfn::containing(Hpa::new((self.start - base()) as u64))
    }
    /// The word of 8 bytes with this index, below 512.
    ///
    /// # Panics
    /// From 512 on.
    #[inline]
    #[must_use]
    pub fn word(self, index: usize) -> SharedWord {
        assert!(index < PAGE_BYTES / 8, "index of a shared word");
        SharedWord {
            at: self.start + index * 8,
        }
    }
    /// Fills `to` from byte `offset` on; every byte is read exactly one time.
    ///
    /// # Panics
    /// Where the bytes are not all in the frame.
    #[inline]
    pub fn read_bytes(self, offset: usize, to: &mut [u8]) {
        let from = self.bytes(offset, to.len());
        // SAFETY: the source is mapped and outside Rust's objects, the target is a slice of that length.
        unsafe { copy(from, to.as_mut_ptr(), to.len()) };
    }
    /// Copies `from` to byte `offset` and on.
    ///
    /// # Panics
    /// Where the bytes are not all in the frame.
    #[inline]
    pub fn write_bytes(self, offset: usize, from: &[u8]) {
        let to = self.bytes(offset, from.len());
        // SAFETY: the target is mapped and outside Rust's objects, the source is a slice of that length.
        unsafe { copy(from.as_ptr(), to, from.len()) };
    }
    /// The `count` bytes from `offset`.
    #[inline]
    fn bytes(self, offset: usize, count: usize) -> *mut u8 {
        assert!(
            offset <= PAGE_BYTES && count <= PAGE_BYTES - offset,
            "bytes behind a shared frame's end"
        );
        core::ptr::with_exposed_provenance_mut::<u8>(self.start).wrapping_add(offset)
    }
    /// The `N` bytes from `offset`, as a pointer aligned to N.
    #[inline]
    fn at<const N: usize>(self, offset: usize) -> *mut u8 {
        debug_assert!(
            offset.is_multiple_of(N) && offset < PAGE_BYTES,
            "offset of a shared word"
        );
        // kept within the frame by no branch, which a CPU might guess: offsets come from numbers of guests
        let offset = offset & (PAGE_BYTES - N);
        core::ptr::with_exposed_provenance_mut::<u8>(self.start).wrapping_add(offset)
    }
    #[inline]
    fn u8(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: mapped and outside Rust's objects (checked by `new`), accessed atomically everywhere.
        unsafe { AtomicU8::from_ptr(self.at::<1>(offset)) }
    }
    #[inline]
    fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: mapped and outside Rust's objects (checked by `new`), aligned (checked by `at`), accessed atomically.
        unsafe { AtomicU32::from_ptr(self.at::<4>(offset).cast()) }
    }
    #[inline]
    fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: mapped and outside Rust's objects (checked by `new`), aligned (checked by `at`), accessed atomically.
        unsafe { AtomicU64::from_ptr(self.at::<8>(offset).cast()) }
    }
}

/// An aligned word of 8 bytes in a shared frame, to be read again and again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedWord {
    /// Where it is mapped.
    at: usize,
}

impl SharedWord {
    /// What it says now.
    #[inline(always)]
    #[must_use]
    pub fn load(self) -> u64 {
        let word = core::ptr::with_exposed_provenance_mut(self.at);
        // SAFETY: mapped, aligned and outside Rust's objects (`SharedFrame::word`), accessed atomically everywhere.
        let word = unsafe { AtomicU64::from_ptr(word) };
        word.load(Ordering::Acquire)
    }
}

impl SharedWords for SharedFrame {
    #[inline]
    fn load_u8(&self, offset: usize) -> u8 {
        self.u8(offset).load(Ordering::SeqCst)
    }
    #[inline]
    fn store_u8(&self, offset: usize, value: u8) {
        self.u8(offset).store(value, Ordering::SeqCst);
    }
    #[inline]
    fn swap_u8(&self, offset: usize, value: u8) -> u8 {
        self.u8(offset).swap(value, Ordering::SeqCst)
    }
    #[inline]
    fn load_u32(&self, offset: usize) -> u32 {
        self.u32(offset).load(Ordering::SeqCst)
    }
    #[inline]
    fn store_u32(&self, offset: usize, value: u32) {
        self.u32(offset).store(value, Ordering::SeqCst);
    }
    #[inline]
    fn fetch_or_u32(&self, offset: usize, bits: u32) -> u32 {
        self.u32(offset).fetch_or(bits, Ordering::SeqCst)
    }
    #[inline]
    fn fetch_and_u32(&self, offset: usize, bits: u32) -> u32 {
        self.u32(offset).fetch_and(bits, Ordering::SeqCst)
    }
    #[inline]
    fn compare_exchange_u32(&self, offset: usize, current: u32, new: u32) -> Result<u32, u32> {
        self.u32(offset)
            .compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
    }
    #[inline]
    fn load_u64(&self, offset: usize) -> u64 {
        self.u64(offset).load(Ordering::SeqCst)
    }
    #[inline]
    fn store_u64(&self, offset: usize, value: u64) {
        self.u64(offset).store(value, Ordering::SeqCst);
    }
    #[inline]
    fn fetch_or_u64(&self, offset: usize, bits: u64) -> u64 {
        self.u64(offset).fetch_or(bits, Ordering::SeqCst)
    }
    #[inline]
    fn fetch_and_u64(&self, offset: usize, bits: u64) -> u64 {
        self.u64(offset).fetch_and(bits, Ordering::SeqCst)
    }
}
