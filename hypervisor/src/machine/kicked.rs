//! Which vCPUs of a CPU were kicked and have not looked yet: how many, exactly; and where to look, a bit for each slot
//! there, so that a kick of one costs the CPU no look at the others.
//!
//! The count says whether there is anybody; the bits are where to look first. A vCPU that looked on its own accord
//! leaves its bit behind, which costs one look; one that was kicked before it had a slot has another's, and is found by
//! a look at all.

use hv_hw::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Slots with the same number modulo this share a bit.
const BITS: usize = 64;

/// The kicked vCPUs of a CPU.
pub(crate) struct Kicked {
    count: AtomicU32,
    slots: AtomicU64,
}

/// The bit of a slot.
pub(crate) const fn mark(slot: usize) -> u64 {
    1 << (slot % BITS)
}

impl Kicked {
    /// None.
    pub(super) const fn new() -> Self {
        Self {
            count: AtomicU32::new(0),
            slots: AtomicU64::new(0),
        }
    }

    /// One more was kicked. Paired with [`Self::take_slots`]: who sees it counted finds its bit.
    #[inline]
    pub(super) fn add(&self, mark: u64) {
        self.slots.fetch_or(mark, Ordering::Release);
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// One of them has looked.
    #[inline]
    pub(super) fn kick_served(&self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }

    /// True where one has not.
    #[inline]
    pub(crate) fn is_anybody(&self) -> bool {
        self.count.load(Ordering::Acquire) != 0
    }

    /// The slots below `end` at which to look, each once for each time that one was kicked, and now and then another.
    pub(crate) fn take_slots(&self, end: usize) -> impl Iterator<Item = usize> + use<> {
        let bits = self.slots.swap(0, Ordering::AcqRel);
        let marked = (0..BITS).filter(move |bit| bits & mark(*bit) != 0);
        marked.flat_map(move |bit| (bit..end).step_by(BITS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn slots_that_were_kicked_are_told_once() {
        let kicked = Kicked::new();
        for slot in [3, 0, 63] {
            kicked.add(mark(slot));
        }
        assert_eq!(kicked.take_slots(64).collect::<Vec<_>>(), [0, 3, 63]);
        assert_eq!(kicked.take_slots(64).count(), 0);
    }

    #[test]
    fn slots_that_share_a_bit_are_told_together() {
        let kicked = Kicked::new();
        kicked.add(mark(BITS + 7));
        let told: Vec<_> = kicked.take_slots(BITS * 2 + 8).collect();
        assert_eq!(told, [7, BITS + 7, BITS * 2 + 7]);
    }

    #[test]
    fn slot_that_there_is_not_is_told_to_nobody() {
        let kicked = Kicked::new();
        kicked.add(mark(9));
        assert_eq!(kicked.take_slots(9).count(), 0);
        assert!(kicked.is_anybody());
    }
}
