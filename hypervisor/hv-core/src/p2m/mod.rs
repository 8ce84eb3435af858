//! The p2m: what each guest frame number of a domain stands for.
//!
//! It is the domain's second-stage tables and nothing beside them: a page's kind is noted in bits of the entry that the
//! CPU ignores, so that [`P2m::lookup`], which every walk of a guest's own page tables and every copy from a guest goes
//! through, reads one tree. What is to be populated when it is touched has a mark there (`pod`). Inserting never
//! replaces: what is mapped is removed first, flushed, and its frame's use put
//! ([`crate::frame::FrameTable::put_mapped`]). Next: [`crate::paging`] for the table, [`crate::frame`] for the uses.

mod cache;
mod entry;
mod kind;
mod pod;
#[cfg(test)]
mod pod_tests;
#[cfg(test)]
mod tests;

pub use cache::P2mCache;
pub use entry::{P2mEntry, P2mMapping};
pub use kind::P2mKind;
pub use pod::{Pod, PodCounts, Populated, Swept};

use core::ops::ControlFlow;

use crate::addr::{Gfn, Mfn, MfnRange, PageOrder};
use crate::mem::{TableFrames, TableMem};
use crate::paging::flush::{FlushDone, PendingFlush};
use crate::paging::stage2::{Stage2, Stage2Attr, Stage2Format};
use crate::paging::{Incomplete, MAX_PAGES, Next, PageTable, Slot};

/// A domain's map from guest frames to machine frames.
pub struct P2m {
    table: PageTable<Stage2>,
    config: P2mConfig,
    /// The end of the guest frames that are below the local APICs' page.
    low_limit: Gfn,
    max_gfn: Option<Gfn>,
    /// Counts the changes of what is mapped, from 1; see [`P2mCache`].
    generation: u64,
    /// The page whose removal began generation `g`, at `g % RECENT`; of those behind `listed_from`.
    removed: [Gfn; RECENT],
    /// No removal of a single page began this generation, or one before.
    listed_from: u64,
    /// What is populated when it is touched.
    pub pod: Pod,
}

/// The page where a vCPU has the registers of its local APIC in xAPIC mode: what was mapped there would hide them.
const LOCAL_APIC: Gfn = Gfn::new(crate::device::lapic::base::ADDRESS / crate::addr::PAGE_SIZE);
/// Removals of single pages that are remembered.
const RECENT: usize = 8;

/// How a domain's p2m is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct P2mConfig {
    pub format: Stage2Format,
    /// The largest leaf: what the CPU can, less what `ept-superpages=` forbids.
    pub max_order: PageOrder,
    /// Whether leaves above 4 KiB may be executed. `false` on CPUs with the page-size-change erratum (CVE-2018-12207):
    /// then they are split on the first instruction fetch ([`P2m::allow_execute`]).
    pub large_executable: bool,
    /// Whether the domain's PAT refines how its memory is cached. `false` for a domain without devices: it gains
    /// nothing by it, memory that is not cached slows everybody, and a frame must not be cached in two ways by two
    /// domains.
    pub heeds_pat: bool,
    /// Guest frame numbers stay below this: 2^(physical address bits that the guest sees - 12), at most [`MAX_PAGES`].
    pub gfn_limit: Gfn,
}

/// Why a p2m was not changed.
#[must_use]
#[derive(PartialEq, Eq, Debug)]
pub enum P2mError {
    /// Something is mapped in the range already.
    Occupied,
    /// The range leaves what the guest can address.
    OutOfRange,
    /// There is no frame for a table. What is mapped is as before, but this flush is owed.
    OutOfTables(PendingFlush),
}

/// What became of a page that was to be removed.
#[must_use = "a page that was removed is flushed, and its frame's use put"]
#[derive(PartialEq, Eq, Debug)]
pub enum Removal {
    /// Nothing was mapped there.
    NotMapped,
    /// It was not to go.
    Kept,
    /// It is gone: what was there, and the flush that is owed.
    Done(P2mEntry, PendingFlush),
}

impl P2m {
    /// An empty map, or `None` where there is no frame for its root.
    pub fn new(frames: &mut impl TableFrames, config: P2mConfig) -> Option<Self> {
        Some(Self {
            table: PageTable::new(frames, config.max_order)?,
            low_limit: config.gfn_limit.min(LOCAL_APIC),
            config,
            max_gfn: None,
            generation: 1,
            removed: [Gfn::new(0); RECENT],
            listed_from: 1,
            pod: Pod::default(),
        })
    }

