//! `sched_op`. Source: `public/sched.h`.

use arrayvec::ArrayVec;
use guest_abi::errno::Errno;
use guest_abi::sched::{SHUTDOWN_MAX, SchedPoll, SchedShutdown, SchedWatchdog};
use hv_core::addr::Gva;
use hv_core::evtchn::Port;
use hv_core::watchdog::WatchdogError;
use hv_core::x86::RFLAGS_IF;
use hv_hw::virt::VcpuHw;

use crate::domain::ShutdownReason;
use crate::hypercall::{Answer, Call};
use crate::machine::host;
use crate::runner::{Activity, Next};

/// Xen's limit too.
const MAX_POLLED: u32 = 128;

pub(super) fn give_way<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    call.next = Next::Yield;
    Ok(0)
}

/// SCHEDOP_shutdown_code: a suspend is told by SCHEDOP_shutdown.
pub(super) fn shutdown_code<H: VcpuHw>(_: &mut Call<'_, H>) -> Answer {
    Err(Errno::EOPNOTSUPP.into())
}

pub(super) fn block<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    if !call.runner.has_something_to_deliver() {
        call.runner.activity = Activity::Halted;
    }
    Ok(0)
}

pub(super) fn watchdog<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: SchedWatchdog = call.runner.copy_in(call.pointer(1))?;
    let now = host::now_ns();
    let (taken, next) = {
        let mut lifecycle = call.runner.domain.lifecycle.lock();
        let taken = lifecycle.watchdogs.set(arg.id, arg.timeout, now);
        let taken = taken.map_err(|error| match error {
            WatchdogError::NoneFree => Errno::ENOSPC,
            WatchdogError::NotSet => Errno::EINVAL,
        })?;
        (taken, lifecycle.watchdogs.next_ns())
    };
    let timer = call.runner.watchdog;
    match next {
        Some(ns) => call.pcpu.set_timer(timer, host::tsc_at(ns)),
        None => call.pcpu.cancel_timer(timer),
    }
    Ok(u64::from(taken))
}

/// SCHEDOP_poll: waits until one of the ports has an event, masked or not, or until `timeout` (ns of system time, 0:
/// for ever).
pub(super) fn poll<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: SchedPoll = call.runner.copy_in(call.pointer(1))?;
    if arg.nr_ports > MAX_POLLED {
        return Err(Errno::EINVAL.into());
    }
    let ports = ports(call, &arg)?;
    call.runner.polled = ports;
    // from here on a sender wakes this vCPU; what came before is seen by the look that follows
    let vcpu = call.runner.vcpu();
    call.runner.domain.note_poller(vcpu, true);
    call.runner.activity = Activity::Polling;
    if call.runner.is_any_polled_port_pending() || can_be_interrupted(call) {
        call.runner.wake(call.pcpu);
    } else if arg.timeout != 0 {
        let deadline = host::tsc_at(arg.timeout);
        call.pcpu.set_timer(call.runner.poll_timer, deadline);
    }
    Ok(0)
}

/// True where the guest would take an interrupt or NMI at once. A guest that polls with interrupts off waits for its
/// ports: its spinlocks do, with whatever else pending.
fn can_be_interrupted<H: VcpuHw>(call: &mut Call<'_, H>) -> bool {
    call.runner.nmi_pending
        || (call.runner.hw.rflags() & RFLAGS_IF != 0 && call.runner.has_something_to_deliver())
}

fn ports<H: VcpuHw>(call: &Call<'_, H>, arg: &SchedPoll) -> Result<ArrayVec<Port, 128>, Errno> {
    let mut ports = ArrayVec::new();
    for index in 0..u64::from(arg.nr_ports) {
        let at = call.runner.element::<u32>(Gva::new(arg.ports), index)?;
        let port = Port::new(call.runner.copy_in::<u32>(at)?);
        call.runner
            .domain
            .events
            .lock()
            .status(port)
            .map_err(|_| Errno::EINVAL)?;
        ports.try_push(port).map_err(|_| Errno::EINVAL)?;
    }
    Ok(ports)
}

pub(super) fn shutdown<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: SchedShutdown = call.runner.copy_in(call.pointer(1))?;
    if arg.reason > SHUTDOWN_MAX {
        return Err(Errno::EINVAL.into());
    }
    let why = ShutdownReason::from_reason(arg.reason);
    let domain = &call.runner.domain;
    domain.end(why, "it said so itself");
    call.next = Next::Yield;
    Ok(0)
}
