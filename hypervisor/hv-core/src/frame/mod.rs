//! The machine's RAM, frame by frame: which are free, who owns the others, and how often each is in use.
//!
//! A frame's life is a chain of types, so that no step can be left out:
//!
//! | from | step | to |
//! |---|---|---|
//! | free list | [`Buddy::alloc`] | [`OwnedFrames`]: nobody else's, contents unknown |
//! | `OwnedFrames` | [`OwnedFrames::scrub`] | [`CleanFrames`]: nothing of another domain in them |
//! | `CleanFrames` | [`FrameTable::give`] | the domain's, with one use |
//! | another's frame | [`FrameTable::acquire`] | [`FrameUse`]: it stays while this use lasts |
//! | last use, and the flush is done | [`FrameTable::put`], [`FrameTable::put_mapped`] | [`Freed`] and back |
//!
//! Counts are atomic words, so that uses are taken and dropped without a lock; only the free lists ([`Buddy`]) need
//! one.

mod buddy;
mod list;
mod owner;
mod table;
#[cfg(test)]
mod tests;

pub use buddy::{AddFreeError, Buddy};
pub use list::FrameList;
pub use owner::{CleanFrames, FrameState, FrameUse, Freed, OwnedFrames, Owner, Refused, Role};
pub use table::{FrameInfo, FrameTable, MAX_RAM_RANGES, TooManyRanges};
