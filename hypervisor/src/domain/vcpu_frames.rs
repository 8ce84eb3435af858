//! What a vCPU takes of the machine beside its domain: frames for the CPU's own structures, and an identity in the TLB.

use hv_hw::sync::{RankedLock, rank};

use crate::machine::memory::OwnFrame;

/// VPIDs are 16 bits wide, and 0 is the hypervisor's own.
const VPIDS: usize = 1 << 16;
const WORDS: usize = VPIDS / 64;

/// The frames and the identity of one vCPU, returned when dropped: after its hardware half is unloaded.
#[derive(Debug)]
pub struct VcpuParts {
    /// Frame of the VMCS.
    pub vmcs: OwnFrame,
    /// Frame for extended state.
    pub xsave_area: OwnFrame,
    /// Frame of the virtual local APIC.
    pub virtual_apic: OwnFrame,
    /// Frame of the MSR bitmap.
    pub msr_bitmap: OwnFrame,
    /// Identity in the TLB.
    pub vpid: Vpid,
}

impl VcpuParts {
    /// Takes them; `None` where memory or identities are out.
    #[must_use]
    pub fn alloc() -> Option<Self> {
        Some(Self {
            vmcs: OwnFrame::alloc()?,
            xsave_area: OwnFrame::alloc()?,
            virtual_apic: OwnFrame::alloc()?,
            msr_bitmap: OwnFrame::alloc()?,
            vpid: Vpid::alloc()?,
        })
    }
}

/// An identity in the TLB that no other vCPU has.
#[derive(PartialEq, Eq, Debug)]
pub struct Vpid(u16);

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
    pub fn alloc() -> Option<Self> {
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
    pub fn get(&self) -> u16 {
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
