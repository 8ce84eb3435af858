//! What each physical CPU keeps for the vCPUs that it runs: their timers, and the flag by which others wake it.

pub(crate) mod hand_off;
pub(crate) mod irq;
pub(crate) mod poll;

use alloc::sync::Arc;
use alloc::vec::Vec;
use hv_hw::sync::atomic::Ordering;

use hv_core::evtchn::Virq;
use hv_core::timer::{TimerId, TimerQueue};
use hv_hw::irq::timer;
use hv_hw::percpu::{self, IrqsOff};
use hv_hw::time;

use crate::domain::Domain;
use crate::domain::vcpu::Requests;
use crate::machine::cpus::{self, Mailbox, PendingWork, end_slice, mailbox, tell};
use hand_off::HandOff;
use poll::Patience;

/// What a timer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TimerKind {
    Singleshot,
    /// The virtual local APIC's timer.
    Apic,
    /// The end of SCHEDOP_poll's patience.
    Poll,
    /// The first of the domain's watchdogs to expire when the vCPU last set one.
    Watchdog,
    /// The end of the time that a vCPU has the CPU while another can run; nobody's own.
    Slice,
    /// Parked vCPUs of a capped domain may run again; the domain's own.
    Period,
}

/// Timers that a vCPU has.
pub(crate) const VCPU_TIMERS: usize = OF_VCPUS.len();
const OF_VCPUS: [TimerKind; 4] = [
    TimerKind::Singleshot,
    TimerKind::Apic,
    TimerKind::Poll,
    TimerKind::Watchdog,
];

/// Whom an expired timer concerns: a slot of the owners, or the number that a domain has on its CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimerKey {
    slot: usize,
    kind: TimerKind,
}

/// This CPU, less the vCPUs themselves.
pub(crate) struct Pcpu {
    /// Interrupts are off on it.
    pub irqs_off: IrqsOff,
    pub id: u32,
    /// How long it does without a look at its interrupts.
    pub patience: Patience,
    /// What others leave for it.
    mailbox: &'static Mailbox,
    timers: TimerQueue<TimerKey>,
    slice: TimerId,
    /// Domains whose timer for the next period has expired, by their number here.
    periods_over: Vec<usize>,
    /// The deadline that the hardware's timer is set to.
    armed: Option<u64>,
    owners: Vec<Option<(Arc<Domain>, usize)>>,
    /// How many owners there are.
    owned: usize,
    /// Sets the hardware's timer; on the host there is none.
    set_hardware: fn(Option<u64>),
}

impl Pcpu {
    /// The CPU that this runs on.
    #[must_use]
    pub(crate) fn new(irqs_off: IrqsOff) -> Self {
        cpus::came_online();
        let mut timers = TimerQueue::new();
        let slice = timers.add(TimerKey {
            slot: 0,
            kind: TimerKind::Slice,
        });
        let id = percpu::this().id();
        Self {
            irqs_off,
            id,
            patience: Patience::NEW,
            mailbox: mailbox(id).expect("a CPU that runs has a number below MAX_CPUS"),
            timers,
            slice,
            periods_over: Vec::new(),
            armed: None,
            owners: Vec::new(),
            owned: 0,
            set_hardware: |deadline| match deadline {
                Some(deadline) => timer::arm(deadline),
                None => timer::disarm(),
            },
        }
    }

