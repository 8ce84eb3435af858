//! What each physical CPU does for ever: pick a vCPU, run it, account for it, and sleep where there is none.
//!
//! One turn of it is [`CpuMain::step`], which tests call over vCPUs without hardware. vCPUs come through the CPU's
//! queue ([`crate::pcpu::hand_off`]) and go when their domain is destroyed; which one runs is a policy's choice
//! (`hv_core::sched`).

pub(crate) mod run_loop;
mod tenants;

use alloc::boxed::Box;
use alloc::vec::Vec;
use hv_hw::sync::atomic::Ordering;

use hv_core::domid::DomId;
use hv_core::options::Scheduler;
use hv_core::sched::credit2::Credit2;
use hv_core::sched::round_robin::RoundRobin;
use hv_core::sched::{MakeRoom, Policy, Unit};
use hv_core::vcpu::VcpuId;
use hv_core::vcpu::runstate::RunState;
use hv_hw::irq as device;
use hv_hw::time;
use hv_hw::virt::VcpuHw;

#[cfg(test)]
use crate::domain::Domain;
use crate::domain::destroy;
use crate::machine::{cpus, host};
use crate::main_loop::run_loop::Descheduled;
use crate::pcpu::hand_off::HandOff;
use crate::pcpu::{Pcpu, irq};
use crate::power;
use crate::runner::Runner;
use crate::runner::make::{self, MakeVcpu};
use tenants::Tenant;

/// A physical CPU and the vCPUs that it runs.
pub(crate) struct CpuMain<H> {
    pcpu: Pcpu,
    make: Box<dyn MakeVcpu<H>>,
    policy: Box<dyn Policy>,
    /// Each in a box, so that no long run of memory is needed for more, by its slot on the CPU. The policy knows a vCPU
    /// by that number too.
    slots: Vec<Option<Box<Slot<H>>>>,
    /// The domains of these vCPUs.
    tenants: Vec<Option<Tenant>>,
    /// The slot whose vCPU is in the CPU's registers.
    loaded: Option<usize>,
    /// The domain whose vCPU ran last, while it lives: what the CPU has learnt of branches is its.
    last_ran: Option<DomId>,
    /// The slot whose turn it is.
    current: Option<usize>,
    /// The vCPU whose turn it is has to make room.
    must_preempt: bool,
    /// How often it was looked whether a vCPU was kicked.
    #[cfg(test)]
    pub(crate) looks: u64,
}

struct Slot<H> {
    id: VcpuId,
    /// Its domain's place among the tenants.
    tenant: usize,
    /// As the policy was told.
    weight: u16,
    /// When it got the CPU, where its domain is capped.
    since_ns: u64,
    /// What it may use of its domain's budget in this turn.
    drawn_ns: u64,
    /// Its domain has used up what its cap allows in this period.
    is_parked: bool,
    runner: Runner<H>,
}

/// What a turn came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Ran(VcpuId),
    Idle,
}

