//! [`Event`] ↔ the interruption-information words of the VMCS.
//!
//! Source: Intel SDM vol. 3C, "VM-Entry Controls for Event Injection", "Information for VM Exits During Event
//! Delivery".

use super::super::{Event, SoftwareEvent};
use super::fields::Field;
use super::vmcs::CurrentVmcs;

const VALID: u32 = 1 << 31;
const HAS_ERROR: u32 = 1 << 11;
const TYPE_SHIFT: u32 = 8;
const TYPE_EXTERNAL: u32 = 0;
const TYPE_NMI: u32 = 2;
const TYPE_EXCEPTION: u32 = 3;
const TYPE_SOFTWARE_INTERRUPT: u32 = 4;
const TYPE_PRIVILEGED: u32 = 5;
const TYPE_SOFTWARE_EXCEPTION: u32 = 6;

/// Writes `event` for the next VM entry.
pub(super) fn write(vmcs: CurrentVmcs, event: Event) {
    let (kind, vector) = match event {
        Event::Interrupt(vector) => (TYPE_EXTERNAL, vector),
        Event::Nmi => (TYPE_NMI, 2),
        Event::Exception {
            vector,
            error: None,
        } => (TYPE_EXCEPTION, vector),
        Event::Exception {
            vector,
            error: Some(error),
        } => {
            vmcs.write(Field::EntryErrorCode, u64::from(error));
            (TYPE_EXCEPTION, vector)
        }
        Event::Software {
            vector,
            kind,
            length,
        } => {
            vmcs.write(Field::EntryInstructionLength, u64::from(length));
            (software_type(kind), vector)
        }
    };
    let has_error = matches!(event, Event::Exception { error: Some(_), .. });
    let flags = VALID | if has_error { HAS_ERROR } else { 0 };
    vmcs.write(
        Field::EntryEvent,
        u64::from(flags | (kind << TYPE_SHIFT) | u32::from(vector)),
    );
}

/// The event whose delivery the exit interrupted, if any.
#[inline]
pub(super) fn interrupted(vmcs: CurrentVmcs) -> Option<Event> {
    let info = vmcs.read32(Field::VectoringEvent);
    if info & VALID == 0 {
        return None;
    }
    Some(decode(vmcs, info))
}

fn decode(vmcs: CurrentVmcs, info: u32) -> Event {
    let vector = info.to_le_bytes()[0];
    let software = |kind| {
        let length = vmcs.read32(Field::InstructionLength).to_le_bytes()[0];
        Event::Software {
            vector,
            kind,
            length,
        }
    };
    match (info >> TYPE_SHIFT) & 7 {
        TYPE_EXTERNAL => Event::Interrupt(vector),
        TYPE_NMI => Event::Nmi,
        TYPE_SOFTWARE_INTERRUPT => software(SoftwareEvent::Interrupt),
        TYPE_PRIVILEGED => software(SoftwareEvent::Privileged),
        TYPE_SOFTWARE_EXCEPTION => software(SoftwareEvent::Exception),
        _ => {
            let error = (info & HAS_ERROR != 0).then(|| vmcs.read32(Field::VectoringErrorCode));
            Event::Exception { vector, error }
        }
    }
}

fn software_type(kind: SoftwareEvent) -> u32 {
    match kind {
        SoftwareEvent::Interrupt => TYPE_SOFTWARE_INTERRUPT,
        SoftwareEvent::Privileged => TYPE_PRIVILEGED,
        SoftwareEvent::Exception => TYPE_SOFTWARE_EXCEPTION,
    }
}