    /// The root table's frame, by which flushes name the map.
    #[must_use]
    pub fn root(&self) -> Mfn {
        self.table.root()
    }

    /// The highest guest frame that was ever mapped (`public/memory.h, XENMEM_maximum_gpfn`).
    #[must_use]
    pub fn max_gfn(&self) -> Option<Gfn> {
        self.max_gfn
    }

    /// What `gfn` stands for; `None` where nothing is mapped there. The hot path: at most four reads.
    #[inline]
    #[must_use]
    pub fn lookup(&self, mem: &impl TableMem, gfn: Gfn) -> Option<P2mEntry> {
        self.table.lookup(mem, gfn).map(P2mEntry::from)
    }

    /// The first mapped guest frame at or above `from`, with its entry, for teardown; looks at no more than `budget`
    /// entries of tables: see [`PageTable::next`].
    #[must_use]
    pub fn next_mapped(
        &self,
        mem: &impl TableMem,
        from: Gfn,
        budget: &mut u32,
    ) -> Next<Gfn, P2mEntry> {
        match self.table.next(mem, from, budget) {
            Next::Mapped(gfn, leaf) => Next::Mapped(gfn, leaf.into()),
            Next::Nothing => Next::Nothing,
            Next::NotYet(gfn) => Next::NotYet(gfn),
        }
    }

    /// Maps `count` guest frames from `gfn`, with the largest leaves that fit in the tables that are there. Where it
    /// succeeds nothing is owed: CPUs cache nothing of what is not mapped.
    ///
    /// # Errors
    /// [`P2mError::Occupied`] where something is mapped in the range, [`P2mError::OutOfRange`] where it leaves the
    /// guest's address space or has the page of its local APICs' registers, [`P2mError::OutOfTables`].
    pub fn insert(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        gfn: Gfn,
        count: u64,
        mapping: P2mMapping,
    ) -> Result<PendingFlush, P2mError> {
        self.check_range(gfn, count)?;
        let marks = self.marks_before(mem, (gfn, count));
        let inserted = self.insert_in_range((mem, frames), gfn, count, mapping);
        self.note_unmarked(mem, (gfn, count), marks);
        inserted
    }

    #[inline]
    fn insert_in_range(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        gfn: Gfn,
        count: u64,
        mapping: P2mMapping,
    ) -> Result<PendingFlush, P2mError> {
        if count == 1
            && let Some(slot) = self.table.slot(mem, gfn)
        {
            return self.insert_in(mem, &slot, gfn, mapping);
        }
        if self.is_any_mapped(mem, gfn, count) {
            return Err(P2mError::Occupied);
        }
        let target = (mapping.mfn, self.attr_of(mapping));
        match self.table.fill((mem, frames), gfn, count, target) {
            Ok(()) => {
                if let Some(behind) = count.checked_sub(1) {
                    self.max_gfn = self.max_gfn.max(Some(gfn + behind));
                }
                Ok(PendingFlush::none(self.root()))
            }
            Err(stopped) => Err(self.undo_insert((mem, frames), gfn, stopped)),
        }
    }

    /// Maps one page where there is a table for it already.
    #[inline]
    fn insert_in(
        &mut self,
        mem: &mut impl TableMem,
        slot: &Slot<Stage2>,
        gfn: Gfn,
        mapping: P2mMapping,
    ) -> Result<PendingFlush, P2mError> {
        if slot.leaf().is_some() {
            return Err(P2mError::Occupied);
        }
        let attr = self.attr_of(mapping);
        self.table.fill_slot(mem, slot, (mapping.mfn, attr));
        self.max_gfn = self.max_gfn.max(Some(gfn));
        Ok(PendingFlush::none(self.root()))
    }

    /// Maps a device's page that the guest touched to itself, in the largest block around it that lies in `device` (of
    /// which all is the guest's to use) and of which nothing is mapped yet.
    ///
    /// # Errors
    /// As for [`P2m::insert`]; [`P2mError::OutOfRange`] also where `gfn` is not in `device`.
    pub fn insert_device_around(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        gfn: Gfn,
        device: MfnRange,
    ) -> Result<PendingFlush, P2mError> {
        let same = |gfn: Gfn| Mfn::new(gfn.as_u64());
        if !device.contains(same(gfn)) {
            return Err(P2mError::OutOfRange);
        }
        let order = [PageOrder::SIZE_1G, PageOrder::SIZE_2M]
            .into_iter()
            .filter(|&order| order <= self.config.max_order)
            .find(|&order| {
                let start = gfn.align_down(order);
                device.start <= same(start)
                    && same(start) + order.frames() <= device.end
                    && !self.is_any_mapped(mem, start, order.frames())
            })
            .unwrap_or(PageOrder::SIZE_4K);
        let start = gfn.align_down(order);
        let mapping = P2mMapping::new(same(start), P2mKind::Mmio);
        self.insert((mem, frames), start, order.frames(), mapping)
    }

