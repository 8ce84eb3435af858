//! PCI configuration space by mechanism 1: an address port and a data port, one pair for the machine.
//!
//! Source: PCI Local Bus Specification 3.0, "Configuration Mechanism #1".

use crate::port;
use crate::sync::{RankedLock, rank};

const ADDRESS: u16 = 0xCF8;
const DATA: u16 = 0xCFC;
const ENABLE: u32 = 1 << 31;

static PORTS: RankedLock<(), { rank::PORTS }> = RankedLock::new(());

/// Reads `size` bytes (1, 2 or 4) at `offset` of function `bdf` (bus in bits 15:8); they lie in one double word.
#[must_use]
pub fn read(bdf: u16, offset: u8, size: u8) -> u32 {
    let _pair = PORTS.lock();
    select(bdf, offset);
    port::read(DATA + u16::from(offset & 3), size)
}

pub fn write(bdf: u16, offset: u8, size: u8, value: u32) {
    let _pair = PORTS.lock();
    select(bdf, offset);
    port::write(DATA + u16::from(offset & 3), size, value);
}

fn select(bdf: u16, offset: u8) {
    port::write32(
        ADDRESS,
        ENABLE | (u32::from(bdf) << 8) | u32::from(offset & !3),
    );
}
