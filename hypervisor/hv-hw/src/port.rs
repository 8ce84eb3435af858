//! I/O ports: bytes, words and double words.
//!
//! UNSAFETY: a port's effect is the device's; none of the ports used here changes memory behind Rust's back, except by DMA
//! that the device was programmed for by dom0 into dom0's memory.
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
