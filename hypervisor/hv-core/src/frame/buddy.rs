//! The free frames, in blocks of 2^order frames that start at multiples of their size.
//!
//! Two halves of a block are buddies: when both are free they become one again, so free memory is in the largest blocks
//! there are. Only the last few single frames are left alone for a while, since single frames come and go: a balloon's
//! frame is split off a large block once, and not each time. Lists are linked through the frames' records by frame
//! number. Frames below 4 GiB have lists of their own and are handed out late, because some of dom0's devices can reach
//! no others; later still those that dom0 had, because it can have no others back.

use alloc::vec::Vec;
use core::cmp::Reverse;
use core::sync::atomic::Ordering;

use super::owner::OwnedFrames;
use super::table::FrameTable;
use crate::addr::{Mfn, MfnRange, PageOrder};

const ORDERS: usize = PageOrder::MAX.get() as usize + 1;
/// The first frame above 4 GiB.
const LOW_END: Mfn = Mfn::new(1 << 20);
/// No frame: the end of a list.
const NONE: u32 = u32::MAX;
/// Single frames that are not joined with their buddies yet.
const SINGLES: usize = 16;

/// Bits of a zone's number, for frames below 4 GiB and for those that are handed out last.
const LOW: usize = 1;
const LAST: usize = 2;
const ZONES: usize = 4;

/// The free lists.
pub struct Buddy<'t, 'm> {
    table: &'t FrameTable<'m>,
    /// In the order in which they are asked for frames.
    zones: [Zone; ZONES],
    /// Frames that are handed out last. No free block has some of them and others too.
    last: Vec<MfnRange>,
    /// The single frames that were freed last, from `oldest` on; those that were taken again count for nothing.
    singles: [Option<Mfn>; SINGLES],
    oldest: usize,
}

/// Why frames cannot be made free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddFreeError {
    /// Some of them are not RAM.
    NotRam,
    /// Some of them are free already, or in use.
    InUse,
}

struct Zone {
    /// The first block of each order.
    heads: [u32; ORDERS],
    free_frames: u64,
}

impl<'t, 'm> Buddy<'t, 'm> {
    /// Begins without any free frame.
    #[must_use]
    pub fn new(table: &'t FrameTable<'m>) -> Self {
        Self {
            table,
            zones: [Zone::EMPTY; ZONES],
            last: Vec::new(),
            singles: [None; SINGLES],
            oldest: 0,
        }
    }

    /// Adds frames at boot that nobody uses. Frame 0 is left out: its number stands for "none" elsewhere.
    ///
    /// # Errors
    /// [`AddFreeError::NotRam`] where a frame is not in the table's RAM (then none is added), [`AddFreeError::InUse`]
    /// at the first block that is free already or begins in somebody's use.
    pub fn add_free(&mut self, range: MfnRange) -> Result<(), AddFreeError> {
        let range = MfnRange::new(range.start.max(Mfn::new(1)), range.end);
        if range.is_empty() {
            return Ok(());
        }
        if !self.table.is_all_ram(range) {
            return Err(AddFreeError::NotRam);
        }
        for (start, order) in blocks(range) {
            if self.free_block_at(start).is_some() || !self.table.known(start).is_unused() {
                return Err(AddFreeError::InUse);
            }
            self.insert(start, order, self.zone_of(start));
        }
        Ok(())
    }

    /// Has these frames, none of which may be free now, handed out only where no others are left.
    pub fn hand_out_last(&mut self, mut ranges: Vec<MfnRange>) {
        // most frames are found in the first
        ranges.sort_unstable_by_key(|range| Reverse(range.len()));
        self.last = ranges;
    }

    /// A block of `order`, from above 4 GiB where there is one; `None` where no block is that large.
    #[must_use]
    pub fn alloc(&mut self, order: PageOrder) -> Option<OwnedFrames> {
        // whoever wants any frame does not get one of those that somebody may want back
        self.join_singles();
        let (block, found) = self.smallest(order)?;
        Some(self.take(block, found, order))
    }

