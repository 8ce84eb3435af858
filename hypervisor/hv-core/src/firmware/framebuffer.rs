//! The screen as a frame buffer, where firmware and loader left one.
//!
//! Source: "The Multiboot2 Specification", "Framebuffer info".

use crate::addr::Hpa;
use crate::le::{u8_at, u32_at, u64_at};

/// A screen of pixels in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Framebuffer {
    pub address: Hpa,
    pub bytes_per_line: u32,
    pub width: u32,
    pub height: u32,
    pub bits_per_pixel: u8,
    pub red: ColourField,
    pub green: ColourField,
    pub blue: ColourField,
}

/// Where a colour is in a pixel, in bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ColourField {
    pub position: u8,
    pub size: u8,
}

impl Framebuffer {
    /// Reads what follows the header of the tag; `None` for a screen of text or of indexed colours.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        const RGB: u8 = 1;
        let colour = |at| {
            Some(ColourField {
                position: u8_at(payload, at)?,
                size: u8_at(payload, at + 1)?,
            })
        };
        if u8_at(payload, 21)? != RGB {
            return None;
        }
        Some(Self {
            address: Hpa::new(u64_at(payload, 0)?),
            bytes_per_line: u32_at(payload, 8)?,
            width: u32_at(payload, 12)?,
            height: u32_at(payload, 16)?,
            bits_per_pixel: u8_at(payload, 20)?,
            red: colour(24)?,
            green: colour(26)?,
            blue: colour(28)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn a_screen_of_pixels_is_read_and_one_of_text_is_none() {
        let mut payload: Vec<u8> = 0x8000_0000u64.to_le_bytes().to_vec();
        for word in [5120u32, 1280, 800] {
            payload.extend(word.to_le_bytes());
        }
        payload.extend([32, 1, 0, 0, 16, 8, 8, 8, 0, 8]);
        let screen = Framebuffer::parse(&payload).unwrap();
        assert_eq!((screen.width, screen.height), (1280, 800));
        assert_eq!(
            screen.red,
            ColourField {
                position: 16,
                size: 8
            }
        );
        assert_eq!(
            screen.blue,
            ColourField {
                position: 0,
                size: 8
            }
        );
        assert_eq!(Framebuffer::parse(&payload[..29]), None);
        payload[21] = 2;
        assert_eq!(Framebuffer::parse(&payload), None);
    }
}