    /// Removes `count` guest frames from `gfn` and shows `see` what each leaf was, with its first guest frame: its
    /// frames' uses are put after the flush. What is not mapped is passed over.
    ///
    /// # Errors
    /// [`P2mError::OutOfRange`] as for [`P2m::insert`], or [`P2mError::OutOfTables`] where a large leaf would have to
    /// be split; `see` was not called then.
    pub fn remove(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        gfn: Gfn,
        count: u64,
        mut see: impl FnMut(Gfn, P2mEntry),
    ) -> Result<PendingFlush, P2mError> {
        self.check_range(gfn, count)?;
        self.note_change();
        let split = self.split_ends((mem, frames), gfn, count)?;
        let _: ControlFlow<()> = self.table.visit(mem, gfn, count, |gfn, leaf| {
            see(gfn, leaf.into());
            ControlFlow::Continue(())
        });
        let marks = self.marks_before(mem, (gfn, count));
        let cleared = self.table.unmap((mem, frames), gfn, count);
        let cleared =
            cleared.expect("a range that ends with its leaves is cleared without a new table");
        self.note_unmarked(mem, (gfn, count), marks);
        Ok(split.and(cleared))
    }

    /// Removes one guest frame; `Ok(None)` where nothing is mapped there.
    ///
    /// # Errors
    /// As for [`P2m::remove`].
    pub fn remove_page(
        &mut self,
        memory: (&mut impl TableMem, &mut impl TableFrames),
        gfn: Gfn,
    ) -> Result<Option<(P2mEntry, PendingFlush)>, P2mError> {
        match self.remove_page_if(memory, gfn, |_| true)? {
            Removal::Done(entry, flush) => Ok(Some((entry, flush))),
            Removal::NotMapped | Removal::Kept => Ok(None),
        }
    }

    /// Removes one guest frame, where `may_go` says so of what is mapped there.
    ///
    /// # Errors
    /// As for [`P2m::remove`].
    pub fn remove_page_if(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        gfn: Gfn,
        may_go: impl FnOnce(&P2mEntry) -> bool,
    ) -> Result<Removal, P2mError> {
        let slot = self.table.slot(mem, gfn);
        let leaf = match &slot {
            Some(slot) => slot.leaf(),
            None => self.table.lookup(mem, gfn),
        };
        let Some(entry) = leaf.map(P2mEntry::from) else {
            return Ok(Removal::NotMapped);
        };
        if !may_go(&entry) {
            return Ok(Removal::Kept);
        }
        if let Some(slot) = slot {
            self.note_removal(gfn);
            let flush = self.table.clear_slot(mem, &slot);
            return Ok(Removal::Done(entry, flush));
        }
        // a large leaf is split, so more entries change than one
        self.note_change();
        match self.table.unmap((mem, frames), gfn, 1) {
            Ok(flush) => Ok(Removal::Done(entry, flush)),
            Err(stopped) => Err(P2mError::OutOfTables(stopped.flush)),
        }
    }

    /// Answers an instruction fetch that was refused: where it was only withheld because the leaf is large, the leaf is
    /// split into executable small ones and the guest may try again. `Ok(None)` where it stays refused.
    ///
    /// # Errors
    /// [`P2mError::OutOfTables`].
    pub fn allow_execute(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        gfn: Gfn,
    ) -> Result<Option<PendingFlush>, P2mError> {
        match self.lookup(mem, gfn) {
            Some(entry) if entry.access.executes() => {}
            _ => return Ok(None),
        }
        // No large leaf starts at an odd frame, so this splits down to small ones.
        let odd = Gfn::new(gfn.as_u64() | 1);
        self.note_change();
        match self.table.split_at((mem, frames), odd) {
            Ok(flush) => Ok(Some(flush)),
            Err(stopped) => Err(P2mError::OutOfTables(stopped.flush)),
        }
    }

