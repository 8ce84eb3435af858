//! A page table: its root, looking up and taking down. Editing is in [`super::edit`], visiting in `visit.rs`.

use core::cell::Cell;
use core::marker::PhantomData;

use super::edit::{Edit, Editor, Incomplete, Target};
use super::flush::{FlushDone, PendingFlush};
use super::{ENTRIES, Format, LEVEL_BITS, LEVELS, MAX_PAGES};
use crate::addr::{Mfn, PageOrder};
use crate::mem::{TableFrames, TableMem};

/// A page table of format `F` whose tables lie in frames that [`TableMem`] reaches.
///
/// Two tables never share a frame below their roots. Ranges are given as first page and number of pages; those that
/// leave the 48-bit input space are refused or cut as each method says.
pub struct PageTable<F: Format> {
    root: Mfn,
    max_order: PageOrder,
    /// Head of the list of detached tables, each linked through its entry 0; `None` where there is none.
    retired: Option<Mfn>,
    lowest: LowestTables,
    format: PhantomData<F>,
}

/// Where lowest tables were found last, so that single pages are found in one read. All are forgotten when a table is
/// detached.
struct LowestTables([Cell<(u64, Mfn)>; 8]);

impl LowestTables {
    /// The number of no table.
    const NONE: (u64, Mfn) = (u64::MAX, Mfn::new(0));

    const fn new() -> Self {
        Self([const { Cell::new(Self::NONE) }; 8])
    }
    #[inline]
    fn cell(&self, number: u64) -> (&Cell<(u64, Mfn)>, u64) {
        let key = number >> LEVEL_BITS;
        (&self.0[(key & 7) as usize], key)
    }
    #[inline]
    fn find(&self, number: u64) -> Option<Mfn> {
        let (cell, key) = self.cell(number);
        let (found, table) = cell.get();
        (found == key).then_some(table)
    }
    #[inline]
    fn keep(&self, number: u64, table: Mfn) {
        let (cell, key) = self.cell(number);
        cell.set((key, table));
    }
    fn forget(&self) {
        for cell in &self.0 {
            cell.set(Self::NONE);
        }
    }
}

/// One page's translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf<A> {
    /// The frame behind the page asked for (inside the block, for a large leaf).
    pub mfn: Mfn,
    pub attr: A,
    /// The size of the leaf.
    pub order: PageOrder,
}

/// Where the translation of one small page is noted.
pub struct Slot<F: Format> {
    table: Mfn,
    number: u64,
    entry: u64,
    format: PhantomData<F>,
}

impl<F: Format> Slot<F> {
    /// The page's translation; `None` where nothing is mapped.
    #[inline]
    #[must_use]
    pub fn leaf(&self) -> Option<Leaf<F::Attr>> {
        F::is_present(self.entry).then(|| leaf_at::<F>(self.entry, 0, self.number))
    }
}

impl<F: Format> PageTable<F> {
    /// An empty table with leaves of at most `max_order`, or `None` where there is no frame for its root.
    pub fn new(frames: &mut impl TableFrames, max_order: PageOrder) -> Option<Self> {
        let root = frames.alloc_table()?;
        Some(Self {
            root,
            max_order,
            retired: None,
            lowest: LowestTables::new(),
            format: PhantomData,
        })
    }

    /// The frame of the root table.
    #[must_use]
    pub fn root(&self) -> Mfn {
        self.root
    }

    /// Translates `page`; `None` where nothing is mapped there. Reads at most four entries, and one
    /// where the table of the lowest level is known.
    #[inline]
    pub fn lookup(&self, mem: &impl TableMem, page: F::Page) -> Option<Leaf<F::Attr>> {
        let number = F::number(page);
        if number >= MAX_PAGES {
            return None;
        }
        if let Some(table) = self.lowest.find(number) {
            let entry = mem.read(table, index(number, 0));
            return F::is_present(entry).then(|| leaf_at::<F>(entry, 0, number));
        }
        self.walk(mem, number)
    }

    /// The entry that decides about `number`, and its level: a leaf, or one that is not present.
    pub(super) fn deciding(&self, mem: &impl TableMem, number: u64) -> (u64, u32) {
        let mut table = self.root;
        for level in (1..LEVELS).rev() {
            let entry = mem.read(table, index(number, level));
            if !F::is_present(entry) || is_leaf::<F>(entry, level) {
                return (entry, level);
            }
            table = F::mfn(entry);
        }
        (mem.read(table, index(number, 0)), 0)
    }

