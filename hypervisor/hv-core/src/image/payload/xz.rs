//! XZ: LZMA2 behind, in a kernel, the filter that makes x86 code pack better.
//!
//! What a kernel's build writes and its own unpacker reads is supported: one stream, CRC-32 or no checksum.
//! The decoder is our own because it is most of the boot. For the kernel of Debian 12, 63 MiB, built for the
//! hypervisor's target and profile (instructions by cachegrind):
//!
//! | | instructions | heap |
//! |---|---|---|
//! | this | 2.53 G | 32 KiB |
//! | lzma-rust2 0.25, with its assembly | 4.70 G | 48 MiB |
//! | xz4rust 0.2.3 | 4.78 G | 32 MiB |
//!
//! Without overflow checks in the libraries it is 4.22 G and 4.61 G. Both keep a dictionary beside the output.
//! A library that takes less than 1.5 times ours is to replace this.
//! Next: `lzma2` for the data, `x86` for the filter.
//!
//! Source: "The .xz File Format".

mod lzma2;
mod model;
mod range;
mod x86;

use super::{Format, PayloadError};
use crate::le::u32_at;
use model::Model;

const CORRUPT: PayloadError = PayloadError::Corrupt(Format::Xz);

/// What the unpacker's tables take.
pub(super) const HEAP_NEEDED: usize = Model::HEAP_NEEDED + 4096;

/// A stream's header and footer.
const STREAM_HEADER: usize = 12;
const HEADER_MAGIC: &[u8] = b"\xfd7zXZ\0";
const FOOTER_MAGIC: &[u8] = b"YZ";

/// A kind of checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Check {
    None,
    Crc32,
}

pub(super) fn unpack(packed: &[u8], out: &mut [u8]) -> Result<(), PayloadError> {
    let (header, mut rest) = packed.split_at_checked(STREAM_HEADER).ok_or(CORRUPT)?;
    let flags = header.get(6..8).ok_or(CORRUPT)?;
    if !header.starts_with(HEADER_MAGIC) || u32_at(header, 8) != Some(crc32fast::hash(flags)) {
        return Err(CORRUPT);
    }
    let check = match flags {
        [0, 0] => Check::None,
        [0, 1] => Check::Crc32,
        [0, _] => return Err(unsupported("xz with a checksum other than CRC-32")),
        _ => return Err(CORRUPT),
    };
    let mut model = Model::new().ok_or(PayloadError::OutOfMemory(Format::Xz))?;
    let mut index = IndexSum::default();
    let mut written = 0;
    while rest.first() != Some(&0) {
        let room = out.get_mut(written..).ok_or(CORRUPT)?;
        let block = Block::parse(rest)?;
        let sizes = block.unpack(check, room, &mut model)?;
        rest = rest.get(sizes.padded()..).ok_or(CORRUPT)?;
        written += sizes.unpacked;
        index.add(sizes);
    }
    if written != out.len() {
        return Err(PayloadError::WrongBuffer);
    }
    let index_size = index.check(rest).ok_or(CORRUPT)?;
    let footer = rest.get(index_size..).ok_or(CORRUPT)?;
    check_footer(footer, index_size, flags).ok_or(CORRUPT)
}

fn unsupported(what: &'static str) -> PayloadError {
    PayloadError::UnknownFormat(Some(what))
}

/// A block's header, and what follows it.
struct Block<'a> {
    packed_size: Option<u64>,
    unpacked_size: Option<u64>,
    /// Where the x86 filter begins to count, if there is one.
    x86_start: Option<u32>,
    header_size: usize,
    rest: &'a [u8],
}

/// What the index has of each block.
#[derive(Clone, Copy)]
struct Sizes {
    /// Header, packed data and checksum.
    unpadded: usize,
    unpacked: usize,
    check: usize,
}

impl Sizes {
    /// With the padding to 4 bytes, which comes before the checksum, itself of whole words.
    fn padded(self) -> usize {
        (self.unpadded - self.check).next_multiple_of(4) + self.check
    }
}

impl<'a> Block<'a> {
    const HAS_PACKED_SIZE: u8 = 0x40;
    const HAS_UNPACKED_SIZE: u8 = 0x80;
    const X86: u64 = 4;
    const LZMA2: u64 = 0x21;

    fn parse(bytes: &'a [u8]) -> Result<Self, PayloadError> {
        let words = usize::from(*bytes.first().ok_or(CORRUPT)?) + 1;
        let (header, rest) = bytes.split_at_checked(words * 4).ok_or(CORRUPT)?;
        let (fields, sum) = header.split_last_chunk::<4>().ok_or(CORRUPT)?;
        if u32::from_le_bytes(*sum) != crc32fast::hash(fields) {
            return Err(CORRUPT);
        }
        let [_, flags, fields @ ..] = fields else {
            return Err(CORRUPT);
        };
        let mut fields = fields;
        let mut optional = |bit| match flags & bit {
            0 => Ok(None),
            _ => number(&mut fields).map(Some).ok_or(CORRUPT),
        };
        let packed_size = optional(Self::HAS_PACKED_SIZE)?;
        let unpacked_size = optional(Self::HAS_UNPACKED_SIZE)?;
        let x86_start = Self::filters(flags & 3, &mut fields)?;
        if fields.iter().any(|&byte| byte != 0) {
            return Err(CORRUPT);
        }
        Ok(Self {
            packed_size,
            unpacked_size,
            x86_start,
            header_size: header.len(),
            rest,
        })
    }

