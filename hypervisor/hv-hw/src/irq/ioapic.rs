//! The I/O APICs: where device interrupts (global system interrupts, GSIs) turn into vectors.
//!
//! Source: Intel 82093AA, "I/O APIC Register Description".

use arrayvec::ArrayVec;
use hv_core::addr::{Hpa, PAGE_SIZE};
use hv_core::mem::TableFrames;

use crate::mmio::Registers;
use crate::sync::{RankedLock, rank};

/// The most I/O APICs that are used.
const MAX_IOAPICS: usize = 16;
const SELECT: usize = 0x00;
const WINDOW: usize = 0x10;
const VERSION: u32 = 0x01;
const FIRST_ENTRY: u32 = 0x10;

/// A redirection table entry, as the hardware has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RedirectionEntry(pub u64);

impl RedirectionEntry {
    /// Nothing is delivered.
    pub const MASKED: Self = Self(Self::MASK);
    const MASK: u64 = 1 << 16;
    const LEVEL: u64 = 1 << 15;
    const ACTIVE_LOW: u64 = 1 << 13;

    /// Delivers `vector` to the CPU with APIC id `apic_id` (below 256), masked at first.
    #[must_use]
    pub const fn fixed(vector: u8, apic_id: u8, trigger: Trigger, polarity: Polarity) -> Self {
        let level = if matches!(trigger, Trigger::Level) {
            Self::LEVEL
        } else {
            0
        };
        let low = if matches!(polarity, Polarity::ActiveLow) {
            Self::ACTIVE_LOW
        } else {
            0
        };
        Self((apic_id as u64) << 56 | Self::MASK | level | low | vector as u64)
    }
    /// The same, masked or not.
    #[must_use]
    pub const fn masked(self, is_masked: bool) -> Self {
        Self(self.0 & !Self::MASK | if is_masked { Self::MASK } else { 0 })
    }
    /// True where nothing is delivered.
    #[must_use]
    pub const fn is_masked(self) -> bool {
        self.0 & Self::MASK != 0
    }
    /// True where the line is level-triggered.
    #[must_use]
    pub const fn is_level(self) -> bool {
        self.0 & Self::LEVEL != 0
    }
    /// The vector delivered.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.0.to_le_bytes()[0]
    }
}

/// How a line signals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// By a change.
    Edge,
    /// As long as it is active.
    Level,
}

/// Which voltage means active.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Polarity {
    /// The high one.
    ActiveHigh,
    /// The low one.
    ActiveLow,
}

/// An I/O APIC and the interrupts that it serves.
#[derive(Clone, Copy, Debug)]
pub struct IoApic {
    /// Where its registers are: never to be given to a guest.
    pub base: Hpa,
    /// Its id in the MADT.
    pub id: u8,
    /// Its first GSI.
    pub first_gsi: u32,
    /// How many GSIs.
    pub pins: u32,
    registers: Registers,
}

static IOAPICS: RankedLock<ArrayVec<IoApic, MAX_IOAPICS>, { rank::IRQ }> =
    RankedLock::new(ArrayVec::new_const());

/// Takes the I/O APIC at `base` (MADT) into use, all its pins masked. Returns how many pins it has, or `None` where there are
/// too many I/O APICs or no memory for the mapping.
pub fn add(frames: &mut impl TableFrames, base: Hpa, id: u8, first_gsi: u32) -> Option<u32> {
    let registers = Registers::map(frames, base, PAGE_SIZE).ok()?;
    let mut ioapic = IoApic {
        base,
        id,
        first_gsi,
        pins: 0,
        registers,
    };
    ioapic.pins = ((ioapic.read(VERSION) >> 16) & 0xff) + 1;
    for pin in 0..ioapic.pins {
        ioapic.write_entry(pin, RedirectionEntry::MASKED);
    }
    IOAPICS.lock().try_push(ioapic).ok()?;
    Some(ioapic.pins)
}

/// The I/O APICs in use.
#[must_use]
pub fn all() -> ArrayVec<IoApic, MAX_IOAPICS> {
    IOAPICS.lock().clone()
}

/// The number behind the last GSI.
#[must_use]
pub fn gsi_end() -> u32 {
    IOAPICS
        .lock()
        .iter()
        .map(|ioapic| ioapic.first_gsi + ioapic.pins)
        .max()
        .unwrap_or(0)
}

/// Sets the entry of `gsi`; false where no I/O APIC serves it.
pub fn write_entry(gsi: u32, entry: RedirectionEntry) -> bool {
    with_pin(gsi, |ioapic, pin| ioapic.write_entry(pin, entry)).is_some()
}

/// Masks or unmasks `gsi`, all else unchanged; false where no I/O APIC serves it.
pub fn set_masked(gsi: u32, is_masked: bool) -> bool {
    with_pin(gsi, |ioapic, pin| {
        let low = ioapic.read(FIRST_ENTRY + 2 * pin);
        const MASK: u32 = 1 << 16;
        let wanted = if is_masked { low | MASK } else { low & !MASK };
        if wanted != low {
            ioapic.write(FIRST_ENTRY + 2 * pin, wanted);
        }
    })
    .is_some()
}

fn with_pin<R>(gsi: u32, act: impl FnOnce(&IoApic, u32) -> R) -> Option<R> {
    let ioapics = IOAPICS.lock();
    let ioapic = ioapics
        .iter()
        .find(|ioapic| gsi >= ioapic.first_gsi && gsi - ioapic.first_gsi < ioapic.pins)?;
    Some(act(ioapic, gsi - ioapic.first_gsi))
}

/// Both words are reached through one index register: callers hold the lock.
impl IoApic {
    fn read(&self, register: u32) -> u32 {
        self.registers.write32(SELECT, register);
        self.registers.read32(WINDOW)
    }
    fn write(&self, register: u32, value: u32) {
        self.registers.write32(SELECT, register);
        self.registers.write32(WINDOW, value);
    }
    /// Writes the half with the mask last, and masks first, so that no half-written entry delivers.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each half is what is wanted"
    )]
    fn write_entry(&self, pin: u32, entry: RedirectionEntry) {
        self.write(FIRST_ENTRY + 2 * pin, RedirectionEntry::MASKED.0 as u32);
        self.write(FIRST_ENTRY + 2 * pin + 1, (entry.0 >> 32) as u32);
        self.write(FIRST_ENTRY + 2 * pin, entry.0 as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_says_what_it_was_made_of() {
        let entry = RedirectionEntry::fixed(0x41, 3, Trigger::Level, Polarity::ActiveLow);
        assert_eq!(entry.0, 0x0300_0000_0001_a041);
        assert!(entry.is_masked() && entry.is_level());
        assert_eq!(entry.masked(false).0, 0x0300_0000_0000_a041);
        assert_eq!(entry.vector(), 0x41);
    }
}
