//! Virtual-processor identifiers: a vCPU's tag in the TLB. SDM vol. 3C, "Virtual-Processor Identifiers".

use crate::sync::{RankedLock, rank};

/// VPIDs are 16 bits wide, and 0 is the hypervisor's own.
const VPIDS: usize = 1 << 16;
const WORDS: usize = VPIDS / 64;

/// An identity in the TLB that no other vCPU has.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Vpid(u16);

struct Taken {
    /// A bit for each, set where taken.
    words: [u64; WORDS],
    /// Where the search begins.
    next_word: usize,
}

static TAKEN: RankedLock<Taken, { rank::SCHED }> = RankedLock::new(Taken {
    // 0 is not given out
    words: {
        let mut words = [0; WORDS];
        words[0] = 1;
        words
    },
    next_word: 0,
});

impl Vpid {
    /// Takes a free one; `None` where all are taken.
    #[must_use]
    pub(super) fn alloc() -> Option<Self> {
        let mut taken = TAKEN.lock();
        let start = taken.next_word;
        for step in 0..WORDS {
            let at = (start + step) % WORDS;
            let word = taken.words.get_mut(at)?;
            let bit = word.trailing_ones();
            if bit < u64::BITS {
                *word |= 1 << bit;
                taken.next_word = at;
                let vpid = at * 64 + bit as usize;
                return u16::try_from(vpid).ok().map(Self);
            }
        }
        None
    }

    /// The number, from 1 on.
    #[must_use]
    pub(super) fn get(&self) -> u16 {
        self.0
    }
}

impl Drop for Vpid {
    fn drop(&mut self) {
        let (at, bit) = (usize::from(self.0) / 64, self.0 % 64);
        if let Some(word) = TAKEN.lock().words.get_mut(at) {
            *word &= !(1 << bit);
        }
    }
}
