//! What each physical CPU does for ever: pick a vCPU, run it, account for it, and sleep where there is none.
//!
//! One turn of it is [`CpuMain::step`], which tests call over vCPUs without hardware. vCPUs come through the CPU's inbox
//! ([`crate::vcpu::make`]) and go when their domain is destroyed; which one runs is a policy's choice (`hv_core::sched`).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use hv_core::domid::DomId;
use hv_core::options::Scheduler;
use hv_core::sched::cap::Cap;
use hv_core::sched::credit2::Credit2;
use hv_core::sched::round_robin::RoundRobin;
use hv_core::sched::{MakeRoom, Policy, Unit};
use hv_core::vcpu::VcpuId;
use hv_core::vcpu::runstate::RunState;
use hv_hw::irq as device;
use hv_hw::virt::VcpuHw;

use crate::cpu::Pcpu;
use crate::domain::{Domain, destroy};
use crate::vcpu::Runner;
use crate::vcpu::make::{self, Arrival, MakeHw};
use crate::vcpu::run::{self, Stop};
use crate::{host, irq, shutdown};

/// A physical CPU and the vCPUs that it runs.
pub struct CpuMain<H> {
    pcpu: Pcpu,
    make: MakeHw<H>,
    policy: Box<dyn Policy>,
    /// Each in a box, so that no long run of memory is needed for more. The policy knows a vCPU by the number of its slot.
    slots: Vec<Option<Box<Slot<H>>>>,
    /// The slot whose vCPU is in the CPU's registers.
    loaded: Option<usize>,
    /// The domain whose vCPU ran last, while it lives: what the CPU has learnt of branches is its.
    last_ran: Option<DomId>,
    /// The slot whose turn it is.
    current: Option<usize>,
    /// The vCPU whose turn it is has to make room.
    must_preempt: bool,
}

struct Slot<H> {
    id: VcpuId,
    /// As the policy was told.
    weight: u16,
    /// In percent, as `cap` was made from.
    cap_percent: u16,
    cap: Cap,
    /// When it got the CPU.
    since_ns: u64,
    /// It has used up what its cap allows in this period.
    is_parked: bool,
    runner: Runner<H>,
}

impl<H: VcpuHw> Slot<H> {
    /// True where its domain's weight or cap is another than was last heeded.
    fn is_retuned(&self) -> bool {
        let domain = &self.runner.domain;
        self.weight != domain.weight.load(Ordering::Relaxed)
            || self.cap_percent != domain.cap.load(Ordering::Relaxed)
    }
}

/// What a turn came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// This vCPU ran.
    Ran(VcpuId),
    /// None can run.
    Idle,
}

/// Runs the vCPUs that this CPU is given, for ever.
pub fn run<H: VcpuHw>(pcpu: Pcpu, scheduler: Scheduler, make: MakeHw<H>) -> ! {
    let mut main = CpuMain::new(pcpu, scheduler, make);
    loop {
        if main.step() == Step::Idle {
            idle(&mut main.pcpu);
        }
    }
}

impl<H: VcpuHw> CpuMain<H> {
    /// A CPU without vCPUs.
    #[must_use]
    pub fn new(pcpu: Pcpu, scheduler: Scheduler, make: MakeHw<H>) -> Self {
        Self {
            pcpu,
            make,
            policy: match scheduler {
                Scheduler::Credit2 => Box::new(Credit2::new()),
                Scheduler::RoundRobin => Box::new(RoundRobin::new()),
            },
            slots: Vec::new(),
            loaded: None,
            last_ran: None,
            current: None,
            must_preempt: false,
        }
    }

    /// Sees to what was left for this CPU, and runs the vCPU whose turn it is until it stops.
    pub fn step(&mut self) -> Step {
        let _ = self.pcpu.take_wake();
        if self.pcpu.has_business() {
            self.attend();
        }
        let Some(slot) = self.choose() else {
            return Step::Idle;
        };
        self.load(slot);
        let Some(Some(at)) = self.slots.get_mut(slot) else {
            return Step::Idle;
        };
        let id = at.id;
        if self.last_ran != Some(id.domid) {
            at.runner.hw.forget_branches();
            self.last_ran = Some(id.domid);
        }
        let stop = run::run(&mut at.runner, &mut self.pcpu);
        self.settle(slot, stop);
        Step::Ran(id)
    }

    /// For tests of the story: a vCPU, which is switched to, and its CPU.
    pub fn part_for_tests(
        &mut self,
        domain: &Domain,
        index: usize,
    ) -> Option<(&mut Runner<H>, &mut Pcpu)> {
        let is_it = |at: &Option<Box<Slot<H>>>| {
            at.as_ref()
                .is_some_and(|at| at.runner.index == index && at.id.domid == domain.id)
        };
        let slot = self.slots.iter().position(is_it)?;
        self.load(slot);
        let at = self.slots.get_mut(slot)?.as_mut()?;
        Some((&mut at.runner, &mut self.pcpu))
    }

