//! What the local APIC's registers ask of others.

use hv_core::device::lapic::{Eoi, LapicEffect};
use hv_core::device::message::{DeliveryMode, InterruptMessage, Trigger};
use hv_core::x86::FIRST_LEGAL_VECTOR;
use hv_hw::virt::{ApicAssist, VcpuHw};

use super::{Next, Runner};
use crate::cpu::Pcpu;
use crate::domain::Domain;
use crate::irq;
use crate::vcpu::{Requests, Vcpu};

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

/// The APIC's timer has reached its deadline. The next period of a periodic one is waited for from when the vCPU runs
/// again: what it has not seen yet, another interrupt would not add to, and one that may not run costs nobody any time.
pub fn timer_expired<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu) {
    let now = runner.domain_tsc();
    let next = runner.lapic.on_timer(now);
    runner.is_period_over = next.is_some() && runner.lapic.is_timer_periodic();
    set_timer(runner, pcpu, next.filter(|_| !runner.is_period_over));
}

/// The vCPU is about to run: its periodic timer goes on, where it stood still.
#[inline]
pub fn begin_period<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu) {
    if runner.is_period_over {
        runner.is_period_over = false;
        let next = runner.lapic.on_timer(runner.domain_tsc());
        set_timer(runner, pcpu, next);
    }
}

/// Carries out an effect.
pub(super) fn apply<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu, effect: LapicEffect) {
    match effect {
        LapicEffect::None | LapicEffect::SoftwareDisabled => {}
        LapicEffect::Send(message) => {
            deliver(&runner.domain, message);
        }
        LapicEffect::Eoi(eoi) => end_of_interrupt(&runner.domain, eoi),
        LapicEffect::Timer(deadline) => set_timer(runner, pcpu, deadline),
        LapicEffect::SoftwareEnabled => offer_withheld_upcall(runner),
        LapicEffect::Off => {
            set_timer(runner, pcpu, None);
            if runner.hw.apic() == ApicAssist::Delivery {
                runner.hw.set_interrupt_status(0);
            }
            runner.hw.intercept_apic();
        }
    }
}

fn set_timer<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu, deadline: Option<u64>) {
    match deadline {
        Some(tsc) => pcpu.set_timer(runner.apic_timer, runner.host_tsc(tsc)),
        None => pcpu.cancel_timer(runner.apic_timer),
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
        irq::guest_eoi(domain, eoi.vector);
    }
}

/// Takes a message to the vCPUs that it is for. False where none took it.
pub fn deliver(domain: &Domain, message: InterruptMessage) -> bool {
    let mut targets = domain
        .vcpus
        .iter()
        .filter(|vcpu| message.target.includes(vcpu.apic_id));
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
