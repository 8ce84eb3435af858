//! A write to the interrupt command register becomes a message to other APICs.
//!
//! x2APIC mode has it as one register of 64 bits, with the destination in the upper half; xAPIC mode as two of 32 bits,
//! of which a write to the lower sends.
//! Intel SDM vol. 3A, "Interrupt Command Register (ICR)", "ICR Operation in x2APIC Mode".

use super::delivery::halves;
use super::regs::{Reg, esr};
use super::{Lapic, LapicEffect};
use crate::device::message::{DeliveryMode, InterruptMessage, Target, Trigger};
use crate::mem::SharedWords;
use crate::x86::FIRST_LEGAL_VECTOR;

const VECTOR: u32 = 0xFF;
const MODE_SHIFT: u32 = 8;
const LOGICAL: u32 = 1 << 11;
/// Delivery status: gone in x2APIC mode, but written back by software that read an xAPIC; it stays 0.
const STATUS: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
const LEVEL: u32 = 1 << 15;
const SHORTHAND_SHIFT: u32 = 18;
const DESTINATION_SHIFT: u32 = 32;

/// Bits of the lower half that are not reserved.
const COMMAND: u32 =
    3 << SHORTHAND_SHIFT | LEVEL | ASSERT | STATUS | LOGICAL | 7 << MODE_SHIFT | VECTOR;
/// Bits of the ICR of x2APIC mode that are not reserved.
pub(super) const WRITABLE: u64 = 0xFFFF_FFFF << DESTINATION_SHIFT | COMMAND as u64;

/// What an ICR value asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Command {
    Send(InterruptMessage),
    ToSelf(u8),
    /// A vector below 16 where the mode has one.
    IllegalVector,
    /// Combinations that send nothing: INIT level de-assert, reserved and device-only modes, INIT and start-up to a
    /// group that holds the sender.
    Nothing,
}

impl<F: SharedWords> Lapic<F> {
    /// Stores the ICR of x2APIC mode and acts on it; reserved bits have been refused.
    pub(super) fn write_icr(&mut self, icr: u64) -> LapicEffect {
        let icr = icr & !u64::from(STATUS);
        self.page.store_u64(Reg::Icr.offset(), icr);
        let [command, destination] = halves(icr);
        let is_logical = command & LOGICAL != 0;
        self.command(command, Target::from_x2apic(destination, is_logical))
    }

    /// Stores the lower half of the ICR of xAPIC mode and acts on both; reserved bits are gone.
    pub(super) fn write_icr_low(&mut self, command: u32) -> LapicEffect {
        self.set(Reg::Icr, command & !STATUS);
        let [.., destination] = self.get(Reg::IcrHigh).to_le_bytes();
        let is_logical = command & LOGICAL != 0;
        self.command(command, Target::from_xapic(destination, is_logical))
    }

    fn command(&mut self, command: u32, destination: Target) -> LapicEffect {
        match decode(command, destination, self.config.id) {
            Command::Send(message) => LapicEffect::Send(message),
            Command::ToSelf(vector) => self.self_ipi(u32::from(vector)),
            Command::IllegalVector => {
                self.error(esr::SEND_ILLEGAL_VECTOR);
                LapicEffect::None
            }
            Command::Nothing => LapicEffect::None,
        }
    }

    /// Sends a fixed interrupt to this very APIC.
    pub(super) fn self_ipi(&mut self, vector: u32) -> LapicEffect {
        let vector = vector.to_le_bytes()[0];
        if vector < FIRST_LEGAL_VECTOR {
            self.error(esr::SEND_ILLEGAL_VECTOR);
        } else {
            self.accept_edge(vector);
        }
        LapicEffect::None
    }
}

fn decode(command: u32, destination: Target, own_id: u32) -> Command {
    use DeliveryMode::{ExtInt, Fixed, Init, LowestPriority, Nmi, Smi, Startup};
    let [vector, ..] = command.to_le_bytes();
    let (is_self, target) = target(command, destination, own_id);
    let includes_sender = is_self || command >> SHORTHAND_SHIFT & 3 == 2;
    let mode = match DeliveryMode::from_bits(u64::from(command >> MODE_SHIFT)) {
        Some(Fixed | LowestPriority) if vector < FIRST_LEGAL_VECTOR => {
            return Command::IllegalVector;
        }
        Some(Fixed) if is_self => return Command::ToSelf(vector),
        // an INIT that is level-triggered and not asserted only synchronises arbitration ids, and that on old buses
        Some(Init) if command & LEVEL != 0 && command & ASSERT == 0 => return Command::Nothing,
        Some(Init | Startup) if includes_sender => return Command::Nothing,
        Some(mode @ (Fixed | LowestPriority | Nmi | Init | Startup)) => mode,
        Some(Smi | ExtInt) | None => return Command::Nothing,
    };
    Command::Send(InterruptMessage {
        vector,
        mode,
        target,
        trigger: Trigger::Edge,
    })
}

/// Who is meant, and whether by the shorthand for the sender alone.
fn target(command: u32, destination: Target, own_id: u32) -> (bool, Target) {
    match command >> SHORTHAND_SHIFT & 3 {
        0 => (false, destination),
        1 => (true, Target::Physical(own_id)),
        2 => (false, Target::All),
        _ => (false, Target::AllBut(own_id)),
    }
}
