//! A write to the interrupt command register becomes a message to other APICs.
//!
//! Intel SDM vol. 3A, "Interrupt Command Register (ICR)", "ICR Operation in x2APIC Mode".

use super::regs::{Reg, esr};
use super::{Lapic, LapicEffect};
use crate::device::message::{DeliveryMode, InterruptMessage, Target, Trigger};
use crate::mem::SharedWords;
use crate::x86::FIRST_LEGAL_VECTOR;

const VECTOR: u64 = 0xFF;
const MODE_SHIFT: u32 = 8;
const LOGICAL: u64 = 1 << 11;
/// Delivery status: gone in x2APIC mode, but written back by software that read an xAPIC; it stays 0.
const STATUS: u64 = 1 << 12;
const ASSERT: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const SHORTHAND_SHIFT: u32 = 18;
const DESTINATION_SHIFT: u32 = 32;

/// Bits of the ICR that are not reserved.
pub(super) const WRITABLE: u64 = 0xFFFF_FFFF << DESTINATION_SHIFT
    | 3 << SHORTHAND_SHIFT
    | LEVEL
    | ASSERT
    | STATUS
    | LOGICAL
    | 7 << MODE_SHIFT
    | VECTOR;

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
    /// Stores the ICR and acts on it; reserved bits have been refused.
    pub(super) fn write_icr(&mut self, icr: u64) -> LapicEffect {
        let icr = icr & !STATUS;
        self.page.store_u64(Reg::Icr.offset(), icr);
        match decode(icr, self.config.id) {
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

fn decode(icr: u64, own_id: u32) -> Command {
    use DeliveryMode::{ExtInt, Fixed, Init, LowestPriority, Nmi, Smi, Startup};
    let vector = icr.to_le_bytes()[0];
    let (is_self, target) = target(icr, own_id);
    let includes_sender = is_self || icr >> SHORTHAND_SHIFT & 3 == 2;
    let mode = match DeliveryMode::from_bits(icr >> MODE_SHIFT) {
        Some(Fixed | LowestPriority) if vector < FIRST_LEGAL_VECTOR => {
            return Command::IllegalVector;
        }
        Some(Fixed) if is_self => return Command::ToSelf(vector),
        // an INIT that is level-triggered and not asserted only synchronises arbitration ids, and that on old buses
        Some(Init) if icr & LEVEL != 0 && icr & ASSERT == 0 => return Command::Nothing,
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
fn target(icr: u64, own_id: u32) -> (bool, Target) {
    match icr >> SHORTHAND_SHIFT & 3 {
        0 => {
            let [.., a, b, c, d] = icr.to_le_bytes();
            let destination = u32::from_le_bytes([a, b, c, d]);
            (false, Target::from_x2apic(destination, icr & LOGICAL != 0))
        }
        1 => (true, Target::Physical(own_id)),
        2 => (false, Target::All),
        _ => (false, Target::AllBut(own_id)),
    }
}
