//! gzip (RFC 1952): a header, a deflate stream, a CRC-32 and the size.

use super::{Format, PayloadError};
use crate::le::{u8_at, u16_at, u32_at};
use alloc::boxed::Box;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

const CORRUPT: PayloadError = PayloadError::Corrupt(Format::Gzip);

/// The unpacker's tables.
pub(super) const HEAP_NEEDED: usize = size_of::<DecompressorOxide>() + 4096;

pub(super) fn unpack(packed: &[u8], out: &mut [u8]) -> Result<(), PayloadError> {
    let deflated = packed
        .get(header_size(packed).ok_or(CORRUPT)?..)
        .ok_or(CORRUPT)?;
    let (deflated, trailer) = deflated.split_last_chunk::<8>().ok_or(CORRUPT)?;
    let mut decoder = Box::<DecompressorOxide>::default();
    let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (status, _, written) = decompress(&mut decoder, deflated, out, 0, flags);
    if status != TINFLStatus::Done || written != out.len() {
        return Err(CORRUPT);
    }
    if u32_at(trailer, 0) != Some(crc32fast::hash(out)) {
        return Err(CORRUPT);
    }
    Ok(())
}

/// The header's size with its optional fields.
fn header_size(packed: &[u8]) -> Option<usize> {
    const HCRC: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    if u8_at(packed, 2)? != 8 {
        return None;
    }
    let flags = u8_at(packed, 3)?;
    let mut size = 10usize;
    if flags & EXTRA != 0 {
        size += 2 + usize::from(u16_at(packed, size)?);
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            size += packed.get(size..)?.iter().position(|&byte| byte == 0)? + 1;
        }
    }
    Some(if flags & HCRC != 0 { size + 2 } else { size })
}
