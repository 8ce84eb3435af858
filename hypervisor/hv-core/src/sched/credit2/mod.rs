//! Shares by weight, in virtual time: it passes for a vCPU while that runs, the faster the lighter it is, and whoever
//! is furthest behind runs next.
//!
//! The name, the weights and the rate limit are those of Xen's second credit scheduler, whose tools find here what they
//! know; a credit is a lag behind the others. There is no refill, and no debt: how far a vCPU is behind the weighted
//! mean of those that can run is bounded, so that sleep saves up little, as is how far it is ahead when it joins them.
//! That mean is not pulled back by those who join behind it, or many sleepers that wake one after another would each
//! join further back, and whoever ran before would wait for all of that. One that runs alone is the mean; where several
//! CPUs give a vCPU more than its weight would, the others that have not used theirs follow it by that bound, and it
//! owes no more than they have saved.
//!
//! Each operation is O(log n) in the queued vCPUs, and linear in the CPUs that pick here.

pub(super) mod entity;
mod mean;

use alloc::vec::Vec;

use super::{MakeRoom, Pick, Policy, Unit};
use crate::index_heap::IndexHeap;

use entity::{Activity, Entity, FAR, Share, Vtime};
use mean::{Mean, product};

/// How far a vCPU may run ahead of the next in line before they change places: fewer switches, coarser shares.
pub(super) const GRAIN_NS: u64 = 2_000_000;
const MIN_TIMESLICE_NS: u64 = 500_000;
/// The longest turn while another waits, unless the rate limit is above it.
const MAX_TIMESLICE_NS: u64 = 10_000_000;

/// First in the queue: least virtual time; among equals, the longest there.
type Rank = (Vtime, u64);

/// The run queue.
pub struct Credit2 {
    /// By unit; `None` where there is none.
    entities: Vec<Option<Entity>>,
    queue: IndexHeap<Rank>,
    /// Units that physical CPUs have picked.
    running: Vec<usize>,
    /// One that yielded, until the next in line has been picked.
    standing_back: Option<usize>,
    mean: Mean,
    rate_limit_ns: u64,
    next_arrival: u64,
}

