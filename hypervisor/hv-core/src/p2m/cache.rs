//! A vCPU's memory of its last p2m lookups: what makes walking a guest's own page tables cheap.
//!
//! A walk asks for the frames of four tables and a page, and mostly for the same ones as the walk before. Nothing has to be
//! invalidated: an entry counts only in the generation of the p2m in which it was read, and every change of something
//! mapped begins a new one.

use core::cell::Cell;

use super::{P2m, P2mEntry, P2mKind};
use crate::addr::{Gfn, Mfn, PageOrder};
use crate::mem::TableMem;
use crate::paging::ept::Access;

const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 5;

/// The last lookups in one p2m. It must not be used with another one. One vCPU has it, so plain cells do.
pub struct P2mCache {
    slots: [Cell<Slot>; SLOTS],
}

#[derive(Clone, Copy)]
struct Slot {
    gfn: Gfn,
    /// The p2m's generation when the entry was read; 0, which no p2m has, for an empty slot.
    generation: u64,
    entry: P2mEntry,
}

const EMPTY: Slot = Slot {
    gfn: Gfn::new(0),
    generation: 0,
    entry: P2mEntry {
        mfn: Mfn::new(0),
        kind: P2mKind::Mmio,
        access: Access::R,
        order: PageOrder::SIZE_4K,
    },
};

impl P2mCache {
    /// Remembers nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: [const { Cell::new(EMPTY) }; SLOTS],
        }
    }

    /// What `gfn` stands for, as [`P2m::lookup`] says it.
    #[inline(always)]
    pub fn lookup(&self, p2m: &P2m, mem: &impl TableMem, gfn: Gfn) -> Option<P2mEntry> {
        const MASK: u64 = (1 << SLOT_BITS) - 1;
        let place = &self.slots[(gfn.as_u64() & MASK) as usize];
        let slot = place.get();
        let is_hit = slot.gfn == gfn && slot.generation == p2m.generation;
        if is_hit || fill(place, p2m, mem, gfn) {
            Some(place.get().entry)
        } else {
            None
        }
    }
}

/// Reads an entry anew; false where nothing is mapped. Apart, so that a hit is short enough to be part of its caller.
#[cold]
#[inline(never)]
fn fill(place: &Cell<Slot>, p2m: &P2m, mem: &impl TableMem, gfn: Gfn) -> bool {
    let Some(entry) = p2m.lookup(mem, gfn) else {
        return false;
    };
    place.set(Slot {
        gfn,
        generation: p2m.generation,
        entry,
    });
    true
}

impl Default for P2mCache {
    fn default() -> Self {
        Self::new()
    }
}
