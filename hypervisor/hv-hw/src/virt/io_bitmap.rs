//! The map of ports that a guest reaches without an exit: a bit a port, as VT-x and SVM alike have it.
//!
//! Source: Intel SDM vol. 3C, "I/O-Bitmap Addresses".

use hv_core::addr::Mfn;
use hv_core::mem::TableMem;

use crate::direct_map::DirectTables;

/// Bytes of an I/O bitmap: a bit a port.
const BYTES: usize = 8192;

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
    /// The two frames, lower ports first.
    #[must_use]
    pub fn frames(&self) -> [Mfn; 2] {
        self.frames
    }
}
