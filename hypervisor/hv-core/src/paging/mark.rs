//! Marks: what a stage 2 table remembers of pages of which nothing is mapped, in the place of their entries.
//!
//! The CPU takes a marked entry for an empty one, so that marking and clearing owe no flush. Mapping a marked page
//! replaces its mark; a mark for a block is split into those of its parts where one of them becomes something else.

use super::edit::{Edit, Incomplete};
use super::stage2::{Stage2, marked};
use super::table::{PageTable, order_at, pages_per_entry};
use super::{Format, MAX_PAGES};
use crate::addr::{Gfn, PageOrder};
use crate::mem::{TableFrames, TableMem};

impl PageTable<Stage2> {
    /// Marks `count` pages from `first`, none of which is mapped, with `mark` (from 1 to 15).
    ///
    /// # Errors
    /// [`Incomplete`] where a table is needed and there is no frame for it, or the range leaves the input space.
    pub fn mark(
        &mut self,
        (mem, frames): (&mut impl TableMem, &mut impl TableFrames),
        first: Gfn,
        count: u64,
        mark: u8,
    ) -> Result<(), Incomplete> {
        let edit = Edit::Mark(marked(mark));
        let flush = self.edit((mem, frames), Stage2::number(first), count, edit)?;
        assert!(!flush.is_needed(), "only what is not mapped is marked");
        Ok(())
    }

    /// True where `page` has the mark; and how large the block is that has it, or of which there is something else.
    #[must_use]
    pub fn has_mark(&self, mem: &impl TableMem, page: Gfn, mark: u8) -> (bool, PageOrder) {
        let number = Stage2::number(page);
        if number >= MAX_PAGES {
            return (false, PageOrder::SIZE_4K);
        }
        let (entry, level) = self.deciding(mem, number);
        let has_it = !Stage2::is_present(entry) && entry == marked(mark);
        (has_it, order_at(level))
    }

    /// How many of `count` pages from `first` have the mark.
    #[must_use]
    pub fn count_marks(&self, mem: &impl TableMem, first: Gfn, count: u64, mark: u8) -> u64 {
        let mut page = Stage2::number(first);
        let end = page.saturating_add(count).min(MAX_PAGES);
        let mut marks = 0;
        while page < end {
            let (entry, level) = self.deciding(mem, page);
            let next = end.min((page | (pages_per_entry(level) - 1)) + 1);
            if entry == marked(mark) {
                marks += next - page;
            }
            page = next;
        }
        marks
    }
}