    fn walk(&self, mem: &impl TableMem, number: u64) -> Option<Leaf<F::Attr>> {
        let mut table = self.root;
        for level in (0..LEVELS).rev() {
            let entry = mem.read(table, index(number, level));
            if level == 0 {
                self.lowest.keep(number, table);
            }
            if !F::is_present(entry) {
                return None;
            }
            if is_leaf::<F>(entry, level) {
                return Some(leaf_at::<F>(entry, level, number));
            }
            table = F::mfn(entry);
        }
        None
    }

    /// The entry of the lowest level that translates `page`, where there is a table for such entries; whether it is
    /// present, [`Slot::leaf`] tells.
    #[inline]
    pub fn slot(&self, mem: &impl TableMem, page: F::Page) -> Option<Slot<F>> {
        let number = F::number(page);
        if number >= MAX_PAGES {
            return None;
        }
        let table = match self.lowest.find(number) {
            Some(table) => table,
            None => self.lowest_table(mem, number)?,
        };
        let entry = mem.read(table, index(number, 0));
        Some(Slot {
            table,
            number,
            entry,
            format: PhantomData,
        })
    }

    fn lowest_table(&self, mem: &impl TableMem, number: u64) -> Option<Mfn> {
        let mut table = self.root;
        for level in (1..LEVELS).rev() {
            let entry = mem.read(table, index(number, level));
            if !F::is_present(entry) || F::is_large(entry) {
                return None;
            }
            table = F::mfn(entry);
        }
        self.lowest.keep(number, table);
        Some(table)
    }

    /// Fills an empty slot. Nothing can be cached of it.
    ///
    /// # Panics
    /// Where it is not empty.
    #[inline]
    pub fn fill_slot(
        &mut self,
        mem: &mut impl TableMem,
        slot: &Slot<F>,
        (mfn, attr): (Mfn, F::Attr),
    ) {
        assert!(!F::is_present(slot.entry), "only what is empty is filled");
        let entry = F::leaf(mfn, PageOrder::SIZE_4K, attr);
        mem.write(slot.table, index(slot.number, 0), entry);
    }

    #[inline]
    pub fn clear_slot(&mut self, mem: &mut impl TableMem, slot: &Slot<F>) -> PendingFlush {
        if !F::is_present(slot.entry) {
            return PendingFlush::none(self.root);
        }
        mem.write(slot.table, index(slot.number, 0), 0);
        PendingFlush::pages(self.root, slot.number, 1)
    }

    /// Maps `count` pages from `first` to the frames from `mfn` with the largest leaves that fit, replacing what was
    /// mapped there.
    ///
    /// # Errors
    /// [`Incomplete`] where a table is needed and there is no frame for it, or the range leaves the input space
    /// (then nothing was done). What was done before stays, and its flush is owed.
    pub fn map(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        first: F::Page,
        count: u64,
        (mfn, attr): (Mfn, F::Attr),
    ) -> Result<PendingFlush, Incomplete> {
        let first = F::number(first);
        let target = Target { first, mfn, attr };
        self.edit((mem, frames), first, count, Edit::Map(target))
    }

    /// Maps `count` pages from `first`, none of which is mapped, to the frames from `mfn`, with the largest leaves that
    /// fit in the tables that are there. No flush is owed: CPUs cache nothing of what is not mapped.
    ///
    /// # Errors
    /// [`Incomplete`], as for [`PageTable::map`].
    pub fn fill(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        first: F::Page,
        count: u64,
        (mfn, attr): (Mfn, F::Attr),
    ) -> Result<(), Incomplete> {
        let first = F::number(first);
        let target = Target { first, mfn, attr };
        let flush = self.edit((mem, frames), first, count, Edit::Fill(target))?;
        assert!(!flush.is_needed(), "only what is empty is filled");
        Ok(())
    }

    /// Clears `count` pages from `first`; a leaf that reaches beyond them is split.
    ///
    /// # Errors
    /// [`Incomplete`], as for [`PageTable::map`]; never where the range's ends are ends of leaves.
    pub fn unmap(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        first: F::Page,
        count: u64,
    ) -> Result<PendingFlush, Incomplete> {
        self.edit((mem, frames), F::number(first), count, Edit::Clear)
    }

    /// Makes `page` the first of its leaf: leaves that reach over its start are split, down to the size that starts
    /// there.
    ///
    /// # Errors
    /// [`Incomplete`], as for [`PageTable::map`]; what is mapped has not changed then, but a flush may be owed.
    pub fn split_at(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        page: F::Page,
    ) -> Result<PendingFlush, Incomplete> {
        let page = F::number(page);
        if page >= MAX_PAGES {
            return Ok(PendingFlush::none(self.root));
        }
        let root = self.root;
        let mut editor = self.editor((mem, frames), Edit::Clear);
        match editor.split_at(root, page) {
            Ok(()) => Ok(editor.flush),
            Err(_) => Err(Incomplete {
                done_pages: 0,
                flush: editor.flush,
            }),
        }
    }

