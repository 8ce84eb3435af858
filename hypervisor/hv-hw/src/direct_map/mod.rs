//! Host physical memory as the hypervisor reaches it: one linear map of all RAM at [`BASE`].
//!
//! UNSAFETY: frames that page tables and guests use are memory outside every Rust object, reached by address.
//!
//! What makes the safe functions here sound: memory that Rust itself lives in (the image with its stacks, the heap) is
//! registered by [`forbid`], and no function touches it; all other memory is read and written by atomic, volatile or
//! `rep movs` accesses only, and no reference to it is ever made. On the host the map is an arena of
//! [`HOSTED_BYTES`] that starts at host physical address 0.
#![expect(unsafe_code)]

mod copy;
mod shared_frame;
mod tables;

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use hv_core::addr::{Gpa, Hpa, Mfn, MfnRange, PAGE_BYTES};
use hv_core::mem::NotRam;

use crate::image::ImageLayout;
use copy::copy;

pub use shared_frame::{SharedFrame, SharedWord};
pub use tables::DirectTables;

/// Where host physical address 0 is mapped.
pub const BASE: u64 = 0xffff_8000_0000_0000;
/// Bytes of the arena that stands for machine memory in tests on the host.
pub const HOSTED_BYTES: u64 = 128 << 20;

/// The bytes that the map covers, in whole frames: `0..EXTENT`.
static EXTENT: AtomicU64 = AtomicU64::new(if cfg!(target_os = "none") {
    0
} else {
    HOSTED_BYTES
});
/// The image of the hypervisor and its heap: two ranges suffice, and two comparisons keep page walks short.
static FORBIDDEN: [Forbidden; 2] = [Forbidden::none(), Forbidden::none()];

/// A range of bytes; empty until set.
struct Forbidden {
    start: AtomicU64,
    bytes: AtomicU64,
}

impl Forbidden {
    const fn none() -> Self {
        Self {
            start: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }
    /// True where the byte at `at` is in it.
    #[inline]
    fn contains(&self, at: u64) -> bool {
        at.wrapping_sub(self.start.load(Ordering::Relaxed)) < self.bytes.load(Ordering::Relaxed)
    }
    #[inline]
    fn overlaps(&self, start: u64, bytes: u64) -> bool {
        let own = self.start.load(Ordering::Relaxed);
        let own_bytes = self.bytes.load(Ordering::Relaxed);
        // One comparison for both ends: with `distance` from the own start, which may be below 0, the two overlap where
        // -bytes < distance < own_bytes. Neither sum wraps, both sizes being those of memory that there is.
        let distance = start.wrapping_sub(own);
        distance.wrapping_add(bytes).wrapping_sub(1)
            < own_bytes.wrapping_add(bytes).saturating_sub(1)
    }
}

/// The memory that Rust lives in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RustMemory {
    /// The loaded image: code, data, boot stacks.
    Image,
    Heap,
}

/// Keeps the functions of this module off the frames that Rust itself lives in. Call it before the frames are used.
pub fn forbid(what: RustMemory, frames: MfnRange) {
    let slot = &FORBIDDEN[match what {
        RustMemory::Image => 0,
        RustMemory::Heap => 1,
    }];
    slot.start
        .store(frames.start.base().as_u64(), Ordering::Relaxed);
    slot.bytes
        .store((frames.end.base()) - frames.start.base(), Ordering::SeqCst);
}

/// Takes the boot code's map into use: the first 4 GiB, less the image.
pub fn begin(image: &ImageLayout) {
    forbid(RustMemory::Image, image.whole());
    set_extent(Hpa::new(1 << 32));
}

/// Says how far the map reaches now that page tables for it are loaded.
pub(crate) fn set_extent(end: Hpa) {
    // a frame that is mapped in part does not count
    let whole = Mfn::containing(end).base();
    EXTENT.store(whole.as_u64(), Ordering::SeqCst);
}

/// The end of the memory that the map covers.
#[must_use]
pub fn extent() -> Hpa {
    Hpa::new(EXTENT.load(Ordering::Relaxed))
}

/// True where Rust itself lives in frame `mfn`.
pub(crate) fn is_rusts(mfn: Mfn) -> bool {
    let start = mfn.base().as_u64();
    FORBIDDEN.iter().any(|range| range.contains(start))
}

/// Where the byte at `hpa` is mapped. Valid for accesses only below [`extent`].
pub(crate) fn hva(hpa: Hpa) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(base() + index(hpa.as_u64()))
}

#[cfg(target_os = "none")]
#[inline]
const fn base() -> usize {
    index(BASE)
}

