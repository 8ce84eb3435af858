//! [`Event`] ↔ the VMCB, and the windows.
//!
//! Exceptions and NMIs are delivered by EVENTINJ. Interrupts are delivered as virtual interrupts, which the CPU takes
//! first thing when IF is set and nothing is in the way; a virtual interrupt that is intercepted is the window.
//! Software events are not injected at all: RIP still stands on their instruction, which is executed again.
//!
//! NMIs are masked from their injection to the guest's IRET, which exits; it is then executed in an interrupt shadow,
//! so that none comes before it is done. One that waits for a shadow alone comes with the first exit after it.
//!
//! Source: AMD APM vol. 2, "Event Injection", "Virtual Interrupts", "EXITINTINFO Pseudo-Code".

use super::super::{Event, SoftwareEvent, VmExit, Waits};
use super::intercepts::{CR8_WRITE, IRET, VINTR};
use super::vmcb::Vmcb;

const VALID: u64 = 1 << 31;
const HAS_ERROR: u64 = 1 << 11;
const TYPE_SHIFT: u32 = 8;
const TYPE_INTERRUPT: u64 = 0;
const TYPE_NMI: u64 = 2;
const TYPE_EXCEPTION: u64 = 3;
const DEBUG: u8 = 1;
const NMI: u8 = 2;
const BREAKPOINT: u8 = 3;
const OVERFLOW: u8 = 4;
const FIRST_INTERRUPT: u8 = 32;

/// Bit of `Vmcb::virtual_interrupt`: one is pending.
pub(super) const V_IRQ: u64 = 1 << 8;
/// Virtual interrupts have priority 15, are not held back by the task priority, of which the core has taken account,
/// and IF and TPR are the guest's own.
pub(super) const VIRTUAL: u64 = (15 << 16) | (1 << 20) | (1 << 24);
const VECTOR_SHIFT: u32 = 32;
/// Bit of `Vmcb::shadow`.
pub(super) const SHADOW: u64 = 1;

/// What has been asked of the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Injected {
    /// The vector of the virtual interrupt that is to be delivered.
    interrupt: Option<u8>,
    /// #DB was injected. Any other in delivery is that of INT1: those of the CPU's own exit.
    is_debug: bool,
    /// NMIs are masked in the guest.
    pub(super) blocks_nmi: bool,
    /// An NMI waits for its window.
    waits_for_nmi: bool,
    /// An interrupt or NMI waits that could not be asked a window for, as an interrupt is being delivered: the end of
    /// its handler is one.
    waits_for_iret: bool,
}

impl Injected {
    /// Has the next VMRUN deliver `event`, and an exit follow when something of `waits` comes about.
    pub(super) fn deliver(&mut self, vmcb: &mut Vmcb, event: Option<Event>, waits: Waits) {
        self.interrupt = None;
        self.is_debug = false;
        match event {
            Some(Event::Interrupt(vector)) => self.interrupt = Some(vector),
            Some(Event::Nmi) => {
                self.blocks_nmi = true;
                vmcb.event = VALID | (TYPE_NMI << TYPE_SHIFT) | u64::from(NMI);
            }
            Some(Event::Exception { vector, error }) => self.inject(vmcb, vector, error),
            Some(Event::Software { .. }) | None => {}
        }
        self.waits_for_nmi = waits.nmi;
        self.waits_for_iret = (waits.interrupt || waits.nmi) && self.interrupt.is_some();
        // an NMI that only a shadow is in the way of comes with the first exit after it
        let wants_window = waits.interrupt || waits.nmi && !self.blocks_nmi;
        match self.interrupt {
            Some(vector) => set_virtual_interrupt(vmcb, Some(vector), false),
            None => set_virtual_interrupt(vmcb, wants_window.then_some(0), wants_window),
        }
        set(&mut vmcb.cr_intercepts, CR8_WRITE, waits.task_priority != 0);
        self.watch_iret(vmcb);
    }

    /// Has the next VMRUN deliver an exception.
    pub(super) fn inject(&mut self, vmcb: &mut Vmcb, vector: u8, error: Option<u32>) {
        self.is_debug = vector == DEBUG;
        // a fault ends the shadow of the instruction before it
        vmcb.shadow &= !SHADOW;
        vmcb.event = exception(vmcb, vector, error);
    }

    /// IRET is about to be executed, and NMIs that were masked are open after it. Returns for what it is the window.
    pub(super) fn iret(&mut self, vmcb: &mut Vmcb) -> VmExit {
        if self.blocks_nmi {
            vmcb.shadow |= SHADOW;
        }
        let has_waited = core::mem::take(&mut self.waits_for_iret);
        self.set_blocking(vmcb, false);
        if self.waits_for_nmi {
            VmExit::NmiWindow
        } else if has_waited {
            VmExit::InterruptWindow
        } else {
            VmExit::Nothing
        }
    }

