//! Shares by weight: credits burn while a vCPU runs, the faster the lighter it is, and whoever has most runs next.
//!
//! The idea is that of Xen's second credit scheduler. Credits are ns of CPU time of the heaviest vCPU. When even the
//! first in line has none left, all get a refill, up to `REFILL_NS`: sleeping saves up no more than that, so a vCPU
//! that wakes is served soon but cannot starve the others.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cmp::Reverse;

use super::{Pick, Policy};
use crate::index_heap::IndexHeap;
use crate::vcpu::VcpuId;

/// What a refill gives, and the most that a vCPU can have.
const REFILL_NS: i64 = 10_000_000;
/// How far a vCPU may run behind the next in line before they change places: fewer switches, coarser shares.
const GRAIN_NS: i64 = 2_000_000;
const MIN_TIMESLICE_NS: u64 = 500_000;
const MAX_TIMESLICE_NS: u64 = 10_000_000;

/// First in the queue: most credit; among equals, the longest there.
type Rank = (Reverse<i64>, u64);

/// The run queue.
pub struct Credit2 {
    slots: BTreeMap<VcpuId, usize>,
    /// By slot; `None` where the vCPU was removed.
    entities: Vec<Option<Entity>>,
    queue: IndexHeap<Rank>,
    /// Slots that physical CPUs have picked.
    running: Vec<usize>,
    max_weight: u16,
    next_arrival: u64,
}

#[derive(Clone, Copy)]
struct Entity {
    vcpu: VcpuId,
    weight: u16,
    credit_ns: i64,
    activity: Activity,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Activity {
    Blocked,
    Queued,
    Running {
        /// Credits are burnt up to then.
        since_ns: u64,
        /// No timer ends its turn.
        is_open_ended: bool,
    },
}

impl Credit2 {
    /// No vCPUs.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: BTreeMap::new(),
            entities: Vec::new(),
            queue: IndexHeap::new(),
            running: Vec::new(),
            max_weight: 1,
            next_arrival: 0,
        }
    }

    fn find(&mut self, vcpu: VcpuId) -> Option<(usize, &mut Entity)> {
        let slot = *self.slots.get(&vcpu)?;
        Some((slot, self.entities.get_mut(slot)?.as_mut()?))
    }

    /// Burns the credits of a running vCPU up to now.
    fn settle(&mut self, slot: usize, now_ns: u64) {
        let max_weight = self.max_weight;
        if let Some(Some(entity)) = self.entities.get_mut(slot)
            && let Activity::Running { since_ns, .. } = &mut entity.activity
        {
            let ran_ns = now_ns.saturating_sub(*since_ns);
            *since_ns = now_ns.max(*since_ns);
            let burnt = u128::from(ran_ns) * u128::from(max_weight) / u128::from(entity.weight);
            let burnt = i64::try_from(burnt).unwrap_or(i64::MAX);
            entity.credit_ns = entity.credit_ns.saturating_sub(burnt);
        }
    }

    fn enqueue(&mut self, slot: usize) {
        let arrival = self.next_arrival;
        if let Some(Some(entity)) = self.entities.get_mut(slot) {
            entity.activity = Activity::Queued;
            self.queue.set(slot, (Reverse(entity.credit_ns), arrival));
            self.next_arrival += 1;
        }
    }

    /// Takes a running vCPU off its CPU. `None` where it was not running.
    fn take_off_cpu(&mut self, vcpu: VcpuId, now_ns: u64) -> Option<usize> {
        let (slot, entity) = self.find(vcpu)?;
        if !matches!(entity.activity, Activity::Running { .. }) {
            return None;
        }
        self.settle(slot, now_ns);
        self.running.retain(|running| *running != slot);
        Some(slot)
    }

    /// Gives all vCPUs as many refills as the first in line needs to have credit again.
    fn refill(&mut self, now_ns: u64) {
        let Some(((Reverse(best), _), _)) = self.queue.first() else {
            return;
        };
        for index in 0..self.running.len() {
            self.settle(self.running[index], now_ns);
        }
        let refills = best.saturating_neg().max(0) / REFILL_NS + 1;
        let gain = refills.saturating_mul(REFILL_NS);
        for (slot, entity) in self.entities.iter_mut().enumerate() {
            let Some(entity) = entity else { continue };
            entity.credit_ns = entity.credit_ns.saturating_add(gain).min(REFILL_NS);
            if let Some((_, arrival)) = self.queue.key(slot) {
                self.queue.set(slot, (Reverse(entity.credit_ns), arrival));
            }
        }
    }

    /// How long the vCPU runs until it is [`GRAIN_NS`] behind the next in line; `None` without a next.
    fn timeslice(&self, entity: &Entity) -> Option<u64> {
        let ((Reverse(next_credit), _), _) = self.queue.first()?;
        let lead = entity.credit_ns.saturating_sub(next_credit).max(0);
        let lead = u128::from(lead.saturating_add(GRAIN_NS).unsigned_abs());
        let slice = lead * u128::from(entity.weight) / u128::from(self.max_weight);
        let slice = u64::try_from(slice).unwrap_or(u64::MAX);
        Some(slice.clamp(MIN_TIMESLICE_NS, MAX_TIMESLICE_NS))
    }

    fn weigh(&mut self) {
        let weights = self.entities.iter().flatten().map(|entity| entity.weight);
        self.max_weight = weights.max().unwrap_or(1);
    }
}

