//! Deadlines of one physical CPU, the earliest first.
//!
//! Each timer (a vCPU's singleshot timer, the end of its timeslice) is added once and then set and cancelled at will:
//! O(log n), nothing allocated. The queue has no clock; its unit is the caller's, TSC ticks or ns.

use alloc::vec::Vec;

use crate::index_heap::IndexHeap;

/// Names a timer of one [`TimerQueue`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimerId(usize);

/// Timers that tell `K` when they expire.
pub struct TimerQueue<K> {
    /// By number; `None` where the timer was removed.
    keys: Vec<Option<K>>,
    deadlines: IndexHeap<u64>,
}

impl<K: Copy> TimerQueue<K> {
    /// No timers.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            keys: Vec::new(),
            deadlines: IndexHeap::new(),
        }
    }

    /// Adds a timer that is not set. The only operation that allocates.
    pub fn add(&mut self, key: K) -> TimerId {
        let slot = match self.keys.iter().position(Option::is_none) {
            Some(slot) => {
                self.keys[slot] = Some(key);
                slot
            }
            None => {
                self.keys.push(Some(key));
                self.keys.len() - 1
            }
        };
        self.deadlines.grow(self.keys.len());
        TimerId(slot)
    }

    /// Takes a timer out for good; its id means nothing from then on.
    pub fn remove(&mut self, id: TimerId) {
        self.deadlines.remove(id.0);
        if let Some(key) = self.keys.get_mut(id.0) {
            *key = None;
        }
    }

    /// Sets the timer to expire at `deadline`, whether or not it was set before.
    pub fn set(&mut self, id: TimerId, deadline: u64) {
        if let Some(Some(_)) = self.keys.get(id.0) {
            self.deadlines.set(id.0, deadline);
        }
    }

    /// Keeps the timer from expiring. True where it was set.
    pub fn cancel(&mut self, id: TimerId) -> bool {
        self.deadlines.remove(id.0)
    }

    /// When the timer expires, where it is set.
    #[must_use]
    pub fn deadline(&self, id: TimerId) -> Option<u64> {
        self.deadlines.key(id.0)
    }

    /// The earliest deadline: what to program the hardware for.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline, _)| deadline)
    }

    /// Takes the earliest timer whose deadline is `now` or before, and unsets it. To be called until `None`.
    pub fn expire(&mut self, now: u64) -> Option<K> {
        let (deadline, slot) = self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.deadlines.remove(slot);
        *self.keys.get(slot)?
    }
}

impl<K: Copy> Default for TimerQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}
