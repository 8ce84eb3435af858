//! LZ4's legacy frame: a magic number, then blocks of up to 8 MiB, each with its packed size before it and packed by
//! itself.
//!
//! It has no checksum. Corruption shows where a block does not unpack or the sizes do not add up; a flipped literal
//! byte passes.

use super::{Format, PayloadError};
use crate::le::u32_at;

const MAGIC: u32 = 0x184c_2102;
const BLOCK: usize = 8 << 20;
const CORRUPT: PayloadError = PayloadError::Corrupt(Format::Lz4);

pub(super) fn unpack(packed: &[u8], mut out: &mut [u8]) -> Result<(), PayloadError> {
    let mut rest = packed;
    while !rest.is_empty() {
        let word = u32_at(rest, 0).ok_or(CORRUPT)?;
        rest = rest.get(4..).ok_or(CORRUPT)?;
        // frames may follow each other
        if word == MAGIC {
            continue;
        }
        let size = usize::try_from(word).map_err(|_| CORRUPT)?;
        let (block, next) = rest.split_at_checked(size).ok_or(CORRUPT)?;
        let room = out.len().min(BLOCK);
        let written =
            lz4_flex::block::decompress_into(block, &mut out[..room]).map_err(|_| CORRUPT)?;
        out = &mut out[written..];
        rest = next;
    }
    if out.is_empty() { Ok(()) } else { Err(CORRUPT) }
}