    /// LZMA2, alone or behind the x86 filter.
    fn filters(before: u8, fields: &mut &[u8]) -> Result<Option<u32>, PayloadError> {
        let mut x86_start = None;
        for _ in 0..before {
            x86_start = match filter(fields).ok_or(CORRUPT)? {
                (Self::X86, []) if before == 1 => Some(0),
                (Self::X86, [a, b, c, d]) if before == 1 => {
                    Some(u32::from_le_bytes([*a, *b, *c, *d]))
                }
                _ => return Err(unsupported("xz with a filter other than x86's")),
            };
        }
        match filter(fields).ok_or(CORRUPT)? {
            (Self::LZMA2, [0..=40]) => Ok(x86_start),
            _ => Err(CORRUPT),
        }
    }

    /// Unpacks to the start of `out`.
    fn unpack(
        &self,
        check: Check,
        out: &mut [u8],
        model: &mut Model,
    ) -> Result<Sizes, PayloadError> {
        let (taken, unpacked) = lzma2::unpack(self.rest, out, model).map_err(|_| CORRUPT)?;
        let is =
            |stated: Option<u64>, size: usize| stated.is_none_or(|stated| stated == size as u64);
        if !is(self.packed_size, taken) || !is(self.unpacked_size, unpacked) {
            return Err(CORRUPT);
        }
        let out = out.get_mut(..unpacked).ok_or(CORRUPT)?;
        if let Some(start) = self.x86_start {
            x86::to_relative(out, start);
        }
        let padded = taken.next_multiple_of(4);
        let padding = self.rest.get(taken..padded).ok_or(CORRUPT)?;
        let is_sound = match check {
            Check::None => true,
            Check::Crc32 => u32_at(self.rest, padded) == Some(crc32fast::hash(out)),
        };
        if !is_sound || padding.iter().any(|&byte| byte != 0) {
            return Err(CORRUPT);
        }
        let check = if check == Check::Crc32 { 4 } else { 0 };
        Ok(Sizes {
            unpadded: self.header_size + taken + check,
            unpacked,
            check,
        })
    }
}

/// A filter's number and properties.
fn filter<'a>(fields: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    let id = number(fields)?;
    let size = usize::try_from(number(fields)?).ok()?;
    let (properties, rest) = fields.split_at_checked(size)?;
    *fields = rest;
    Some((id, properties))
}

/// What the index has to say, as it comes to be: the records themselves are not kept, only their checksum.
#[derive(Default)]
struct IndexSum {
    blocks: u64,
    records: crc32fast::Hasher,
    size: usize,
}

impl IndexSum {
    fn add(&mut self, sizes: Sizes) {
        self.blocks += 1;
        for size in [sizes.unpadded, sizes.unpacked] {
            self.size += each_group(size as u64, |byte| self.records.update(&[byte]));
        }
    }

    /// Compares the index at the start of `bytes` with the blocks that were there, and returns its size.
    fn check(&self, bytes: &[u8]) -> Option<usize> {
        let mut rest = bytes.get(1..)?;
        if number(&mut rest)? != self.blocks {
            return None;
        }
        let records = rest.get(..self.size)?;
        let sum = self.records.clone().finalize();
        let end = (bytes.len() - rest.len() + self.size).next_multiple_of(4);
        let is_sound = crc32fast::hash(records) == sum
            && u32_at(bytes, end)? == crc32fast::hash(bytes.get(..end)?);
        is_sound.then_some(end + 4)
    }
}

/// The footer repeats the header's flags and states the index's size.
fn check_footer(footer: &[u8], index_size: usize, flags: &[u8]) -> Option<()> {
    let fields = footer.get(4..10)?;
    let words = usize::try_from(u32_at(fields, 0)?).ok()?;
    let is_sound = footer.get(10..)? == FOOTER_MAGIC
        && u32_at(footer, 0)? == crc32fast::hash(fields)
        && fields.get(4..)? == flags
        && (words + 1) * 4 == index_size;
    is_sound.then_some(())
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

/// The other way round: calls `take` for each byte and returns how many there are.
fn each_group(mut value: u64, mut take: impl FnMut(u8)) -> usize {
    let mut count = 1;
    loop {
        let group = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            take(group);
            return count;
        }
        take(group | 0x80);
        count += 1;
    }
}