    /// For tests, where there is no timer: `set` hears of the TSC value that it would be set to.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn with_timer(self, set: fn(Option<u64>)) -> Self {
        Self {
            set_hardware: set,
            ..self
        }
    }

    /// Counts ticks in which it had nothing to run.
    pub(crate) fn note_idle(&self, ticks: u64) {
        cpus::note_idle(self.id, time::ticks_to_ns(ticks));
    }

    /// Makes room for a vCPU: its slot here; the timers are its singleshot, APIC, poll and watchdog timer.
    pub(crate) fn attach(
        &mut self,
        domain: Arc<Domain>,
        index: usize,
    ) -> (usize, [TimerId; VCPU_TIMERS]) {
        let vcpu = domain.vcpus.get(index).cloned();
        let owner = Some((domain, index));
        let slot = match self.owners.iter().position(Option::is_none) {
            Some(slot) => {
                self.owners[slot] = owner;
                slot
            }
            None => {
                self.owners.push(owner);
                self.owners.len() - 1
            }
        };
        self.owned += 1;
        if let Some(vcpu) = vcpu {
            vcpu.take_slot(slot);
        }
        let timers = OF_VCPUS.map(|kind| self.timers.add(TimerKey { slot, kind }));
        (slot, timers)
    }

    /// Forgets the vCPU in a slot and its timers.
    pub(crate) fn detach(&mut self, slot: usize, timers: [TimerId; VCPU_TIMERS]) {
        for timer in timers {
            self.timers.remove(timer);
        }
        if self.owners.get_mut(slot).and_then(Option::take).is_some() {
            self.owned -= 1;
        }
    }

    /// Takes the vCPUs that it is to run from now on.
    pub(crate) fn take_hand_offs(&mut self) -> Vec<HandOff> {
        if !self.take(PendingWork::HandOffs) {
            return Vec::new();
        }
        hand_off::take(self.id)
    }

    /// Sets a timer to a value of the host's TSC.
    #[inline]
    pub(crate) fn set_timer(&mut self, timer: TimerId, deadline_tsc: u64) {
        self.timers.set(timer, deadline_tsc);
    }

    #[inline]
    pub(crate) fn cancel_timer(&mut self, timer: TimerId) {
        self.timers.cancel(timer);
    }

    /// Takes the CPU from the vCPU that gets it now after so many ns, or not at all.
    pub(crate) fn limit_slice(&mut self, slice_ns: Option<u64>) {
        if self.is_slice_over() {
            self.mailbox.is_slice_over.store(false, Ordering::Release);
        }
        match slice_ns {
            Some(ns) => {
                let deadline = time::now().saturating_add(time::ns_to_ticks(ns));
                self.timers.set(self.slice, deadline);
            }
            None => {
                self.timers.cancel(self.slice);
            }
        }
    }

    /// Takes the CPU from the vCPU that has it in so many ns, where that is not done before.
    pub(crate) fn shorten_slice(&mut self, ns: u64) {
        let deadline = time::now().saturating_add(time::ns_to_ticks(ns));
        let due = self.timers.deadline(self.slice);
        if due.is_none_or(|due| deadline < due) {
            self.timers.set(self.slice, deadline);
        }
    }

    /// A timer for the periods of a capped domain; `number` is what [`Pcpu::take_new_period`] tells.
    pub(crate) fn add_period_timer(&mut self, number: usize) -> TimerId {
        self.periods_over.reserve(number + 1);
        let kind = TimerKind::Period;
        self.timers.add(TimerKey { slot: number, kind })
    }

    /// Gives such a timer back.
    pub(crate) fn remove_period_timer(&mut self, timer: TimerId) {
        self.timers.remove(timer);
    }

    /// A domain that begins a new period: each once for each time that its timer has expired.
    #[must_use]
    pub(crate) fn take_new_period(&mut self) -> Option<usize> {
        if self.periods_over.is_empty() {
            let _ = self.take(PendingWork::Period);
        }
        self.periods_over.pop()
    }

    /// True where something rare is to be done.
    #[inline]
    #[must_use]
    pub(crate) fn has_pending_work(&self) -> bool {
        self.mailbox.pending_work.load(Ordering::Acquire) != 0
    }

    /// True once for each time that the rate limit was set.
    #[must_use]
    pub(crate) fn take_rate_limit_work(&self) -> bool {
        self.take(PendingWork::RateLimit)
    }

    /// True once for each time that a zombie may be one no longer.
    #[must_use]
    pub(crate) fn take_zombie_work(&self) -> bool {
        self.take(PendingWork::Zombies)
    }

    fn take(&self, wanted: PendingWork) -> bool {
        let (pending_work, bit) = (&self.mailbox.pending_work, wanted as u8);
        pending_work.load(Ordering::Acquire) & bit != 0
            && pending_work.fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    /// True where the time of the vCPU that has the CPU is over.
    #[inline]
    #[must_use]
    pub(crate) fn is_slice_over(&self) -> bool {
        self.mailbox.is_slice_over.load(Ordering::Acquire)
    }

    /// Sets the hardware's timer to the earliest deadline, where that has changed.
    #[inline]
    pub(crate) fn arm(&mut self) {
        if self.timers.take_changed() {
            self.arm_next();
        }
    }

    #[inline(never)]
    fn arm_next(&mut self) {
        let next = self.timers.next_deadline();
        if next == self.armed {
            return;
        }
        self.armed = next;
        (self.set_hardware)(next);
    }

    /// Tells the owners of all timers that have expired.
    pub(crate) fn expire_timers(&mut self) {
        self.armed = None;
        while let Some(key) = self.timers.expire(time::now()) {
            match key.kind {
                TimerKind::Slice => {
                    end_slice(self.id);
                    continue;
                }
                TimerKind::Period => {
                    self.periods_over.push(key.slot);
                    tell(self.id, PendingWork::Period);
                    continue;
                }
                TimerKind::Singleshot | TimerKind::Apic | TimerKind::Poll | TimerKind::Watchdog => {
                }
            }
            let Some(Some((domain, index))) = self.owners.get(key.slot) else {
                continue;
            };
            let Some(vcpu) = domain.vcpus.get(*index) else {
                continue;
            };
            match key.kind {
                TimerKind::Singleshot => domain.raise_virq(vcpu.id.index, Virq::TIMER),
                TimerKind::Apic => vcpu.request(Requests::APIC_TIMER),
                TimerKind::Poll => vcpu.request(Requests::POLL_TIMEOUT),
                TimerKind::Watchdog => domain.look_at_watchdogs(),
                TimerKind::Slice | TimerKind::Period => {}
            }
        }
    }

    /// True where it has one vCPU only, which then never has to make way.
    #[inline]
    #[must_use]
    pub(crate) fn runs_one(&self) -> bool {
        self.owned == 1
    }

    /// True where it has to look at its vCPUs before one of them goes on: another was kicked, is new, or has its turn;
    /// or at the dead.
    #[inline]
    #[must_use]
    pub(crate) fn has_business(&self) -> bool {
        self.is_anybody_kicked() || self.is_slice_over() || self.has_pending_work()
    }

    /// True where one of its vCPUs was kicked and has not looked yet.
    #[inline]
    #[must_use]
    pub(crate) fn is_anybody_kicked(&self) -> bool {
        self.mailbox.kicked.is_anybody()
    }

    /// Takes the slots below `end` whose vCPUs were kicked, and now and then another.
    pub(crate) fn take_kicked(&self, end: usize) -> impl Iterator<Item = usize> + use<> {
        self.mailbox.kicked.take_slots(end)
    }

    /// True where somebody wanted this CPU to look at its vCPUs and it has not yet.
    #[must_use]
    pub(crate) fn is_woken(&self) -> bool {
        self.mailbox.wake.load(Ordering::Acquire)
    }

    /// True once for each time somebody wanted this CPU to look at its vCPUs.
    #[inline]
    #[must_use]
    pub(crate) fn take_wake(&self) -> bool {
        let flag = &self.mailbox.wake;
        flag.load(Ordering::Acquire) && flag.swap(false, Ordering::AcqRel)
    }
}
