//! The I/O and MSR bitmaps: what a guest reaches without an exit. They start by denying everything.
//!
//! Source: Intel SDM vol. 3C, "I/O-Bitmap Addresses", "MSR-Bitmap Address".

use hv_core::addr::Mfn;
use hv_core::mem::TableMem;

use crate::direct_map::DirectTables;

const WORDS: usize = 512;
const PORTS_PER_FRAME: usize = 0x8000;

fn deny_all(frame: Mfn) {
    for word in 0..WORDS {
        DirectTables.write(frame, word, u64::MAX);
    }
}

fn clear_bit(frame: Mfn, bit: usize) {
    let word = DirectTables.read(frame, bit / 64);
    DirectTables.write(frame, bit / 64, word & !(1 << (bit % 64)));
}

/// The two frames of an I/O bitmap.
#[derive(Clone, Copy, Debug)]
pub struct IoBitmap {
    frames: [Mfn; 2],
}

impl IoBitmap {
    /// Takes two frames and denies every port in them.
    #[must_use]
    pub fn new(frames: [Mfn; 2]) -> Self {
        frames.into_iter().for_each(deny_all);
        Self { frames }
    }
    /// Lets the guest reach `port` itself.
    pub fn allow(&mut self, port: u16) {
        let port = usize::from(port);
        clear_bit(self.frames[port / PORTS_PER_FRAME], port % PORTS_PER_FRAME);
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
        let base = match (access, msr >> 13) {
            (MsrAccess::Read, 0) => 0,
            (MsrAccess::Read, 0x6_0000) => 1024 * 8,
            (MsrAccess::Write, 0) => 2048 * 8,
            (MsrAccess::Write, 0x6_0000) => 3072 * 8,
            _ => return,
        };
        clear_bit(self.frame, base + (msr & 0x1FFF) as usize);
    }
    /// The frame, for the VMCS.
    #[must_use]
    pub fn frame(&self) -> Mfn {
        self.frame
    }
}
