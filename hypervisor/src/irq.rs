//! A host interrupt: whose is it?
//!
//! Route card, device interrupt → guest:
//! - hypervisor/hv-hw/src/cpu/entry.S (stub, when idle) or hypervisor/hv-hw/src/virt/vtx/exit.rs:decode (in a guest)
//! - hypervisor/src/irq.rs:handle
//! - hypervisor/src/domain/devices.rs:raise, hypervisor/hv-core/src/device/ioapic.rs:IoApic
//! - hypervisor/src/vcpu/exit/apic.rs:deliver
//! - hypervisor/src/vcpu/mod.rs:kick
//! - hypervisor/src/vcpu/inject.rs:prepare
//! - hypervisor/hv-hw/src/virt/vtx/inject.rs
//!
//! Line `n` of the machine's I/O APICs has host vector `DEVICES + n`; the vectors behind the last line are for messages.

use alloc::sync::Arc;

use hv_core::device::ioapic::{PinEffect, PinRoute, Polarity};
use hv_core::device::message::Trigger;
use hv_hw::irq::ioapic::{self, RedirectionEntry};
use hv_hw::irq::{local, vectors};
use hv_hw::sync::Once;

use crate::console;
use crate::cpu::Pcpu;
use crate::domain::Domain;
use crate::vcpu::exit::apic;
use crate::vcpu::run::Next;

/// The domain that owns the devices.
static HARDWARE_DOMAIN: Once<Arc<Domain>> = Once::new();
/// The line of the hypervisor's own UART.
static OWN_LINE: Once<u32> = Once::new();

/// Gives all lines to `domain`.
pub fn give_lines_to(domain: Arc<Domain>) {
    HARDWARE_DOMAIN.call_once(|| domain);
}

/// Keeps line `gsi` for the console, whatever the domain with the devices programs, and routes it by `entry`. False where no
/// I/O APIC serves it.
pub fn keep_for_console(gsi: u32, entry: RedirectionEntry) -> bool {
    OWN_LINE.call_once(|| gsi);
    ioapic::write_entry(gsi, entry)
}

/// Serves the interrupt with this vector and ends it.
pub fn handle(pcpu: &mut Pcpu, vector: u8) -> Next {
    match vector {
        vectors::TIMER => {
            local::eoi();
            pcpu.expire_timers();
        }
        vectors::SERIAL => {
            local::eoi();
            if hv_hw::console::interrupt() {
                console::typed();
            }
        }
        vectors::SPURIOUS => {}
        vector if vectors::DEVICES.contains(&vector) => {
            device(vector);
            local::eoi();
        }
        // kicks and the posted-interrupt notification say all by having come
        _ => local::eoi(),
    }
    Next::Resume
}

/// A device's interrupt, which the domain with the devices gets. A level-triggered line is masked before the host's EOI.
fn device(vector: u8) {
    let Some(domain) = HARDWARE_DOMAIN.get() else {
        return;
    };
    let number = u32::from(vector - vectors::DEVICES.start());
    if number >= ioapic::gsi_end() {
        message(domain, vector);
        return;
    }
    let raised = domain.devices.lock().raise(number);
    let Some(raised) = raised else {
        ioapic::set_masked(number, true);
        return;
    };
    if let Some(effect) = raised.pin {
        apply(first_gsi_of(number), effect);
    }
    let is_taken = raised
        .message
        .is_none_or(|message| apic::deliver(domain, message));
    if !is_taken {
        domain.devices.lock().undelivered(number);
    }
}

fn message(domain: &Domain, vector: u8) {
    let route = {
        let devices = domain.devices.lock();
        devices
            .msis
            .iter()
            .find(|msi| msi.host_vector == vector)
            .copied()
    };
    if let Some(route) = route {
        apic::deliver(domain, route.message);
    }
}

fn first_gsi_of(gsi: u32) -> u32 {
    let ioapics = ioapic::all();
    let owner = ioapics
        .iter()
        .filter(|ioapic| ioapic.first_gsi <= gsi)
        .map(|ioapic| ioapic.first_gsi);
    owner.max().unwrap_or(0)
}

/// The guest ended an interrupt of a level-triggered line: the line may come again.
pub fn guest_eoi(domain: &Domain, vector: u8) {
    let mut devices = domain.devices.lock();
    devices.eoi(vector, apply);
}

/// Does to a real pin what the guest did to the virtual one; the console's is left alone.
pub fn apply(first_gsi: u32, effect: PinEffect) {
    let pin = match effect {
        PinEffect::Mask { pin } => pin,
        PinEffect::Unmask(route) => route.pin,
    };
    let gsi = first_gsi + u32::from(pin);
    if is_own(gsi) {
        return;
    }
    match effect {
        PinEffect::Mask { .. } => {
            ioapic::set_masked(gsi, true);
        }
        PinEffect::Unmask(route) => unmask(gsi, route),
    }
}

fn unmask(gsi: u32, route: PinRoute) {
    let Some(vector) = vector_of_line(gsi) else {
        return;
    };
    let trigger = match route.trigger {
        Trigger::Edge => ioapic::Trigger::Edge,
        Trigger::Level => ioapic::Trigger::Level,
    };
    let polarity = match route.polarity {
        Polarity::High => ioapic::Polarity::ActiveHigh,
        Polarity::Low => ioapic::Polarity::ActiveLow,
    };
    let entry = RedirectionEntry::fixed(vector, boot_apic_id(), trigger, polarity);
    ioapic::write_entry(gsi, entry.masked(false));
}

fn vector_of_line(gsi: u32) -> Option<u8> {
    let vector = u8::try_from(gsi)
        .ok()?
        .checked_add(*vectors::DEVICES.start())?;
    vectors::DEVICES.contains(&vector).then_some(vector)
}

/// A vector for messages that no route of `used` has; `None` where all are taken.
#[must_use]
pub fn free_message_vector(used: &[u8]) -> Option<u8> {
    let lines = u8::try_from(ioapic::gsi_end()).ok()?;
    let first = vectors::DEVICES.start().checked_add(lines)?;
    (first..=*vectors::DEVICES.end()).find(|vector| !used.contains(vector))
}

/// The APIC id of the CPU that boots, which serves all devices.
pub fn boot_apic_id() -> u8 {
    local::id().to_le_bytes()[0]
}

fn is_own(gsi: u32) -> bool {
    OWN_LINE.get() == Some(&gsi)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles_line_is_nobody_elses() {
        assert!(!is_own(4));
        let _no_ioapic_on_the_host = keep_for_console(4, RedirectionEntry::MASKED);
        assert!(is_own(4) && !is_own(5));
    }
}
