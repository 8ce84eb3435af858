//! Whether an initrd is whole: a look at its structure before the kernel that would fail on it an hour later.
//!
//! An initrd is a row of archives with zeros between them, each a cpio archive or a compressed one. What can be walked
//! without unpacking is walked to its end: cpio, zstd and lz4. Of the other formats only the first bytes are known here,
//! and what follows such a part is not looked at: Linux has checksums of its own.
//!
//! Source: Linux, "Early userspace support" and "initramfs buffer format"; RFC 8878; "LZ4 Frame Format Description".

use core::fmt;

/// What is wrong with an initrd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitrdError {
    /// It is empty, or nothing but zeros.
    Empty,
    /// It ends inside an archive of this format.
    Truncated(&'static str),
    /// This format's structure is broken at this offset.
    Corrupt(&'static str, u64),
    /// At this offset begins nothing that Linux unpacks.
    UnknownFormat(u64),
}

impl fmt::Display for InitrdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the initrd is empty"),
            Self::Truncated(format) => write!(
                f,
                "the initrd is truncated: it ends inside its {format} archive"
            ),
            Self::Corrupt(format, at) => write!(
                f,
                "the initrd is corrupt: its {format} archive is broken at byte {at}"
            ),
            Self::UnknownFormat(at) => write!(
                f,
                "the initrd is corrupt: at byte {at} there is neither a cpio archive nor a format that Linux unpacks"
            ),
        }
    }
}

/// An initrd's bytes, wherever they are.
pub trait Bytes {
    /// How many there are.
    fn len(&self) -> u64;
    /// Copies the bytes from `offset` on. Called only with ranges below `len`.
    fn read(&self, offset: u64, to: &mut [u8]);
    /// True where there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Checks all parts of an initrd.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check(initrd: &impl Bytes) -> Result<(), InitrdError> {
    let mut at = 0;
    let mut parts = 0;
    loop {
        at = skip_zeros(initrd, at);
        if at >= initrd.len() {
            return if parts == 0 {
                Err(InitrdError::Empty)
            } else {
                Ok(())
            };
        }
        let magic: [u8; 8] = padded(initrd, at);
        let Some(format) = FORMATS
            .iter()
            .find(|format| magic.starts_with(format.magic))
        else {
            return Err(InitrdError::UnknownFormat(at));
        };
        match format.walk {
            Some(walk) => at = walk(initrd, at)?,
            None => return Ok(()),
        }
        parts += 1;
    }
}

/// Goes from an archive's first byte to the one behind its last.
type Walk = fn(&dyn Bytes, u64) -> Result<u64, InitrdError>;

struct Format {
    magic: &'static [u8],
    /// `None` where the format cannot be walked without unpacking.
    walk: Option<Walk>,
}

const FORMATS: [Format; 10] = [
    Format {
        magic: b"070701",
        walk: Some(walk_cpio),
    },
    Format {
        magic: b"070702",
        walk: Some(walk_cpio),
    },
    Format {
        magic: b"\x28\xb5\x2f\xfd",
        walk: Some(walk_zstd),
    },
    Format {
        magic: b"\x02\x21\x4c\x18",
        walk: Some(walk_lz4),
    },
    Format {
        magic: b"\x1f\x8b",
        walk: None,
    },
    Format {
        magic: b"\x1f\x9e",
        walk: None,
    },
    Format {
        magic: b"BZh",
        walk: None,
    },
    Format {
        magic: b"\x5d\x00\x00",
        walk: None,
    },
    Format {
        magic: b"\xfd7zXZ\0",
        walk: None,
    },
    Format {
        magic: b"\x89LZO\0\r\n\x1a",
        walk: None,
    },
];

/// The bytes at `at`, zeros behind the end.
fn padded<const N: usize>(initrd: &dyn Bytes, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    let left = initrd.len().saturating_sub(at);
    let count = usize::try_from(left).unwrap_or(N).min(N);
    if let Some(there) = bytes.get_mut(..count) {
        initrd.read(at, there);
    }
    bytes
}

fn exact<const N: usize>(
    initrd: &dyn Bytes,
    at: u64,
    format: &'static str,
) -> Result<[u8; N], InitrdError> {
    let end = at
        .checked_add(N as u64)
        .ok_or(InitrdError::Truncated(format))?;
    if end > initrd.len() {
        return Err(InitrdError::Truncated(format));
    }
    Ok(padded(initrd, at))
}

fn skip_zeros(initrd: &dyn Bytes, mut at: u64) -> u64 {
    while at < initrd.len() {
        let bytes: [u8; 64] = padded(initrd, at);
        if let Some(first) = bytes.iter().position(|byte| *byte != 0) {
            return at.saturating_add(first as u64);
        }
        at = at.saturating_add(64);
    }
    initrd.len()
}

