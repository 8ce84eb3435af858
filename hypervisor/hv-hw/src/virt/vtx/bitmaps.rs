//! The I/O and MSR bitmaps: what a guest reaches without an exit. They start by denying everything.
//!
//! Source: Intel SDM vol. 3C, "I/O-Bitmap Addresses", "MSR-Bitmap Address".

use hv_core::addr::Mfn;
use hv_core::mem::TableMem;

use crate::direct_map::DirectTables;

const WORDS: usize = 512;
/// Bytes of an I/O bitmap: a bit a port.
const BYTES: usize = 8192;

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

/// The two frames of an I/O bitmap.
#[derive(Clone, Copy, Debug)]
pub struct IoBitmap {
    frames: [Mfn; 2],
}

impl IoBitmap {
    /// Takes two frames and fills them with `bits`, one a port, set where an access exits.
    #[must_use]
    pub fn new(frames: [Mfn; 2], bits: &[u8; BYTES]) -> Self {
        for (frame, half) in frames.into_iter().zip(bits.chunks_exact(BYTES / 2)) {
            for (index, word) in half.chunks_exact(8).enumerate() {
                let word = word
                    .iter()
                    .rev()
                    .fold(0, |value, byte| (value << 8) | u64::from(*byte));
                DirectTables.write(frame, index, word);
            }
        }
        Self { frames }
    }
    /// The two frames, for the VMCS.
    #[must_use]
    pub fn frames(&self) -> [Mfn; 2] {
        self.frames
    }
}

/// The frame of an MSR bitmap: reads of low and high numbers, then writes of low and high numbers, 1 KiB each.
#[derive(Clone, Copy, Debug)]
pub struct MsrBitmap {
    frame: Mfn,
}

/// What an MSR bitmap is asked to let through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsrAccess {
    /// RDMSR.
    Read,
    /// WRMSR.
    Write,
}

impl MsrBitmap {
    /// Takes a frame and denies every MSR in it.
    #[must_use]
    pub fn new(frame: Mfn) -> Self {
        deny_all(frame);
        Self { frame }
    }
    /// Lets the guest reach `msr` itself. Numbers outside 0 to 1FFFH and C0000000H to C0001FFFH always exit.
    pub fn allow(&mut self, msr: u32, access: MsrAccess) {
        if let Some(bit) = bit_of(msr, access) {
            clear_bit(self.frame, bit);
        }
    }
    /// Has both accesses to `msr` exit again.
    pub fn deny(&mut self, msr: u32) {
        for access in [MsrAccess::Read, MsrAccess::Write] {
            if let Some(bit) = bit_of(msr, access) {
                set_bit(self.frame, bit);
            }
        }
    }
    /// The frame, for the VMCS.
    #[must_use]
    pub fn frame(&self) -> Mfn {
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
