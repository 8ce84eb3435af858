//! Memory that calls are pointed at, and the values that go into it.
//!
//! The arena is in the image, so its frames are not among those that calls are given (those lie in the spare range).

use crate::random::Random;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

const WORDS: usize = 16 * 512;
/// Pointers end this far before the arena does, so that what a call writes stays inside.
const SLACK_WORDS: usize = 512;

#[repr(align(4096))]
struct Words<const N: usize>([AtomicU64; N]);

static ARENA: Words<WORDS> = Words([const { AtomicU64::new(0) }; WORDS]);
/// Entries of a multicall: a page of its own, which no pointer of the arena leads to.
static MULTICALL: Words<512> = Words([const { AtomicU64::new(0) }; 512]);
static CANARY: Words<512> = Words([const { AtomicU64::new(CANARY_VALUE) }; 512]);
const CANARY_VALUE: u64 = 0xC0FF_EE00_C0FF_EE00;

/// Whether nothing wrote where no call was pointed.
pub(crate) fn canary_is_intact() -> bool {
    CANARY
        .0
        .iter()
        .all(|word| word.load(Relaxed) == CANARY_VALUE)
}

/// The arena, and frames to be spent.
pub(crate) struct Arena {
    first_spare_frame: u64,
}

impl Arena {
    pub(crate) fn new(first_spare_frame: u64) -> Self {
        Self { first_spare_frame }
    }

    /// A pointer into the arena: mostly aligned, now and then across a page.
    pub(crate) fn pointer(&self, random: &mut Random) -> u64 {
        let word = random.below((WORDS - SLACK_WORDS) as u64);
        let word = if random.once_in(8) {
            word / 512 * 512 + 511
        } else {
            word
        };
        let skew = if random.once_in(16) {
            random.below(8)
        } else {
            0
        };
        ARENA.0.as_ptr() as u64 + word * 8 + skew
    }

    /// A pointer for a struct whose fields must be read as they were put: aligned.
    pub(crate) fn aligned_pointer(&self, random: &mut Random) -> u64 {
        self.pointer(random) & !7
    }

    /// Fills what a struct at `pointer` could hold, up to 64 bytes, with values that make sense here and there.
    pub(crate) fn fill(&self, pointer: u64, random: &mut Random) {
        let first = ((pointer - ARENA.0.as_ptr() as u64) / 8) as usize;
        for word in ARENA.0.iter().skip(first).take(8) {
            let value = if random.once_in(2) {
                self.value(random)
            } else {
                self.half(random) << 32 | self.half(random) & 0xFFFF_FFFF
            };
            word.store(value, Relaxed);
        }
    }

    /// Writes words at a pointer that [`Arena::aligned_pointer`] gave.
    pub(crate) fn put(&self, pointer: u64, words: &[u64]) {
        let first = ((pointer - ARENA.0.as_ptr() as u64) / 8) as usize;
        ARENA
            .0
            .iter()
            .skip(first)
            .zip(words)
            .for_each(|(slot, &word)| slot.store(word, Relaxed));
    }

    /// Writes the entries of a multicall and returns their address.
    pub(crate) fn put_multicall(&self, words: &[u64]) -> u64 {
        MULTICALL
            .0
            .iter()
            .zip(words)
            .for_each(|(slot, &word)| slot.store(word, Relaxed));
        MULTICALL.0.as_ptr() as u64
    }

    /// A frame that may be given away.
    pub(crate) fn frame(&self, random: &mut Random) -> u64 {
        self.first_spare_frame + random.below(guest_rt::memory::SPARE_PAGES)
    }

    /// A value that some argument might be.
    pub(crate) fn value(&self, random: &mut Random) -> u64 {
        const EDGES: [u64; 14] = [
            0,
            1,
            u64::MAX,
            1 << 63,
            1 << 47,
            (1 << 32) - 1,
            1 << 32,
            (1 << 32) - 4,
            5 << 30,
            1 << 40,
            (1 << 52) - 1,
            0xFEE0_0000,
            0x7FF0,
            0x8000_0000,
        ];
        match random.below(8) {
            0 | 1 => random.below(40),
            2 | 3 => self.frame(random),
            4 => random.pick(&EDGES),
            5 | 6 => self.pointer(random),
            _ => random.next() | 1 << 50,
        }
    }

    /// A value for a field of 32 bits (or two of 16).
    fn half(&self, random: &mut Random) -> u64 {
        // none is a frame of the image, which starts at 0x1000
        const EDGES: [u64; 9] = [
            0,
            0x7FF0,
            0x7FF1,
            0x7FF4,
            0xFFFF_FFFF,
            0x8000_0000,
            0x2000,
            4080,
            0x0300_0001,
        ];
        match random.below(4) {
            0 | 1 => random.below(24),
            2 => random.pick(&EDGES),
            _ => random.next() & 0xFFFF_FFFF,
        }
    }
}