#[cfg(not(target_os = "none"))]
fn base() -> usize {
    crate::hosted::board().memory()
}

/// An arena of [`HOSTED_BYTES`] that stands for a machine's memory on the host, zeroed, and kept for ever.
#[cfg(not(target_os = "none"))]
pub(crate) fn hosted_memory() -> usize {
    const ALIGNMENT: usize = 2 << 20;
    // no alignment is asked for: what comes fresh from the host's kernel is not touched before it is used
    let layout = core::alloc::Layout::from_size_align(index(HOSTED_BYTES) + ALIGNMENT, 1)
        .expect("the arena's size is small");
    // SAFETY: the layout has a size above zero.
    let arena = unsafe { std::alloc::alloc_zeroed(layout) };
    assert!(!arena.is_null(), "no memory for the arena");
    arena.expose_provenance().next_multiple_of(ALIGNMENT)
}

/// A 64-bit address or size as the pointer-sized number it is here.
#[expect(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits on x86-64"
)]
#[inline]
const fn index(value: u64) -> usize {
    value as usize
}

/// True where `bytes` from `start` are mapped and hold no Rust object.
#[inline]
fn is_outside_rust(start: Hpa, bytes: u64) -> bool {
    let start = start.as_u64();
    let extent = EXTENT.load(Ordering::Relaxed);
    bytes <= extent
        && start <= extent - bytes
        && !FORBIDDEN[0].overlaps(start, bytes)
        && !FORBIDDEN[1].overlaps(start, bytes)
}

/// The same for a whole frame, quicker: both limits of the map and of what is forbidden lie between frames.
#[inline]
fn is_frame_outside_rust(frame: Mfn) -> bool {
    let start = frame.base().as_u64();
    start < EXTENT.load(Ordering::Relaxed)
        && !FORBIDDEN[0].contains(start)
        && !FORBIDDEN[1].contains(start)
}

/// Fills frame `mfn` with zeros. The frame must be outside the hypervisor's own memory, else this panics.
pub fn zero_frame(mfn: Mfn) {
    assert!(
        is_frame_outside_rust(mfn),
        "frame {mfn} is not ours to zero"
    );
    // SAFETY: mapped and outside Rust's objects; the string instruction is one opaque access.
    unsafe {
        asm!(
            "rep stosq",
            inout("rcx") PAGE_BYTES / 8 => _,
            inout("rdi") hva(mfn.base()) => _,
            in("rax") 0u64,
            options(nostack, preserves_flags),
        );
    }
}

/// Copies out of host physical memory, once: every byte is read exactly one time.
///
/// # Errors
/// [`Unreachable`] where the bytes are not all in the direct map, or are the hypervisor's own.
#[inline]
pub fn read(from: Hpa, to: &mut [u8]) -> Result<(), Unreachable> {
    if !is_outside_rust(from, to.len() as u64) {
        return Err(Unreachable(from));
    }
    // SAFETY: the source is mapped and outside Rust's objects, the target is a slice of that length.
    unsafe { copy(hva(from), to.as_mut_ptr(), to.len()) };
    Ok(())
}

/// Copies into host physical memory.
///
/// # Errors
/// [`Unreachable`] where the bytes are not all in the direct map, or are the hypervisor's own.
#[inline]
pub fn write(to: Hpa, from: &[u8]) -> Result<(), Unreachable> {
    if !is_outside_rust(to, from.len() as u64) {
        return Err(Unreachable(to));
    }
    // SAFETY: the target is mapped and outside Rust's objects, the source is a slice of that length.
    unsafe { copy(from.as_ptr(), hva(to), from.len()) };
    Ok(())
}

/// Moves `bytes` within host physical memory; the two ranges may overlap.
///
/// # Errors
/// [`Unreachable`] where the bytes are not all in the direct map, or are the hypervisor's own.
pub fn relocate(from: Hpa, to: Hpa, bytes: u64) -> Result<(), Unreachable> {
    for start in [from, to] {
        if !is_outside_rust(start, bytes) {
            return Err(Unreachable(start));
        }
    }
    // SAFETY: both ranges are mapped and outside Rust's objects; `copy` allows overlap.
    unsafe { core::ptr::copy(hva(from).cast_const(), hva(to), index(bytes)) };
    Ok(())
}

