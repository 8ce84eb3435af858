//! Populate on demand: guest frames that are RAM to the guest and have no frame until somebody touches them.
//!
//! Such a guest frame has a mark in the tables in place of an entry ([`crate::paging`]). The frames that they will get
//! wait in a cache that belongs to the domain: what a toolstack sets as target is what the domain has in all, mapped or
//! cached. A domain that is made with more marks than frames is to give marks back (its balloon driver does) before it
//! has touched too many. Where it is not that fast, pages that it has left all zeroes are taken back, a [`Sweep`]
//! finding them: a guest cannot tell such a page from one that it has not touched. Where there is none, it is out of
//! memory.
//!
//! With P pages mapped, B mapped or marked, and C cached, P + C is what the domain is charged for, and C never exceeds
//! the marks B - P once the domain runs. Source: the comment over `p2m_pod_set_mem_target` in Xen's
//! `arch/x86/mm/p2m-pod.c`.

use super::{P2m, P2mEntry, P2mError, P2mKind, P2mMapping, Removal};
use crate::addr::{Gfn, Mfn, PageOrder};
use crate::frame::{FrameList, FrameTable};
use crate::mem::{TableFrames, TableMem};
use crate::paging::{Incomplete, Next};

/// In the place of a [`P2mKind`], which none has.
const MARK: u8 = 7;
/// Blocks that were populated last and that a sweep spares: an access that needs several pages gets them all.
const SPARED: usize = 8;

/// What a domain has that is populated on demand.
#[derive(Debug, Default)]
pub struct Pod {
    /// Guest frames that are marked.
    outstanding: u64,
    /// Frames for them: single ones, and blocks of 2 MiB.
    single: FrameList,
    large: FrameList,
    sweep: Sweep,
    recent: [Option<(Gfn, PageOrder)>; SPARED],
    /// The next of them to be replaced.
    oldest: usize,
}

/// How much is populated on demand (`public/memory.h, struct xen_pod_target`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PodCounts {
    /// Guest frames that have no frame yet.
    pub outstanding: u64,
    /// Frames in the cache.
    pub cached: u64,
}

/// What became of a guest frame that somebody touched.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Populated {
    /// It is not one that is populated on demand.
    NotMarked,
    /// It has a frame now.
    Done,
    /// There is no frame in the cache.
    NoFrame,
}

/// Where the search for pages that the guest left empty is. It goes round the address space in ascending order.
#[derive(Debug, Default)]
struct Sweep {
    next: u64,
    /// How often it has come to the end since a frame was found or came from elsewhere: 2 means that all was seen.
    rounds: u32,
}

/// What a sweep came upon.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swept {
    /// A page of the domain's own RAM that was not populated just now.
    Page(Gfn, P2mEntry),
    /// The budget is used up.
    NotYet,
    /// All has been looked at since the cache was filled last.
    Exhausted,
}

impl Pod {
    /// How much there is.
    #[must_use]
    pub fn counts(&self) -> PodCounts {
        PodCounts {
            outstanding: self.outstanding,
            cached: self.single.len() + self.large.len() * PageOrder::SIZE_2M.frames(),
        }
    }

    /// True where some guest frames are marked: the rest of the file is for such domains only.
    #[inline]
    #[must_use]
    pub const fn is_active(&self) -> bool {
        self.outstanding != 0
    }

    /// True where a page that the domain gives up is better kept for one of its marks.
    #[must_use]
    pub fn keeps_what_is_released(&self) -> bool {
        let counts = self.counts();
        counts.outstanding > counts.cached
    }

    /// The size that the cache is to have for the domain to have `target` pages in all, of which it is charged for
    /// `charged` now; `None` where it is to stay as it is: the cache only shrinks when the guest gives pages or marks
    /// back.
    #[must_use]
    pub fn cache_for(&self, target: u64, charged: u64) -> Option<u64> {
        let counts = self.counts();
        let populated = charged.saturating_sub(counts.cached);
        if target < charged || (populated > 0 && counts.outstanding == 0) {
            return None;
        }
        let cache = target - populated;
        // a domain that is being made gets its marks afterwards
        Some(if populated > 0 {
            cache.min(counts.outstanding).max(counts.cached)
        } else {
            cache
        })
    }

