//! Changing a page table: the one recursive walk that maps and clears.

use super::flush::PendingFlush;
use super::table::{index, is_leaf, link, order_at, pages_per_entry};
use super::{ENTRIES, Format, LEVELS};
use crate::addr::{Mfn, PageOrder};
use crate::mem::{TableFrames, TableMem};

/// An edit that stopped for want of a frame for a table (or never began).
#[must_use = "the flush for what was done is still owed"]
#[derive(PartialEq, Eq, Debug)]
pub struct Incomplete {
    /// Pages from the start of the range that are done.
    pub done_pages: u64,
    /// The flush for what was done.
    pub flush: PendingFlush,
}

impl Incomplete {
    pub(super) fn nothing_done(root: Mfn) -> Self {
        Self {
            done_pages: 0,
            flush: PendingFlush::none(root),
        }
    }
}

/// What happens to each page of the range.
pub(super) enum Edit<F: Format> {
    /// Page `first + n` goes to frame `mfn + n`, whatever was there.
    Map(Target<F>),
    /// The same where nothing is mapped: tables that are there stay, so that nothing can be cached of what is changed.
    Fill(Target<F>),
    /// Nothing is mapped there.
    Clear,
    /// Pages of which nothing is mapped have this entry, which is not present, in blocks of 2 MiB at most.
    Mark(u64),
}

/// Where the pages of a range go.
pub(super) struct Target<F: Format> {
    pub(super) first: u64,
    pub(super) mfn: Mfn,
    pub(super) attr: F::Attr,
}

/// The page at which an edit had to stop.
pub(super) struct Stopped {
    pub(super) at: u64,
}

/// One edit in progress.
pub(super) struct Editor<'a, F: Format, M, A> {
    pub(super) mem: &'a mut M,
    pub(super) frames: &'a mut A,
    pub(super) max_order: PageOrder,
    pub(super) retired: &'a mut Option<Mfn>,
    pub(super) flush: PendingFlush,
    pub(super) edit: Edit<F>,
}

/// What a slot holds.
enum Slot {
    Empty,
    /// A mark: an entry that is not present, for all pages of the slot.
    Marked,
    Leaf,
    Table(Mfn),
}

impl<F: Format, M: TableMem, A: TableFrames> Editor<'_, F, M, A> {
    /// Edits the pages from `first` up to, not including, `end`, all of which `table` (of `level`) covers.
    pub(super) fn range(
        &mut self,
        table: Mfn,
        level: u32,
        first: u64,
        end: u64,
    ) -> Result<(), Stopped> {
        let size = pages_per_entry(level);
        let mut page = first;
        while page < end {
            let slot_end = (page | (size - 1)) + 1;
            let inside_end = slot_end.min(end);
            let whole = inside_end - page == size;
            if !self.whole_slot(table, level, page, whole) {
                let below = self
                    .table_below(table, level, page)
                    .ok_or(Stopped { at: page })?;
                self.range(below, level - 1, page, inside_end)?;
            }
            page = inside_end;
        }
        Ok(())
    }

    /// Splits leaves until one starts at `page` or nothing is mapped there.
    pub(super) fn split_at(&mut self, root: Mfn, page: u64) -> Result<(), Stopped> {
        let mut table = root;
        for level in (1..LEVELS).rev() {
            let starts_here = page & (pages_per_entry(level) - 1) == 0;
            let entry = self.mem.read(table, index(page, level));
            if starts_here || entry == 0 {
                break;
            }
            table = self
                .table_below(table, level, page)
                .ok_or(Stopped { at: page })?;
        }
        Ok(())
    }

    /// Does the edit on a slot as one entry; false where it has to be done in the table below.
    fn whole_slot(&mut self, table: Mfn, level: u32, page: u64, whole: bool) -> bool {
        let slot = index(page, level);
        let entry = self.mem.read(table, slot);
        let held = hold::<F>(entry, level);
        let new = match (&self.edit, &held) {
            (Edit::Fill(_), Slot::Table(_)) => return false,
            (Edit::Map(target) | Edit::Fill(target), _) => {
                let mfn = target.mfn + (page - target.first);
                if !whole || !self.leaf_fits(mfn, level) {
                    return false;
                }
                F::leaf(mfn, order_at(level), target.attr)
            }
            (Edit::Mark(mark), Slot::Empty | Slot::Marked) if whole && level <= 1 => *mark,
            (Edit::Clear, Slot::Empty) => return true,
            (Edit::Clear, _) if whole => 0,
            _ => return false,
        };
        self.mem.write(table, slot, new);
        self.note_change(page, level, entry, new);
        if let Slot::Table(below) = held {
            self.retire(below, level - 1);
        }
        true
    }

    /// True where a leaf of `level` may map the block at `mfn`.
    fn leaf_fits(&self, mfn: Mfn, level: u32) -> bool {
        let is_leaf_level = level <= 2;
        is_leaf_level && order_at(level) <= self.max_order && mfn.is_aligned(order_at(level))
    }

    /// Owes a flush where a CPU can have cached what the slot held.
    fn note_change(&mut self, page: u64, level: u32, old: u64, new: u64) {
        if F::is_present(old) && old != new {
            let size = pages_per_entry(level);
            self.flush.add(page & !(size - 1), size);
        }
    }

    /// The table under a slot, made where there is none yet; `None` where there is no frame for it.
    fn table_below(&mut self, table: Mfn, level: u32, page: u64) -> Option<Mfn> {
        let slot = index(page, level);
        let entry = self.mem.read(table, slot);
        let held = hold::<F>(entry, level);
        if let Slot::Table(below) = held {
            return Some(below);
        }
        let below = self.frames.alloc_table()?;
        match held {
            Slot::Leaf => self.fill_split(below, level, entry),
            Slot::Marked => (0..ENTRIES).for_each(|slot| self.mem.write(below, slot, entry)),
            Slot::Empty | Slot::Table(_) => {}
        }
        self.mem.write(table, slot, F::table(below));
        self.note_change(page, level, entry, F::table(below));
        Some(below)
    }

    /// Fills a table with leaves that together map what `entry`, a leaf of `level`, maps.
    fn fill_split(&mut self, below: Mfn, level: u32, entry: u64) {
        let (start, attr) = (F::mfn(entry), F::attr(entry));
        let size = pages_per_entry(level - 1);
        for slot in 0..ENTRIES {
            let leaf = F::leaf(start + slot as u64 * size, order_at(level - 1), attr);
            self.mem.write(below, slot, leaf);
        }
    }

    /// Puts a detached table and those below it on the list of tables that wait for the flush.
    fn retire(&mut self, table: Mfn, level: u32) {
        if level > 0 {
            for slot in 0..ENTRIES {
                let entry = self.mem.read(table, slot);
                if let Slot::Table(below) = hold::<F>(entry, level) {
                    self.retire(below, level - 1);
                }
            }
        }
        self.mem.write(table, 0, link(*self.retired));
        *self.retired = Some(table);
    }
}

fn hold<F: Format>(entry: u64, level: u32) -> Slot {
    if entry == 0 {
        Slot::Empty
    } else if !F::is_present(entry) {
        Slot::Marked
    } else if is_leaf::<F>(entry, level) {
        Slot::Leaf
    } else {
        Slot::Table(F::mfn(entry))
    }
}
