//! The posted-interrupt descriptor, into which anyone may put interrupts for a vCPU, without a lock and without
//! touching its local APIC.
//!
//! The first 64 bytes are as the CPU has them, so where the CPU processes posted interrupts a
//! running guest takes an edge without an exit; where it does not, [`Lapic::sync`](super::lapic::Lapic::sync) empties
//! the same descriptor before each entry. Level interrupts never go through the CPU's half: they need their EOI
//! intercepted first, so they wait in a second set that only `sync` reads.
//! Intel SDM vol. 3C, "Posted-Interrupt Processing".

use crate::mem::SharedWords;

/// Bytes that a descriptor takes in its frame; a multiple of the 64 the CPU wants aligned.
pub const DESCRIPTOR_BYTES: usize = 128;

/// Bits 255:0: vectors posted for the CPU.
const PIR: usize = 0;
/// Bits 319:256: notification state.
const CONTROL: usize = 32;
/// Ours: level-triggered vectors for `sync`.
const LEVEL: usize = 64;
/// Ours: nonzero where `LEVEL` may hold something.
const LEVEL_WAITS: usize = 96;

/// Outstanding notification: somebody has told the CPU, or is about to.
const ON: u32 = 1 << 0;
/// Suppress notification: nobody need tell the CPU.
const SN: u32 = 1 << 1;

/// A vCPU's descriptor, at a multiple of [`DESCRIPTOR_BYTES`] in a shared frame.
#[derive(Debug)]
pub struct PostedInterrupts<F> {
    frame: F,
    offset: usize,
}

/// What the poster must do next.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PostNotify {
    /// Nothing: it has been told already, or will see it when it next runs.
    None,
    /// Wake the vCPU, which looks at its descriptor.
    Kick,
}

/// The vectors taken out of a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Taken {
    /// Edge-triggered, as 256 bits in 4 words.
    pub edge: [u64; 4],
    pub level: [u64; 4],
}

impl<F: SharedWords> PostedInterrupts<F> {
    /// Uses the zeroed bytes at `offset` of `frame`.
    ///
    /// # Panics
    /// Where `offset` is not a multiple of [`DESCRIPTOR_BYTES`] inside the frame.
    pub fn new(frame: F, offset: usize) -> Self {
        assert!(offset.is_multiple_of(DESCRIPTOR_BYTES) && offset < crate::addr::PAGE_BYTES);
        Self { frame, offset }
    }

    /// The frame that it is in.
    pub fn frame(&self) -> &F {
        &self.frame
    }

    /// Byte offset of the CPU's descriptor in its frame.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Posts an edge-triggered interrupt. Vectors 0–15 are illegal and the caller's to refuse.
    #[inline]
    pub fn post_edge(&self, vector: u8) -> PostNotify {
        let (word, bit) = position(vector);
        if self.frame.fetch_or_u32(self.place(PIR + word), bit) & bit != 0 {
            // whoever set the bit notifies, or the CPU is already taking it out
            return PostNotify::None;
        }
        let control = self.frame.fetch_or_u32(self.place(CONTROL), ON);
        if control & (ON | SN) == 0 {
            PostNotify::Kick
        } else {
            PostNotify::None
        }
    }

    /// Posts a level-triggered interrupt.
    pub fn post_level(&self, vector: u8) -> PostNotify {
        let (word, bit) = position(vector);
        self.frame.fetch_or_u32(self.place(LEVEL + word), bit);
        if self.frame.fetch_or_u32(self.place(LEVEL_WAITS), 1) == 0 {
            PostNotify::Kick
        } else {
            PostNotify::None
        }
    }