    /// Exactly these frames; `None` where one of them is not free (then none is taken) or there are none.
    #[must_use]
    pub fn alloc_exact(&mut self, range: MfnRange) -> Option<OwnedFrames> {
        if range.is_empty() {
            return None;
        }
        let (mut start, mut order) = self.free_block_at(range.start)?;
        if !self.is_free(MfnRange::new(start + order.frames(), range.end)) {
            return None;
        }
        loop {
            let (end, zone) = (start + order.frames(), self.zone_of(start));
            self.remove(start, order, zone);
            self.push_all(MfnRange::new(start, range.start), zone);
            self.push_all(MfnRange::new(range.end, end), zone);
            if end >= range.end {
                return Some(OwnedFrames::new(range));
            }
            (start, order) = self.free_block_at(end).expect("the range was found free");
        }
    }

    pub fn free(&mut self, frames: OwnedFrames) {
        let range = frames.range();
        if range.len() == 1 {
            return self.free_single(range.start);
        }
        for (start, order) in blocks(frames.range()) {
            self.insert(start, order, self.zone_of(start));
        }
    }

    /// True where all of `range` is free.
    #[must_use]
    pub fn is_free(&self, range: MfnRange) -> bool {
        let mut at = range.start;
        while at < range.end {
            match self.free_block_at(at) {
                Some((start, order)) => at = start + order.frames(),
                None => return false,
            }
        }
        true
    }

    /// The first run of free frames that begins at or above `from`, as long as it goes. For boot: it looks at
    /// every frame that it passes over.
    #[must_use]
    pub fn next_free_run(&self, from: Mfn) -> Option<MfnRange> {
        let is_block = |mfn: &Mfn| {
            let info = self.table.record(*mfn);
            info.is_some_and(|info| info.free_order().is_some())
        };
        let start = match self.free_block_at(from) {
            Some(_) => from,
            // What is free behind frames that are not begins with a block of its own.
            None => self.table.ram_from(from).find(is_block)?,
        };
        let mut end = start;
        while let Some((block, order)) = self.free_block_at(end) {
            end = block + order.frames();
        }
        Some(MfnRange::new(start, end))
    }

    /// How many frames are free.
    #[must_use]
    pub fn free_frames(&self) -> u64 {
        self.zones.iter().map(|zone| zone.free_frames).sum()
    }

    /// How many frames below 4 GiB are free.
    #[must_use]
    pub fn free_frames_below_4g(&self) -> u64 {
        self.zones[LOW].free_frames + self.zones[LAST | LOW].free_frames
    }

    /// The smallest block that holds one of `order`. A single frame that was just freed comes last: whoever gave it up
    /// may want the very same one again.
    fn smallest(&self, order: PageOrder) -> Option<(Mfn, PageOrder)> {
        let in_any = |order| self.zones.iter().find_map(|zone| zone.smallest(order));
        let found = in_any(order)?;
        if found.1 == PageOrder::SIZE_4K && self.singles.contains(&Some(found.0)) {
            let larger = PageOrder::new(1).and_then(in_any);
            return larger.or(Some(found));
        }
        Some(found)
    }

    /// Frees a single frame, and joins the one with its buddy that was freed some time before.
    fn free_single(&mut self, frame: Mfn) {
        self.push(frame, PageOrder::SIZE_4K, self.zone_of(frame));
        if self.singles.contains(&Some(frame)) {
            return;
        }
        let slot = &mut self.singles[self.oldest];
        self.oldest = (self.oldest + 1) % SINGLES;
        if let Some(before) = slot.replace(frame) {
            self.join(before);
        }
    }

    fn join_singles(&mut self) {
        for slot in 0..SINGLES {
            if let Some(frame) = self.singles[slot].take() {
                self.join(frame);
            }
        }
    }

    /// Joins a frame with its buddies, where it is a free block of its own.
    fn join(&mut self, frame: Mfn) {
        if self.is_free_block(frame, PageOrder::SIZE_4K) {
            let zone = self.zone_of(frame);
            self.remove(frame, PageOrder::SIZE_4K, zone);
            self.insert(frame, PageOrder::SIZE_4K, zone);
        }
    }

    /// The free block that holds `mfn`.
    fn free_block_at(&self, mfn: Mfn) -> Option<(Mfn, PageOrder)> {
        (0..=PageOrder::MAX.get())
            .filter_map(PageOrder::new)
            .map(|order| (mfn.align_down(order), order))
            .find(|&(start, order)| self.is_free_block(start, order))
    }

    fn is_free_block(&self, start: Mfn, order: PageOrder) -> bool {
        self.table
            .record(start)
            .is_some_and(|info| info.free_order() == Some(order))
    }

