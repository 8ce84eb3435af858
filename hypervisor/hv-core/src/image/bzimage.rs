//! The bzImage: a Linux kernel as distributions ship it, a boot header in front of a compressed ELF file.
//!
//! Only the payload is used: the PVH entry point lies in the ELF file inside, and the real-mode and unpacking code
//! around it never runs. A PVH entry is 32-bit code, so a 32-bit kernel is entered in the same way.
//!
//! Source: Linux, "The Linux/x86 Boot Protocol".

use super::payload::{Payload, PayloadError};
use crate::le::{array_at, u8_at, u16_at, u32_at};
use core::fmt;

/// A bzImage's header, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BzImage<'a> {
    /// The boot protocol's version, major in the high byte: 0x20f is 2.15.
    pub protocol: u16,
    /// The longest command line the kernel takes, in bytes without the NUL.
    pub command_line_max: u32,
    /// It is a 32-bit kernel (no XLF_KERNEL_64).
    pub is_32_bit: bool,
    pub payload: Payload<'a>,
}

/// Why a file that looks like a bzImage cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BzImageError {
    /// It ends inside its header or its payload: this many bytes are missing.
    Truncated(u64),
    /// Its boot protocol has no payload fields: older than 2.08 (Linux 2.6.26).
    OldProtocol(u16),
    /// Its payload is malformed.
    Payload(PayloadError),
}

impl fmt::Display for BzImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated(missing) => {
                write!(f, "the bzImage is truncated: {missing} bytes are missing")
            }
            Self::OldProtocol(version) => write!(
                f,
                "the bzImage has boot protocol {}.{:02}, at least 2.08 is needed",
                version >> 8,
                version & 0xff
            ),
            Self::Payload(error) => write!(f, "the bzImage's payload: {error}"),
        }
    }
}

/// Where the header starts, its last field that we read ends, and one setup sector's size.
const SETUP_SECTS: usize = 0x1f1;
const HEADER_END: usize = 0x250;
const SECTOR: u64 = 512;
/// What the header's fields at 0x248 need.
const MIN_PROTOCOL: u16 = 0x208;
/// The first version that tells 64-bit kernels apart.
const XLOADFLAGS_PROTOCOL: u16 = 0x20c;

/// True where the file is a bzImage by its magic numbers.
#[must_use]
pub fn is_bzimage(file: &[u8]) -> bool {
    u16_at(file, 0x1fe) == Some(0xaa55) && array_at(file, 0x202) == Some(*b"HdrS")
}

impl<'a> BzImage<'a> {
    /// Reads the header of a file for which [`is_bzimage`] holds, and finds the payload.
    ///
    /// # Errors
    /// Says what makes the file unusable.
    pub fn parse(file: &'a [u8]) -> Result<Self, BzImageError> {
        let Some(header) = file.get(..HEADER_END) else {
            return Err(BzImageError::Truncated(missing(HEADER_END as u64, file)));
        };
        let field = |offset| u32_at(header, offset).unwrap_or_default();
        let protocol = u16_at(header, 0x206).unwrap_or_default();
        if protocol < MIN_PROTOCOL {
            return Err(BzImageError::OldProtocol(protocol));
        }
        // 0 means 4, as in kernels of old
        let sectors = u8_at(header, SETUP_SECTS)
            .filter(|&sectors| sectors != 0)
            .unwrap_or(4);
        let start = (u64::from(sectors) + 1) * SECTOR + u64::from(field(0x248));
        let end = start + u64::from(field(0x24c));
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let payload = range.and_then(|(start, end)| file.get(start..end));
        let payload = payload.ok_or(BzImageError::Truncated(missing(end, file)))?;
        Ok(Self {
            protocol,
            command_line_max: field(0x238),
            is_32_bit: protocol >= XLOADFLAGS_PROTOCOL && field(0x236) & 1 == 0,
            payload: Payload::detect(payload).map_err(BzImageError::Payload)?,
        })
    }
}

fn missing(needed: u64, file: &[u8]) -> u64 {
    needed.saturating_sub(file.len() as u64)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::payload::Format;
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// A bzImage with two setup sectors around `payload`.
    pub(in super::super) fn wrap(payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 3 * 512];
        file[SETUP_SECTS] = 2;
        file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        file[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
        file[0x236] = 1;
        file[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
        file[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        file.extend(payload);
        file
    }

    fn plain() -> Vec<u8> {
        wrap(b"\x7fELF 12345678\x0c\0\0\0")
    }

    #[test]
    fn the_payload_is_found() {
        let file = plain();
        assert!(is_bzimage(&file));
        let image = BzImage::parse(&file).unwrap();
        assert_eq!((image.protocol, image.command_line_max), (0x20f, 2047));
        assert_eq!(
            (image.payload.format(), image.payload.unpacked_size()),
            (Format::Plain, 12)
        );
    }

    #[test]
    fn a_32_bit_kernel_is_known_where_the_protocol_tells_them_apart() {
        let mut file = plain();
        assert!(!BzImage::parse(&file).unwrap().is_32_bit);
        file[0x236] = 0;
        assert!(BzImage::parse(&file).unwrap().is_32_bit);
        file[0x206] = 0xb;
        assert!(!BzImage::parse(&file).unwrap().is_32_bit);
    }

    #[test]
    fn unusable_files_are_named() {
        let file = plain();
        assert_eq!(
            BzImage::parse(&file[..file.len() - 3]),
            Err(BzImageError::Truncated(3))
        );
        assert_eq!(
            BzImage::parse(&file[..0x210]),
            Err(BzImageError::Truncated(0x40))
        );
        let mut old = file;
        old[0x206] = 7;
        assert_eq!(BzImage::parse(&old), Err(BzImageError::OldProtocol(0x207)));
        assert!(!is_bzimage(&[0; 0x200]) && !is_bzimage(&[]));
    }

    proptest! {
        #[test]
        fn no_header_panics(header in proptest::collection::vec(any::<u8>(), 0x60), tail in 0usize..600) {
            let mut file = plain();
            file[0x1f1..0x251].copy_from_slice(&header);
            file.truncate(file.len() - tail);
            let _ = BzImage::parse(&file);
        }
    }
}