/// Copies `bytes` from one place in host physical memory to another, each read once.
///
/// # Errors
/// [`Unreachable`] where the bytes are not all in the direct map, or are the hypervisor's own.
pub fn duplicate(from: Hpa, to: Hpa, bytes: u16) -> Result<(), Unreachable> {
    let length = u64::from(bytes);
    if from.as_u64().abs_diff(to.as_u64()) < length {
        return relocate(from, to, length);
    }
    for start in [from, to] {
        if !is_outside_rust(start, length) {
            return Err(Unreachable(start));
        }
    }
    // SAFETY: both ranges are mapped and outside Rust's objects, and they do not overlap.
    unsafe { copy(hva(from).cast_const(), hva(to), usize::from(bytes)) };
    Ok(())
}

/// The host physical address is outside the direct map, or the memory there is the hypervisor's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unreachable(pub Hpa);

/// For identity-mapped memory, where both are the same address.
impl From<Unreachable> for NotRam {
    fn from(Unreachable(hpa): Unreachable) -> Self {
        Self(Gpa::new(hpa.as_u64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use hv_core::mem::{SharedWords, TableMem};

    #[test]
    fn bytes_written_are_read_back_at_every_length_and_alignment() {
        for length in [0, 1, 7, 8, 9, 127, 128, 129, 5000] {
            for start in [0x10_0000, 0x10_0003, 0x10_0fff] {
                let bytes: Vec<u8> = (0..length)
                    .map(|i| u8::try_from(i % 251).unwrap())
                    .collect();
                write(Hpa::new(start), &bytes).unwrap();
                let mut back = vec![0xff; bytes.len()];
                read(Hpa::new(start), &mut back).unwrap();
                assert_eq!(back, bytes);
            }
        }
    }

    #[test]
    fn memory_behind_the_extent_is_refused() {
        let end = Hpa::new(HOSTED_BYTES - 4);
        assert_eq!(read(end, &mut [0; 8]), Err(Unreachable(end)));
        assert_eq!(
            write(Hpa::new(u64::MAX - 3), &[0; 8]),
            Err(Unreachable(Hpa::new(u64::MAX - 3)))
        );
        assert_eq!(
            SharedFrame::new(Mfn::containing(Hpa::new(HOSTED_BYTES))),
            None
        );
    }

    #[test]
    fn shared_words_and_page_tables_see_the_same_frame() {
        let mfn = Mfn::new(0x300);
        zero_frame(mfn);
        let frame = SharedFrame::new(mfn).unwrap();
        assert_eq!(frame.fetch_or_u64(8, 5), 0);
        assert_eq!(DirectTables.read(mfn, 1), 5);
        DirectTables.write(mfn, 511, 0x1234_5678_9abc_def0);
        assert_eq!(frame.load_u32(4092), 0x1234_5678);
        assert_eq!(frame.swap_u8(4088, 7), 0xf0);
        assert_eq!(frame.compare_exchange_u32(8, 4, 9), Err(5));
    }

    #[test]
    fn bytes_are_duplicated_wherever_they_are() {
        for distance in [0, 3, 200, 4096] {
            let text: Vec<u8> = (0..250).collect();
            let (from, to) = (Hpa::new(0x28_0000), Hpa::new(0x28_0000 + distance));
            write(from, &text).unwrap();
            duplicate(from, to, 250).unwrap();
            let mut back = vec![0; 250];
            read(to, &mut back).unwrap();
            assert_eq!(back, text);
        }
        assert!(duplicate(Hpa::new(HOSTED_BYTES - 4), Hpa::new(0x28_0000), 8).is_err());
    }

    #[test]
    fn bytes_of_a_shared_frame_are_those_of_its_words() {
        let mfn = Mfn::new(0x301);
        zero_frame(mfn);
        let frame = SharedFrame::new(mfn).unwrap();
        assert_eq!(frame.mfn(), mfn);
        frame.write_bytes(4089, b"1234567");
        assert_eq!(frame.load_u64(4088).to_le_bytes(), *b"\x001234567");
        let mut back = [0; 7];
        frame.read_bytes(4089, &mut back);
        assert_eq!(&back, b"1234567");
    }

    #[test]
    #[should_panic(expected = "behind a shared frame's end")]
    fn bytes_behind_a_shared_frame_panic() {
        let frame = SharedFrame::new(Mfn::new(0x302)).unwrap();
        frame.read_bytes(4090, &mut [0; 7]);
    }

    #[test]
    fn overlapping_ranges_are_moved_intact() {
        write(Hpa::new(0x20_0000), b"abcdef").unwrap();
        relocate(Hpa::new(0x20_0000), Hpa::new(0x20_0002), 6).unwrap();
        let mut back = [0; 6];
        read(Hpa::new(0x20_0002), &mut back).unwrap();
        assert_eq!(&back, b"abcdef");
    }
}
