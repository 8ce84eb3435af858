//! The domains that have vCPUs on a CPU, their weights and caps.
//!
//! A cap is a budget of CPU time in each period. Who has used it up is parked until the next period begins, or until a
//! sibling gives back what it had drawn.

use alloc::collections::VecDeque;
use alloc::sync::Arc;

use hv_core::sched::Unit;
use hv_core::sched::cap::Budget;
use hv_core::timer::TimerId;
use hv_core::vcpu::runstate::RunState;
use hv_hw::sync::atomic::Ordering;
use hv_hw::virt::VcpuHw;

use crate::domain::Domain;
use crate::machine::host;
use crate::main_loop::CpuMain;

/// A domain that has vCPUs on this CPU.
pub(super) struct Tenant {
    pub(super) domain: Arc<Domain>,
    pub(super) vcpus: usize,
    /// In percent, as `budget` was made from.
    pub(super) cap_percent: u16,
    pub(super) budget: Option<Budget>,
    /// Slots whose vCPUs wait for the next period.
    pub(super) parked: VecDeque<usize>,
    /// Set only while there are such.
    pub(super) period_timer: TimerId,
}

impl<H: VcpuHw> CpuMain<H> {
    /// One more vCPU of the domain is here. Returns the domain's place.
    pub(super) fn move_in(&mut self, domain: &Arc<Domain>) -> usize {
        let is_it = |at: &Option<Tenant>| {
            let at = at.as_ref();
            at.is_some_and(|at| Arc::ptr_eq(&at.domain, domain))
        };
        let known = self.tenants.iter().position(is_it);
        let place = known.unwrap_or_else(|| {
            let free = self.tenants.iter().position(Option::is_none);
            free.unwrap_or_else(|| {
                self.tenants.push(None);
                self.tenants.len() - 1
            })
        });
        let pcpu = &mut self.pcpu;
        let tenant = self.tenants[place].get_or_insert_with(|| Tenant {
            domain: domain.clone(),
            vcpus: 0,
            cap_percent: 0,
            budget: None,
            parked: VecDeque::with_capacity(domain.vcpus.len()),
            period_timer: pcpu.add_period_timer(place),
        });
        tenant.vcpus += 1;
        place
    }

    /// A vCPU of the domain is here no longer.
    pub(super) fn move_out(&mut self, slot: usize, place: usize) {
        let Some(Some(tenant)) = self.tenants.get_mut(place) else {
            return;
        };
        tenant.parked.retain(|parked| *parked != slot);
        tenant.vcpus -= 1;
        if tenant.vcpus == 0 {
            self.pcpu.remove_period_timer(tenant.period_timer);
            self.tenants[place] = None;
        }
    }

    /// True where its domain's weight or cap is another than was last heeded.
    pub(super) fn is_retuned(&mut self, slot: usize) -> bool {
        self.at(slot).is_some_and(|(at, tenant)| {
            at.weight != tenant.domain.weight.load(Ordering::Relaxed)
                || tenant.cap_percent != tenant.domain.cap.load(Ordering::Relaxed)
        })
    }

    /// Heeds its domain's weight and cap. A new cap begins a new period.
    pub(super) fn retune(&mut self, slot: usize, now_ns: u64) {
        let Some((at, tenant)) = self.at(slot) else {
            return;
        };
        let (place, domain) = (at.tenant, tenant.domain.clone());
        let weight = domain.weight.load(Ordering::Relaxed);
        let percent = domain.cap.load(Ordering::Relaxed);
        let is_recapped = tenant.cap_percent != percent;
        if is_recapped {
            tenant.cap_percent = percent;
            tenant.budget = Budget::new(percent, domain.config.vcpus, now_ns);
        }
        if at.weight != weight {
            at.weight = weight;
            self.policy.set_weight(Unit(slot), weight, now_ns);
        }
        if is_recapped {
            self.unpark(place);
        }
    }

    /// A vCPU, which the policy does not know as ready, waits for its domain's next period.
    pub(super) fn park(&mut self, slot: usize, now_ns: u64) {
        let Some((at, tenant)) = self.at(slot) else {
            return;
        };
        at.is_parked = true;
        at.runner.account(RunState::Runnable, now_ns);
        tenant.parked.push_back(slot);
        if let Some(budget) = &tenant.budget {
            let (timer, ns) = (tenant.period_timer, budget.next_period_ns());
            self.pcpu.set_timer(timer, host::tsc_at(ns));
        }
    }

    /// Lets a domain's vCPUs run again that were parked, as long as its budget lasts.
    pub(super) fn unpark(&mut self, place: usize) {
        let tenant = self.tenants.get(place).and_then(Option::as_ref);
        for _ in 0..tenant.map_or(0, |tenant| tenant.parked.len()) {
            let tenant = self.tenants.get_mut(place).and_then(Option::as_mut);
            let Some(slot) = tenant.and_then(|tenant| tenant.parked.pop_front()) else {
                return;
            };
            if let Some((at, _)) = self.at(slot) {
                at.is_parked = false;
            }
            self.enqueue(slot);
        }
    }

    /// The vCPU whose turn it was has the CPU no longer: what it has used is taken off its domain's budget, and what it
    /// has left of what it had drawn is there for others.
    pub(super) fn charge(&mut self, slot: usize) {
        if self.current != Some(slot) {
            return;
        }
        self.current = None;
        let Some((at, tenant)) = self.at(slot) else {
            return;
        };
        let drawn_ns = core::mem::take(&mut at.drawn_ns);
        let Some(budget) = &mut tenant.budget else {
            return;
        };
        let now_ns = host::now_ns();
        budget.settle(drawn_ns, now_ns.saturating_sub(at.since_ns));
        let place = at.tenant;
        if !tenant.parked.is_empty() && !budget.is_used_up(now_ns) {
            self.unpark(place);
        }
    }
}
