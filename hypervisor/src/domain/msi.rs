//! Message-signalled interrupts of dom0's devices: the guest's message is kept, the device gets one of the host's.

use hv_core::device::message::InterruptMessage;
use hv_core::device::pci::{Bdf, ConfigSpace, MsiMessage};
use hv_hw::console::log::GuestLog;
use hv_hw::guest_log;

use super::interrupts;
use crate::domain::devices::{Devices, MsiRoute};

const ADDRESS_BASE: u64 = 0xFEE0_0000;
const DESTINATION_SHIFT: u32 = 12;

/// Delivers the function's interrupt as `message` from now on.
pub(crate) fn route(
    (devices, log): (&mut Devices, &GuestLog),
    function: Bdf,
    message: InterruptMessage,
    machine: &mut impl ConfigSpace,
) {
    if let Some(known) = devices.msis.iter_mut().find(|msi| msi.function == function) {
        known.message = message;
        return;
    }
    let used: arrayvec::ArrayVec<u8, 256> = devices
        .msis
        .iter()
        .map(|msi| msi.host_vector)
        .take(256)
        .collect();
    let Some(host_vector) = interrupts::free_message_vector(&used) else {
        guest_log!(
            log,
            Warning,
            "{function}: no interrupt vector left for its MSI, which stays off"
        );
        return;
    };
    devices.msis.push(MsiRoute {
        function,
        host_vector,
        message,
    });
    let destination = u64::from(interrupts::boot_apic_id());
    let message = MsiMessage {
        address: ADDRESS_BASE | (destination << DESTINATION_SHIFT),
        data: u16::from(host_vector),
    };
    if let Some(pci) = &mut devices.pci {
        pci.program_msi(function, message, machine);
    }
    guest_log!(log, Info, "{function}: MSI at host vector {host_vector:#x}");
}

/// The function's MSI is off: its vector is free.
pub(crate) fn release(devices: &mut Devices, function: Bdf) {
    devices.msis.retain(|msi| msi.function != function);
}
