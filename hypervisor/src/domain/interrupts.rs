//! Interrupts of devices and their way to vCPUs: lines of the I/O APICs, and messages.
//!
//! Line `n` of the machine's I/O APICs has host vector `DEVICES + n`; the vectors after the last line are for messages.

use alloc::sync::Arc;
use core::ops::RangeInclusive;

use hv_core::device::ioapic::{PinEffect, PinRoute, rte};
use hv_core::device::message::{DeliveryMode, InterruptMessage, Trigger};
use hv_core::x86::FIRST_LEGAL_VECTOR;
use hv_hw::irq::{ioapic, local, vectors};
use hv_hw::sync::Once;

use super::vcpu::{Requests, Vcpu};
use super::{Domain, domains};

/// Whose the lines are.
pub(super) struct Lines {
    /// The domain that owns the devices.
    owner: Once<Arc<Domain>>,
    /// The line of the hypervisor's own UART.
    console: Once<u32>,
    /// The local APIC of the CPU that boots, which serves all devices.
    apic_id: Once<u8>,
}

impl Lines {
    pub(super) const fn new() -> Self {
        Self {
            owner: Once::new(),
            console: Once::new(),
            apic_id: Once::new(),
        }
    }
}

/// Gives all lines to `domain`.
pub(crate) fn give_lines_to(domain: Arc<Domain>) {
    domains().lines.owner.call_once(|| domain);
    // at boot, on the CPU that boots
    let _ = boot_apic_id();
}

/// Keeps line `gsi` for the console, whatever the domain with the devices programs, and routes it by `entry`. False
/// where no I/O APIC serves it.
pub(crate) fn keep_for_console(gsi: u32, entry: u64) -> bool {
    domains().lines.console.call_once(|| gsi);
    ioapic::write_entry(gsi, entry)
}

/// A device's interrupt, which the domain with the devices gets. A level-triggered line is masked before the host's
/// EOI.
pub(crate) fn device(vector: u8) {
    let Some(domain) = domains().lines.owner.get() else {
        return;
    };
    let number = u32::from(vector - vectors::DEVICES.start());
    if number >= ioapic::gsi_end() {
        message(domain, vector);
        return;
    }
    let message = {
        // the real pin changes under the lock of the virtual one: an EOI on another CPU comes before both, or after
        let mut devices = domain.devices.lock();
        let Some(raised) = devices.raise(number) else {
            ioapic::set_masked(number, true);
            return;
        };
        if let Some(effect) = raised.pin {
            apply(first_gsi_of(number), effect);
        }
        raised.message
    };
    let is_taken = message.is_none_or(|message| deliver(domain, message));
    if !is_taken {
        domain.devices.lock().undelivered(number);
    }
}

fn message(domain: &Domain, vector: u8) {
    let message = domain.devices.lock().routes.message(vector);
    if let Some(message) = message {
        deliver(domain, message);
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
pub(crate) fn guest_eoi(domain: &Domain, vector: u8) {
    let mut devices = domain.devices.lock();
    devices.eoi(vector, apply);
}

/// Does to a real pin what the guest did to the virtual one; the console's is left alone.
pub(crate) fn apply(first_gsi: u32, effect: PinEffect) {
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
    let entry = rte::fixed(vector, boot_apic_id(), route.trigger, route.polarity);
    ioapic::write_entry(gsi, entry);
}

fn vector_of_line(gsi: u32) -> Option<u8> {
    let vector = u8::try_from(gsi)
        .ok()?
        .checked_add(*vectors::DEVICES.start())?;
    vectors::DEVICES.contains(&vector).then_some(vector)
}

/// The vectors that messages may have: those behind the last line's. None where there are too many lines.
#[must_use]
pub(crate) fn message_vectors() -> RangeInclusive<u8> {
    let lines = u8::try_from(ioapic::gsi_end()).unwrap_or(u8::MAX);
    let first = vectors::DEVICES.start().saturating_add(lines);
    first..=*vectors::DEVICES.end()
}

/// The APIC id of the CPU that boots, which serves all devices.
pub(crate) fn boot_apic_id() -> u8 {
    let id = &domains().lines.apic_id;
    *id.call_once(|| local::id().to_le_bytes()[0])
}

fn is_own(gsi: u32) -> bool {
    domains().lines.console.get() == Some(&gsi)
}

/// Takes a message to the vCPUs that it is for. False where none took it.
pub(crate) fn deliver(domain: &Domain, message: InterruptMessage) -> bool {
    let mut targets = domain
        .vcpus
        .iter()
        .filter(|vcpu| message.target.includes(vcpu.apic_address()));
    match message.mode {
        DeliveryMode::LowestPriority => {
            targets.next().is_some_and(|vcpu| deliver_to(vcpu, message))
        }
        _ => targets.fold(false, |taken, vcpu| deliver_to(vcpu, message) | taken),
    }
}

fn deliver_to(vcpu: &Vcpu, message: InterruptMessage) -> bool {
    match message.mode {
        DeliveryMode::Fixed | DeliveryMode::LowestPriority
            if message.vector >= FIRST_LEGAL_VECTOR =>
        {
            match message.trigger {
                Trigger::Edge => vcpu.post_edge(message.vector),
                Trigger::Level => vcpu.post_level(message.vector),
            }
        }
        DeliveryMode::Nmi => vcpu.request(Requests::NMI),
        DeliveryMode::Init => vcpu.request(Requests::INIT),
        DeliveryMode::Startup => vcpu.request_startup(message.vector),
        // no 8259, no system-management mode, and vectors below 16 are nobody's
        DeliveryMode::Fixed
        | DeliveryMode::LowestPriority
        | DeliveryMode::Smi
        | DeliveryMode::ExtInt => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles_line_is_nobody_elses() {
        assert!(!is_own(4));
        let _no_ioapic_on_the_host = keep_for_console(4, rte::MASKED);
        assert!(is_own(4) && !is_own(5));
    }
}
