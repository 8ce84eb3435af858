//! The MSR permissions map: what a guest reaches without an exit. It starts by denying everything.
//!
//! Source: AMD APM vol. 2, "MSR Intercepts".

use core::ops::Range;

use hv_core::addr::{Hpa, MfnRange};
use hv_core::mem::TableMem;
use hv_core::msr::PassthroughList;
use hv_core::msr::number::{IA32_EFER, IA32_PAT};

use crate::direct_map::DirectTables;

const WORDS: usize = 512;
/// Of the map's pairs of bits, those of an MSR: reads, then writes.
const READ: u64 = 1;
const WRITE: u64 = 2;
/// MSRs that the VMCB holds and emulators do not load from there, and EFER, whose SVME is ours: they exit always.
const NEVER: [u32; 2] = [IA32_PAT, IA32_EFER];

/// The frames of an MSR permissions map: two bits an MSR, 2 KiB for each of three ranges of numbers.
#[derive(Debug)]
pub(super) struct MsrMap {
    frames: MfnRange,
    /// What it lets through.
    passthrough: PassthroughList,
}

impl MsrMap {
    /// Takes the frames and lets the guest reach what `passthrough` says, and nothing else.
    #[must_use]
    pub(super) fn new(frames: MfnRange, passthrough: &PassthroughList) -> Self {
        let map = Self {
            frames,
            passthrough: passthrough.clone(),
        };
        map.fill();
        map
    }

    /// Lets the guest reach what `passthrough` says, and nothing else.
    pub(super) fn set(&mut self, passthrough: &PassthroughList) {
        if self.passthrough != *passthrough {
            self.passthrough.clone_from(passthrough);
            self.fill();
        }
    }

    /// Writes the map as the list has it.
    fn fill(&self) {
        for word in 0..WORDS * 2 {
            self.write(word, u64::MAX);
        }
        for pass in self
            .passthrough
            .iter()
            .filter(|pass| !NEVER.contains(&pass.msr))
        {
            let Some(bit) = bit_of(pass.msr) else {
                continue;
            };
            let allowed = if pass.read { READ } else { 0 } | if pass.write { WRITE } else { 0 };
            let word = self.read(bit / 64);
            self.write(bit / 64, word & !(allowed << (bit % 64)));
        }
    }

    /// Its address, for the VMCB.
    #[must_use]
    pub(super) fn address(&self) -> Hpa {
        self.frames.start.base()
    }

    fn read(&self, word: usize) -> u64 {
        DirectTables.read(self.frames.start + (word / WORDS) as u64, word % WORDS)
    }

    fn write(&self, word: usize, value: u64) {
        DirectTables.write(
            self.frames.start + (word / WORDS) as u64,
            word % WORDS,
            value,
        );
    }
}

/// The first of an MSR's two bits; `None` for those that have none and always exit.
fn bit_of(msr: u32) -> Option<usize> {
    const RANGES: [Range<u32>; 3] = [
        0..0x2000,
        0xC000_0000..0xC000_2000,
        0xC001_0000..0xC001_2000,
    ];
    const BITS_PER_RANGE: usize = 0x2000 * 2;
    let (index, range) = (0..).zip(RANGES).find(|(_, range)| range.contains(&msr))?;
    Some(index * BITS_PER_RANGE + (msr - range.start) as usize * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_where_the_manual_has_them() {
        assert_eq!(bit_of(0), Some(0));
        assert_eq!(bit_of(0x1FFF), Some(0x800 * 8 - 2));
        assert_eq!(bit_of(0xC000_0080), Some(0x800 * 8 + 0x100));
        assert_eq!(bit_of(0xC001_0015), Some(0x1000 * 8 + 0x2A));
        assert_eq!(bit_of(0x4000_0000), None);
        assert_eq!(bit_of(0xC001_2000), None);
    }
}
