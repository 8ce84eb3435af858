//! Domains that are destroyed but for what others still use of them.
//!
//! Whoever ends a use of a domain's frame or grant says so ([`let_go`]); where the domain is one of these, the CPU
//! looks before it goes on with a guest whether that use was the last (`domain::destroy::reap`). A zombie that stays
//! one costs nobody anything.

use hv_hw::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hv_core::domid::DomId;

use crate::machine::{cpus, machine};

const BITS: u16 = 64;
const WORDS: usize = (DomId::FIRST_RESERVED / BITS) as usize + 1;

/// Which domains are ones.
pub(super) struct Zombies {
    /// One bit a domain, by number. Set before the first look at what is left of it, and read after a use of that has
    /// ended (a locked instruction): so either the look finds the use ended, or who ended it finds the bit.
    words: [AtomicU64; WORDS],
    /// How many bits are set.
    count: AtomicU32,
}

impl Zombies {
    pub(super) const fn new() -> Self {
        Self {
            words: [const { AtomicU64::new(0) }; WORDS],
            count: AtomicU32::new(0),
        }
    }
}

fn zombies() -> &'static Zombies {
    &machine().zombies
}

/// Counts the domain among them.
pub(crate) fn add(id: DomId) {
    let (word, bit) = place(id);
    if word.fetch_or(bit, Ordering::SeqCst) & bit == 0 {
        zombies().count.fetch_add(1, Ordering::SeqCst);
    }
}

/// The domain is gone, and its number free.
pub(crate) fn remove(id: DomId) {
    let (word, bit) = place(id);
    if word.fetch_and(!bit, Ordering::SeqCst) & bit != 0 {
        zombies().count.fetch_sub(1, Ordering::SeqCst);
    }
}

/// All of them, in ascending order of number.
pub(crate) fn all() -> impl Iterator<Item = DomId> {
    let numbers = if zombies().count.load(Ordering::SeqCst) == 0 {
        0..0
    } else {
        0..DomId::FIRST_RESERVED
    };
    numbers
        .step_by(usize::from(BITS))
        .filter(|first| zombies().words[usize::from(first / BITS)].load(Ordering::SeqCst) != 0)
        .flat_map(|first| (first..first + BITS).filter_map(DomId::new))
        .filter(|id| is_one(*id))
}

/// A use of something of the domain's has ended.
#[inline]
pub(crate) fn let_go(id: DomId) {
    if zombies().count.load(Ordering::SeqCst) != 0 && is_one(id) {
        cpus::look_at_zombies();
    }
}

fn is_one(id: DomId) -> bool {
    let (word, bit) = place(id);
    word.load(Ordering::SeqCst) & bit != 0
}

fn place(id: DomId) -> (&'static AtomicU64, u64) {
    let word = &zombies().words[usize::from(id.get() / BITS)];
    (word, 1 << (id.get() % BITS))
}
