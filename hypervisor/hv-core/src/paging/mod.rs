//! Page tables: one algorithm for every format.
//!
//! A [`Format`] says where the bits are ([`stage2`] for guests' stage 2, [`host`] for our own mappings); [`PageTable`]
//! maps, clears, looks up and visits, with leaves of 4 KiB, 2 MiB and 1 GiB, the largest that fit. Tables that an edit
//! detaches are kept until the flush is done ([`PageTable::reclaim`]): a CPU may still be walking them.
//! Entries for which nothing is present may carry a `mark`. Next: [`flush`] for what edits owe, [`crate::p2m`] for the
//! main user.

mod edit;
pub mod flush;
pub mod host;
mod mark;
pub mod stage2;
mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod visit;

pub use edit::Incomplete;
pub use table::{Leaf, PageTable, Slot};
pub use visit::Next;

use crate::addr::{Hpa, Mfn, PageOrder};

/// Bits of a page number that select an entry at each level.
pub(crate) const LEVEL_BITS: u32 = 9;
/// Entries of a table.
pub const ENTRIES: usize = 1 << LEVEL_BITS;
/// Levels of a table; the root's entries each cover 512 GiB.
pub(crate) const LEVELS: u32 = 4;
/// How many pages a table can name: page numbers are below this.
pub const MAX_PAGES: u64 = 1 << (LEVEL_BITS * LEVELS);

/// In all formats: an entry above the lowest level is a leaf.
const LARGE: u64 = 1 << 7;
/// In all formats: the frame that an entry refers to.
const FRAME: u64 = 0x000F_FFFF_FFFF_F000;

/// The bit layout of a kind of page table with four levels of 512 entries.
pub trait Format {
    /// What the table translates from: a page number of that space.
    type Page: Copy;
    /// What a leaf carries besides the frame: permissions, memory type, software bits.
    type Attr: Copy + PartialEq;

    /// The number that the levels' indices are cut from.
    fn number(page: Self::Page) -> u64;
    /// The page with that number (below [`MAX_PAGES`]).
    fn page(number: u64) -> Self::Page;

    /// An entry that maps the block of `order` (4 KiB, 2 MiB or 1 GiB) at `mfn`.
    fn leaf(mfn: Mfn, order: PageOrder, attr: Self::Attr) -> u64;
    /// An entry that refers to the table in frame `table`.
    fn table(table: Mfn) -> u64;
    /// True where the CPU would use the entry.
    fn is_present(entry: u64) -> bool;
    /// True where a present entry above the lowest level is a leaf.
    #[inline]
    fn is_large(entry: u64) -> bool {
        entry & LARGE != 0
    }
    /// The frame that a present entry refers to.
    #[inline]
    fn mfn(entry: u64) -> Mfn {
        Mfn::containing(Hpa::new(entry & FRAME))
    }
    /// The attributes of a leaf.
    fn attr(entry: u64) -> Self::Attr;
}
