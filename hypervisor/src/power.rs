//! The end of the machine: dom0 wants it off or started again, or has died.
//!
//! HOST LOG: the machine's last words, when the domain that owns it ends it.

use hv_core::device::ports;
use hv_hw::console::{self, log::GuestLog};
use hv_hw::{error, guest_log, info, insn, port};

use crate::domain::ShutdownReason;
use crate::machine::host;

/// ACPI S3, which would lose everything that the hypervisor keeps in the CPU.
const SLEEP_TYPES_REFUSED: &str = "suspend to RAM is not supported; the write is ignored";

/// dom0 writes a PM1 control register. Switching off is carried out, after the last words are out.
pub(crate) fn sleep_requested(log: &GuestLog, at: u16, size: u8, value: u32) {
    if let Some(kind) = ports::sleep_type(value) {
        if !host::is_power_off(kind) {
            guest_log!(
                log,
                Error,
                "d0: ACPI sleep type {kind}: {SLEEP_TYPES_REFUSED}"
            );
            return;
        }
        info!("d0 switches the machine off");
        console::flush();
    }
    port::write(at, size, value);
}

/// dom0 writes a reset register.
pub(crate) fn reset_requested(at: u16, size: u8, value: u32) {
    const RESET: u32 = 1 << 2;
    if at == 0xCF9 && value & RESET == 0 {
        port::write(at, size, value);
        return;
    }
    info!("d0 resets the machine");
    console::flush();
    port::write(at, size, value);
}

/// An INIT came while a guest ran: what asks for a reset of the machine (a keyboard controller, a management
/// controller) gets one, since a CPU that runs guests keeps the INIT itself off.
pub(crate) fn machine_is_reset() -> ! {
    info!("INIT signal: the machine is to be reset");
    console::flush();
    hv_hw::shutdown::reset()
}

/// dom0 has ended, and with it the machine's work.
pub(crate) fn dom0_ended(why: ShutdownReason) -> ! {
    match why {
        ShutdownReason::PowerOff => power_off(),
        ShutdownReason::Crash if host::host().options.noreboot => {
            error!("dom0 has crashed; noreboot: the machine stays as it is");
            console::flush();
            insn::halt_for_ever()
        }
        ShutdownReason::Crash => error!("dom0 has crashed: rebooting"),
        ShutdownReason::Reboot | ShutdownReason::Suspend | ShutdownReason::Other(_) => {
            info!("dom0 has shut down: rebooting")
        }
    }
    console::flush();
    hv_hw::shutdown::reset()
}

fn power_off() -> ! {
    info!("dom0 has switched off: powering off");
    console::flush();
    host::power_off();
    error!("the machine did not power off: halting");
    console::flush();
    insn::halt_for_ever()
}
