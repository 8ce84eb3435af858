//! Going over what a page table maps.

use core::ops::{ControlFlow, Range};

use super::table::{Leaf, PageTable, index, is_leaf, leaf_at, pages_per_entry};
use super::{Format, LEVELS, MAX_PAGES};
use crate::addr::Mfn;
use crate::mem::TableMem;

/// What [`PageTable::next`] came upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next<P, L> {
    /// This page, and its leaf.
    Mapped(P, L),
    /// Nothing is mapped any further.
    Nothing,
    /// Nothing is mapped before this page.
    NotYet(P),
}

impl<F: Format> PageTable<F> {
    /// Calls `see` for every leaf that maps one of the `count` pages from `first`, in ascending order and with the
    /// first of those pages that it maps; stops where `see` breaks. Costs nothing for what is not mapped at a high
    /// level.
    pub fn visit<B>(
        &self,
        mem: &impl TableMem,
        first: F::Page,
        count: u64,
        mut see: impl FnMut(F::Page, Leaf<F::Attr>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let first = F::number(first);
        let end = first.saturating_add(count).min(MAX_PAGES);
        visit_table::<F, B>(mem, self.root(), LEVELS - 1, first..end, &mut see)
    }

    /// The first page from `from` on that is mapped, with its leaf, looking at no more than `budget` entries, which it
    /// counts down. It gets further wherever that is 4 or more: so long is the way down to a page.
    #[must_use]
    pub fn next(
        &self,
        mem: &impl TableMem,
        from: F::Page,
        budget: &mut u32,
    ) -> Next<F::Page, Leaf<F::Attr>> {
        let range = F::number(from)..MAX_PAGES;
        next_in::<F>(mem, self.root(), LEVELS - 1, range, budget)
            .break_value()
            .unwrap_or(Next::Nothing)
    }
}

fn visit_table<F: Format, B>(
    mem: &impl TableMem,
    table: Mfn,
    level: u32,
    range: Range<u64>,
    see: &mut impl FnMut(F::Page, Leaf<F::Attr>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let mut page = range.start;
    while page < range.end {
        let slot_end = (page | (pages_per_entry(level) - 1)) + 1;
        let entry = mem.read(table, index(page, level));
        if F::is_present(entry) {
            if is_leaf::<F>(entry, level) {
                see(F::page(page), leaf_at::<F>(entry, level, page))?;
            } else {
                let inside = page..slot_end.min(range.end);
                visit_table::<F, B>(mem, F::mfn(entry), level - 1, inside, see)?;
            }
        }
        page = slot_end;
    }
    ControlFlow::Continue(())
}

fn next_in<F: Format>(
    mem: &impl TableMem,
    table: Mfn,
    level: u32,
    range: Range<u64>,
    budget: &mut u32,
) -> ControlFlow<Next<F::Page, Leaf<F::Attr>>> {
    let mut page = range.start;
    while page < range.end {
        let Some(left) = budget.checked_sub(1) else {
            return ControlFlow::Break(Next::NotYet(F::page(page)));
        };
        *budget = left;
        let slot_end = (page | (pages_per_entry(level) - 1)) + 1;
        let entry = mem.read(table, index(page, level));
        if F::is_present(entry) {
            if is_leaf::<F>(entry, level) {
                let leaf = leaf_at::<F>(entry, level, page);
                return ControlFlow::Break(Next::Mapped(F::page(page), leaf));
            }
            next_in::<F>(mem, F::mfn(entry), level - 1, page..slot_end, budget)?;
        }
        page = slot_end;
    }
    ControlFlow::Continue(())
}