impl Default for Credit2 {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for Credit2 {
    fn add(&mut self, vcpu: VcpuId, weight: u16) {
        if self.slots.contains_key(&vcpu) {
            return;
        }
        let entity = Entity {
            vcpu,
            weight: weight.max(1),
            credit_ns: REFILL_NS,
            activity: Activity::Blocked,
        };
        let slot = match self.entities.iter().position(Option::is_none) {
            Some(slot) => slot,
            None => {
                self.entities.push(None);
                self.entities.len() - 1
            }
        };
        self.entities[slot] = Some(entity);
        self.slots.insert(vcpu, slot);
        self.queue.grow(self.entities.len());
        self.running
            .reserve(self.entities.len() - self.running.len());
        self.weigh();
    }

    fn remove(&mut self, vcpu: VcpuId) {
        if let Some(slot) = self.slots.remove(&vcpu) {
            self.queue.remove(slot);
            self.running.retain(|running| *running != slot);
            self.entities[slot] = None;
            self.weigh();
        }
    }

    fn wake(&mut self, vcpu: VcpuId, now_ns: u64) -> Option<VcpuId> {
        let (slot, entity) = self.find(vcpu)?;
        if entity.activity != Activity::Blocked {
            return None;
        }
        let credit_ns = entity.credit_ns;
        self.enqueue(slot);
        for index in 0..self.running.len() {
            self.settle(self.running[index], now_ns);
        }
        let running = self.running.iter();
        let poorest = running
            .filter_map(|slot| self.entities.get(*slot)?.as_ref())
            .min_by_key(|entity| entity.credit_ns)?;
        // A turn without an end got none as nobody waited; now somebody does.
        let is_open_ended = matches!(
            poorest.activity,
            Activity::Running {
                is_open_ended: true,
                ..
            }
        );
        (is_open_ended || poorest.credit_ns < credit_ns).then_some(poorest.vcpu)
    }

    fn block(&mut self, vcpu: VcpuId, now_ns: u64) {
        let Some((slot, entity)) = self.find(vcpu) else {
            return;
        };
        if entity.activity == Activity::Queued {
            self.queue.remove(slot);
        } else {
            self.take_off_cpu(vcpu, now_ns);
        }
        if let Some((_, entity)) = self.find(vcpu) {
            entity.activity = Activity::Blocked;
        }
    }

    fn yield_now(&mut self, vcpu: VcpuId, now_ns: u64) {
        let Some(slot) = self.take_off_cpu(vcpu, now_ns) else {
            return;
        };
        if let Some(((Reverse(next_credit), _), _)) = self.queue.first()
            && let Some(Some(entity)) = self.entities.get_mut(slot)
        {
            // What it gives up it gets back with the next refill, if not above the others.
            entity.credit_ns = entity.credit_ns.min(next_credit);
        }
        self.enqueue(slot);
    }

    fn preempt(&mut self, vcpu: VcpuId, now_ns: u64) {
        if let Some(slot) = self.take_off_cpu(vcpu, now_ns) {
            self.enqueue(slot);
        }
    }

    fn pick(&mut self, now_ns: u64) -> Option<Pick> {
        let ((Reverse(best), _), _) = self.queue.first()?;
        if best <= 0 {
            self.refill(now_ns);
        }
        let (_, slot) = self.queue.first()?;
        self.queue.remove(slot);
        self.running.push(slot);
        let entity = *self.entities.get(slot)?.as_ref()?;
        let timeslice_ns = self.timeslice(&entity);
        let activity = Activity::Running {
            since_ns: now_ns,
            is_open_ended: timeslice_ns.is_none(),
        };
        self.entities[slot] = Some(Entity { activity, ..entity });
        Some(Pick {
            vcpu: entity.vcpu,
            timeslice_ns,
        })
    }
}