    /// Puts frames into the cache: a block of 4 KiB or 2 MiB of the domain's own, all zeroes and mapped nowhere.
    pub fn stock(&mut self, table: &FrameTable<'_>, mfn: Mfn, order: PageOrder) {
        if order >= PageOrder::SIZE_2M {
            self.large.push(table, mfn);
        } else {
            self.single.push(table, mfn);
        }
        self.sweep.rounds = 0;
    }

    /// Takes a block out of the cache, of `order` or, where there is none so large, none; small ones are cut from large
    /// ones.
    fn take(&mut self, table: &FrameTable<'_>, order: PageOrder) -> Option<Mfn> {
        if order >= PageOrder::SIZE_2M {
            return self.large.pop(table);
        }
        if self.single.is_empty() {
            let block = self.large.pop(table)?;
            // the first of them is taken first
            for index in (0..PageOrder::SIZE_2M.frames()).rev() {
                self.single.push(table, block + index);
            }
        }
        self.single.pop(table)
    }

    /// Takes frames out of the cache that are more than `keep`, a block at a time: the block's start and size.
    #[must_use = "what is no longer in the cache is to be freed"]
    pub fn surplus(&mut self, table: &FrameTable<'_>, keep: u64) -> Option<(Mfn, PageOrder)> {
        let more = self.counts().cached.checked_sub(keep)?;
        let order = match more {
            0 => return None,
            _ if more >= PageOrder::SIZE_2M.frames() && !self.large.is_empty() => {
                PageOrder::SIZE_2M
            }
            _ => PageOrder::SIZE_4K,
        };
        self.take(table, order).map(|mfn| (mfn, order))
    }

    /// Has sweeps spare a block for a while.
    pub fn spare(&mut self, gfn: Gfn, order: PageOrder) {
        if let Some(place) = self.recent.get_mut(self.oldest) {
            *place = Some((gfn.align_down(order), order));
        }
        self.oldest = (self.oldest + 1) % SPARED;
    }

    fn is_spared(&self, gfn: Gfn) -> bool {
        let covers = |(start, order): &(Gfn, PageOrder)| gfn.align_down(*order) == *start;
        self.recent.iter().flatten().any(covers)
    }
}

impl P2m {
    /// Marks an empty block of guest frames, 2 MiB at most, to be populated on demand. It may have marks already.
    ///
    /// # Errors
    /// As for [`P2m::insert`].
    pub fn mark_pod(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        gfn: Gfn,
        order: PageOrder,
    ) -> Result<(), P2mError> {
        let count = order.frames();
        self.check_range(gfn, count)?;
        if self.is_any_mapped(mem, gfn, count) {
            return Err(P2mError::Occupied);
        }
        let before = self.marks(mem, (gfn, count));
        let marked = self.table.mark((mem, frames), gfn, count, MARK);
        marked.map_err(out_of_tables)?;
        self.pod.outstanding += count - before;
        self.max_gfn = self.max_gfn.max(Some(gfn + (count - 1)));
        Ok(())
    }

    /// Takes the marks of a block away, if all of it is marked; false where it is not, and nothing has changed.
    ///
    /// # Errors
    /// [`P2mError::OutOfTables`] where the mark of a larger block would have to be split.
    pub fn unmark_pod(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        gfn: Gfn,
        order: PageOrder,
    ) -> Result<bool, P2mError> {
        let count = order.frames();
        if !self.pod.is_active() || self.marks(mem, (gfn, count)) != count {
            return Ok(false);
        }
        let cleared = self.table.unmap((mem, frames), gfn, count);
        let _ = cleared.map_err(out_of_tables)?.completed();
        self.pod.outstanding -= count;
        Ok(true)
    }

    /// True where `gfn` has no frame until somebody touches it.
    #[must_use]
    pub fn is_pod(&self, mem: &impl TableMem, gfn: Gfn) -> bool {
        self.pod.is_active() && self.table.has_mark(mem, gfn, MARK).0
    }

