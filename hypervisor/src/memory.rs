//! The machine's frames: the one frame table and the one allocator, and who takes from it.
//!
//! Frames that leave a domain are scrubbed here before anybody else sees them. Next: `hv_core::frame` for the rules.

use hv_core::addr::{Mfn, MfnRange, PageOrder};
use hv_core::domid::DomId;
use hv_core::frame::{Buddy, CleanFrames, FrameTable, Freed, OwnedFrames, Role};
use hv_core::mem::TableFrames;
use hv_hw::direct_map;
use hv_hw::sync::{Once, RankedLock, rank};

type Allocator = RankedLock<Buddy<'static, 'static>, { rank::FRAMES }>;

static TABLE: Once<FrameTable<'static>> = Once::new();
static FREE: Once<Allocator> = Once::new();

/// Takes the frame table into use, with no frame free yet. Once, at boot.
pub fn init(table: FrameTable<'static>) {
    let table = TABLE.call_once(|| table);
    FREE.call_once(|| RankedLock::new(Buddy::new(table)));
}

/// The records of all frames.
#[must_use]
pub fn table() -> &'static FrameTable<'static> {
    TABLE
        .get()
        .expect("the frame table is set up before anything asks for frames")
}

/// The free frames.
#[must_use]
pub fn free() -> &'static Allocator {
    FREE.get()
        .expect("the frame table is set up before anything asks for frames")
}

/// How many frames are free.
#[must_use]
pub fn free_frames() -> u64 {
    free().lock().free_frames()
}

/// Fills a run of frames with zeroes.
pub fn zero(range: MfnRange) {
    let mut mfn = range.start;
    while mfn < range.end {
        direct_map::zero_frame(mfn);
        mfn = mfn + 1;
    }
}

/// A zeroed block of frames, for the caller to give to somebody; `None` where memory is out.
#[must_use]
pub fn alloc_clean(order: PageOrder) -> Option<CleanFrames> {
    let frames = free().lock().alloc(order)?;
    Some(frames.scrub(zero))
}

/// A zeroed frame of the hypervisor's own; `None` where memory is out.
#[must_use]
pub fn alloc_own() -> Option<Mfn> {
    keep(Role::Hypervisor)
}

/// Takes a frame back that [`alloc_own`] gave.
pub fn free_own(mfn: Mfn) {
    release(mfn);
}

/// A zeroed frame that belongs to `domid` and that it shares with the hypervisor; `None` where memory is out.
#[must_use]
pub fn alloc_special(domid: DomId) -> Option<Mfn> {
    let frames = alloc_clean(PageOrder::SIZE_4K)?;
    Some(table().give(frames, domid, Role::Special).start)
}

/// Returns frames whose last use has ended to the free list.
pub fn give_back(freed: Freed) {
    free().lock().free(freed.frames);
}

/// Returns frames that were taken and not given to anybody.
pub fn return_unused(frames: OwnedFrames) {
    free().lock().free(frames);
}

/// Frames for page tables, from the machine's free ones.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tables;

impl TableFrames for Tables {
    fn alloc_table(&mut self) -> Option<Mfn> {
        keep(Role::Table)
    }
    fn free_table(&mut self, table: Mfn) {
        release(table);
    }
}

fn keep(role: Role) -> Option<Mfn> {
    let frames = alloc_clean(PageOrder::SIZE_4K)?.into_owned();
    Some(table().keep(frames, role).start)
}

fn release(mfn: Mfn) {
    let frames = table().unkeep(MfnRange::new(mfn, mfn + 1));
    free().lock().free(frames);
}