impl Credit2 {
    /// No vCPUs, and no rate limit.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            entities: Vec::new(),
            queue: IndexHeap::new(),
            running: Vec::new(),
            standing_back: None,
            mean: Mean::NONE,
            rate_limit_ns: 0,
            next_arrival: 0,
        }
    }

    fn get(&self, slot: usize) -> Option<&Entity> {
        self.entities.get(slot)?.as_ref()
    }

    fn get_mut(&mut self, slot: usize) -> Option<&mut Entity> {
        self.entities.get_mut(slot)?.as_mut()
    }

    /// Changes an entity; the mean goes along where it is in that, and so does its place in the queue.
    fn change(&mut self, slot: usize, change: impl FnOnce(&mut Entity)) {
        let Some(Some(entity)) = self.entities.get_mut(slot) else {
            return;
        };
        if !entity.is_runnable() {
            change(entity);
            return;
        }
        self.mean.leave(entity);
        change(entity);
        self.mean.join(entity);
        if let Some((_, arrival)) = self.queue.key(slot) {
            self.queue.set(slot, (entity.vtime, arrival));
        }
    }

    /// Moves the virtual times of the running vCPUs up to now.
    fn settle(&mut self, now_ns: u64) {
        for slot in &self.running {
            let Some(Some(entity)) = self.entities.get_mut(*slot) else {
                continue;
            };
            let Activity::Running { since_ns, .. } = &mut entity.activity else {
                continue;
            };
            let ran_ns = now_ns.saturating_sub(*since_ns);
            *since_ns = now_ns.max(*since_ns);
            let old = entity.vtime;
            let most = (self.mean.base + FAR).max(old);
            entity.vtime = (old + entity.share.vtime_in(ran_ns)).min(most);
            self.mean.advance(entity, entity.vtime - old);
        }
        self.catch_up();
        if self.mean.base > FAR {
            self.put_back();
        }
    }

    /// Puts the mean back to 0, and all others with it.
    #[cold]
    fn put_back(&mut self) {
        let least = self.mean.get() - FAR;
        for slot in 0..self.entities.len() {
            self.change(slot, |entity| entity.vtime = entity.vtime.max(least));
        }
        let (furthest, base) = (self.mean.furthest(), self.mean.get());
        self.mean.base = 0;
        self.mean.furthest = furthest - base;
        for (slot, entity) in self.entities.iter_mut().enumerate() {
            let Some(entity) = entity else { continue };
            entity.vtime -= base;
            if let Some((_, arrival)) = self.queue.key(slot) {
                self.queue.set(slot, (entity.vtime, arrival));
            }
        }
    }

    /// Forgets by how much more than [`entity::MAX_LAG_NS`] running vCPUs are behind the mean: all the time they cannot
    /// get more than the CPU that they have. To bound those ahead instead would lose the order between them.
    fn catch_up(&mut self) {
        if self.running.len() < 2 && self.queue.first().is_none() {
            // nobody to be behind of
            return;
        }
        let mut mean = self.mean.get();
        if self.too_far_behind(mean).next().is_none() {
            return;
        }
        loop {
            // the mean with those in it that are too far behind, each at the bound below it
            let mut rest = self.mean;
            for entity in self.too_far_behind(mean) {
                rest.leave(entity);
                rest.sum -= product(entity.share.max_lag, entity.share.weight);
            }
            let next = rest.get();
            if next <= mean {
                break;
            }
            mean = next;
        }
        for index in 0..self.running.len() {
            self.change(self.running[index], |entity| {
                entity.vtime = entity.vtime.max(mean - entity.share.max_lag);
            });
        }
    }

    /// The running vCPUs that are more than [`entity::MAX_LAG_NS`] behind `mean`.
    fn too_far_behind(&self, mean: Vtime) -> impl Iterator<Item = &Entity> {
        let running = self.running.iter().filter_map(|slot| self.get(*slot));
        running.filter(move |entity| entity.vtime < mean - entity.share.max_lag)
    }

    /// Puts a vCPU that can run, and is in the mean, into the queue.
    fn enqueue(&mut self, slot: usize) {
        let Some(Some(entity)) = self.entities.get_mut(slot) else {
            return;
        };
        entity.activity = Activity::Queued;
        self.queue.set(slot, (entity.vtime, self.next_arrival));
        self.next_arrival += 1;
    }

    /// Takes a running vCPU off its CPU. False where it was not running.
    fn take_off_cpu(&mut self, slot: usize, now_ns: u64) -> bool {
        let is_running = self
            .get(slot)
            .is_some_and(|entity| matches!(entity.activity, Activity::Running { .. }));
        if is_running {
            self.settle(now_ns);
            self.running.retain(|running| *running != slot);
        }
        is_running
    }

    /// Takes a queued vCPU out of the queue.
    fn unqueue(&mut self, slot: usize) {
        self.queue.remove(slot);
        if self.standing_back == Some(slot) {
            self.standing_back = None;
        }
    }

    /// One that stood back is in line again.
    fn line_up(&mut self) {
        if let Some(slot) = self.standing_back.take() {
            self.enqueue(slot);
        }
    }

    /// How long a vCPU runs until it is [`GRAIN_NS`] ahead of the next in line. `None` where it is the only one that
    /// can run: of the turns on several CPUs one at most has no end, so that it is known whom to tell when another vCPU
    /// wakes.
    fn timeslice(&self, entity: &Entity) -> Option<u64> {
        let slice = match self.queue.first() {
            Some(((next, _), _)) => entity.ns_until(next).saturating_add(GRAIN_NS),
            None if self.running.len() > 1 => MAX_TIMESLICE_NS,
            None => return None,
        };
        let least = MIN_TIMESLICE_NS.max(self.rate_limit_ns);
        Some(slice.clamp(least, MAX_TIMESLICE_NS.max(least)))
    }

    /// Which running vCPU makes room, and when, for one in the queue whose virtual time is `vtime`.
    fn make_room(&self, vtime: Vtime, now_ns: u64) -> Option<MakeRoom> {
        let rank = |slot: &usize| {
            let entity = self.get(*slot)?;
            let Activity::Running {
                start_ns,
                is_open_ended,
                ..
            } = entity.activity
            else {
                return None;
            };
            Some((is_open_ended, entity.vtime, *slot, start_ns))
        };
        let (is_open_ended, last, slot, start_ns) = self.running.iter().filter_map(rank).max()?;
        let after_ns = if last > vtime {
            let ran_ns = now_ns.saturating_sub(start_ns);
            self.rate_limit_ns.saturating_sub(ran_ns)
        } else if is_open_ended {
            // it got no end as nobody waited; now somebody does
            self.timeslice(self.get(slot)?)?
        } else {
            return None;
        };
        let unit = Unit(slot);
        Some(MakeRoom { unit, after_ns })
    }
}