const CPIO: &str = "cpio";
const CPIO_HEADER: usize = 110;
const TRAILER: &[u8; 11] = b"TRAILER!!!\0";

/// File after file, each a header of hexadecimal digits, its name and its data, padded to 4 bytes.
fn walk_cpio(initrd: &dyn Bytes, mut at: u64) -> Result<u64, InitrdError> {
    let start = at;
    loop {
        let header: [u8; CPIO_HEADER] = exact(initrd, at, CPIO)?;
        let corrupt = InitrdError::Corrupt(CPIO, at);
        if !header.starts_with(b"070701") && !header.starts_with(b"070702") {
            return Err(corrupt);
        }
        let field = |index: usize| hex(header.get(6 + index * 8..14 + index * 8)?);
        let (size, name_size) = (field(6).ok_or(corrupt)?, field(11).ok_or(corrupt)?);
        let name_at = at.saturating_add(CPIO_HEADER as u64);
        let name: [u8; TRAILER.len()] = padded(initrd, name_at);
        let name_end = name_at.saturating_add(name_size);
        let data_at = pad4(start, name_end);
        let data_end = data_at.saturating_add(size);
        // the padding behind the last byte is nobody's
        let end = if size == 0 { name_end } else { data_end };
        if end > initrd.len() {
            return Err(InitrdError::Truncated(CPIO));
        }
        at = pad4(start, data_end);
        if name_size == TRAILER.len() as u64 && name == *TRAILER {
            return Ok(at);
        }
    }
}

/// Archives may begin at any offset; their padding counts from there.
fn pad4(start: u64, at: u64) -> u64 {
    at.saturating_add(start.wrapping_sub(at) & 3)
}

fn hex(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
}

const ZSTD: &str = "zstd";

/// A frame's header, its blocks up to the last one, its checksum.
fn walk_zstd(initrd: &dyn Bytes, at: u64) -> Result<u64, InitrdError> {
    let [_, _, _, _, descriptor] = exact(initrd, at, ZSTD)?;
    let is_single_segment = descriptor & 1 << 5 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content = match descriptor >> 6 {
        0 => u64::from(is_single_segment),
        bits => 1 << bits,
    };
    let mut at = at + 5 + u64::from(!is_single_segment) + dictionary + content;
    loop {
        let [low, middle, high] = exact(initrd, at, ZSTD)?;
        let header = u32::from_le_bytes([low, middle, high, 0]);
        let size = match header >> 1 & 3 {
            // one byte, repeated
            1 => 1,
            3 => return Err(InitrdError::Corrupt(ZSTD, at)),
            _ => u64::from(header >> 3),
        };
        at = at.saturating_add(3 + size);
        if header & 1 != 0 {
            break;
        }
    }
    at = at.saturating_add(if descriptor & 1 << 2 != 0 { 4 } else { 0 });
    if at > initrd.len() {
        Err(InitrdError::Truncated(ZSTD))
    } else {
        Ok(at)
    }
}

const LZ4: &str = "lz4";
const LZ4_MAGIC: u32 = 0x184c_2102;
/// What 8 MiB that cannot be compressed become.
const LZ4_LARGEST_BLOCK: u32 = (8 << 20) + (8 << 20) / 255 + 16;