    /// Takes the first `order` of a free block and leaves the rest free.
    fn take(&mut self, block: Mfn, found: PageOrder, order: PageOrder) -> OwnedFrames {
        let zone = self.zone_of(block);
        self.remove(block, found, zone);
        let range = MfnRange::new(block, block + order.frames());
        self.push_all(MfnRange::new(range.end, block + found.frames()), zone);
        OwnedFrames::new(range)
    }

    /// Makes a block of `zone` free, joined with its buddy as long as that is free too, and of the same zone.
    fn insert(&mut self, mut start: Mfn, mut order: PageOrder, zone: usize) {
        while let Some(larger) = PageOrder::new(order.get() + 1) {
            let buddy = Mfn::new(start.as_u64() ^ order.frames());
            if !self.is_free_block(buddy, order) || self.zone_of(buddy) != zone {
                break;
            }
            self.remove(buddy, order, zone);
            start = start.min(buddy);
            order = larger;
        }
        self.push(start, order, zone);
    }

    /// Makes what is left of a block of `zone` that was free free again: nothing of it has a free buddy.
    fn push_all(&mut self, range: MfnRange, zone: usize) {
        for (start, order) in blocks(range) {
            self.push(start, order, zone);
        }
    }

    fn push(&mut self, start: Mfn, order: PageOrder, zone: usize) {
        let table = self.table;
        let zone = &mut self.zones[zone];
        let number = number(start);
        let next = core::mem::replace(&mut zone.heads[usize::from(order.get())], number);
        zone.free_frames += order.frames();
        let info = table.known(start);
        info.next.store(next, Ordering::Relaxed);
        info.prev.store(NONE, Ordering::Relaxed);
        info.set_free_block(order);
        if next != NONE {
            let next = table.known(Mfn::new(u64::from(next)));
            next.prev.store(number, Ordering::Relaxed);
        }
    }

    fn remove(&mut self, start: Mfn, order: PageOrder, zone: usize) {
        let table = self.table;
        let zone = &mut self.zones[zone];
        let info = table.known(start);
        let next = info.next.load(Ordering::Relaxed);
        let prev = info.prev.load(Ordering::Relaxed);
        if prev == NONE {
            zone.heads[usize::from(order.get())] = next;
        } else {
            let prev = table.known(Mfn::new(u64::from(prev)));
            prev.next.store(next, Ordering::Relaxed);
        }
        if next != NONE {
            let next = table.known(Mfn::new(u64::from(next)));
            next.prev.store(prev, Ordering::Relaxed);
        }
        zone.free_frames -= order.frames();
        info.clear();
    }

    fn zone_of(&self, mfn: Mfn) -> usize {
        let is_last = self.last.iter().any(|range| range.contains(mfn));
        LAST * usize::from(is_last) + LOW * usize::from(mfn < LOW_END)
    }
}

impl Zone {
    const EMPTY: Self = Self {
        heads: [NONE; ORDERS],
        free_frames: 0,
    };

    /// The first block of the smallest order that holds one of `order`.
    fn smallest(&self, order: PageOrder) -> Option<(Mfn, PageOrder)> {
        orders_from(order).find_map(|found| {
            let head = self.heads[usize::from(found.get())];
            (head != NONE).then(|| (Mfn::new(u64::from(head)), found))
        })
    }
}

fn orders_from(order: PageOrder) -> impl Iterator<Item = PageOrder> {
    (order.get()..=PageOrder::MAX.get()).filter_map(PageOrder::new)
}

/// The largest aligned blocks that make up `range`, in ascending order of frames.
fn blocks(range: MfnRange) -> impl Iterator<Item = (Mfn, PageOrder)> {
    let mut at = range.start;
    core::iter::from_fn(move || {
        let left = (range.end.as_u64()).saturating_sub(at.as_u64());
        let by_size = left.checked_ilog2()?;
        let by_start = at.as_u64().trailing_zeros();
        let raw = by_size.min(by_start).min(u32::from(PageOrder::MAX.get()));
        let order = PageOrder::new(u8::try_from(raw).ok()?)?;
        let block = (at, order);
        at = at + order.frames();
        Some(block)
    })
}

fn number(mfn: Mfn) -> u32 {
    u32::try_from(mfn.as_u64()).expect("frames with records are below 1 TiB")
}
