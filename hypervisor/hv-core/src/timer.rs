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
    is_changed: bool,
}

impl<K: Copy> TimerQueue<K> {
    /// No timers.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            keys: Vec::new(),
            deadlines: IndexHeap::new(),
            is_changed: false,
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

    /// Takes a timer out permanently; its id means nothing from then on.
    pub fn remove(&mut self, id: TimerId) {
        self.is_changed = true;
        self.deadlines.remove(id.0);
        if let Some(key) = self.keys.get_mut(id.0) {
            *key = None;
        }
    }

    /// Sets the timer to expire at `deadline`, whether or not it was set before.
    pub fn set(&mut self, id: TimerId, deadline: u64) {
        if let Some(Some(_)) = self.keys.get(id.0) {
            self.is_changed = true;
            self.deadlines.set(id.0, deadline);
        }
    }

    /// Keeps the timer from expiring. True where it was set.
    pub fn cancel(&mut self, id: TimerId) -> bool {
        let was_set = self.deadlines.remove(id.0);
        self.is_changed |= was_set;
        was_set
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

    /// True once after whatever may have changed the earliest deadline, or used the timer that was set for it: whether
    /// to program the hardware again.
    #[inline]
    pub fn take_changed(&mut self) -> bool {
        self.is_changed && core::mem::take(&mut self.is_changed)
    }

    /// Takes the earliest timer whose deadline is `now` or before, and unsets it. To be called until `None`.
    pub fn expire(&mut self, now: u64) -> Option<K> {
        self.is_changed = true;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Set(usize, u64),
        Cancel(usize),
        Replace(usize),
        Expire(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0..8usize, 0..1000u64).prop_map(|(timer, deadline)| Op::Set(timer, deadline)),
            2 => (0..8usize).prop_map(Op::Cancel),
            1 => (0..8usize).prop_map(Op::Replace),
            2 => (0..1000u64).prop_map(Op::Expire),
        ]
    }

    proptest! {
        #[test]
        fn timers_expire_in_order_and_once(ops in prop::collection::vec(op(), 0..200)) {
            let mut queue = TimerQueue::new();
            let mut ids: Vec<_> = (0..8usize).map(|key| queue.add(key)).collect();
            let mut model: BTreeMap<usize, u64> = BTreeMap::new();
            let mut armed = None;
            for op in ops {
                match op {
                    Op::Set(timer, deadline) => {
                        queue.set(ids[timer], deadline);
                        model.insert(timer, deadline);
                    }
                    Op::Cancel(timer) => {
                        prop_assert_eq!(queue.cancel(ids[timer]), model.remove(&timer).is_some());
                    }
                    Op::Replace(timer) => {
                        queue.remove(ids[timer]);
                        model.remove(&timer);
                        ids[timer] = queue.add(timer);
                    }
                    Op::Expire(now) => {
                        let mut last = 0;
                        while let Some(key) = queue.expire(now) {
                            let deadline = model.remove(&key).expect("only what was set expires");
                            prop_assert!(last <= deadline && deadline <= now);
                            last = deadline;
                        }
                        prop_assert!(model.values().all(|deadline| *deadline > now));
                    }
                }
                if queue.take_changed() {
                    armed = queue.next_deadline();
                }
                prop_assert!(!queue.take_changed());
                prop_assert_eq!(armed, queue.next_deadline());
                prop_assert_eq!(armed, model.values().min().copied());
                for (timer, id) in ids.iter().enumerate() {
                    prop_assert_eq!(queue.deadline(*id), model.get(&timer).copied());
                }
            }
        }
    }
}
