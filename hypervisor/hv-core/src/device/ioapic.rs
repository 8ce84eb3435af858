//! A virtual I/O APIC whose pins are bound one to one to the pins of a real one.
//!
//! Writing a redirection entry is the only way in which Linux as PVH dom0 says which lines it wants, so a write yields
//! what to do with the real pin. The host's own vector and the CPU that takes the real interrupt are the core's.
//!
//! A level line goes: the real pin fires → the core calls [`IoApic::raise`], which masks the real pin and makes a
//! message → the guest's EOI reaches [`IoApic::eoi`] → the real pin opens again, and fires at once where the line is
//! still held. An edge is acknowledged at once and nothing waits. Version 0x11 has no EOI register: Linux frees a stuck
//! entry by making it an edge for a moment, which must clear remote IRR.
//! Intel 82093AA I/O Advanced Programmable Interrupt Controller (I/O APIC), "Register Description".

use super::message::{DeliveryMode, InterruptMessage, Target, Trigger};
use alloc::vec::Vec;

/// What an I/O APIC of this version can have at most.
pub const MAX_PINS: u8 = 240;
/// Byte offset of the register that selects.
pub const IOREGSEL: u64 = 0x00;
/// Byte offset of the window to the selected register.
pub const IOWIN: u64 = 0x10;
/// The register with the version in bits 7:0 and the last pin in bits 23:16.
pub const REG_VERSION: u8 = 1;
/// The first pin's redirection entry, two registers each.
pub const REG_TABLE: u8 = 0x10;

const VERSION: u32 = 0x11;
const REG_ID: u8 = 0;
const REG_ARBITRATION: u8 = 2;
const ID_SHIFT: u32 = 24;
const ID_MASK: u32 = 0xF;

/// Bits of a redirection entry.
pub mod rte {
    use super::{Polarity, Trigger};

    pub(super) const VECTOR: u64 = 0xFF;
    pub(super) const MODE_SHIFT: u32 = 8;
    pub(super) const LOGICAL: u64 = 1 << 11;
    pub(super) const ACTIVE_LOW: u64 = 1 << 13;
    pub(super) const REMOTE_IRR: u64 = 1 << 14;
    pub(super) const LEVEL: u64 = 1 << 15;
    /// Nothing is delivered.
    pub const MASKED: u64 = 1 << 16;
    /// What software may write; delivery status (always 0 here) and remote IRR it may not.
    pub(super) const WRITABLE: u64 =
        0xFF << 56 | MASKED | LEVEL | ACTIVE_LOW | LOGICAL | 7 << MODE_SHIFT | VECTOR;

    /// The entry that delivers `vector` to the CPU with APIC id `apic_id` (below 256).
    #[must_use]
    pub const fn fixed(vector: u8, apic_id: u8, trigger: Trigger, polarity: Polarity) -> u64 {
        let level = match trigger {
            Trigger::Edge => 0,
            Trigger::Level => LEVEL,
        };
        let low = match polarity {
            Polarity::High => 0,
            Polarity::Low => ACTIVE_LOW,
        };
        (apic_id as u64) << 56 | level | low | vector as u64
    }
}

/// Which level of a line is its active one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Polarity {
    High,
    Low,
}

/// What to do with a real pin.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PinEffect {
    /// Program it so and open it.
    Unmask(PinRoute),
    Mask {
        pin: u8,
    },
}

/// How the guest wants a pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinRoute {
    pub pin: u8,
    pub trigger: Trigger,
    /// The line's active level.
    pub polarity: Polarity,
    /// Which vCPUs its interrupts go to: a hint for the choice of the physical CPU.
    pub target: Target,
}

/// What an interrupt of a real pin becomes.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Raised {
    /// What to deliver; `None` where the guest has masked the pin in the meantime.
    pub message: Option<InterruptMessage>,
    /// What to do with the real pin, before the host's EOI.
    pub pin: Option<PinEffect>,
}

#[derive(Clone, Copy, Debug)]
struct Pin {
    rte: u64,
    /// The real pin has fired and waits, masked, for the guest.
    is_held: bool,
    /// How the real pin is programmed; `None` while it is masked.
    applied: Option<PinRoute>,
}