    /// Gives a marked guest frame a frame from the cache, or the block of 2 MiB around it, where that is marked as a
    /// whole, a block.
    ///
    /// # Errors
    /// [`P2mError::OutOfTables`].
    pub fn populate_pod(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        gfn: Gfn,
        table: &FrameTable<'_>,
    ) -> Result<Populated, P2mError> {
        let (true, marked) = self.table.has_mark(mem, gfn, MARK) else {
            return Ok(Populated::NotMarked);
        };
        let largest = marked.min(PageOrder::SIZE_2M).min(self.config.max_order);
        for order in [PageOrder::SIZE_2M, PageOrder::SIZE_4K] {
            if order > largest {
                continue;
            }
            let Some(mfn) = self.pod.take(table, order) else {
                continue;
            };
            let start = gfn.align_down(order);
            let mapping = P2mMapping::new(mfn, P2mKind::Ram);
            return match self.insert((mem, frames), start, order.frames(), mapping) {
                Ok(flush) => {
                    let _ = flush.completed();
                    self.pod.spare(start, order);
                    Ok(Populated::Done)
                }
                Err(error) => {
                    self.pod.stock(table, mfn, order);
                    Err(error)
                }
            };
        }
        Ok(Populated::NoFrame)
    }

    /// The next page that may be taken back if it is all zeroes, looking at no more than `budget` entries of tables,
    /// which it counts down.
    pub fn sweep(&mut self, mem: &impl TableMem, budget: &mut u32) -> Swept {
        const ALL: u32 = 2;
        while self.pod.sweep.rounds < ALL {
            match self.next_mapped(mem, Gfn::new(self.pod.sweep.next), budget) {
                Next::Mapped(gfn, entry) => {
                    self.pod.sweep.next = gfn.as_u64() + 1;
                    if entry.kind == P2mKind::Ram && !self.pod.is_spared(gfn) {
                        return Swept::Page(gfn, entry);
                    }
                }
                Next::Nothing => {
                    self.pod.sweep = Sweep {
                        next: 0,
                        rounds: self.pod.sweep.rounds + 1,
                    }
                }
                Next::NotYet(gfn) => {
                    self.pod.sweep.next = gfn.as_u64();
                    return Swept::NotYet;
                }
            }
        }
        Swept::Exhausted
    }

    /// Puts a mark where a page of the domain's own is: what was there, and the flush that is owed before anybody may
    /// look whether the page is still all zeroes. Then its frame goes to the cache, or [back](P2m::insert) to its
    /// place.
    ///
    /// # Errors
    /// As for [`P2m::remove_page_if`].
    pub fn remove_to_mark(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        gfn: Gfn,
    ) -> Result<Removal, P2mError> {
        let is_ram = |entry: &P2mEntry| entry.kind == P2mKind::Ram;
        let removal = self.remove_page_if((mem, frames), gfn, is_ram)?;
        if let Removal::Done(..) = removal {
            let marked = self.table.mark((mem, frames), gfn, 1, MARK);
            marked.expect("a page that was mapped alone has its entry");
            self.pod.outstanding += 1;
        }
        Ok(removal)
    }

    /// What [`Self::note_unmarked`] has to know after a change of a range of which some guest frames may be marked.
    #[inline]
    pub(super) fn marks_before(&self, mem: &impl TableMem, range: (Gfn, u64)) -> Option<u64> {
        self.pod.is_active().then(|| self.marks(mem, range))
    }

    /// The range was changed: notes how many guest frames are marked no longer.
    #[inline]
    pub(super) fn note_unmarked(
        &mut self,
        mem: &impl TableMem,
        range: (Gfn, u64),
        before: Option<u64>,
    ) {
        if let Some(before) = before {
            self.pod.outstanding -= before - self.marks(mem, range);
        }
    }

    /// How many of `count` guest frames from `gfn` are marked.
    #[cold]
    fn marks(&self, mem: &impl TableMem, (gfn, count): (Gfn, u64)) -> u64 {
        self.table.count_marks(mem, gfn, count, MARK)
    }
}

fn out_of_tables(stopped: Incomplete) -> P2mError {
    P2mError::OutOfTables(stopped.flush)
}
