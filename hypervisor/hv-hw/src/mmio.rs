//! Registers of devices in memory.
//!
//! UNSAFETY: volatile accesses at mapped device addresses.
#![expect(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};

use hv_core::addr::{Hpa, Mfn, PAGE_SIZE};
use hv_core::mem::TableFrames;

use crate::direct_map;
use crate::paging::{self, OutOfFrames};
use crate::sync::{RankedLock, rank};

/// Where device registers are mapped, one range after the other.
const WINDOW: u64 = 0xffff_ff00_0000_0000;

/// The next free address of the window.
static NEXT: AtomicU64 = AtomicU64::new(WINDOW);

/// A page through which one frame of a device's memory after the other is reached; `None` until it is open.
static PEEPHOLE: RankedLock<Option<u64>, { rank::PEEPHOLE }> = RankedLock::new(None);

/// Opens the page that [`load`] and [`store`] look through. Before that they reach nothing.
///
/// # Errors
/// [`OutOfFrames`] where a page table is needed and memory is out.
pub fn open_peephole(frames: &mut impl TableFrames) -> Result<(), OutOfFrames> {
    /// Where I/O APICs are: what it shows first, and nobody looks at.
    const ANYTHING: Hpa = Hpa::new(0xfec0_0000);
    let address = NEXT.fetch_add(PAGE_SIZE, Ordering::Relaxed);
    paging::map_device(frames, address, (Mfn::containing(ANYTHING), 1))?;
    *PEEPHOLE.lock() = Some(address);
    Ok(())
}

/// Reads `size` bytes (1, 2, 4 or 8, at a multiple of it) of a device's memory, in one access. Reads all ones where
/// that is no access, or the hypervisor's own memory.
#[must_use]
pub fn load(at: Hpa, size: u8) -> u64 {
    let value = peep(at, size, |place| match size {
        // SAFETY: `peep` has mapped it.
        1 => u64::from(unsafe { place.read_volatile() }),
        // SAFETY: `peep` has mapped it, aligned.
        2 => u64::from(unsafe { place.cast::<u16>().read_volatile() }),
        // SAFETY: as above.
        4 => u64::from(unsafe { place.cast::<u32>().read_volatile() }),
        // SAFETY: as above.
        _ => unsafe { place.cast::<u64>().read_volatile() },
    });
    value.unwrap_or(u64::MAX)
}

/// Writes the low `size` bytes of `value` to a device's memory in one access, or nothing.
pub fn store(at: Hpa, size: u8, value: u64) {
    let [a, b, c, d, ..] = value.to_le_bytes();
    peep(at, size, |place| match size {
        // SAFETY: `peep` has mapped it, and it is no memory of Rust's.
        1 => unsafe { place.write_volatile(a) },
        // SAFETY: as above, and it is aligned.
        2 => unsafe {
            place
                .cast::<u16>()
                .write_volatile(u16::from_le_bytes([a, b]))
        },
        // SAFETY: as above.
        4 => unsafe {
            place
                .cast::<u32>()
                .write_volatile(u32::from_le_bytes([a, b, c, d]))
        },
        // SAFETY: as above.
        _ => unsafe { place.cast::<u64>().write_volatile(value) },
    });
}

/// Calls `access` with the place where `size` bytes at `at` are mapped for as long as it runs; `None` where they are no
/// access, or memory that Rust lives in.
fn peep<R>(at: Hpa, size: u8, access: impl FnOnce(*mut u8) -> R) -> Option<R> {
    let is_access = matches!(size, 1 | 2 | 4 | 8) && at.as_u64().is_multiple_of(u64::from(size));
    let frame = Mfn::containing(at);
    if !is_access || direct_map::is_rusts(frame) {
        return None;
    }
    let peephole = PEEPHOLE.lock();
    let address = (*peephole)?;
    paging::show_device(address, frame).ok()?;
    let place = usize::try_from(address).ok()? + at.page_offset();
    Some(access(core::ptr::with_exposed_provenance_mut(place)))
}

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
