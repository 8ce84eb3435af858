//! Page tables in the direct map.
//!
//! UNSAFETY: an entry is reached by its address. See the module above for what makes that sound.
#![expect(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};

use hv_core::addr::Mfn;
use hv_core::mem::TableMem;

use super::{hva, is_frame_outside_rust};

/// Page tables in the direct map. A table is a frame that the frame allocator gave out for one.
#[derive(Clone, Copy, Default, Debug)]
pub struct DirectTables;

impl DirectTables {
    #[inline]
    fn entry(table: Mfn, index: usize) -> *mut u64 {
        assert!(
            index < 512 && is_frame_outside_rust(table),
            "page table {table} is outside the direct map"
        );
        hva(table.base()).cast::<u64>().wrapping_add(index)
    }
}

impl TableMem for DirectTables {
    #[inline]
    fn read(&self, table: Mfn, index: usize) -> u64 {
        let entry = Self::entry(table, index);
        // SAFETY: mapped, aligned, outside Rust's objects (checked by `entry`), accessed atomically everywhere.
        let entry = unsafe { AtomicU64::from_ptr(entry) };
        entry.load(Ordering::Acquire)
    }
    #[inline]
    fn write(&mut self, table: Mfn, index: usize, entry: u64) {
        let place = Self::entry(table, index);
        // SAFETY: mapped, aligned, outside Rust's objects (checked by `entry`), accessed atomically everywhere.
        let place = unsafe { AtomicU64::from_ptr(place) };
        place.store(entry, Ordering::Release);
    }
}
