//! Output that no terminal has taken yet: bounded, the oldest bytes go first.

use std::collections::VecDeque;

/// A bounded queue of bytes.
#[derive(Clone, Debug)]
pub(crate) struct Backlog {
    bytes: VecDeque<u8>,
    limit: usize,
    lost: u64,
}

/// The limit where xenstore states none, in bytes.
pub(crate) const DEFAULT_LIMIT: usize = 1 << 20;

/// No limit below this is useful: what a ring holds.
const LEAST_LIMIT: usize = 2048;

impl Backlog {
    /// Makes an empty one that holds `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            limit: limit.max(LEAST_LIMIT),
            lost: 0,
        }
    }

    /// Changes the limit; what is too much is lost at the next [`push`](Self::push).
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(LEAST_LIMIT);
    }

    /// Adds bytes at the end.
    pub(crate) fn push(&mut self, new: &[u8]) {
        self.bytes.extend(new);
        let excess = self.bytes.len().saturating_sub(self.limit);
        self.bytes.drain(..excess);
        self.lost = self
            .lost
            .saturating_add(u64::try_from(excess).unwrap_or(u64::MAX));
    }

    /// Returns the oldest bytes, as many as lie together.
    pub(crate) fn front(&self) -> &[u8] {
        self.bytes.as_slices().0
    }

    /// Drops `count` of the oldest bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        self.bytes.drain(..count.min(self.bytes.len()));
        if self.bytes.is_empty() {
            // A guest that once printed much shall not keep the memory.
            self.bytes.shrink_to(LEAST_LIMIT);
        }
    }

    /// Returns how many more bytes may be added before the oldest go.
    pub(crate) fn room(&self) -> usize {
        self.limit.saturating_sub(self.bytes.len())
    }

    /// Returns how many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Says whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns how many bytes were lost so far.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_oldest_bytes_go_first() {
        let mut backlog = Backlog::new(LEAST_LIMIT);
        backlog.push(&[1; 100]);
        backlog.push(&[2; LEAST_LIMIT]);
        assert_eq!(
            (backlog.front(), backlog.lost()),
            (&[2; LEAST_LIMIT][..], 100)
        );
    }

    proptest! {
        #[test]
        fn it_is_the_end_of_what_was_pushed(steps in proptest::collection::vec((0usize..3000, 0usize..3000), 1..30)) {
            let mut backlog = Backlog::new(4096);
            let mut model: Vec<u8> = Vec::new();
            let mut lost = 0;
            let mut next = 0u8;
            for (pushed, taken) in steps {
                let bytes: Vec<u8> = (0..pushed).map(|_| { next = next.wrapping_add(1); next }).collect();
                backlog.push(&bytes);
                model.extend(&bytes);
                let excess = model.len().saturating_sub(4096);
                model.drain(..excess);
                lost += excess as u64;
                let taken = taken.min(backlog.front().len());
                prop_assert_eq!(&backlog.front()[..taken], &model[..taken]);
                backlog.consume(taken);
                model.drain(..taken);
                prop_assert_eq!((backlog.is_empty(), backlog.lost()), (model.is_empty(), lost));
            }
        }
    }
}