/// Runs the vCPUs that this CPU is given, for ever.
pub(crate) fn run<H: VcpuHw>(
    pcpu: Pcpu,
    scheduler: Scheduler,
    make: impl MakeVcpu<H> + 'static,
) -> ! {
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
    pub(crate) fn new(pcpu: Pcpu, scheduler: Scheduler, make: impl MakeVcpu<H> + 'static) -> Self {
        let mut policy: Box<dyn Policy> = match scheduler {
            Scheduler::Credit2 => Box::new(Credit2::new()),
            Scheduler::RoundRobin => Box::new(RoundRobin::new()),
        };
        policy.set_rate_limit(rate_limit_ns());
        Self {
            pcpu,
            make: Box::new(make),
            policy,
            slots: Vec::new(),
            tenants: Vec::new(),
            loaded: None,
            last_ran: None,
            current: None,
            must_preempt: false,
            #[cfg(test)]
            looks: 0,
        }
    }

    /// Sees to what was left for this CPU, and runs the vCPU whose turn it is until it stops.
    pub(crate) fn step(&mut self) -> Step {
        let _ = self.pcpu.take_wake();
        if self.pcpu.has_business() {
            self.poll_pending_work();
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
        let stop = run_loop::run(&mut at.runner, &mut self.pcpu);
        self.after_run(slot, stop);
        Step::Ran(id)
    }

    /// For tests: true where its CPU would not go idle.
    #[cfg(test)]
    pub(crate) fn is_woken(&self) -> bool {
        self.pcpu.is_woken()
    }

    /// For tests: a vCPU, which is switched to, and its CPU.
    #[cfg(test)]
    pub(crate) fn part(
        &mut self,
        domain: &Domain,
        index: usize,
    ) -> Option<(&mut Runner<H>, &mut Pcpu)> {
        let is_it = |at: &Option<Box<Slot<H>>>| {
            at.as_ref()
                .is_some_and(|at| usize::from(at.id.index) == index && at.id.domid == domain.id)
        };
        let slot = self.slots.iter().position(is_it)?;
        self.load(slot);
        let at = self.slots.get_mut(slot)?.as_mut()?;
        Some((&mut at.runner, &mut self.pcpu))
    }

    /// Does what was left for this CPU, and the vCPU in each slot that was kicked looks at what was left for it.
    fn poll_pending_work(&mut self) {
        if self.pcpu.has_pending_work() {
            self.do_pending_work();
        }
        const FEW: usize = 4;
        if !self.pcpu.is_anybody_kicked() {
            return;
        }
        // so few are looked at faster than a map of them
        if self.slots.len() > FEW {
            self.answer_marked();
        }
        if self.pcpu.is_anybody_kicked() {
            // also one that had no slot yet when it was kicked
            for slot in 0..self.slots.len() {
                self.answer_kick(slot);
            }
        }
    }

    #[inline(never)]
    fn answer_marked(&mut self) {
        for slot in self.pcpu.take_kicked(self.slots.len()) {
            self.answer_kick(slot);
        }
    }

    /// The vCPU in a slot looks, where it was kicked.
    #[inline]
    fn answer_kick(&mut self, slot: usize) {
        #[cfg(test)]
        {
            self.looks += 1;
        }
        if let Some(Some(at)) = self.slots.get(slot)
            && at.runner.vcpu().take_kick()
        {
            self.serve_requests_at_its_cost(slot);
        }
    }

    /// New vCPUs move in, the dead go, and new periods begin.
    fn do_pending_work(&mut self) {
        if self.pcpu.take_zombie_work() {
            destroy::reap();
        }
        if self.pcpu.take_rate_limit_work() {
            self.policy.set_rate_limit(rate_limit_ns());
        }
        for hand_off in self.pcpu.take_hand_offs() {
            self.attach(hand_off);
        }
        while let Some(tenant) = self.pcpu.take_new_period() {
            self.unpark(tenant);
        }
    }

    /// A vCPU moves in. What was left for it before is looked at now.
    fn attach(&mut self, hand_off: HandOff) {
        let runner = make::runner(hand_off, &mut self.pcpu, &*self.make);
        let id = runner.vcpu().id;
        let weight = runner.domain.weight.load(Ordering::Relaxed);
        let slot = runner.slot;
        let new = Box::new(Slot {
            id,
            tenant: self.move_in(&runner.domain),
            weight,
            since_ns: 0,
            drawn_ns: 0,
            is_parked: false,
            runner,
        });
        if slot >= self.slots.len() {
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots[slot] = Some(new);
        self.policy.add(Unit(slot), weight);
        self.load(slot);
        if let Some(Some(at)) = self.slots.get_mut(slot) {
            at.runner.begin();
            let _ = at.runner.vcpu().take_kick();
        }
        self.serve_requests(slot);
    }

    /// The same as [`Self::serve_requests`], the time taken from the vCPU's own where another has its turn.
    fn serve_requests_at_its_cost(&mut self, slot: usize) {
        let Some(current) = self.current.filter(|current| *current != slot) else {
            self.serve_requests(slot);
            return;
        };
        let since_ns = host::now_ns();
        self.serve_requests(slot);
        let ns = host::now_ns().saturating_sub(since_ns);
        self.policy.charge(Unit(slot), ns, Some(Unit(current)));
        if let Some((_, Some(budget))) = self.at(slot).map(|(at, tenant)| (at, &mut tenant.budget))
        {
            budget.settle(0, ns);
        }
    }

    /// Has a vCPU look at what was left for it. It is switched to first where what was asked for needs its registers.
    fn serve_requests(&mut self, slot: usize) {
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
        } else if self.is_retuned(slot) {
            self.take_off(slot, |policy, unit, now| policy.block(unit, now));
            self.enqueue(slot);
        }
    }

    /// A slot's vCPU and its domain.
    fn at(&mut self, slot: usize) -> Option<(&mut Slot<H>, &mut Tenant)> {
        let at = self.slots.get_mut(slot)?.as_mut()?;
        let tenant = self.tenants.get_mut(at.tenant)?.as_mut()?;
        Some((at, tenant))
    }

    /// Tells the policy that a vCPU can run.
    fn enqueue(&mut self, slot: usize) {
        let now_ns = host::now_ns();
        if self.is_retuned(slot) {
            self.retune(slot, now_ns);
        }
        let Some((at, tenant)) = self.at(slot) else {
            return;
        };
        if at.is_parked {
            return;
        }
        if let Some(budget) = &mut tenant.budget
            && budget.is_used_up(now_ns)
        {
            self.park(slot, now_ns);
            return;
        }
        let room = self.policy.wake(Unit(slot), now_ns);
        if !self.pcpu.runs_one()
            && let Some((at, _)) = self.at(slot)
        {
            at.runner.account(RunState::Runnable, now_ns);
        }
        match room {
            None => {}
            Some(MakeRoom { after_ns: 0, .. }) => self.must_preempt = true,
            Some(MakeRoom { after_ns, .. }) => self.pcpu.shorten_slice(after_ns),
        }
    }

    /// Tells the policy that a vCPU cannot run, and books why. The end of dom0 is the end of all.
    fn put_aside(&mut self, slot: usize) {
        self.charge(slot);
        let Some((at, tenant)) = self.at(slot) else {
            return;
        };
        if core::mem::take(&mut at.is_parked) {
            tenant.parked.retain(|parked| *parked != slot);
        }
        let domain = &at.runner.domain;
        if domain.is_hardware
            && domain.is_shut_down()
            && let Some(why) = domain.shutdown_reason()
        {
            power::dom0_ended(why);
        }
        let now_ns = host::now_ns();
        at.runner.account(at.runner.waiting_state(), now_ns);
        self.policy.block(Unit(slot), now_ns);
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
        loop {
            let now_ns = host::now_ns();
            let pick = self.policy.pick(now_ns)?;
            let Unit(slot) = pick.unit;
            let mut slice_ns = pick.timeslice_ns;
            let (at, tenant) = self.at(slot)?;
            if let Some(budget) = &mut tenant.budget {
                let Some(drawn_ns) = budget.draw(now_ns) else {
                    self.policy.block(pick.unit, now_ns);
                    self.park(slot, now_ns);
                    continue;
                };
                at.since_ns = now_ns;
                at.drawn_ns = drawn_ns;
                slice_ns = Some(slice_ns.unwrap_or(u64::MAX).min(drawn_ns));
            }
            at.runner.account(RunState::Running, now_ns);
            self.current = Some(slot);
            self.pcpu.limit_slice(slice_ns);
            return Some(slot);
        }
    }

    /// A vCPU has lost the CPU, and can run on.
    fn take_off(&mut self, slot: usize, how: fn(&mut dyn Policy, Unit, u64)) {
        self.charge(slot);
        let now_ns = host::now_ns();
        let Some((at, tenant)) = self.at(slot) else {
            return;
        };
        at.runner.account(RunState::Runnable, now_ns);
        if let Some(budget) = &mut tenant.budget
            && budget.is_used_up(now_ns)
        {
            self.policy.block(Unit(slot), now_ns);
            self.park(slot, now_ns);
        } else {
            how(&mut *self.policy, Unit(slot), now_ns);
        }
    }

    /// Books how a vCPU left the guest.
    fn after_run(&mut self, slot: usize, why: Descheduled) {
        let Some(Some(at)) = self.slots.get(slot) else {
            return;
        };
        let runner = &at.runner;
        if runner.domain.is_dying() {
            self.drop_slot(slot);
        } else if !runner.can_run() {
            self.put_aside(slot);
        } else if why == Descheduled::Yield {
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

    /// Drops the vCPU in `slot`, whose domain is being destroyed.
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
        let now_ns = host::now_ns();
        self.policy.remove(Unit(slot), now_ns);
        self.move_out(slot, at.tenant);
        let domain = at.runner.domain.clone();
        if self.last_ran == Some(domain.id) {
            // its number may be another's next time
            self.last_ran = None;
        }
        at.runner.account(RunState::Offline, now_ns);
        at.runner.vcpu().set_gone();
        let timers = at.runner.timers();
        self.pcpu.detach(slot, timers);
        drop(at);
        // whoever destroys the domain goes on once all are gone
        domain.runners.fetch_sub(1, Ordering::AcqRel);
    }
}

fn rate_limit_ns() -> u64 {
    u64::from(cpus::rate_limit_us()) * 1000
}

/// Sleeps until something happens.
fn idle(pcpu: &mut Pcpu) {
    if pcpu.is_woken() {
        return;
    }
    let since = time::now();
    pcpu.arm();
    if let Some(vector) = device::wait_for_interrupt(&mut pcpu.irqs_off) {
        irq::handle(pcpu, vector);
    }
    pcpu.note_idle(time::now().saturating_sub(since));
}