/// A virtual I/O APIC.
#[derive(Debug)]
pub struct IoApic {
    id: u32,
    select: u8,
    pins: Vec<Pin>,
}

impl IoApic {
    /// Makes one with the real one's id (bits 27:24 of its ID register) and number of pins (clamped to 1–[`MAX_PINS`]),
    /// all masked; the real pins are masked already.
    #[must_use]
    pub fn new(id: u8, pins: u8) -> Self {
        let masked = Pin {
            rte: rte::MASKED,
            is_held: false,
            applied: None,
        };
        Self {
            id: u32::from(id) & ID_MASK,
            select: 0,
            pins: alloc::vec![masked; usize::from(pins.clamp(1, MAX_PINS))],
        }
    }

    /// Reads 32 bits at byte `offset` of the page; 0 where there is no register.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            IOREGSEL => u32::from(self.select),
            IOWIN => self.read_selected(),
            _ => 0,
        }
    }

    /// Writes 32 bits at byte `offset` of the page; ignored where there is no writable register. The effect, if any, is
    /// to be applied before the guest goes on.
    pub fn write(&mut self, offset: u64, value: u32) -> Option<PinEffect> {
        match offset {
            IOREGSEL => {
                let [index, ..] = value.to_le_bytes();
                self.select = index;
                None
            }
            IOWIN => self.write_selected(value),
            _ => None,
        }
    }

    /// Takes an interrupt of real pin `pin`.
    pub fn raise(&mut self, pin: u8) -> Raised {
        let Some(entry) = self.pins.get_mut(usize::from(pin)) else {
            // no such pin here: keep the real one quiet
            return Raised {
                message: None,
                pin: Some(PinEffect::Mask { pin }),
            };
        };
        let message = entry.fire();
        Raised {
            message,
            pin: entry.settle(pin),
        }
    }

    /// Takes the EOI of `vector` by any vCPU: calls `apply` with what becomes of the real pins that waited for it.
    pub fn eoi(&mut self, vector: u8, mut apply: impl FnMut(PinEffect)) {
        for (pin, entry) in (0..=u8::MAX).zip(&mut self.pins) {
            if entry.waits_for(vector) {
                entry.release();
                if let Some(effect) = entry.settle(pin) {
                    apply(effect);
                }
            }
        }
    }

    /// Takes back a message of `pin` that no vCPU accepted (nobody has the id; the vector is illegal): no EOI will
    /// come. The real pin stays masked until the guest writes the entry again, or the held line would fire for ever.
    pub fn undelivered(&mut self, pin: u8) {
        if let Some(entry) = self.pins.get_mut(usize::from(pin)) {
            entry.rte &= !rte::REMOTE_IRR;
        }
    }

    #[must_use]
    pub fn pins(&self) -> u8 {
        // never above MAX_PINS
        u8::try_from(self.pins.len()).unwrap_or(MAX_PINS)
    }

    /// The redirection entry of `pin` as the guest sees it, for the debug key.
    #[must_use]
    pub fn entry(&self, pin: u8) -> Option<u64> {
        self.pins.get(usize::from(pin)).map(|entry| entry.rte)
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            REG_ID | REG_ARBITRATION => self.id << ID_SHIFT,
            REG_VERSION => u32::from(self.pins() - 1) << 16 | VERSION,
            _ => self.selected_half().map_or(0, |(pin, is_high)| {
                let rte = self.entry(pin).unwrap_or(0);
                let [a, b, c, d, e, f, g, h] = rte.to_le_bytes();
                u32::from_le_bytes(if is_high { [e, f, g, h] } else { [a, b, c, d] })
            }),
        }
    }

    fn write_selected(&mut self, value: u32) -> Option<PinEffect> {
        if self.select == REG_ID {
            self.id = value >> ID_SHIFT & ID_MASK;
            return None;
        }
        let (pin, is_high) = self.selected_half()?;
        let entry = self.pins.get_mut(usize::from(pin))?;
        entry.write_half(is_high, value);
        entry.settle(pin)
    }

    /// The pin whose entry is selected, and whether its upper half is.
    fn selected_half(&self) -> Option<(u8, bool)> {
        let index = self.select.checked_sub(REG_TABLE)?;
        Some((index / 2, index % 2 == 1))
    }
}

