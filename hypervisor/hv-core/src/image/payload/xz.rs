//! XZ: LZMA2 behind, in a kernel, the filter that makes x86 code pack better.
//!
//! The library keeps a dictionary of its own, which the block's header sizes: 32 MiB in Debian's kernels. It grows
//! while it fills, so that for a moment the old and the new one are there.

use super::{Format, PayloadError};
use crate::le::u8_at;
use lzma_rust2::{Error, Read, XzReader};

/// What the unpacker needs beside its dictionary: probabilities, input buffer.
const TABLES: usize = 512 << 10;
/// Packed kernels use 32 MiB; more than this is nonsense.
const MAX_DICTIONARY: usize = 256 << 20;

pub(super) fn unpack(packed: &[u8], out: &mut [u8]) -> Result<(), PayloadError> {
    let limit_kib = u32::try_from((MAX_DICTIONARY + TABLES) / 1024).unwrap_or(u32::MAX);
    let mut reader = XzReader::new_mem_limit(packed, false, limit_kib);
    reader.read_exact(out).map_err(from_library)?;
    // at the end of the data, and only there, checksum and index are checked
    match reader.read(&mut [0]).map_err(from_library)? {
        0 => Ok(()),
        _ => Err(PayloadError::WrongBuffer),
    }
}

pub(super) fn heap_needed(packed: &[u8]) -> usize {
    let dictionary = dictionary_size(packed)
        .unwrap_or(MAX_DICTIONARY)
        .min(MAX_DICTIONARY);
    dictionary + dictionary / 2 + TABLES
}

fn from_library(error: Error) -> PayloadError {
    match error {
        Error::OutOfMemory(_) => PayloadError::OutOfMemory(Format::Xz),
        _ => PayloadError::Corrupt(Format::Xz),
    }
}

/// The dictionary's size from the first block's header.
///
/// Source: "The .xz File Format", "Block Header" and "LZMA2".
fn dictionary_size(packed: &[u8]) -> Option<usize> {
    const STREAM_HEADER: usize = 12;
    const LZMA2: u64 = 0x21;
    let flags = u8_at(packed, STREAM_HEADER + 1)?;
    let mut rest = packed.get(STREAM_HEADER + 2..)?;
    // compressed and uncompressed size, each optional
    for optional in [0x40, 0x80] {
        if flags & optional != 0 {
            number(&mut rest)?;
        }
    }
    for _ in 0..=flags & 3 {
        let id = number(&mut rest)?;
        let size = usize::try_from(number(&mut rest)?).ok()?;
        let (properties, next) = rest.split_at_checked(size)?;
        if id == LZMA2 {
            let bits = *properties.first()?;
            let mantissa = 2 | usize::from(bits & 1);
            return mantissa
                .checked_shl(u32::from(bits / 2) + 11)
                .filter(|_| bits <= 40);
        }
        rest = next;
    }
    None
}

/// A number in groups of 7 bits, the lowest first.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (&byte, next) = rest.split_first()?;
        *rest = next;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_dictionary_of_a_kernel_is_32_mib() {
        let header = b"\xfd7zXZ\0\0\x01\x69\x22\xde\x36\x02\x01\x04\x00\x21\x01\x1a\0\0\0";
        assert_eq!(dictionary_size(header), Some(32 << 20));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(heap_needed(&bytes) <= 2 * MAX_DICTIONARY);
        }
    }
}