impl Default for Credit2 {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for Credit2 {
    fn add(&mut self, Unit(slot): Unit, weight: u16) {
        if self.get(slot).is_some() {
            return;
        }
        if slot >= self.entities.len() {
            self.entities.resize(slot + 1, None);
            self.queue.grow(slot + 1);
            self.running.reserve(slot + 1 - self.running.len());
        }
        self.entities[slot] = Some(Entity {
            vtime: self.mean.get(),
            share: Share::new(weight),
            activity: Activity::Blocked,
        });
    }

    fn remove(&mut self, unit: Unit, now_ns: u64) {
        self.block(unit, now_ns);
        let Unit(slot) = unit;
        if let Some(entity) = self.entities.get_mut(slot) {
            *entity = None;
        }
    }

    fn set_weight(&mut self, Unit(slot): Unit, weight: u16, now_ns: u64) {
        self.settle(now_ns);
        let mean = self.mean.furthest();
        self.change(slot, |entity| {
            entity.share = Share::new(weight);
            entity.bound(mean);
        });
    }

    fn set_rate_limit(&mut self, ns: u64) {
        self.rate_limit_ns = ns;
    }

    fn wake(&mut self, Unit(slot): Unit, now_ns: u64) -> Option<MakeRoom> {
        if self.get(slot)?.is_runnable() {
            return None;
        }
        self.settle(now_ns);
        let mean = self.mean.furthest();
        let entity = self.entities.get_mut(slot)?.as_mut()?;
        entity.bound(mean);
        let vtime = entity.vtime;
        self.mean.join(entity);
        self.enqueue(slot);
        self.make_room(vtime, now_ns)
    }

    fn block(&mut self, Unit(slot): Unit, now_ns: u64) {
        if !self.take_off_cpu(slot, now_ns) {
            self.unqueue(slot);
        }
        if let Some(Some(entity)) = self.entities.get_mut(slot)
            && entity.is_runnable()
        {
            entity.activity = Activity::Blocked;
            self.mean.leave(entity);
        }
    }

    fn yield_now(&mut self, Unit(slot): Unit, now_ns: u64) {
        if self.take_off_cpu(slot, now_ns) {
            self.line_up();
            if let Some(entity) = self.get_mut(slot) {
                entity.activity = Activity::Queued;
            }
            self.standing_back = Some(slot);
        }
    }

    fn preempt(&mut self, Unit(slot): Unit, now_ns: u64) {
        if self.take_off_cpu(slot, now_ns) {
            self.enqueue(slot);
        }
    }

    fn charge(&mut self, Unit(slot): Unit, ns: u64, instead_of: Option<Unit>) {
        if let Some(Unit(other)) = instead_of
            && let Some(entity) = self.get_mut(other)
            && let Activity::Running { since_ns, .. } = &mut entity.activity
        {
            *since_ns = since_ns.saturating_add(ns);
        }
        let mean = self.mean.get();
        self.change(slot, |entity| {
            let most = mean + entity.share.max_lag;
            let charged = entity.vtime + entity.share.vtime_in(ns);
            entity.vtime = charged.min(most).max(entity.vtime);
        });
    }

    fn pick(&mut self, now_ns: u64) -> Option<Pick> {
        if self.queue.first().is_none() {
            self.line_up();
        }
        let (_, slot) = self.queue.first()?;
        self.queue.remove(slot);
        self.line_up();
        self.running.push(slot);
        let timeslice_ns = self.timeslice(self.get(slot)?);
        self.get_mut(slot)?.activity = Activity::Running {
            since_ns: now_ns,
            start_ns: now_ns,
            is_open_ended: timeslice_ns.is_none(),
        };
        let unit = Unit(slot);
        Some(Pick { unit, timeslice_ns })
    }
}
