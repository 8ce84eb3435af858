//! The guest's memory map, and RAM beyond the image that tests may spend.

// UNSAFETY: reads the loader's table and hands out pages that no object of ours lies in.
#![expect(unsafe_code, reason = "reads the loader's table")]

use crate::{entry, hypercall};
use guest_abi::arch_x86::hvm::start_info::{HvmMemmapTableEntry, XEN_HVM_MEMMAP_TYPE_RAM};
use guest_abi::memory::{E820Entry, XENMEM_memory_map, XenMemoryMap};
use zerocopy::FromZeros;

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;
/// Identity-mapped addresses end here.
pub const MAPPED_END: u64 = 4 << 30;
/// Pages that tests may spend, at most; each test of memory takes its own range of them.
pub const SPARE_PAGES: u64 = 2048;

/// The memory map: start, bytes, type. Empty where there is none to be had.
pub fn for_each_range(mut visit: impl FnMut(u64, u64, u32)) {
    let info = entry::start_info();
    if info.version > 0 && info.memmap_entries > 0 {
        for index in 0..u64::from(info.memmap_entries) {
            let at = info.memmap_paddr + index * size_of::<HvmMemmapTableEntry>() as u64;
            // SAFETY: the loader's table has that many entries; any bytes are one.
            let entry = unsafe { (at as usize as *const HvmMemmapTableEntry).read_unaligned() };
            visit(entry.addr, entry.size, entry.type_);
        }
    } else if hypercall::present() {
        let mut map = [E820Entry::new_zeroed(); 128];
        let buffer = map.as_mut_ptr() as u64;
        let (result, asked) = hypercall::memory(
            XENMEM_memory_map,
            XenMemoryMap {
                nr_entries: 128,
                _pad: 0,
                buffer,
            },
        );
        let entries = if result == 0 {
            asked.nr_entries as usize
        } else {
            0
        };
        map.iter()
            .take(entries)
            .for_each(|e| visit(e.addr, e.size, e.type_));
    }
}

/// Type of the range that holds `address`, `None` where no range does.
#[must_use]
pub fn type_of(address: u64) -> Option<u32> {
    let mut found = None;
    for_each_range(|start, size, kind| {
        if address >= start && address - start < size {
            found = Some(kind);
        }
    });
    found
}

/// First address of [`SPARE_PAGES`] contiguous pages of RAM, past the image and 16 MiB-aligned, below 4 GiB.
#[must_use]
pub fn spare_range() -> Option<u64> {
    const BYTES: u64 = SPARE_PAGES * PAGE_SIZE;
    const ALIGN: u64 = 16 << 20;
    let (_, image_end) = entry::image();
    let info = entry::start_info();
    let avoid = [
        info.modlist_paddr,
        info.cmdline_paddr,
        info.rsdp_paddr,
        info.memmap_paddr,
    ];
    let mut found: Option<u64> = None;
    for_each_range(|start, size, kind| {
        // the highest such place: loaders put their tables low, or right behind the image
        let end = (start + size).min(MAPPED_END);
        let Some(candidate) = end.checked_sub(BYTES).map(|at| at & !(ALIGN - 1)) else {
            return;
        };
        let is_free = avoid
            .iter()
            .all(|&a| a < candidate || a >= candidate + BYTES);
        if kind == XEN_HVM_MEMMAP_TYPE_RAM && candidate >= start.max(image_end) && is_free {
            found = found.max(Some(candidate));
        }
    });
    found
}

/// What is done to a page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// A word is read.
    Read,
    /// A word is written that is not zero.
    Write,
}

/// Touches every page of RAM behind the image and the loader's tables, below the end of what is mapped; how many that
/// is.
pub fn touch_all(how: Touch) -> u64 {
    /// Loaders of test kernels put nothing higher.
    const START: u64 = 16 << 20;
    let (_, image_end) = entry::image();
    let mut pages = 0;
    for_each_range(|start, size, kind| {
        if kind != XEN_HVM_MEMMAP_TYPE_RAM {
            return;
        }
        let end = (start + size).min(MAPPED_END);
        let mut at = start.max(START).max(image_end).next_multiple_of(PAGE_SIZE);
        while at + PAGE_SIZE <= end {
            let word = at as usize as *mut u64;
            match how {
                // SAFETY: RAM that no object of ours lies in.
                Touch::Read => unsafe {
                    let _ = word.read_volatile();
                },
                // SAFETY: as above.
                Touch::Write => unsafe { word.write_volatile(at | 1) },
            }
            pages += 1;
            at += PAGE_SIZE;
        }
    });
    pages
}
