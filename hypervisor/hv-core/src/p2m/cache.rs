//! A vCPU's memory of its last p2m lookups: what makes walking a guest's own page tables cheap.
//!
//! A walk asks for the frames of four tables and a page, and mostly for the same ones as the walk before. What is kept
//! of an entry is the caller's to say: the hypervisor keeps a checked handle of the frame. Every change of something
//! mapped begins a new generation of the p2m. Where all that changed is that single pages went which were never asked
//! for (grants that end, a balloon that grows), what was kept stays; else it is forgotten ([`P2mCache::renew`]).

use core::cell::Cell;

use super::P2m;
use crate::addr::Gfn;

const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 5;
/// In no address space: the key of an empty slot.
const NOWHERE: Gfn = Gfn::new(u64::MAX);

/// The last lookups in one p2m. It must not be used with another one. One vCPU has it, so plain cells do.
pub struct P2mCache<T> {
    /// That of the p2m when the slots were filled; 0, which no p2m has, at first.
    generation: Cell<u64>,
    /// A bit for each hash of a guest frame that was asked for since all was forgotten.
    asked_for: [Cell<u64>; 4],
    slots: [Cell<Slot<T>>; SLOTS],
}

#[derive(Clone, Copy)]
struct Slot<T> {
    gfn: Gfn,
    kept: T,
}

impl<T: Copy> P2mCache<T> {
    /// Remembers nothing yet. `filler` lies in empty slots and is never given out.
    #[must_use]
    pub fn new(filler: T) -> Self {
        let empty = Slot {
            gfn: NOWHERE,
            kept: filler,
        };
        Self {
            generation: Cell::new(0),
            asked_for: [const { Cell::new(0) }; 4],
            slots: core::array::from_fn(|_| Cell::new(empty)),
        }
    }

    /// Catches up with what has changed in the p2m. To be called each time that the p2m has been locked again, before
    /// the first [`P2mCache::get`]. True where all was forgotten: then whatever was derived from it has to be as well.
    #[inline(always)]
    pub fn renew(&self, p2m: &P2m) -> bool {
        self.generation.get() != p2m.generation && self.catch_up(p2m)
    }

    #[inline(never)]
    fn catch_up(&self, p2m: &P2m) -> bool {
        let since = self.generation.replace(p2m.generation);
        let is_unconcerned = p2m
            .removed_since(since)
            .is_some_and(|mut removed| removed.all(|gfn| !self.was_asked_for(gfn)));
        if is_unconcerned {
            return false;
        }
        for slot in &self.slots {
            let kept = slot.get().kept;
            slot.set(Slot { gfn: NOWHERE, kept });
        }
        for bits in &self.asked_for {
            bits.set(0);
        }
        true
    }

    /// False where `gfn` was certainly not asked for.
    fn was_asked_for(&self, gfn: Gfn) -> bool {
        let (word, bit) = hash(gfn);
        self.asked_for[word].get() & bit != 0
    }

    fn note_asked_for(&self, gfn: Gfn) {
        let (word, bit) = hash(gfn);
        let bits = &self.asked_for[word];
        bits.set(bits.get() | bit);
    }

    /// What is kept of `gfn`.
    #[inline(always)]
    pub fn get(&self, gfn: Gfn) -> Option<T> {
        let slot = self.place(gfn).get();
        (slot.gfn == gfn).then_some(slot.kept)
    }

    /// Keeps what was found of `gfn` in the p2m, as it is since the last [`P2mCache::renew`].
    pub fn keep(&self, p2m: &P2m, gfn: Gfn, kept: T) {
        debug_assert_eq!(
            self.generation.get(),
            p2m.generation,
            "renewed under the lock"
        );
        self.note_asked_for(gfn);
        self.place(gfn).set(Slot { gfn, kept });
    }

    #[inline(always)]
    fn place(&self, gfn: Gfn) -> &Cell<Slot<T>> {
        const MASK: u64 = (1 << SLOT_BITS) - 1;
        &self.slots[(gfn.as_u64() & MASK) as usize]
    }
}

/// One of 256 bits: which word, and the bit in it.
fn hash(gfn: Gfn) -> (usize, u64) {
    let number = gfn.as_u64();
    ((number >> 6 & 3) as usize, 1 << (number & 63))
}
