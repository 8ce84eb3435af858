//! What the TLBs still believe after a page table was changed.
//!
//! Changing an entry that was present yields a [`PendingFlush`]; whoever flushes turns it into a [`FlushDone`], and
//! only with that do frames and tables that were mapped go back to the free list. A forgotten flush is therefore a
//! compiler warning or a frame that never comes back, never a guest that writes to somebody else's memory.

use crate::addr::Mfn;

/// A flush that is owed: pages that CPUs may still translate the old way.
///
/// Pages are numbers in the table's own input space: [`crate::addr::Gfn`] for a stage 2 table.
#[must_use = "until it is flushed, CPUs may go on using the old translation"]
#[derive(PartialEq, Eq, Debug)]
pub struct PendingFlush {
    root: Mfn,
    span: Option<Span>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    first: u64,
    end: u64,
}

impl PendingFlush {
    /// Owes nothing for the table at `root`.
    pub fn none(root: Mfn) -> Self {
        Self { root, span: None }
    }
    /// Owes a flush of `count` pages from the page with number `first`.
    pub fn pages(root: Mfn, first: u64, count: u64) -> Self {
        let mut flush = Self::none(root);
        flush.add(first, count);
        flush
    }
    /// The table whose translations are stale: what INVEPT's single-context form is given through its EPTP.
    #[must_use]
    pub fn root(&self) -> Mfn {
        self.root
    }
    /// True where something has to be flushed.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.span.is_some()
    }
    /// The stale pages, as the first one's number and a count that covers them all; `None` where nothing is owed.
    #[must_use]
    pub fn span(&self) -> Option<(u64, u64)> {
        self.span.map(|span| (span.first, span.end - span.first))
    }
    /// Joins two flushes of the same table into one that covers both.
    ///
    /// # Panics
    /// Where they are of different tables: one flush reaches one table.
    pub fn and(mut self, other: Self) -> Self {
        assert_eq!(self.root, other.root, "one flush reaches one table");
        if let Some((first, count)) = other.span() {
            self.add(first, count);
        }
        self
    }
    /// Tells that no CPU holds the old translations any longer: the flush was executed on every CPU that may have
    /// used the table, or none was needed. Said by the one place that flushes.
    #[must_use]
    pub fn completed(self) -> FlushDone {
        FlushDone { root: self.root }
    }

    pub(super) fn add(&mut self, first: u64, count: u64) {
        let end = first + count;
        self.span = Some(match self.span {
            None => Span { first, end },
            Some(span) => Span {
                first: span.first.min(first),
                end: span.end.max(end),
            },
        });
    }
}

/// The proof that every change made to a table before it was flushed has reached all CPUs.
///
/// It vouches only for changes that were part of the [`PendingFlush`] it came from: use it at once, do not keep it.
#[derive(PartialEq, Eq, Debug)]
pub struct FlushDone {
    root: Mfn,
}

impl FlushDone {
    /// The table that was flushed.
    #[must_use]
    pub fn root(&self) -> Mfn {
        self.root
    }
}
