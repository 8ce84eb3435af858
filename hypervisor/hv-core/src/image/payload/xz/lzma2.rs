//! LZMA2: chunks, each plain or a range-coded run of literals and matches.
//!
//! The output is its own dictionary: a match is copied from what was written before it, so nothing is kept, moved or
//! flushed. That, and hot functions that are inlined into one loop, is why this is our own code.
//! Next: `range` for the bits, `model` for what they mean.
//!
//! Source: xz's "The .xz File Format", "LZMA2", and Igor Pavlov's "LZMA specification".

use super::model::{Model, Properties};

/// A chunk of LZMA has this bit in its first byte.
const IS_LZMA: u8 = 0x80;
/// What an LZMA chunk begins with: nothing, a new state, also new properties, also a new dictionary.
const RESETS: u8 = 0x60;
const RESET_STATE: u8 = 0x20;
const RESET_PROPERTIES: u8 = 0x40;
const RESET_DICTIONARY: u8 = 0x60;

/// The data are not what was packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Corrupt;

/// What goes on from chunk to chunk.
struct Decoder<'m> {
    model: &'m mut Model,
    properties: Option<Properties>,
    needs_state: bool,
    /// Where in the output the dictionary begins.
    dictionary: Option<usize>,
    written: usize,
}

/// Unpacks the LZMA2 data that `packed` begins with to the start of `out`: packed bytes taken and bytes written. `out`
/// after what was written is unspecified.
///
/// # Errors
/// Where the data are corrupt, cut short or larger than `out`.
pub(super) fn unpack(
    packed: &[u8],
    out: &mut [u8],
    model: &mut Model,
) -> Result<(usize, usize), Corrupt> {
    let mut decoder = Decoder {
        model,
        properties: None,
        needs_state: true,
        dictionary: None,
        written: 0,
    };
    let mut rest = packed;
    loop {
        let (&control, next) = rest.split_first().ok_or(Corrupt)?;
        rest = match control {
            0 => return Ok((packed.len() - next.len(), decoder.written)),
            1 | 2 => decoder.plain(control == 1, next, out)?,
            IS_LZMA.. => decoder.lzma(control, next, out)?,
            _ => return Err(Corrupt),
        };
    }
}

impl Decoder<'_> {
    /// A chunk of bytes as they are.
    fn plain<'a>(
        &mut self,
        is_new_dictionary: bool,
        chunk: &'a [u8],
        out: &mut [u8],
    ) -> Result<&'a [u8], Corrupt> {
        if is_new_dictionary {
            self.dictionary = Some(self.written);
        }
        self.dictionary.ok_or(Corrupt)?;
        let (size, rest) = size16(chunk)?;
        let (bytes, rest) = rest.split_at_checked(size).ok_or(Corrupt)?;
        let end = self.written + size;
        out.get_mut(self.written..end)
            .ok_or(Corrupt)?
            .copy_from_slice(bytes);
        self.written = end;
        Ok(rest)
    }

    fn lzma<'a>(
        &mut self,
        control: u8,
        chunk: &'a [u8],
        out: &mut [u8],
    ) -> Result<&'a [u8], Corrupt> {
        let resets = control & RESETS;
        let (low_size, rest) = size16(chunk)?;
        let unpacked_size = (usize::from(control & !(IS_LZMA | RESETS)) << 16) + low_size;
        let (packed_size, rest) = size16(rest)?;
        let rest = if resets >= RESET_PROPERTIES {
            let (&byte, rest) = rest.split_first().ok_or(Corrupt)?;
            self.properties = Some(Properties::from_byte(byte).ok_or(Corrupt)?);
            rest
        } else {
            rest
        };
        if resets == RESET_DICTIONARY {
            self.dictionary = Some(self.written);
        }
        if resets >= RESET_STATE {
            self.model.reset();
            self.needs_state = false;
        }
        let properties = self
            .properties
            .filter(|_| !self.needs_state)
            .ok_or(Corrupt)?;
        let start = self.dictionary.ok_or(Corrupt)?;
        let (packed, rest) = rest.split_at_checked(packed_size).ok_or(Corrupt)?;
        let end = self.written + unpacked_size;
        let window = out.get_mut(start..).ok_or(Corrupt)?;
        self.model
            .decode(
                packed,
                properties,
                window,
                self.written - start,
                end - start,
            )
            .ok_or(Corrupt)?;
        self.written = end;
        Ok(rest)
    }
}

/// A size, less 1, in two bytes, the high one first.
fn size16(bytes: &[u8]) -> Result<(usize, &[u8]), Corrupt> {
    let (size, rest) = bytes.split_first_chunk().ok_or(Corrupt)?;
    Ok((usize::from(u16::from_be_bytes(*size)) + 1, rest))
}
