//! Numbers that an attacker would try.

use guest_abi::xen::DOMID_SELF;

/// The domids that mean something else than a domain, and some that are nobody's.
const ODD_DOMIDS: [u64; 7] = [0x7FF1, 0x7FF2, 0x7FF3, 0x7FF4, 0xFFFF, 0x7FEF, 99];
const EDGES: [u64; 10] = [
    0x7FFF_FFFF_FFFF,
    0x8000_0000_0000,
    0xFFFF_8000_0000_0000,
    0x8000_0000,
    0xFFFF_F000,
    0xFFF,
    511,
    512,
    513,
    0x1_0000_0000,
];

/// A course of random numbers, the same for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    /// A number from 0 up to `n`, exclusive.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    pub(crate) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
    /// Mostly one of `ids`.
    pub(crate) fn domid(&mut self, ids: &[u64]) -> u64 {
        match self.below(8) {
            0 => 0,
            1 | 2 => u64::from(DOMID_SELF),
            3 => self.of(&ODD_DOMIDS),
            _ => self.of(ids),
        }
    }
    /// Anything: small numbers, addresses, domids, bits, edges.
    pub(crate) fn value(&mut self, ids: &[u64]) -> u64 {
        match self.below(20) {
            0..=3 => self.below(8),
            4..=6 => self.below(80),
            7 | 8 => 0x1000 + self.below(0x600) * 8,
            9 | 10 => self.domid(ids),
            11 => 1 << self.below(64),
            12 => (1 << self.below(64)) - 1,
            13 => u64::MAX - self.below(16),
            14 => self.next(),
            15 => self.next() & 0xFFFF_FFFF,
            16 => (self.below(8) << 32) | self.below(8),
            17 => (self.below(80) << 32) | self.domid(ids),
            18 => (self.domid(ids) << 16) | self.of(&[1, 2, 3, 5, 0x19, 0x1D, 0xFFFF]),
            _ => self.of(&EDGES),
        }
    }
    pub(crate) fn word(&mut self, ids: &[u64]) -> u32 {
        self.value(ids) as u32
    }
    /// Bytes of such numbers, at least so many.
    pub(crate) fn bytes(&mut self, ids: &[u64], at_least: usize) -> Vec<u8> {
        let mut all = Vec::with_capacity(at_least + 8);
        while all.len() < at_least {
            if self.one_in(2) {
                all.extend_from_slice(&self.word(ids).to_le_bytes());
            } else if all.len() % 8 == 0 {
                all.extend_from_slice(&self.value(ids).to_le_bytes());
            }
        }
        all
    }
}
