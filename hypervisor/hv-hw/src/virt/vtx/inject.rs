//! [`Event`] ↔ the interruption-information words of the VMCS.
//!
//! Source: Intel SDM vol. 3C, "VM-Entry Controls for Event Injection", "Information for VM Exits During Event
//! Delivery".

use hv_core::x86::CR0_PE;

use super::super::{Event, SoftwareEvent};
use super::fields::Field;
use super::vmcs::CurrentVmcs;

const VALID: u32 = 1 << 31;
const HAS_ERROR: u32 = 1 << 11;
const NMI: u8 = 2;
const TYPE_SHIFT: u32 = 8;
const TYPE_EXTERNAL: u32 = 0;
const TYPE_NMI: u32 = 2;
const TYPE_EXCEPTION: u32 = 3;
const TYPE_SOFTWARE_INTERRUPT: u32 = 4;
const TYPE_PRIVILEGED: u32 = 5;
const TYPE_SOFTWARE_EXCEPTION: u32 = 6;

/// What VM entry is told of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Words {
    info: u32,
    error: Option<u32>,
    length: Option<u8>,
}

/// Writes `event` for the next VM entry.
pub(super) fn write(vmcs: CurrentVmcs, event: Event) {
    let is_protected = || vmcs.read(Field::GuestCr0) & CR0_PE != 0;
    let words = encode(event, is_protected);
    if let Some(error) = words.error {
        vmcs.write(Field::EntryErrorCode, u64::from(error));
    }
    if let Some(length) = words.length {
        vmcs.write(Field::EntryInstructionLength, u64::from(length));
    }
    vmcs.write(Field::EntryEvent, u64::from(words.info));
}

/// Encodes `event`. In real mode no exception has an error code, and VM entry refuses one.
fn encode(event: Event, is_protected: impl Fn() -> bool) -> Words {
    let words = |kind: u32, vector| Words {
        info: VALID | (kind << TYPE_SHIFT) | u32::from(vector),
        error: None,
        length: None,
    };
    match event {
        Event::Interrupt(vector) => words(TYPE_EXTERNAL, vector),
        Event::Nmi => words(TYPE_NMI, NMI),
        Event::Exception { vector, error } => {
            let error = error.filter(|_| is_protected());
            let words = words(TYPE_EXCEPTION, vector);
            let flag = error.map_or(0, |_| HAS_ERROR);
            Words {
                info: words.info | flag,
                error,
                ..words
            }
        }
        Event::Software {
            vector,
            kind,
            length,
        } => Words {
            length: Some(length),
            ..words(software_type(kind), vector)
        },
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_code_is_delivered_in_protected_mode_only() {
        let protected = encode(Event::PROTECTION, || true);
        assert_eq!((protected.info, protected.error), (0x8000_0B0D, Some(0)));
        let real = encode(Event::PROTECTION, || false);
        assert_eq!((real.info, real.error), (0x8000_030D, None));
    }

    #[test]
    fn software_events_have_their_type_and_their_instructions_length() {
        for (kind, info) in [
            (SoftwareEvent::Interrupt, 0x8000_0403),
            (SoftwareEvent::Privileged, 0x8000_0503),
            (SoftwareEvent::Exception, 0x8000_0603),
        ] {
            let event = Event::Software {
                vector: 3,
                kind,
                length: 2,
            };
            let expected = Words {
                info,
                error: None,
                length: Some(2),
            };
            assert_eq!(encode(event, || true), expected);
        }
    }
}
