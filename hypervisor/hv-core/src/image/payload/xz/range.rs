//! The range decoder: packed bytes → decisions, each with a probability that learns.
//!
//! Every method is inlined into the decoder's one loop, where range, code and input stay in registers; a decision is
//! about 14 instructions. The arithmetic wraps: corrupt data must not panic, and the checksum tells.

/// A probability of 0 in units of 1/2048, and how fast it moves.
const PROBABILITY_BITS: u32 = 11;
const MOVE_BITS: u32 = 5;
/// 2048 less what rounding a negative shift down asks for.
const ALMOST_ONE: i32 = (1 << PROBABILITY_BITS) - ((1 << MOVE_BITS) - 1);
/// Below this another byte is taken.
const TOP: u32 = 1 << 24;

/// A decision's probability of being 0, 31 to 2017 of 2048.
pub(super) type Probability = u16;
/// Even.
pub(super) const EVEN: Probability = 1024;

/// The state of decoding one chunk.
pub(super) struct RangeDecoder<'a> {
    range: u32,
    code: u32,
    input: core::slice::Iter<'a, u8>,
    is_starved: bool,
}

impl<'a> RangeDecoder<'a> {
    /// Begins a chunk; its first byte is 0.
    #[inline(always)]
    pub(super) fn new(packed: &'a [u8]) -> Option<Self> {
        let ([0, a, b, c, d], rest) = packed.split_first_chunk()? else {
            return None;
        };
        Some(Self {
            range: u32::MAX,
            code: u32::from_be_bytes([*a, *b, *c, *d]),
            input: rest.iter(),
            is_starved: false,
        })
    }

    /// Ends the chunk: true where it was used up, neither more nor less.
    #[inline(always)]
    pub(super) fn finish(mut self) -> bool {
        self.normalize();
        self.code == 0 && self.input.as_slice().is_empty() && !self.is_starved
    }

    #[inline(always)]
    fn normalize(&mut self) {
        if self.range < TOP {
            let byte = match self.input.next() {
                Some(&byte) => byte,
                None => {
                    self.is_starved = true;
                    0
                }
            };
            self.range <<= 8;
            self.code = (self.code << 8) | u32::from(byte);
        }
    }

    /// Decides by `probability`, which learns.
    #[inline(always)]
    pub(super) fn bit(&mut self, probability: &mut Probability) -> bool {
        self.normalize();
        let before = i32::from(*probability);
        let bound = (self.range >> PROBABILITY_BITS).wrapping_mul(u32::from(*probability));
        if self.code < bound {
            self.range = bound;
            *probability =
                learnt(before.wrapping_sub(before.wrapping_sub(ALMOST_ONE) >> MOVE_BITS));
            false
        } else {
            self.range = self.range.wrapping_sub(bound);
            self.code = self.code.wrapping_sub(bound);
            *probability = learnt(before.wrapping_sub(before >> MOVE_BITS));
            true
        }
    }

    /// `symbol` and a decision, by the probability that belongs to `symbol`, as its new lowest bit.
    #[inline(always)]
    pub(super) fn append(&mut self, probability: &mut Probability, symbol: usize) -> usize {
        // as shifts, the two would be made one again, with a comparison more
        if self.bit(probability) {
            symbol.rotate_left(1).wrapping_add(1)
        } else {
            symbol.wrapping_add(symbol)
        }
    }

    /// `BITS` decisions, the highest bit first, each by the probability that belongs to the bits before it. `SIZE` is
    /// at least `1 << BITS`; that bit is set in the result.
    #[inline(always)]
    pub(super) fn tree<const BITS: u32, const SIZE: usize>(
        &mut self,
        probabilities: &mut [Probability; SIZE],
    ) -> usize {
        let mut symbol = 1;
        for _ in 0..BITS {
            symbol = self.append(&mut probabilities[symbol % SIZE], symbol);
        }
        symbol
    }

    /// `count` decisions, the lowest bit first; `SIZE` is at least `1 << count`.
    #[inline(always)]
    pub(super) fn reverse_tree<const SIZE: usize>(
        &mut self,
        probabilities: &mut [Probability; SIZE],
        count: u32,
    ) -> u32 {
        let mut symbol = 1;
        let mut value = 0;
        for place in 0..count {
            let bit = self.bit(&mut probabilities[symbol % SIZE]);
            symbol = (symbol << 1) | usize::from(bit);
            value |= u32::from(bit) << place;
        }
        value
    }

    /// `count` even decisions, the highest bit first.
    #[inline(always)]
    pub(super) fn direct(&mut self, count: u32) -> u32 {
        let mut value = 0;
        for _ in 0..count {
            self.normalize();
            self.range >>= 1;
            let is_one = self.code >= self.range;
            if is_one {
                self.code = self.code.wrapping_sub(self.range);
            }
            value = (value << 1) | u32::from(is_one);
        }
        value
    }
}

/// A probability stays below 2048.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is 31 to 2017"
)]
fn learnt(probability: i32) -> Probability {
    probability as Probability
}
