//! The MSR bitmap: what a guest reaches without an exit. It starts by denying everything.
//!
//! Source: Intel SDM vol. 3C, "MSR-Bitmap Address".

use hv_core::addr::Mfn;
use hv_core::mem::TableMem;

use crate::direct_map::DirectTables;

const WORDS: usize = 512;

fn deny_all(frame: Mfn) {
    for word in 0..WORDS {
        DirectTables.write(frame, word, u64::MAX);
    }
}

fn clear_bit(frame: Mfn, bit: usize) {
    let word = DirectTables.read(frame, bit / 64);
    DirectTables.write(frame, bit / 64, word & !(1 << (bit % 64)));
}

fn set_bit(frame: Mfn, bit: usize) {
    let word = DirectTables.read(frame, bit / 64);
    DirectTables.write(frame, bit / 64, word | (1 << (bit % 64)));
}

/// The frame of an MSR bitmap: reads of low and high numbers, then writes of low and high numbers, 1 KiB each.
#[derive(Clone, Copy, Debug)]
pub(super) struct MsrBitmap {
    frame: Mfn,
}

/// What an MSR bitmap is asked to let through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MsrAccess {
    Read,
    Write,
}

impl MsrBitmap {
    /// Takes a frame and denies every MSR in it.
    #[must_use]
    pub(super) fn new(frame: Mfn) -> Self {
        deny_all(frame);
        Self { frame }
    }
    /// Lets the guest reach `msr` itself. Numbers outside 0 to 1FFFH and C0000000H to C0001FFFH always exit.
    pub(super) fn allow(&mut self, msr: u32, access: MsrAccess) {
        if let Some(bit) = bit_of(msr, access) {
            clear_bit(self.frame, bit);
        }
    }
    /// Has both accesses to `msr` exit again.
    pub(super) fn deny(&mut self, msr: u32) {
        for access in [MsrAccess::Read, MsrAccess::Write] {
            if let Some(bit) = bit_of(msr, access) {
                set_bit(self.frame, bit);
            }
        }
    }
    /// The frame, for the VMCS.
    #[must_use]
    pub(super) fn frame(&self) -> Mfn {
        self.frame
    }
}

/// The bit of an MSR; `None` for those that have none.
fn bit_of(msr: u32, access: MsrAccess) -> Option<usize> {
    const BITS_PER_PART: usize = 1024 * 8;
    let part = match (access, msr >> 13) {
        (MsrAccess::Read, 0) => 0,
        (MsrAccess::Read, 0x6_0000) => 1,
        (MsrAccess::Write, 0) => 2,
        (MsrAccess::Write, 0x6_0000) => 3,
        _ => return None,
    };
    Some(part * BITS_PER_PART + (msr & 0x1FFF) as usize)
}