    /// The vCPU in each slot that was kicked looks at what was left for it; new ones move in, and the dead go.
    fn attend(&mut self) {
        if self.pcpu.take_zombie_news() {
            destroy::reap();
        }
        for arrival in self.pcpu.take_arrivals() {
            self.adopt(arrival);
        }
        if self.pcpu.take_new_period() {
            self.unpark();
        }
        if !self.pcpu.is_anybody_kicked() {
            return;
        }
        for slot in 0..self.slots.len() {
            if let Some(Some(at)) = self.slots.get(slot)
                && at.runner.vcpu().take_kick()
            {
                self.consider_at_its_cost(slot);
            }
        }
    }

    /// A vCPU moves in. What was left for it before is looked at now.
    fn adopt(&mut self, arrival: Arrival) {
        let runner = make::runner(arrival, &mut self.pcpu, self.make);
        let id = runner.vcpu().id;
        let weight = runner.domain.weight.load(Ordering::Relaxed);
        let new = Some(Box::new(Slot {
            id,
            weight,
            cap_percent: 0,
            cap: Cap::NONE,
            since_ns: 0,
            is_parked: false,
            runner,
        }));
        let slot = match self.slots.iter().position(Option::is_none) {
            Some(slot) => {
                self.slots[slot] = new;
                slot
            }
            None => {
                self.slots.push(new);
                self.slots.len() - 1
            }
        };
        self.policy.add(Unit(slot), weight);
        self.load(slot);
        if let Some(Some(at)) = self.slots.get_mut(slot) {
            at.runner.begin();
            let _ = at.runner.vcpu().take_kick();
        }
        self.consider(slot);
    }

    /// The same as [`Self::consider`], the time taken from the vCPU's own where another has its turn.
    fn consider_at_its_cost(&mut self, slot: usize) {
        let Some(current) = self.current.filter(|current| *current != slot) else {
            self.consider(slot);
            return;
        };
        let since_ns = host::now_ns();
        self.consider(slot);
        let ns = host::now_ns().saturating_sub(since_ns);
        self.policy.charge(Unit(slot), ns, Some(Unit(current)));
    }

    /// Has a vCPU look at what was left for it. It is switched to first where what was asked for needs its registers.
    fn consider(&mut self, slot: usize) {
        let Some(Some(at)) = self.slots.get(slot) else {
            return;
        };
        if at.runner.domain.is_dying() {
            self.drop_slot(slot);
            return;
        }
        if at.runner.needs_registers() {
            self.load(slot);
        }
        let Some(Some(at)) = self.slots.get_mut(slot) else {
            return;
        };
        at.runner.reconsider(&mut self.pcpu);
        let can_run = at.runner.can_run();
        if !can_run {
            self.put_aside(slot);
        } else if self.current != Some(slot) {
            self.enqueue(slot);
        } else if at.is_retuned() {
            self.take_off(slot, |policy, unit, now| policy.block(unit, now));
            self.enqueue(slot);
        }
    }

    /// Tells the policy that a vCPU can run.
    fn enqueue(&mut self, slot: usize) {
        let Some(Some(at)) = self.slots.get_mut(slot) else {
            return;
        };
        let now = host::now_ns();
        let weight = at.runner.domain.weight.load(Ordering::Relaxed);
        if weight != at.weight {
            at.weight = weight;
            self.policy.set_weight(Unit(slot), weight, now);
        }
        let percent = at.runner.domain.cap.load(Ordering::Relaxed);
        if percent != at.cap_percent {
            at.cap_percent = percent;
            at.cap = Cap::new(percent, at.runner.domain.config.vcpus, now);
        }
        at.is_parked = at.cap.left_ns(now) == Some(0);
        if at.is_parked {
            self.pcpu.set_period_end(at.cap.next_period_ns());
            return;
        }
        let room = self.policy.wake(Unit(slot), now);
        if !self.pcpu.runs_one() {
            at.runner.account(RunState::Runnable);
        }
        match room {
            None => {}
            Some(MakeRoom { after_ns: 0, .. }) => self.must_preempt = true,
            Some(MakeRoom { after_ns, .. }) => self.pcpu.shorten_slice(after_ns),
        }
    }

    /// Lets vCPUs run again whose caps allow it.
    fn unpark(&mut self) {
        for slot in 0..self.slots.len() {
            if let Some(Some(at)) = self.slots.get(slot)
                && at.is_parked
                && at.runner.can_run()
            {
                self.enqueue(slot);
            }
        }
    }