    /// Gives back the tables that edits detached, now that no CPU walks them.
    ///
    /// # Panics
    /// Where `done` is of another table.
    pub fn reclaim(
        &mut self,
        mem: &impl TableMem,
        frames: &mut impl TableFrames,
        done: &FlushDone,
    ) {
        assert_eq!(done.root(), self.root, "the flush was of this table");
        while let Some(table) = self.retired {
            self.retired = unlink(mem.read(table, 0));
            frames.free_table(table);
        }
    }

    /// Gives back all tables of one that no CPU uses any longer (`done` is its last flush), looking at no more than
    /// `budget` entries; true where all but the root are gone. Call it until then; what the leaves mapped is the
    /// caller's business. The root's frame is the
    /// caller's as well.
    ///
    /// # Panics
    /// Where `done` is of another table.
    pub fn dismantle(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        done: &FlushDone,
        mut budget: u32,
    ) -> bool {
        self.reclaim(mem, frames, done);
        self.lowest.forget();
        dismantle_table::<F>((mem, frames), self.root, LEVELS - 1, &mut budget)
    }

    pub(super) fn edit(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        first: u64,
        count: u64,
        edit: Edit<F>,
    ) -> Result<PendingFlush, Incomplete> {
        let end = match first.checked_add(count) {
            Some(end) if end <= MAX_PAGES => end,
            _ => return Err(Incomplete::nothing_done(self.root)),
        };
        // these detach tables
        if matches!(edit, Edit::Map(_) | Edit::Clear) {
            self.lowest.forget();
        }
        let root = self.root;
        let mut editor = self.editor((mem, frames), edit);
        match editor.range(root, LEVELS - 1, first, end) {
            Ok(()) => Ok(editor.flush),
            Err(stopped) => Err(Incomplete {
                done_pages: stopped.at - first,
                flush: editor.flush,
            }),
        }
    }

    fn editor<'a, M, A>(
        &'a mut self,
        (mem, frames): (&'a mut M, &'a mut A),
        edit: Edit<F>,
    ) -> Editor<'a, F, M, A> {
        Editor {
            mem,
            frames,
            max_order: self.max_order,
            retired: &mut self.retired,
            flush: PendingFlush::none(self.root),
            edit,
        }
    }
}

/// The slot of page `number` in a table of `level` (0 is the lowest).
#[inline]
pub(super) fn index(number: u64, level: u32) -> usize {
    const MASK: u64 = (1 << LEVEL_BITS) - 1;
    ((number >> (level * LEVEL_BITS)) & MASK) as usize
}

/// Pages that an entry of `level` covers.
#[inline]
pub(super) fn pages_per_entry(level: u32) -> u64 {
    1 << (level * LEVEL_BITS)
}

/// The size of a leaf at `level`, 0 to 2.
#[inline]
pub(super) fn order_at(level: u32) -> PageOrder {
    match level {
        0 => PageOrder::SIZE_4K,
        1 => PageOrder::SIZE_2M,
        _ => PageOrder::SIZE_1G,
    }
}

/// True where a present entry at `level` maps memory and does not refer to a table.
#[inline]
pub(super) fn is_leaf<F: Format>(entry: u64, level: u32) -> bool {
    level == 0 || F::is_large(entry)
}

/// The entry 0 of a detached table whose successor on the list is `next`: an entry that is not present in any format.
pub(super) fn link(next: Option<Mfn>) -> u64 {
    next.map_or(0, |next| next.base().as_u64())
}

fn unlink(entry: u64) -> Option<Mfn> {
    (entry != 0).then(|| Mfn::containing(crate::addr::Hpa::new(entry)))
}

#[inline]
pub(super) fn leaf_at<F: Format>(entry: u64, level: u32, number: u64) -> Leaf<F::Attr> {
    Leaf {
        mfn: F::mfn(entry) + (number & (pages_per_entry(level) - 1)),
        attr: F::attr(entry),
        order: order_at(level),
    }
}

fn dismantle_table<F: Format>(
    (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
    table: Mfn,
    level: u32,
    budget: &mut u32,
) -> bool {
    for index in 0..ENTRIES {
        let Some(left) = budget.checked_sub(1) else {
            return false;
        };
        *budget = left;
        let entry = mem.read(table, index);
        if F::is_present(entry) && !is_leaf::<F>(entry, level) {
            if level > 1 && !dismantle_table::<F>((mem, frames), F::mfn(entry), level - 1, budget) {
                return false;
            }
            mem.write(table, index, 0);
            frames.free_table(F::mfn(entry));
        }
    }
    true
}
