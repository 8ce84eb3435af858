//! Registers of devices in memory.
//!
//! UNSAFETY: volatile accesses at mapped device addresses.
#![expect(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};

use hv_core::addr::{Hpa, Mfn, PAGE_SIZE};
use hv_core::mem::TableFrames;

use crate::paging::{self, OutOfFrames};

/// Where device registers are mapped, one range after the other.
const WINDOW: u64 = 0xffff_ff00_0000_0000;

/// The next free address of the window.
static NEXT: AtomicU64 = AtomicU64::new(WINDOW);

/// A mapped range of device registers. Copies refer to the same registers.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: the mapping is the same on every CPU and stays; accesses are volatile.
unsafe impl Send for Registers {}
// SAFETY: as above; who needs an order among accesses has a lock around them.
unsafe impl Sync for Registers {}

impl Registers {
    /// Maps `bytes` of registers at `hpa`, uncached, for ever. They must be a device's: RAM mapped so would have two
    /// memory types.
    ///
    /// # Errors
    /// [`OutOfFrames`] where a page table is needed and memory is out.
    pub fn map(frames: &mut impl TableFrames, hpa: Hpa, bytes: u64) -> Result<Self, OutOfFrames> {
        let offset = hpa.page_offset() as u64;
        let count = paging::pages(offset + bytes);
        let address = NEXT.fetch_add(count * PAGE_SIZE, Ordering::Relaxed);
        paging::map_device(frames, address, (Mfn::containing(hpa), count))?;
        let base = usize::try_from(address + offset).map_err(|_| OutOfFrames)?;
        Ok(Self {
            base: core::ptr::with_exposed_provenance_mut(base),
            bytes: usize::try_from(bytes).map_err(|_| OutOfFrames)?,
        })
    }
    /// Reads the 4-byte register at `offset`, which must be inside and aligned.
    #[inline]
    #[must_use]
    pub fn read32(&self, offset: usize) -> u32 {
        let register = self.at(offset, 4).cast::<u32>();
        // SAFETY: mapped, inside and aligned (checked by `at`).
        unsafe { register.read_volatile() }
    }
    /// Writes the 4-byte register at `offset`, which must be inside and aligned.
    #[inline]
    pub fn write32(&self, offset: usize, value: u32) {
        let register = self.at(offset, 4).cast::<u32>();
        // SAFETY: mapped, inside and aligned (checked by `at`).
        unsafe { register.write_volatile(value) };
    }
    #[inline]
    fn at(&self, offset: usize, bytes: usize) -> *mut u8 {
        assert!(
            offset.is_multiple_of(bytes) && offset < self.bytes && self.bytes - offset >= bytes,
            "register {offset:#x} of a device with {:#x} bytes",
            self.bytes
        );
        self.base.wrapping_add(offset)
    }
}
