//! What the local APIC's registers ask of others.

use hv_core::device::lapic::{Eoi, LapicEffect};
use hv_hw::virt::{ApicAssist, VcpuHw};

use crate::domain::{Domain, interrupts};
use crate::exit::{Next, Runner};
use crate::pcpu::Pcpu;
use crate::runner::apic_timer;

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
        LapicEffect::Off => {
            apic_timer::set(runner, pcpu, None);
            if runner.hw.apic() == ApicAssist::Delivery {
                runner.hw.set_interrupt_status(0);
            }
            runner.hw.intercept_apic();
        }
    }
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