    /// Gives back tables that changes detached; `done` is of the flush that they owed.
    pub fn reclaim(
        &mut self,
        mem: &impl TableMem,
        frames: &mut impl TableFrames,
        done: &FlushDone,
    ) {
        self.table.reclaim(mem, frames, done);
    }

    /// Gives back the tables of a map that no CPU uses any longer, looking at no more than `budget` entries; true when
    /// all but the root are gone: then [`P2m::end`]. The uses of what is still mapped are the caller's business.
    pub fn dismantle(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        done: &FlushDone,
        budget: u32,
    ) -> bool {
        self.note_change();
        self.table.dismantle((mem, frames), done, budget)
    }

    /// Gives back the root of a dismantled map, which is not to be touched again.
    pub fn end(&mut self, frames: &mut impl TableFrames) {
        frames.free_table(self.table.root());
    }

    /// True where any of `count` guest frames from `gfn` is mapped.
    #[must_use]
    pub fn is_any_mapped(&self, mem: &impl TableMem, gfn: Gfn, count: u64) -> bool {
        if count == 1 {
            return self.table.lookup(mem, gfn).is_some();
        }
        self.table
            .visit(mem, gfn, count, |_, _| ControlFlow::Break(()))
            .is_break()
    }

    /// Begins a new generation.
    fn note_change(&mut self) {
        self.generation += 1;
        self.listed_from = self.generation;
    }

    /// Begins a new generation, from which only `gfn` is not what it was.
    fn note_removal(&mut self, gfn: Gfn) {
        self.generation += 1;
        self.removed[place(self.generation)] = gfn;
    }

    /// The pages whose removal is all that has changed since generation `since`; `None` where that is not known.
    fn removed_since(&self, since: u64) -> Option<impl Iterator<Item = Gfn>> {
        let is_listed = since >= self.listed_from && self.generation - since <= RECENT as u64;
        is_listed.then(|| (since..self.generation).map(|before| self.removed[place(before + 1)]))
    }

    /// Most are below the local APICs' page, and one look tells.
    #[inline]
    fn check_range(&self, gfn: Gfn, count: u64) -> Result<(), P2mError> {
        match gfn.checked_add(count) {
            Some(end) if end <= self.low_limit => Ok(()),
            Some(end) if self.is_high_range(gfn, end) => Ok(()),
            _ => Err(P2mError::OutOfRange),
        }
    }

    #[cold]
    fn is_high_range(&self, gfn: Gfn, end: Gfn) -> bool {
        end <= self.config.gfn_limit
            && end.as_u64() <= MAX_PAGES
            && (end <= LOCAL_APIC || gfn > LOCAL_APIC)
    }

    fn attr_of(&self, mapping: P2mMapping) -> Stage2Attr {
        let format = self.config.format;
        let attr = format
            .attr(mapping.access, mapping.memory_type)
            .with_software(mapping.kind as u8);
        let attr = if self.config.heeds_pat || matches!(mapping.kind, P2mKind::Mmio) {
            attr
        } else {
            format.ignoring_pat(attr)
        };
        if self.config.large_executable {
            attr
        } else {
            format.executable_when_small(attr)
        }
    }

    /// Clears what an insert had done when it ran out of tables.
    fn undo_insert(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        gfn: Gfn,
        stopped: Incomplete,
    ) -> P2mError {
        let cleared = self
            .table
            .unmap((mem, frames), gfn, stopped.done_pages)
            .expect("what was just mapped is cleared without a new table");
        P2mError::OutOfTables(stopped.flush.and(cleared))
    }

    /// Makes both ends of a range ends of leaves.
    fn split_ends(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        gfn: Gfn,
        count: u64,
    ) -> Result<PendingFlush, P2mError> {
        if count == 0 {
            return Ok(PendingFlush::none(self.root()));
        }
        let start = match self.table.split_at((mem, frames), gfn) {
            Ok(flush) => flush,
            Err(stopped) => return Err(P2mError::OutOfTables(stopped.flush)),
        };
        match self.table.split_at((mem, frames), gfn + count) {
            Ok(flush) => Ok(start.and(flush)),
            Err(stopped) => Err(P2mError::OutOfTables(start.and(stopped.flush))),
        }
    }
}

/// Where a generation's page is kept.
fn place(generation: u64) -> usize {
    const MASK: u64 = RECENT as u64 - 1;
    (generation & MASK) as usize
}
