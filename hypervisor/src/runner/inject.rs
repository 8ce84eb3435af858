//! What goes into the guest at an entry: first an event whose delivery was cut short, then exceptions, NMIs, and
//! interrupts.
//!
//! A CPU that delivers interrupts itself picks them out of the APIC page, and is only told of new requests.

use hv_hw::sync::atomic::Ordering;

use hv_core::vcpu::event::{self, Redelivery};
use hv_hw::virt::{ApicAssist, ApicUpdate, Event, VcpuHw, Waits};

use crate::runner::{Next, Runner};

/// Gets everything ready for the next entry; [`Next::Yield`] where there is none, as the guest has died of what it was
/// to get.
#[inline(always)]
pub(crate) fn prepare<H: VcpuHw>(runner: &mut Runner<H>) -> Next {
    sync_apic(runner);
    if runner.interrupted.is_some() || runner.raised.is_some() {
        return deliver_first(runner);
    }
    if runner.hw.apic() != ApicAssist::Delivery || runner.nmi_pending || runner.has_callback() {
        deliver(runner);
    }
    Next::Resume
}

/// Delivers what comes before interrupts: an event that was cut short, an exception.
#[inline(never)]
fn deliver_first<H: VcpuHw>(runner: &mut Runner<H>) -> Next {
    if let Some(event) = runner.interrupted.take() {
        return deliver_again(runner, event);
    }
    let event = runner.raised.take();
    enter_with(runner, event);
    Next::Resume
}

/// Takes in what others have left.
#[inline(always)]
fn sync_apic<H: VcpuHw>(runner: &mut Runner<H>) {
    if runner.lapic.is_in_sync(&runner.vcpu.posted) {
        return;
    }
    take_in(runner);
}

#[inline(never)]
fn take_in<H: VcpuHw>(runner: &mut Runner<H>) {
    let synced = runner.lapic.sync(&runner.vcpu.posted);
    if runner.hw.apic() != ApicAssist::Delivery {
        return;
    }
    if synced.highest != 0 {
        let update = ApicUpdate::Requested(synced.highest);
        runner.hw.update_apic(update);
    }
    if synced.eoi_exits_changed {
        let vectors = runner.lapic.eoi_exit_bitmap();
        runner.hw.update_apic(ApicUpdate::EoiExits(vectors));
    }
}

/// The exit came in the middle of an event's delivery, which starts over; an exception that the exit raised joins it by
/// the rules of double faults.
#[cold]
fn deliver_again<H: VcpuHw>(runner: &mut Runner<H>, interrupted: Event) -> Next {
    let event = match event::again(interrupted, runner.raised.take()) {
        Redelivery::Inject(event) => event,
        Redelivery::InjectAndKeep { exception, pending } => {
            keep(runner, pending);
            exception
        }
        Redelivery::TripleFault => {
            let _ = super::crash::triple_fault(runner);
            return Next::Yield;
        }
    };
    enter_with(runner, Some(event));
    Next::Resume
}

/// An interrupt or NMI gives way to an exception, and comes after it.
fn keep<H: VcpuHw>(runner: &mut Runner<H>, pending: Event) {
    match pending {
        Event::Interrupt(vector) => {
            runner.lapic.take_back(vector);
            if runner.hw.apic() == ApicAssist::Delivery {
                let status = runner.lapic.interrupt_status();
                runner.hw.update_apic(ApicUpdate::Status(status));
            }
        }
        Event::Nmi => runner.nmi_pending = true,
        _ => {}
    }
}

/// Gives an event back to its source whose delivery an exit interrupted: no record of the vCPU has a place for it.
pub(crate) fn put_back<H: VcpuHw>(runner: &mut Runner<H>) {
    if let Some(event @ (Event::Interrupt(_) | Event::Nmi)) = runner.interrupted {
        runner.interrupted = None;
        keep(runner, event);
        runner.is_quiet = false;
    }
}

/// Injects one event where it is open, and asks for the window where it is not.
#[inline]
fn deliver<H: VcpuHw>(runner: &mut Runner<H>) {
    let is_quiet = !runner.nmi_pending && !runner.lapic.has_requests() && !runner.has_callback();
    if !(is_quiet && runner.is_quiet) {
        deliver_next(runner);
    }
}

#[inline(never)]
fn deliver_next<H: VcpuHw>(runner: &mut Runner<H>) {
    let mut event = None;
    if runner.nmi_pending && runner.hw.nmi_open() {
        runner.nmi_pending = false;
        event = Some(Event::Nmi);
    } else if let Some(vector) = next_interrupt(runner)
        && runner.hw.interrupts_open()
    {
        if callback(runner) != Some(vector) {
            runner.lapic.acknowledge(vector);
        }
        event = Some(Event::Interrupt(vector));
    }
    enter_with(runner, event);
}

/// The vector to deliver next by injection: the domain's callback, then the APIC's highest.
fn next_interrupt<H: VcpuHw>(runner: &mut Runner<H>) -> Option<u8> {
    let callback = callback(runner);
    if callback.is_some() || runner.hw.apic() == ApicAssist::Delivery {
        return callback;
    }
    runner.lapic.deliverable()
}

/// The vector of HVM_PARAM_CALLBACK_IRQ, while the vCPU's upcall is pending and it has no vector of its own. It goes
/// past the local APIC: nothing is in service, and the guest sends no EOI.
pub(crate) fn callback<H: VcpuHw>(runner: &Runner<H>) -> Option<u8> {
    let vector = runner.domain.callback.vector()?;
    if runner.vcpu().upcall_vector.load(Ordering::Acquire) != 0 {
        return None;
    }
    let events = runner.domain.events.lock();
    let is_pending = events.vcpu_info(runner.number())?.is_upcall_pending();
    is_pending.then_some(vector)
}

impl<H: VcpuHw> Runner<H> {
    /// True where the domain uses one callback for all its vCPUs, so that each entry has to look.
    #[inline]
    fn has_callback(&self) -> bool {
        self.domain.callback.vector().is_some()
    }
}

/// Has `event` delivered, and asks for an exit when what still waits becomes deliverable.
fn enter_with<H: VcpuHw>(runner: &mut Runner<H>, event: Option<Event>) {
    let interrupt_waits = next_interrupt(runner).is_some();
    let nmi_pending = runner.nmi_pending;
    runner.is_quiet = !nmi_pending && !runner.lapic.has_requests() && !interrupt_waits;
    let task_priority = match runner.hw.apic() {
        ApicAssist::TaskPriority => runner.lapic.tpr_threshold(),
        ApicAssist::None | ApicAssist::Delivery => 0,
    };
    let waits = Waits {
        interrupt: interrupt_waits,
        nmi: nmi_pending,
        task_priority,
    };
    runner.hw.deliver(event, waits);
}
