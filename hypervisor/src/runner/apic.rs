//! What goes by a vCPU's local APIC beside its registers: the address that others reach it by, and what the hardware
//! holds.

use hv_core::device::lapic::InterruptStatus;
use hv_hw::virt::{ApicAssist, ApicUpdate, VcpuHw};

use super::Runner;
use crate::pcpu::Pcpu;

/// Resets what goes by the APIC's registers, which are as after INIT.
pub(crate) fn reset<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu) {
    pcpu.cancel_timer(runner.apic_timer);
    tell_address(runner);
    if runner.hw.apic() == ApicAssist::Delivery {
        let status = InterruptStatus::default();
        runner.hw.update_apic(ApicUpdate::Status(status));
        runner.hw.update_apic(ApicUpdate::EoiExits([0; 4]));
    }
}

/// Tells others what the APIC is reached by.
pub(crate) fn tell_address<H: VcpuHw>(runner: &Runner<H>) {
    runner.vcpu().set_logical_id(runner.lapic.address().logical);
}
