//! A priority queue of numbered slots: the least key first, with any slot's key changed or taken out in O(log n).
//!
//! Slots are made ahead of time; putting one in the queue allocates nothing. Under `timer.rs` and `sched/credit2`.

use alloc::vec::Vec;

/// Slots, each in the queue with a key or not.
pub(crate) struct IndexHeap<K> {
    /// (key, slot), each entry not greater than those at `2i + 1` and `2i + 2`.
    heap: Vec<(K, usize)>,
    /// Where in `heap` each slot is.
    places: Vec<Option<usize>>,
}

impl<K: Ord + Copy> IndexHeap<K> {
    pub(crate) const fn new() -> Self {
        Self {
            heap: Vec::new(),
            places: Vec::new(),
        }
    }

    /// Makes room for the slots below `slots`.
    pub(crate) fn grow(&mut self, slots: usize) {
        if slots > self.places.len() {
            self.places.resize(slots, None);
            self.heap.reserve(slots - self.heap.len());
        }
    }

    /// The least key and its slot.
    pub(crate) fn first(&self) -> Option<(K, usize)> {
        self.heap.first().copied()
    }

    /// The key of `slot`, where it is in the queue.
    pub(crate) fn key(&self, slot: usize) -> Option<K> {
        let place = (*self.places.get(slot)?)?;
        self.heap.get(place).map(|&(key, _)| key)
    }

    /// Puts `slot` in the queue with `key`, or gives it that key where it is in. A slot never made is ignored.
    pub(crate) fn set(&mut self, slot: usize, key: K) {
        let Some(&place) = self.places.get(slot) else {
            return;
        };
        let place = place.unwrap_or_else(|| {
            self.heap.push((key, slot));
            self.heap.len() - 1
        });
        self.heap[place] = (key, slot);
        self.places[slot] = Some(place);
        self.settle(place);
    }

    /// Takes `slot` out of the queue. True where it was in.
    pub(crate) fn remove(&mut self, slot: usize) -> bool {
        let Some(place) = self.places.get_mut(slot).and_then(Option::take) else {
            return false;
        };
        self.heap.swap_remove(place);
        if let Some(&(_, moved)) = self.heap.get(place) {
            self.places[moved] = Some(place);
            self.settle(place);
        }
        true
    }

    /// Moves the entry at `place` up or down to where it belongs.
    fn settle(&mut self, mut place: usize) {
        if self.heap.len() < 2 {
            return;
        }
        while place > 0 && self.heap[place] < self.heap[(place - 1) / 2] {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
        while let Some(child) = self.lesser_child(place) {
            if self.heap[place] <= self.heap[child] {
                break;
            }
            self.swap(place, child);
            place = child;
        }
    }

    fn lesser_child(&self, place: usize) -> Option<usize> {
        let (left, right) = (2 * place + 1, 2 * place + 2);
        let left_entry = self.heap.get(left)?;
        match self.heap.get(right) {
            Some(right_entry) if right_entry < left_entry => Some(right),
            _ => Some(left),
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        for place in [a, b] {
            let (_, slot) = self.heap[place];
            self.places[slot] = Some(place);
        }
    }
}
