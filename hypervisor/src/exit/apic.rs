//! What the local APIC's registers ask of others.

use hv_core::addr::{Gpa, PAGE_BYTES};
use hv_core::device::lapic::{BaseRefused, Eoi, LapicEffect, Mode, base};
use hv_hw::guest_log;
use hv_hw::virt::{ApicAssist, ApicUpdate, VcpuHw};

use crate::domain::{Domain, interrupts};
use crate::exit::{Next, Runner};
use crate::pcpu::Pcpu;
use crate::runner::{apic as local_apic, apic_timer};

/// The guest ended an interrupt whose source waits for that.
pub(super) fn eoi_exit<H: VcpuHw>(runner: &mut Runner<H>, vector: u8) -> Next {
    let eoi = runner.lapic.eoi_exit(vector);
    end_of_interrupt(&runner.domain, eoi);
    Next::Resume
}

/// The CPU stored to the APIC page on the guest's behalf.
pub(super) fn write_exit<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu, offset: u16) -> Next {
    let effect = runner.lapic.apic_write_exit(offset);
    apply(runner, pcpu, effect);
    Next::Resume
}

/// Carries out an effect.
pub(super) fn apply<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu, effect: LapicEffect) {
    match effect {
        LapicEffect::None | LapicEffect::SoftwareDisabled => {}
        LapicEffect::Send(message) => {
            interrupts::deliver(&runner.domain, message);
        }
        LapicEffect::Eoi(eoi) => end_of_interrupt(&runner.domain, eoi),
        LapicEffect::Timer(deadline) => apic_timer::set(runner, pcpu, deadline),
        LapicEffect::SoftwareEnabled => offer_withheld_upcall(runner),
        LapicEffect::Readdressed => local_apic::tell_address(runner),
        LapicEffect::Mode(mode) => {
            let is_x2apic = mode == Mode::X2apic;
            runner.hw.update_apic(ApicUpdate::X2apic(is_x2apic));
            if mode == Mode::X2apic {
                local_apic::tell_address(runner);
            } else {
                local_apic::reset(runner, pcpu);
            }
        }
    }
}

/// Writes IA32_APIC_BASE; `None` raises #GP.
pub(super) fn set_base<H: VcpuHw>(
    runner: &mut Runner<H>,
    pcpu: &mut Pcpu,
    value: u64,
) -> Option<()> {
    match runner.lapic.set_base(value) {
        Ok(effect) => {
            apply(runner, pcpu, effect);
            Some(())
        }
        Err(BaseRefused::Invalid) => None,
        Err(BaseRefused::Moved) => {
            let id = runner.vcpu().id;
            guest_log!(
                runner.domain.log,
                Info,
                "{id}: its local APIC cannot be moved: {value:#x} to IA32_APIC_BASE"
            );
            None
        }
    }
}

/// The offset of `gpa` among the APIC's registers, where they are in memory.
pub(super) fn register_at<H: VcpuHw>(runner: &Runner<H>, gpa: Gpa) -> Option<u16> {
    let offset = gpa.as_u64().checked_sub(base::ADDRESS)?;
    let is_in_page = offset < PAGE_BYTES as u64 && runner.lapic.is_mapped();
    is_in_page.then_some(u16::try_from(offset).ok()?)
}

/// Reads a register of xAPIC mode.
pub(super) fn read_mapped<H: VcpuHw>(runner: &mut Runner<H>, offset: u16, size: u8) -> u32 {
    let now = runner.domain_tsc();
    runner.lapic.read_mapped(offset, size, now)
}

/// Writes a register of xAPIC mode.
pub(super) fn write_mapped<H: VcpuHw>(
    runner: &mut Runner<H>,
    pcpu: &mut Pcpu,
    (offset, size): (u16, u8),
    value: u32,
) {
    let now = runner.domain_tsc();
    let effect = runner.lapic.write_mapped(offset, size, value, now);
    if matches!(effect, LapicEffect::Eoi(_)) && runner.hw.apic() == ApicAssist::Delivery {
        // the CPU, which ends interrupts of x2APIC mode itself, has not seen this one's end
        let status = runner.lapic.interrupt_status();
        runner.hw.update_apic(ApicUpdate::Status(status));
    }
    apply(runner, pcpu, effect);
}

/// The upcall came while the APIC took nothing, and its edge was lost: it comes again.
fn offer_withheld_upcall<H: VcpuHw>(runner: &mut Runner<H>) {
    let is_pending = {
        let events = runner.domain.events.lock();
        events
            .vcpu_info(runner.number())
            .is_some_and(|info| info.is_upcall_pending())
    };
    if is_pending {
        runner.vcpu().upcall();
    }
}

fn end_of_interrupt(domain: &Domain, eoi: Eoi) {
    if eoi.is_level {
        interrupts::guest_eoi(domain, eoi.vector);
    }
}
