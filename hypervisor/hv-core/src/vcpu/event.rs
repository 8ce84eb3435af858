//! Events for a guest, and what becomes of one whose delivery a VM exit interrupted.
//!
//! The CPU gives such an event back instead of delivering it. Mostly it is simply injected again; but where the exit's
//! cause makes us raise an exception, the two meet as they would in a CPU without us: some pairs make a double fault, a
//! fault while a double fault is delivered is a triple fault, and the rest come one after the other.
//! Intel SDM vol. 3C, "Information for VM Exits During Event Delivery"; vol. 3A,
//! "Interrupt 8—Double Fault Exception (#DF)".

use crate::x86::vector;

/// An event for the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An external interrupt; the guest must have interrupts open.
    Interrupt(u8),
    /// A non-maskable interrupt; the guest must not be blocking them.
    Nmi,
    /// A fault or trap of the hardware.
    Exception {
        /// Vector, 0 to 31.
        vector: u8,
        /// Error code, for the vectors that have one.
        error: Option<u32>,
    },
    /// INT n, INT3, INTO or INT1, interrupted in its delivery.
    Software {
        vector: u8,
        /// Which of the instructions.
        kind: SoftwareEvent,
        /// Length of the instruction in bytes, 0 to 15.
        length: u8,
    },
}

impl Event {
    /// #UD.
    pub const UNDEFINED: Self = Self::Exception {
        vector: vector::UNDEFINED,
        error: None,
    };
    /// #DF.
    pub const DOUBLE_FAULT: Self = Self::Exception {
        vector: DOUBLE_FAULT,
        error: Some(0),
    };
    /// #GP(0).
    pub const PROTECTION: Self = Self::Exception {
        vector: vector::PROTECTION,
        error: Some(0),
    };
}

/// The instructions that raise events of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SoftwareEvent {
    Interrupt,
    Exception,
    Privileged,
}

/// What to do about an event whose delivery was interrupted.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Redelivery {
    Inject(Event),
    /// Inject the exception; the external interrupt or NMI that it came in the way of is pending again.
    InjectAndKeep {
        /// What goes in now.
        exception: Event,
        pending: Event,
    },
    /// The guest shuts down.
    TripleFault,
}

const DOUBLE_FAULT: u8 = 8;

/// Decides what goes into the guest after an exit that interrupted the delivery of `interrupted` and, where it made us
/// raise an exception, raised `raised`.
pub fn again(interrupted: Event, raised: Option<Event>) -> Redelivery {
    let Some(exception) = raised else {
        return Redelivery::Inject(interrupted);
    };
    match (interrupted, exception) {
        // the CPU has taken these from their source already: dropped here, they would be lost
        (Event::Interrupt(_) | Event::Nmi, _) => Redelivery::InjectAndKeep {
            exception,
            pending: interrupted,
        },
        (Event::Exception { vector: first, .. }, Event::Exception { vector: second, .. }) => {
            combine(first, second, exception)
        }
        // the instruction runs again after the exception's handler
        _ => Redelivery::Inject(exception),
    }
}

/// The classes of the double-fault rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

impl Class {
    const fn of(vector: u8) -> Self {
        match vector {
            DOUBLE_FAULT => Self::DoubleFault,
            // #DE, #TS, #NP, #SS, #GP, #CP
            0 | 10..=13 | 21 => Self::Contributory,
            // #PF, #VE
            14 | 20 => Self::PageFault,
            _ => Self::Benign,
        }
    }
}

fn combine(first: u8, second: u8, exception: Event) -> Redelivery {
    use Class::{Benign, Contributory, DoubleFault, PageFault};
    match (Class::of(first), Class::of(second)) {
        (DoubleFault, Contributory | PageFault) => Redelivery::TripleFault,
        (Contributory, Contributory) | (PageFault, Contributory | PageFault) => {
            Redelivery::Inject(Event::DOUBLE_FAULT)
        }
        (Benign | Contributory | PageFault | DoubleFault, _) => Redelivery::Inject(exception),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const fn exception(vector: u8) -> Event {
        let has_error = matches!(vector, 8 | 10..=14 | 17 | 21);
        Event::Exception {
            vector,
            error: if has_error { Some(0) } else { None },
        }
    }

    const INT_80: Event = Event::Software {
        vector: 0x80,
        kind: SoftwareEvent::Interrupt,
        length: 2,
    };

    #[test]
    fn without_a_second_event_the_first_is_injected_as_it_was() {
        for event in [Event::Interrupt(0xF3), Event::Nmi, exception(14), INT_80] {
            assert_eq!(again(event, None), Redelivery::Inject(event));
        }
    }

    /// The SDM's table "Conditions for Generating a Double Fault", and the row of the double fault itself.
    #[test]
    fn pairs_of_exceptions_follow_the_table() {
        const DB: u8 = 1;
        const GP: u8 = 13;
        const PF: u8 = 14;
        const DF: u8 = DOUBLE_FAULT;
        for (first, second, expected) in [
            (DB, DB, Some(DB)),
            (DB, GP, Some(GP)),
            (DB, PF, Some(PF)),
            (GP, DB, Some(DB)),
            (GP, GP, Some(DF)),
            (GP, PF, Some(PF)),
            (PF, DB, Some(DB)),
            (PF, GP, Some(DF)),
            (PF, PF, Some(DF)),
            (DF, DB, Some(DB)),
            (DF, GP, None),
            (DF, PF, None),
        ] {
            let expected = expected.map_or(Redelivery::TripleFault, |v| {
                Redelivery::Inject(exception(v))
            });
            let found = again(exception(first), Some(exception(second)));
            assert_eq!(found, expected, "{first} then {second}");
        }
    }

    #[test]
    fn every_vector_has_the_class_that_the_manual_gives_it() {
        let of = |class| {
            (0..32)
                .filter(|&v| Class::of(v) == class)
                .collect::<Vec<u8>>()
        };
        assert_eq!(of(Class::Contributory), [0, 10, 11, 12, 13, 21]);
        assert_eq!(of(Class::PageFault), [14, 20]);
        assert_eq!(of(Class::DoubleFault), [8]);
    }

    #[test]
    fn second_exception_keeps_its_error_code() {
        let fault = Event::Exception {
            vector: 14,
            error: Some(6),
        };
        assert_eq!(again(exception(13), Some(fault)), Redelivery::Inject(fault));
    }

    #[test]
    fn interrupts_and_nmis_stay_pending_behind_an_exception() {
        for pending in [Event::Interrupt(0xF3), Event::Nmi] {
            let expected = Redelivery::InjectAndKeep {
                exception: exception(14),
                pending,
            };
            assert_eq!(again(pending, Some(exception(14))), expected);
        }
    }

    #[test]
    fn software_event_gives_way_because_its_instruction_runs_again() {
        assert_eq!(
            again(INT_80, Some(exception(13))),
            Redelivery::Inject(exception(13))
        );
    }
}
