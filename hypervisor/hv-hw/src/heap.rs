//! The hypervisor's heap: for the control plane only (boot, creating domains), never in an exit path.
//!
//! UNSAFETY: implements the global allocator over `linked_list_allocator`.
//!
//! While dom0's kernel is unpacked it has a temporary region beside, for blocks of 64 KiB and more ([`add_temporary`]).
//! It starts with a small static area, so that boot can parse before it knows the machine's memory, and gets its real
//! area by [`give`]. First fit under one lock; an allocation that finds no room returns null, and fallible callers
//! (`try_reserve`) see an error.
#![expect(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use hv_core::addr::{MfnRange, PAGE_SIZE};
use linked_list_allocator::Heap as Area;

use crate::direct_map::{self, RustMemory};
use crate::sync::{RankedLock, rank};

/// Bytes to boot with.
const BOOT_BYTES: usize = 256 << 10;

/// The memory to boot with; touched by the allocator alone.
#[repr(C, align(4096))]
struct BootArea(UnsafeCell<[u8; BOOT_BYTES]>);

// SAFETY: only `Areas` reaches into it, under the heap's lock.
unsafe impl Sync for BootArea {}

static BOOT_AREA: BootArea = BootArea(UnsafeCell::new([0; BOOT_BYTES]));

/// Blocks of this many bytes come from the temporary region, where there is one.
const LARGE: usize = 64 << 10;

/// The global allocator.
#[derive(Debug, Default)]
pub struct Heap(());

static AREAS: RankedLock<Areas, { rank::HEAP }> = RankedLock::new(Areas {
    boot: Area::empty(),
    main: Area::empty(),
    temporary: Area::empty(),
    is_boot_ready: false,
});

/// The boot area, the main one, and one that is there for a while.
struct Areas {
    boot: Area,
    main: Area,
    temporary: Area,
    is_boot_ready: bool,
}

impl core::fmt::Debug for Areas {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} + {} bytes used", self.boot.used(), self.main.used())
    }
}

/// Bytes in use and in all, for the debug key `m`.
static USED: AtomicUsize = AtomicUsize::new(0);
static SIZE: AtomicUsize = AtomicUsize::new(0);

/// Bytes in use, and bytes in all.
#[must_use]
pub fn usage() -> (usize, usize) {
    (USED.load(Ordering::Relaxed), SIZE.load(Ordering::Relaxed))
}

impl Heap {
    /// An empty heap, for the static that is the global allocator.
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }
}

/// The main area waiting to be taken up by the allocator: address and size, 0 for none.
static GIVEN: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// Gives `frames`, mapped in the direct map and owned by the caller until now, to the heap. Once.
///
/// # Panics
/// When called a second time, or with frames outside the direct map.
pub fn give(frames: MfnRange) {
    assert!(
        frames.end.base() <= direct_map::extent(),
        "the heap's frames are in the direct map"
    );
    let start = direct_map::hva(frames.start.base()).expose_provenance();
    let bytes = frames.end.base() - frames.start.base();
    direct_map::forbid(RustMemory::Heap, frames);
    let is_first = GIVEN[0]
        .compare_exchange(0, start, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok();
    assert!(is_first, "the heap is given once");
    GIVEN[1].store(usize::try_from(bytes).unwrap_or(0), Ordering::SeqCst);
}

/// Adds `frames`, which lie right below the heap's `own`, to the heap for large blocks, until [`take_back`].
///
/// # Panics
/// With frames that lie elsewhere, or while there is such a region.
pub fn add_temporary(frames: MfnRange, own: MfnRange) {
    let start = direct_map::hva(frames.start.base());
    let bytes = usize::try_from(frames.len() * PAGE_SIZE)
        .expect("frames that are mapped fit the address space");
    let mut areas = AREAS.lock();
    areas.prepare();
    assert!(areas.temporary.size() == 0, "one region at a time");
    assert!(frames.end == own.start, "the region ends at the heap");
    direct_map::forbid(RustMemory::Heap, MfnRange::new(frames.start, own.end));
    // SAFETY: the frames are mapped, and kept from everybody else by `forbid` until `take_back`.
    unsafe { areas.temporary.init(start, bytes) };
}

/// Takes the temporary region back: the heap is `own` again. False, and nothing has changed, where some of it is still
/// in use.
#[must_use]
pub fn take_back(own: MfnRange) -> bool {
    let mut areas = AREAS.lock();
    if areas.temporary.used() != 0 {
        return false;
    }
    areas.temporary = Area::empty();
    direct_map::forbid(RustMemory::Heap, own);
    true
}

impl Areas {
    /// Takes up the areas there are.
    fn prepare(&mut self) {
        if !self.is_boot_ready {
            self.is_boot_ready = true;
            // SAFETY: the static is used for nothing else, and this happens once.
            unsafe { self.boot.init(BOOT_AREA.0.get().cast(), BOOT_BYTES) };
            SIZE.fetch_add(BOOT_BYTES, Ordering::Relaxed);
        }
        let bytes = GIVEN[1].load(Ordering::SeqCst);
        if bytes > 0 && self.main.size() == 0 {
            let start = core::ptr::with_exposed_provenance_mut(GIVEN[0].load(Ordering::SeqCst));
            // SAFETY: `give` took the frames over, mapped, kept from everybody else, once.
            unsafe { self.main.init(start, bytes) };
            SIZE.fetch_add(bytes, Ordering::Relaxed);
        }
    }
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.prepare();
        if layout.size() >= LARGE
            && self.temporary.size() != 0
            && let Ok(block) = self.temporary.allocate_first_fit(layout)
        {
            return Some(block);
        }
        let found = self.main.allocate_first_fit(layout);
        found
            .or_else(|()| self.boot.allocate_first_fit(layout))
            .ok()
    }
    fn is_in_boot_area(pointer: NonNull<u8>) -> bool {
        let start = BOOT_AREA.0.get().addr();
        (start..start + BOOT_BYTES).contains(&pointer.addr().get())
    }
    fn area_of(&mut self, pointer: NonNull<u8>) -> &mut Area {
        let temporary = self.temporary.bottom().addr();
        if Self::is_in_boot_area(pointer) {
            &mut self.boot
        } else if (temporary..temporary + self.temporary.size()).contains(&pointer.addr().get()) {
            &mut self.temporary
        } else {
            &mut self.main
        }
    }
    fn note_usage(&self) {
        USED.store(self.boot.used() + self.main.used(), Ordering::Relaxed);
    }
}

// SAFETY: memory comes from areas that nothing else uses, in blocks that do not overlap until they are given back.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut areas = AREAS.lock();
        let found = areas.allocate(layout);
        areas.note_usage();
        found.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(pointer) = NonNull::new(pointer) else {
            return;
        };
        let mut areas = AREAS.lock();
        let area = areas.area_of(pointer);
        // SAFETY: the caller got the block with this layout from `alloc`, so from this area.
        unsafe { area.deallocate(pointer, layout) };
        areas.note_usage();
    }
}