impl Pin {
    fn write_half(&mut self, is_high: bool, value: u32) {
        let (shift, kept) = if is_high {
            (32, 0xFFFF_FFFF)
        } else {
            (0, 0xFFFF_FFFF << 32)
        };
        let written = self.rte & kept | u64::from(value) << shift;
        let read_only = self.rte & rte::REMOTE_IRR;
        self.rte = written & rte::WRITABLE | read_only;
        if self.trigger() == Trigger::Edge || self.rte & rte::REMOTE_IRR == 0 {
            // an entry made an edge forgets that it waits; so does one whose message went nowhere
            self.release();
        }
    }

    /// The message for an interrupt of the real pin, noting what waits for an EOI.
    fn fire(&mut self) -> Option<InterruptMessage> {
        let is_level = self.trigger() == Trigger::Level;
        self.is_held = is_level;
        if self.rte & rte::MASKED != 0 {
            // a line that is held fires again when its entry opens; an edge is lost, as on the real one
            self.is_held = false;
            return None;
        }
        if self.rte & rte::REMOTE_IRR != 0 {
            return None;
        }
        let message = self.message()?;
        if is_level && has_eoi(message.mode) {
            self.rte |= rte::REMOTE_IRR;
        }
        Some(message)
    }

    fn message(&self) -> Option<InterruptMessage> {
        let [vector, ..] = self.rte.to_le_bytes();
        Some(InterruptMessage {
            vector,
            mode: DeliveryMode::from_bits(self.rte >> rte::MODE_SHIFT)?,
            target: self.target(),
            trigger: self.trigger(),
        })
    }

    fn waits_for(&self, vector: u8) -> bool {
        let [own, ..] = self.rte.to_le_bytes();
        self.rte & rte::REMOTE_IRR != 0 && own == vector
    }

    /// Ends the wait for an EOI.
    fn release(&mut self) {
        self.rte &= !rte::REMOTE_IRR;
        self.is_held = false;
    }

    /// Compares how the real pin should be with how it is.
    fn settle(&mut self, pin: u8) -> Option<PinEffect> {
        let wanted = self.wanted(pin);
        if wanted == self.applied {
            return None;
        }
        self.applied = wanted;
        Some(wanted.map_or(PinEffect::Mask { pin }, PinEffect::Unmask))
    }

    /// How the real pin should be programmed; `None` for masked. Modes in which no interrupt could reach a vCPU keep it
    /// masked.
    fn wanted(&self, pin: u8) -> Option<PinRoute> {
        let mode = DeliveryMode::from_bits(self.rte >> rte::MODE_SHIFT)?;
        let is_open = self.rte & rte::MASKED == 0 && !self.is_held;
        (is_open && (has_eoi(mode) || mode == DeliveryMode::Nmi)).then(|| PinRoute {
            pin,
            trigger: self.trigger(),
            polarity: self.polarity(),
            target: self.target(),
        })
    }

    fn trigger(&self) -> Trigger {
        // modes other than these two are edges whatever the bit says
        let mode = DeliveryMode::from_bits(self.rte >> rte::MODE_SHIFT);
        if self.rte & rte::LEVEL != 0 && mode.is_some_and(has_eoi) {
            Trigger::Level
        } else {
            Trigger::Edge
        }
    }

    fn polarity(&self) -> Polarity {
        if self.rte & rte::ACTIVE_LOW != 0 {
            Polarity::Low
        } else {
            Polarity::High
        }
    }

    fn target(&self) -> Target {
        let [.., destination] = self.rte.to_le_bytes();
        Target::from_xapic(destination, self.rte & rte::LOGICAL != 0)
    }
}

/// True for the modes that go through IRR and ISR.
fn has_eoi(mode: DeliveryMode) -> bool {
    matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority)
}

#[cfg(test)]
mod tests;
