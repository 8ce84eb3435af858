//! Zstandard (RFC 8878).
//!
//! Kernels are packed with a window of 128 MiB although no match reaches back further than the kernel's own size; and
//! the library allocates what the header says. So it is shown a header with the smallest window that holds the whole
//! output.

use super::{Format, PayloadError};
use crate::le::u8_at;
use alloc::vec::Vec;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use ruzstd::io::{Error, Read};

const CORRUPT: PayloadError = PayloadError::Corrupt(Format::Zstd);
/// What the unpacker needs beside its window: tables, literals, sequences.
const TABLES: usize = 2 << 20;
/// Output is taken from the unpacker in pieces of this size.
const STEP: usize = 1 << 20;
/// Where the window's descriptor is, after the magic number and the frame's descriptor.
const WINDOW_AT: usize = 5;
const SINGLE_SEGMENT: u8 = 1 << 5;

pub(super) fn unpack(packed: &[u8], out: &mut [u8]) -> Result<(), PayloadError> {
    let needed = heap_needed(packed, out.len());
    // the library panics where it gets none
    if Vec::<u8>::new().try_reserve_exact(needed).is_err() {
        return Err(PayloadError::OutOfMemory(Format::Zstd));
    }
    let mut decoder = FrameDecoder::new();
    // the second time it allocates its whole window at once instead of growing it
    decoder
        .init(Input::new(packed, out.len()))
        .map_err(|_| CORRUPT)?;
    let mut input = Input::new(packed, out.len());
    decoder.init(&mut input).map_err(|_| CORRUPT)?;
    let mut written = 0;
    loop {
        if !decoder.is_finished() {
            decoder
                .decode_blocks(&mut input, BlockDecodingStrategy::UptoBytes(STEP))
                .map_err(|_| CORRUPT)?;
        }
        let room = out.get_mut(written..).ok_or(CORRUPT)?;
        written += decoder.read(room).map_err(|_| CORRUPT)?;
        if decoder.can_collect() > 0 {
            return Err(PayloadError::WrongBuffer);
        }
        if decoder.is_finished() {
            break;
        }
    }
    if written != out.len() {
        return Err(PayloadError::WrongBuffer);
    }
    match decoder.get_checksum_from_data() {
        Some(sum) if Some(sum) != decoder.get_calculated_checksum() => Err(CORRUPT),
        _ => Ok(()),
    }
}

pub(super) fn heap_needed(packed: &[u8], unpacked_size: usize) -> usize {
    let window = match window_descriptor(packed) {
        Some(given) => window_size(given.min(descriptor_for(unpacked_size))),
        None => unpacked_size,
    };
    window.next_power_of_two() + TABLES
}

/// The packed bytes with the window's descriptor lowered to what the output needs.
struct Input<'a> {
    head: [u8; WINDOW_AT + 1],
    head_left: usize,
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn new(packed: &'a [u8], unpacked_size: usize) -> Self {
        match (packed.split_first_chunk(), window_descriptor(packed)) {
            (Some((&head, rest)), Some(given)) => {
                let mut head: [u8; WINDOW_AT + 1] = head;
                head[WINDOW_AT] = given.min(descriptor_for(unpacked_size));
                Self {
                    head,
                    head_left: head.len(),
                    rest,
                }
            }
            _ => Self {
                head: [0; WINDOW_AT + 1],
                head_left: 0,
                rest: packed,
            },
        }
    }
}

impl Read for Input<'_> {
    fn read(&mut self, to: &mut [u8]) -> Result<usize, Error> {
        let from = if self.head_left > 0 {
            &self.head[self.head.len() - self.head_left..]
        } else {
            self.rest
        };
        let count = from.len().min(to.len());
        to[..count].copy_from_slice(&from[..count]);
        if self.head_left > 0 {
            self.head_left -= count;
        } else {
            self.rest = &self.rest[count..];
        }
        Ok(count)
    }
}

/// The descriptor of the window, where the frame has one: a frame of a single segment has its size instead.
fn window_descriptor(packed: &[u8]) -> Option<u8> {
    let has_window = u8_at(packed, WINDOW_AT - 1)? & SINGLE_SEGMENT == 0;
    has_window.then_some(u8_at(packed, WINDOW_AT)?)
}

/// The size that a descriptor, exponent in bits 7:3 and eighths in bits 2:0, stands for.
const fn window_size(descriptor: u8) -> usize {
    let base = 1 << (10 + (descriptor >> 3));
    base + base / 8 * (descriptor & 7) as usize
}

/// The smallest descriptor of a window that holds `size` bytes.
fn descriptor_for(size: usize) -> u8 {
    (0..=u8::MAX)
        .find(|&descriptor| window_size(descriptor) >= size)
        .unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_window_that_holds_the_output_is_shown() {
        assert_eq!(window_size(0x88), 128 << 20);
        let descriptor = descriptor_for(57_647_116);
        assert!(window_size(descriptor) >= 57_647_116 && window_size(descriptor - 1) < 57_647_116);
        assert_eq!(descriptor_for(1), 0);
    }
}