/// Blocks behind their sizes, up to the end or to zeros.
fn walk_lz4(initrd: &dyn Bytes, at: u64) -> Result<u64, InitrdError> {
    let mut at = at + 4;
    while at < initrd.len() {
        let size = u32::from_le_bytes(exact(initrd, at, LZ4)?);
        match size {
            0 => return Ok(at),
            LZ4_MAGIC => at += 4,
            size if size > LZ4_LARGEST_BLOCK => return Err(InitrdError::Corrupt(LZ4, at)),
            size => at = at.saturating_add(4 + u64::from(size)),
        }
    }
    if at > initrd.len() {
        Err(InitrdError::Truncated(LZ4))
    } else {
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{format, vec, vec::Vec};

    impl Bytes for Vec<u8> {
        fn len(&self) -> u64 {
            self.as_slice().len() as u64
        }
        fn read(&self, offset: u64, to: &mut [u8]) {
            let start = usize::try_from(offset).unwrap();
            to.copy_from_slice(&self[start..start + to.len()]);
        }
    }

    fn file(archive: &mut Vec<u8>, name: &str, data: &[u8]) {
        let mut fields = [0; 13];
        (fields[6], fields[11]) = (data.len(), name.len() + 1);
        archive.extend(b"070701");
        fields
            .iter()
            .for_each(|field| archive.extend(format!("{field:08X}").bytes()));
        archive.extend(name.bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }

    fn cpio(files: &[Vec<u8>]) -> Vec<u8> {
        let mut archive = Vec::new();
        files
            .iter()
            .enumerate()
            .for_each(|(index, data)| file(&mut archive, &format!("f{index}"), data));
        file(&mut archive, "TRAILER!!!", b"");
        archive
    }

    /// A frame without checksum of raw blocks.
    fn zstd(blocks: &[Vec<u8>]) -> Vec<u8> {
        let mut frame = b"\x28\xb5\x2f\xfd\x00\x58".to_vec();
        for (index, block) in blocks.iter().enumerate() {
            let is_last = u32::from(index + 1 == blocks.len());
            let header = u32::try_from(block.len()).unwrap() << 3 | is_last;
            frame.extend(&header.to_le_bytes()[..3]);
            frame.extend(block);
        }
        frame
    }

    fn lz4(blocks: &[Vec<u8>]) -> Vec<u8> {
        let mut frame = b"\x02\x21\x4c\x18".to_vec();
        for block in blocks {
            frame.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            frame.extend(block);
        }
        frame
    }

    #[test]
    fn an_early_archive_and_a_compressed_one_with_zeros_between_are_whole() {
        let mut initrd = cpio(&[vec![1; 77]]);
        initrd.resize(initrd.len().next_multiple_of(512), 0);
        initrd.extend(zstd(&[vec![5; 100], vec![6; 3]]));
        assert_eq!(check(&initrd), Ok(()));
    }

    #[test]
    fn nothing_and_nonsense_are_told_apart() {
        assert_eq!(check(&Vec::new()), Err(InitrdError::Empty));
        assert_eq!(check(&vec![0; 4096]), Err(InitrdError::Empty));
        assert_eq!(
            check(&b"This is no initrd".to_vec()),
            Err(InitrdError::UnknownFormat(0))
        );
    }

    #[test]
    fn formats_that_cannot_be_walked_are_known_by_their_first_bytes() {
        assert_eq!(check(&b"\x1f\x8b\x08rest".to_vec()), Ok(()));
        assert_eq!(check(&b"\xfd7zXZ\0rest".to_vec()), Ok(()));
    }

    #[test]
    fn a_damaged_header_is_told_with_its_place() {
        let mut initrd = cpio(&[vec![1; 4], vec![2; 4]]);
        let second = initrd.len() / 3;
        let second = (second..initrd.len())
            .find(|at| initrd[*at..].starts_with(b"070701"))
            .unwrap();
        initrd[second + 2] = b'x';
        assert_eq!(
            check(&initrd),
            Err(InitrdError::Corrupt(CPIO, second as u64))
        );
    }

    /// Behind the trailer's name, in an archive that begins at a multiple of 4.
    const TRAILER_PADDING: usize = 3;

    #[test]
    fn the_trailers_padding_may_be_missing_and_no_more() {
        let whole = cpio(&[vec![1; 4]]);
        for cut in 1..=TRAILER_PADDING {
            assert_eq!(check(&whole[..whole.len() - cut].to_vec()), Ok(()), "{cut}");
        }
        assert_eq!(
            check(&whole[..whole.len() - TRAILER_PADDING - 1].to_vec()),
            Err(InitrdError::Truncated(CPIO))
        );
    }

    fn blocks() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(1..=255u8, 1..40), 1..6)
    }

    proptest! {
        #[test]
        fn whole_is_accepted_and_any_shorter_is_truncated(blocks in blocks(), cut in 1..usize::MAX, kind in 0..3) {
            let whole = match kind {
                0 => cpio(&blocks),
                1 => zstd(&blocks),
                _ => lz4(&blocks),
            };
            prop_assert_eq!(check(&whole), Ok(()));
            let mut short = whole.clone();
            // an lz4 archive may end behind any block: what is cut is less than its last
            let least = if kind == 2 { whole.len() - blocks.last().unwrap().len() } else { 8 };
            short.truncate(least + cut % (whole.len() - least));
            let is_whole = kind == 0 && whole.len() - short.len() <= TRAILER_PADDING;
            prop_assert_eq!(check(&short).is_err(), !is_whole, "{} of {}", short.len(), whole.len());
        }

        #[test]
        fn any_bytes_end_in_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..300), format in 0..FORMATS.len()) {
            let mut initrd = FORMATS[format].magic.to_vec();
            initrd.extend(bytes);
            let _ = check(&initrd);
        }
    }
}