    /// True where it may hold something: two loads, for the entry path and for deciding whether to sleep.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        self.frame.load_u32(self.place(CONTROL)) & ON != 0
            || self.frame.load_u32(self.place(LEVEL_WAITS)) != 0
    }

    /// Empties it. The flags fall before the bits are read, so that an interrupt posted meanwhile notifies again.
    pub fn take(&self) -> Taken {
        Taken {
            edge: self.take_edge().unwrap_or_default(),
            level: self.take_level().unwrap_or_default(),
        }
    }

    /// Takes the edge-triggered ones out, where there are any.
    #[inline]
    pub fn take_edge(&self) -> Option<[u64; 4]> {
        let control = self.frame.fetch_and_u32(self.place(CONTROL), !ON);
        (control & ON != 0).then(|| self.take_set(PIR))
    }

    /// Takes the level-triggered ones out, where there are any.
    #[inline]
    pub fn take_level(&self) -> Option<[u64; 4]> {
        let waits = self.frame.fetch_and_u32(self.place(LEVEL_WAITS), 0);
        (waits != 0).then(|| self.take_set(LEVEL))
    }

    /// Byte `at` of the descriptor as an offset in its frame: what `new` checked, said so that no access checks it
    /// again.
    #[inline]
    const fn place(&self, at: usize) -> usize {
        (self.offset & (crate::addr::PAGE_BYTES - DESCRIPTOR_BYTES)) + at
    }

    fn take_set(&self, set: usize) -> [u64; 4] {
        core::array::from_fn(|i| {
            let at = self.place(set + 8 * i);
            // most words are empty, and a locked instruction costs more than a look
            match self.frame.load_u64(at) {
                0 => 0,
                _ => self.frame.fetch_and_u64(at, 0),
            }
        })
    }
}

/// Byte offset of the 32-bit word that holds `vector` in a set of 256 bits, and the bit in it.
const fn position(vector: u8) -> (usize, u32) {
    ((vector as usize >> 5) * 4, 1 << (vector & 31))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evtchn::testing::TestFrame;
    use proptest::prelude::*;

    fn empty_box() -> PostedInterrupts<TestFrame> {
        PostedInterrupts::new(TestFrame::new(), DESCRIPTOR_BYTES)
    }

    fn has(set: &[u64; 4], vector: u8) -> bool {
        set[usize::from(vector >> 6)] >> (vector & 63) & 1 != 0
    }

    #[test]
    fn first_edge_notifies_and_the_next_do_not() {
        let posted = empty_box();
        assert_eq!(posted.post_edge(0x41), PostNotify::Kick);
        assert_eq!(posted.post_edge(0x41), PostNotify::None);
        assert_eq!(posted.post_edge(0x42), PostNotify::None);
        let taken = posted.take();
        assert!(has(&taken.edge, 0x41) && has(&taken.edge, 0x42));
        assert!(!posted.is_waiting());
        assert_eq!(posted.post_edge(0x41), PostNotify::Kick);
    }

    #[test]
    fn levels_stay_out_of_the_half_that_the_cpu_reads() {
        let frame = TestFrame::new();
        let posted = PostedInterrupts::new(frame.clone(), 0);
        assert_eq!(posted.post_level(0x41), PostNotify::Kick);
        for offset in (0..64).step_by(8) {
            assert_eq!(frame.load_u64(offset), 0);
        }
        assert!(has(&posted.take().level, 0x41));
    }

    #[test]
    fn descriptor_has_the_layout_of_the_sdm() {
        let frame = TestFrame::new();
        let posted = PostedInterrupts::new(frame.clone(), 0);
        let _ = posted.post_edge(0x21);
        assert_eq!(frame.load_u32(4), 1 << 1);
        assert_eq!(frame.load_u32(32), 1);
    }

    proptest! {
        /// No interrupt is lost and none invented; and whoever finds the descriptor newly filled is told to notify.
        #[test]
        fn what_is_posted_is_taken_once(steps in proptest::collection::vec((0..8u8, any::<u8>()), 0..200)) {
            let posted = empty_box();
            let (mut edges, mut levels) = ([0u64; 4], [0u64; 4]);
            for (what, vector) in steps {
                let set = if what < 4 { &mut edges } else { &mut levels };
                let was_empty = *set == [0; 4];
                match what {
                    0 => {
                        prop_assert_eq!(posted.take(), Taken { edge: edges, level: levels });
                        (edges, levels) = ([0; 4], [0; 4]);
                    }
                    1..4 => {
                        set[usize::from(vector >> 6)] |= 1 << (vector & 63);
                        prop_assert_eq!(posted.post_edge(vector) == PostNotify::Kick, was_empty);
                    }
                    _ => {
                        set[usize::from(vector >> 6)] |= 1 << (vector & 63);
                        prop_assert_eq!(posted.post_level(vector) == PostNotify::Kick, was_empty);
                    }
                }
                prop_assert_eq!(posted.is_waiting(), edges != [0; 4] || levels != [0; 4]);
            }
        }
    }
}
