//! The map of ports that a guest reaches without an exit: a bit a port in consecutive frames. What follows the last
//! port, where a CPU looks for an access that goes beyond it, exits.
//!
//! Source: Intel SDM vol. 3C, "I/O-Bitmap Addresses"; AMD APM vol. 2, "IOIO Intercepts".

use hv_core::addr::{Mfn, MfnRange};
use hv_core::mem::TableMem;

use crate::direct_map::DirectTables;

/// Bytes of an I/O bitmap: a bit a port.
const BYTES: usize = 8192;
/// Words of a frame.
const WORDS: usize = 512;

/// An I/O bitmap.
#[derive(Clone, Copy, Debug)]
pub struct IoBitmap {
    first: Mfn,
}

impl IoBitmap {
    /// Takes frames, of [`Features::io_bitmap`](super::Features::io_bitmap), and fills them with `bits`, one a port,
    /// set where an access exits.
    #[must_use]
    pub fn new(frames: MfnRange, bits: &[u8; BYTES]) -> Self {
        let words = bits.as_chunks().0.iter().copied().map(u64::from_le_bytes);
        let mut words = words.chain(core::iter::repeat(u64::MAX));
        for frame in frames.start.as_u64()..frames.end.as_u64() {
            for (index, word) in (0..WORDS).zip(&mut words) {
                DirectTables.write(Mfn::new(frame), index, word);
            }
        }
        Self {
            first: frames.start,
        }
    }
    /// The first of its frames, which has the lowest ports.
    #[must_use]
    pub fn first(&self) -> Mfn {
        self.first
    }
}