    /// What was injected has been delivered: the exit came at an instruction after it.
    #[inline(always)]
    pub(super) fn is_delivered(&mut self) {
        self.is_debug = false;
    }

    /// Masks NMIs, or unmasks them.
    pub(super) fn set_blocking(&mut self, vmcb: &mut Vmcb, is_on: bool) {
        self.blocks_nmi = is_on;
        self.watch_iret(vmcb);
    }

    fn watch_iret(self, vmcb: &mut Vmcb) {
        let is_on = self.blocks_nmi || self.waits_for_iret;
        set(&mut vmcb.intercepts[0], IRET, is_on);
    }

    /// The event whose delivery the exit interrupted, if any, and the virtual interrupt that was not taken.
    pub(super) fn take_interrupted(&mut self, vmcb: &mut Vmcb) -> Option<Event> {
        let not_taken = self
            .interrupt
            .take()
            .filter(|_| vmcb.virtual_interrupt & V_IRQ != 0);
        let is_debug = core::mem::take(&mut self.is_debug);
        let event = if is_in_delivery(vmcb) {
            Some(interrupted(vmcb.exit_event, is_debug))
        } else {
            not_taken.map(Event::Interrupt)
        };
        match event {
            // an emulator leaves it pending
            Some(Event::Interrupt(_)) => set_virtual_interrupt(vmcb, None, false),
            Some(Event::Nmi) => self.set_blocking(vmcb, false),
            _ => {}
        }
        event
    }
}

/// True where the exit came in the middle of an event's delivery.
pub(super) fn is_in_delivery(vmcb: &Vmcb) -> bool {
    vmcb.exit_event & VALID != 0
}

/// What EVENTINJ has of an exception. In real mode none has an error code.
fn exception(vmcb: &Vmcb, vector: u8, error: Option<u32>) -> u64 {
    let is_protected = vmcb.state.cr0 & 1 != 0;
    let error = error.filter(|_| is_protected);
    let error = error.map_or(0, |error| HAS_ERROR | u64::from(error) << 32);
    VALID | (TYPE_EXCEPTION << TYPE_SHIFT) | u64::from(vector) | error
}

/// The event in EXITINTINFO. An emulator calls a virtual interrupt an exception.
fn interrupted(info: u64, is_debug_injected: bool) -> Event {
    let vector = info.to_le_bytes()[0];
    let software = |kind| Event::Software {
        vector,
        kind,
        length: 0,
    };
    match (info >> TYPE_SHIFT) & 7 {
        TYPE_INTERRUPT => Event::Interrupt(vector),
        TYPE_NMI => Event::Nmi,
        TYPE_EXCEPTION if vector >= FIRST_INTERRUPT => Event::Interrupt(vector),
        TYPE_EXCEPTION if vector == BREAKPOINT || vector == OVERFLOW => {
            software(SoftwareEvent::Exception)
        }
        TYPE_EXCEPTION if vector == DEBUG && !is_debug_injected => {
            software(SoftwareEvent::Privileged)
        }
        TYPE_EXCEPTION => Event::Exception {
            vector,
            error: (info & HAS_ERROR != 0).then_some((info >> 32) as u32),
        },
        _ => software(SoftwareEvent::Interrupt),
    }
}

fn set_virtual_interrupt(vmcb: &mut Vmcb, vector: Option<u8>, is_window: bool) {
    const VECTOR: u64 = 0xFF << VECTOR_SHIFT;
    let pending = vector.map_or(0, |vector| V_IRQ | u64::from(vector) << VECTOR_SHIFT);
    vmcb.virtual_interrupt = vmcb.virtual_interrupt & !(V_IRQ | VECTOR) | pending;
    set(&mut vmcb.intercepts[0], VINTR, is_window);
}

fn set(word: &mut u32, bit: u32, is_on: bool) {
    *word = if is_on { *word | bit } else { *word & !bit };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupted_events_are_told_apart() {
        for (info, event) in [
            (0x8000_0055, Event::Interrupt(0x55)),
            // as QEMU has it
            (0x8000_0355, Event::Interrupt(0x55)),
            (0x8000_0202, Event::Nmi),
            (
                0x1234_8000_0B0E,
                Event::Exception {
                    vector: 14,
                    error: Some(0x1234),
                },
            ),
            (
                0x8000_0301,
                Event::Exception {
                    vector: 1,
                    error: None,
                },
            ),
            (
                0x8000_0303,
                Event::Software {
                    vector: 3,
                    kind: SoftwareEvent::Exception,
                    length: 0,
                },
            ),
            (
                0x8000_0480,
                Event::Software {
                    vector: 0x80,
                    kind: SoftwareEvent::Interrupt,
                    length: 0,
                },
            ),
        ] {
            assert_eq!(interrupted(info, true), event, "{info:#x}");
        }
        let int1 = Event::Software {
            vector: 1,
            kind: SoftwareEvent::Privileged,
            length: 0,
        };
        assert_eq!(interrupted(0x8000_0301, false), int1);
    }
}
