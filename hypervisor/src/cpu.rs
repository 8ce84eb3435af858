//! What each physical CPU keeps for the vCPUs that it runs: their timers, and the flag by which others wake it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use hv_core::evtchn::Virq;
use hv_core::timer::{TimerId, TimerQueue};
use hv_hw::insn;
use hv_hw::irq::local;
use hv_hw::irq::{timer, vectors};
use hv_hw::percpu::{self, IrqsOff, MAX_CPUS};

use crate::domain::Domain;
use crate::host;
use crate::vcpu::Requests;

/// Set by others to make a CPU look at its vCPUs.
static WAKE: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

/// Makes a CPU look at its vCPUs: out of the guest, or out of idleness.
#[inline]
pub fn wake(cpu: u32) {
    let Some(flag) = usize::try_from(cpu).ok().and_then(|cpu| WAKE.get(cpu)) else {
        return;
    };
    flag.store(true, Ordering::Release);
    if cpu != percpu::this().id() {
        local::send_ipi(cpu, vectors::KICK);
    }
}

/// What a timer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerKind {
    /// VCPUOP_set_singleshot_timer: VIRQ_TIMER.
    Singleshot,
    /// The virtual local APIC's timer.
    Apic,
    /// The end of SCHEDOP_poll's patience.
    Poll,
    /// The end of the time that a vCPU has the CPU while another can run; nobody's own.
    Slice,
}

/// How long a vCPU has the CPU while another can run.
const SLICE_NS: u64 = 10_000_000;

/// Whom an expired timer concerns: a slot of the owners.
#[derive(Clone, Copy, Debug)]
pub struct TimerKey {
    slot: usize,
    kind: TimerKind,
}

/// This CPU, less the vCPUs themselves.
pub struct Pcpu {
    /// Interrupts are off on it.
    pub irqs_off: IrqsOff,
    /// Its number.
    pub id: u32,
    timers: TimerQueue<TimerKey>,
    slice: TimerId,
    /// The deadline that the hardware's timer is set to.
    armed: Option<u64>,
    owners: Vec<(Arc<Domain>, usize)>,
}

impl Pcpu {
    /// The CPU that this runs on.
    #[must_use]
    pub fn new(irqs_off: IrqsOff) -> Self {
        let mut timers = TimerQueue::new();
        let slice = timers.add(TimerKey {
            slot: 0,
            kind: TimerKind::Slice,
        });
        Self {
            irqs_off,
            id: percpu::this().id(),
            timers,
            slice,
            armed: None,
            owners: Vec::new(),
        }
    }

    /// Makes room for a vCPU; the timers are its singleshot, APIC and poll timer.
    pub fn adopt(&mut self, domain: Arc<Domain>, index: usize) -> [TimerId; 3] {
        let slot = self.owners.len();
        self.owners.push((domain, index));
        [TimerKind::Singleshot, TimerKind::Apic, TimerKind::Poll]
            .map(|kind| self.timers.add(TimerKey { slot, kind }))
    }

    /// Sets a timer to a value of the host's TSC.
    #[inline]
    pub fn set_timer(&mut self, timer: TimerId, deadline_tsc: u64) {
        self.timers.set(timer, deadline_tsc);
    }

    /// Unsets a timer.
    #[inline]
    pub fn cancel_timer(&mut self, timer: TimerId) {
        self.timers.cancel(timer);
    }

    /// Takes the CPU from the vCPU that gets it now after 10 ms, where another can run.
    pub fn limit_slice(&mut self, others_wait: bool) {
        if others_wait {
            let ticks = host::host().clock.ns_to_ticks(SLICE_NS);
            self.timers
                .set(self.slice, insn::rdtsc().saturating_add(ticks));
        } else {
            self.timers.cancel(self.slice);
        }
    }

    /// Sets the hardware's timer to the earliest deadline, where that has changed.
    #[inline]
    pub fn arm(&mut self) {
        let next = self.timers.next_deadline();
        if next == self.armed {
            return;
        }
        self.armed = next;
        match next {
            Some(deadline) => timer::arm(deadline),
            None => timer::disarm(),
        }
    }

    /// Tells the owners of all timers that have expired.
    pub fn expire_timers(&mut self) {
        self.armed = None;
        while let Some(key) = self.timers.expire(insn::rdtsc()) {
            if key.kind == TimerKind::Slice {
                wake(self.id);
                continue;
            }
            let (domain, index) = self
                .owners
                .get(key.slot)
                .expect("timers are made with their slot");
            let Some(vcpu) = domain.vcpus.get(*index) else {
                continue;
            };
            match key.kind {
                TimerKind::Singleshot => domain.raise_virq(vcpu.id.index, Virq::TIMER),
                TimerKind::Apic => vcpu.request(Requests::APIC_TIMER),
                TimerKind::Poll => vcpu.request(Requests::POLL_TIMEOUT),
                TimerKind::Slice => {}
            }
        }
    }

    /// True where it has one vCPU only, which then never has to make way.
    #[inline]
    #[must_use]
    pub fn runs_one(&self) -> bool {
        self.owners.len() == 1
    }

    /// True where somebody wanted this CPU to look at its vCPUs and it has not yet.
    #[must_use]
    pub fn is_woken(&self) -> bool {
        WAKE[self.id as usize].load(Ordering::Acquire)
    }

    /// True once for each time somebody wanted this CPU to look at its vCPUs.
    #[inline]
    #[must_use]
    pub fn take_wake(&self) -> bool {
        let flag = &WAKE[self.id as usize];
        flag.load(Ordering::Acquire) && flag.swap(false, Ordering::AcqRel)
    }
}