    /// The vCPU whose turn it was has the CPU no longer: charges it for its time.
    fn charge(&mut self, slot: usize) {
        if self.current == Some(slot) {
            self.current = None;
            if let Some(Some(at)) = self.slots.get_mut(slot) {
                at.cap.charge(host::now_ns().saturating_sub(at.since_ns));
            }
        }
    }

    /// Tells the policy that a vCPU cannot run, and books why. The end of dom0 is the end of all.
    fn put_aside(&mut self, slot: usize) {
        self.charge(slot);
        let Some(Some(at)) = self.slots.get(slot) else {
            return;
        };
        let domain = &at.runner.domain;
        if domain.is_hardware
            && domain.is_shut_down()
            && let Some(why) = domain.ended()
        {
            shutdown::dom0_ended(why);
        }
        self.policy.block(Unit(slot), host::now_ns());
        at.runner.account(at.runner.waiting_state());
    }

    /// The slot that has the CPU now.
    fn choose(&mut self) -> Option<usize> {
        if let Some(slot) = self.current {
            if !self.must_preempt && !self.pcpu.is_slice_over() {
                return Some(slot);
            }
            self.take_off(slot, |policy, unit, now| policy.preempt(unit, now));
        }
        self.must_preempt = false;
        let pick = self.policy.pick(host::now_ns())?;
        let Unit(slot) = pick.unit;
        self.current = Some(slot);
        let at = self.slots.get_mut(slot)?.as_mut()?;
        at.runner.account(RunState::Running);
        let mut slice_ns = pick.timeslice_ns;
        if at.cap.is_some() {
            let now = host::now_ns();
            at.since_ns = now;
            let left_ns = at.cap.left_ns(now).unwrap_or(u64::MAX);
            slice_ns = Some(slice_ns.unwrap_or(u64::MAX).min(left_ns));
        }
        self.pcpu.limit_slice(slice_ns);
        Some(slot)
    }

    /// A vCPU has lost the CPU, and can run on.
    fn take_off(&mut self, slot: usize, how: fn(&mut dyn Policy, Unit, u64)) {
        self.charge(slot);
        let Some(Some(at)) = self.slots.get_mut(slot) else {
            return;
        };
        at.runner.account(RunState::Runnable);
        if at.cap.left_ns(host::now_ns()) == Some(0) {
            at.is_parked = true;
            self.policy.block(Unit(slot), host::now_ns());
            self.pcpu.set_period_end(at.cap.next_period_ns());
        } else {
            how(&mut *self.policy, Unit(slot), host::now_ns());
        }
    }

    /// Books how a vCPU left the guest.
    fn settle(&mut self, slot: usize, stop: Stop) {
        let Some(Some(at)) = self.slots.get(slot) else {
            return;
        };
        let runner = &at.runner;
        if runner.domain.is_dying() {
            self.drop_slot(slot);
        } else if !runner.can_run() {
            self.put_aside(slot);
        } else if stop == Stop::Yield {
            self.take_off(slot, |policy, unit, now| policy.yield_now(unit, now));
        }
    }

    /// Switches the CPU to the vCPU in `slot`, where it holds another.
    fn load(&mut self, slot: usize) {
        if self.loaded == Some(slot) {
            return;
        }
        self.unload();
        if let Some(Some(at)) = self.slots.get_mut(slot) {
            at.runner.hw.load(&self.pcpu.irqs_off);
            self.loaded = Some(slot);
        }
    }

    fn unload(&mut self) {
        if let Some(old) = self.loaded.take()
            && let Some(Some(at)) = self.slots.get_mut(old)
        {
            at.runner.hw.unload(&self.pcpu.irqs_off);
        }
    }

    /// The vCPU in `slot` is gone for good.
    fn drop_slot(&mut self, slot: usize) {
        if self.loaded == Some(slot) {
            self.unload();
        }
        if self.current == Some(slot) {
            self.current = None;
        }
        let Some(at) = self.slots.get_mut(slot).and_then(Option::take) else {
            return;
        };
        self.policy.remove(Unit(slot), host::now_ns());
        let domain = at.runner.domain.clone();
        if self.last_ran == Some(domain.id) {
            // its number may be another's next time
            self.last_ran = None;
        }
        at.runner.account(RunState::Offline);
        at.runner.vcpu().set_gone();
        let timers = at.runner.timers();
        self.pcpu.disown(&domain, at.runner.index, timers);
        drop(at);
        // whoever destroys the domain goes on once all are gone
        domain.runners.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Sleeps until something happens.
fn idle(pcpu: &mut Pcpu) {
    if pcpu.is_woken() {
        return;
    }
    let since = host::now_ns();
    pcpu.arm();
    if let Some(vector) = device::wait_for_interrupt(&mut pcpu.irqs_off) {
        let _ = irq::handle(pcpu, vector);
    }
    pcpu.note_idle(host::now_ns().saturating_sub(since));
}
