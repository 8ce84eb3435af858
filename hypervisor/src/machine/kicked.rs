//! Which vCPUs of a CPU were kicked and have not looked yet: how many, exactly; and where to look, a bit for each slot there,
//! so that a kick of one costs the CPU no look at the others.
//!
//! The count says whether there is anybody; the bits are where to look first. A vCPU that looked on its own accord leaves its
//! bit behind, which costs one look; one that was kicked before it had a slot has none, and is found by a look at all.

use hv_hw::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const WORDS: usize = 4;
/// Seats with the same number modulo this share a bit.
const BITS: usize = WORDS * 64;

/// The kicked vCPUs of a CPU.
pub(crate) struct Kicked {
    count: AtomicU32,
    slots: [AtomicU64; WORDS],
}

impl Kicked {
    /// None.
    pub(super) const fn new() -> Self {
        Self {
            count: AtomicU32::new(0),
            slots: [const { AtomicU64::new(0) }; WORDS],
        }
    }

    /// One more was kicked. Paired with [`Self::take_slots`]: who sees it counted finds its bit.
    #[inline]
    pub(super) fn add(&self, slot: usize) {
        let bit = slot % BITS;
        self.slots[bit / 64].fetch_or(1 << (bit % 64), Ordering::Release);
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// One of them has looked.
    #[inline]
    pub(super) fn attended(&self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }

    /// True where one has not.
    #[inline]
    pub(crate) fn is_anybody(&self) -> bool {
        self.count.load(Ordering::Acquire) != 0
    }

    /// The slots below `end` at which to look, each once for each time that one was kicked, and now and then another.
    #[inline]
    pub(crate) fn take_slots(&self, end: usize) -> impl Iterator<Item = usize> {
        let words = end.div_ceil(64).min(WORDS);
        let mut word = 0;
        let mut bits = 0;
        let bits = core::iter::from_fn(move || {
            while bits == 0 {
                bits = take_word(self.slots.get(..words)?.get(word)?);
                word += 1;
            }
            let bit = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            Some((word - 1) * 64 + bit)
        });
        bits.flat_map(move |bit| (bit..end).step_by(BITS))
    }
}

/// Most words are empty, and not written to.
#[inline]
fn take_word(word: &AtomicU64) -> u64 {
    match word.load(Ordering::Acquire) {
        0 => 0,
        _ => word.swap(0, Ordering::AcqRel),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn slots_that_were_kicked_are_told_once() {
        let kicked = Kicked::new();
        for slot in [3, 63, 64, 255] {
            kicked.add(slot);
        }
        assert_eq!(kicked.take_slots(256).collect::<Vec<_>>(), [3, 63, 64, 255]);
        assert_eq!(kicked.take_slots(256).count(), 0);
    }

    #[test]
    fn slots_that_share_a_bit_are_told_together() {
        let kicked = Kicked::new();
        kicked.add(BITS + 7);
        let told: Vec<_> = kicked.take_slots(BITS * 2 + 8).collect();
        assert_eq!(told, [7, BITS + 7, BITS * 2 + 7]);
    }

    #[test]
    fn slot_that_there_is_not_is_told_to_nobody() {
        let kicked = Kicked::new();
        kicked.add(9);
        assert_eq!(kicked.take_slots(9).count(), 0);
        assert!(kicked.is_anybody());
    }
}
