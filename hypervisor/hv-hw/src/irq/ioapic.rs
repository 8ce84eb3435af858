//! The I/O APICs: where device interrupts (global system interrupts, GSIs) turn into vectors.
//!
//! Source: Intel 82093AA, "I/O APIC Register Description".

use arrayvec::ArrayVec;
use hv_core::addr::{Hpa, PAGE_SIZE};
use hv_core::device::ioapic::{REG_TABLE, REG_VERSION, rte};
use hv_core::mem::TableFrames;

use crate::mmio::Registers;
use crate::sync::{RankedLock, rank};

/// The most I/O APICs that are used.
const MAX_IOAPICS: usize = 16;
const SELECT: usize = 0x00;
const WINDOW: usize = 0x10;
const MASK: u32 = low_half(rte::MASKED);
const FIRST_ENTRY: u32 = REG_TABLE as u32;

/// An I/O APIC and the interrupts that it serves.
#[derive(Clone, Copy, Debug)]
pub struct IoApic {
    /// Where its registers are: never to be given to a guest.
    pub base: Hpa,
    /// Its id in the MADT.
    pub id: u8,
    pub first_gsi: u32,
    pub pins: u32,
    registers: Registers,
}

static IOAPICS: RankedLock<ArrayVec<IoApic, MAX_IOAPICS>, { rank::IRQ }> =
    RankedLock::new(ArrayVec::new_const());

/// Takes the I/O APIC at `base` (MADT) into use, all its pins masked. Returns how many pins it has, or `None` where
/// there are too many I/O APICs or no memory for the mapping.
pub fn add(frames: &mut impl TableFrames, base: Hpa, id: u8, first_gsi: u32) -> Option<u32> {
    let registers = Registers::map(frames, base, PAGE_SIZE).ok()?;
    let mut ioapic = IoApic {
        base,
        id,
        first_gsi,
        pins: 0,
        registers,
    };
    ioapic.pins = ((ioapic.read(REG_VERSION.into()) >> 16) & 0xff) + 1;
    for pin in 0..ioapic.pins {
        ioapic.write_entry(pin, rte::MASKED);
    }
    IOAPICS.lock().try_push(ioapic).ok()?;
    Some(ioapic.pins)
}

/// The I/O APICs in use.
#[must_use]
pub fn all() -> ArrayVec<IoApic, MAX_IOAPICS> {
    IOAPICS.lock().clone()
}

/// The number after the last GSI.
#[must_use]
pub fn gsi_end() -> u32 {
    IOAPICS
        .lock()
        .iter()
        .map(|ioapic| ioapic.first_gsi + ioapic.pins)
        .max()
        .unwrap_or(0)
}

/// Sets the redirection entry of `gsi` ([`rte`]); false where no I/O APIC serves it.
pub fn write_entry(gsi: u32, entry: u64) -> bool {
    with_pin(gsi, |ioapic, pin| ioapic.write_entry(pin, entry)).is_some()
}

/// Masks or unmasks `gsi`, all else unchanged; false where no I/O APIC serves it.
pub fn set_masked(gsi: u32, is_masked: bool) -> bool {
    with_pin(gsi, |ioapic, pin| {
        let low = ioapic.read(FIRST_ENTRY + 2 * pin);
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
    fn write_entry(&self, pin: u32, entry: u64) {
        self.write(FIRST_ENTRY + 2 * pin, MASK);
        self.write(FIRST_ENTRY + 2 * pin + 1, low_half(entry >> 32));
        self.write(FIRST_ENTRY + 2 * pin, low_half(entry));
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "each half is what is wanted"
)]
const fn low_half(entry: u64) -> u32 {
    entry as u32
}
