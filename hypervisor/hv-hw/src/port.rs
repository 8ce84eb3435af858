//! I/O ports: bytes, words and double words.
//!
//! UNSAFETY: a port's effect is the device's; none of the ports used here changes memory behind Rust's back, except by
//! DMA that the device was programmed for by dom0 into dom0's memory.
#![expect(unsafe_code)]

use x86_64::instructions::port::Port;

macro_rules! access {
    ($read:ident, $write:ident, $type:ty, $size:literal) => {
        #[doc = concat!("Reads ", $size, " from `port`.")]
        #[inline]
        #[must_use]
        pub fn $read(port: u16) -> $type {
            // SAFETY: reading a port changes no memory of ours.
            unsafe { Port::new(port).read() }
        }
        #[doc = concat!("Writes ", $size, " to `port`.")]
        #[inline]
        pub fn $write(port: u16, value: $type) {
            // SAFETY: see the module's header.
            unsafe { Port::new(port).write(value) };
        }
    };
}

access!(read8, write8, u8, "a byte");
access!(read16, write16, u16, "2 bytes");
access!(read32, write32, u32, "4 bytes");

/// Reads `size` bytes (1, 2 or 4) from `port`; all ones for another size.
#[must_use]
pub fn read(port: u16, size: u8) -> u32 {
    match size {
        1 => u32::from(read8(port)),
        2 => u32::from(read16(port)),
        4 => read32(port),
        _ => u32::MAX,
    }
}

/// Writes the low `size` bytes (1, 2 or 4) of `value` to `port`; nothing for another size.
pub fn write(port: u16, size: u8, value: u32) {
    let [low, second, ..] = value.to_le_bytes();
    match size {
        1 => write8(port, low),
        2 => write16(port, u16::from_le_bytes([low, second])),
        4 => write32(port, value),
        _ => {}
    }
}
