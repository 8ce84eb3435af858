//! Shares by weight, in virtual time: it passes for a vCPU while that runs, the faster the lighter it is, and whoever is
//! furthest behind runs next.
//!
//! The name, the weights and the rate limit are those of Xen's second credit scheduler, whose tools find here what they
//! know; a credit is a lag behind the others. There is no refill, and no debt: how far a vCPU is behind the weighted mean of
//! those that can run is bounded, so that sleep saves up little, as is how far it is ahead when it joins them. That mean is
//! not pulled back by those who join behind it, or many sleepers that wake one after another would each join further back,
//! and whoever ran before would wait for all of that. One that runs alone is the mean; where several CPUs give a vCPU more
//! than its weight would, the others that have not used theirs follow it by that bound, and it owes no more than they have
//! saved.
//!
//! Each operation is O(log n) in the queued vCPUs, and linear in the CPUs that pick here.

use alloc::vec::Vec;

use super::{MakeRoom, Pick, Policy, Unit};
use crate::index_heap::IndexHeap;

/// How far a vCPU may be ahead of or behind the mean, in ns of its own CPU time.
pub(super) const MAX_LAG_NS: u64 = 10_000_000;
/// How far a vCPU may run ahead of the next in line before they change places: fewer switches, coarser shares.
pub(super) const GRAIN_NS: u64 = 2_000_000;
const MIN_TIMESLICE_NS: u64 = 500_000;
/// The longest turn while another waits, unless the rate limit is above it.
const MAX_TIMESLICE_NS: u64 = 10_000_000;
/// Virtual time that a vCPU of weight 1 takes a ns; others take that by their weight. The finer, the truer are shares.
const RATE_OF_ONE: u32 = 1 << 24;

/// First in the queue: least virtual time; among equals, the longest there.
type Rank = (i128, u64);

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

#[derive(Clone, Copy)]
struct Entity {
    weight: u16,
    /// Its virtual time: i128 as it never wraps, not in a century at weight 1.
    vtime: i128,
    activity: Activity,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Activity {
    Blocked,
    /// In the queue, or standing back from it.
    Queued,
    Running {
        /// Its virtual time is that of then.
        since_ns: u64,
        /// When it got the CPU.
        start_ns: u64,
        /// No timer ends its turn.
        is_open_ended: bool,
    },
}

impl Entity {
    fn is_runnable(&self) -> bool {
        self.activity != Activity::Blocked
    }

    /// Virtual time in `ns` of its CPU time.
    fn vtime_in(&self, ns: u64) -> i128 {
        i128::from(ns) * i128::from(RATE_OF_ONE / u32::from(self.weight))
    }

    /// Its CPU time in ns until its virtual time is `vtime`; 0 where it is past that.
    fn ns_until(&self, vtime: i128) -> u64 {
        let lead = (vtime - self.vtime).max(0) * i128::from(self.weight);
        u64::try_from(lead / i128::from(RATE_OF_ONE)).unwrap_or(u64::MAX)
    }
}

/// The mean virtual time of the vCPUs that can run, by weight.
#[derive(Clone, Copy)]
struct Mean {
    /// A virtual time near it, which keeps the sum small.
    base: i128,
    /// Σ weight · (virtual time − base).
    sum: i128,
    weights: i128,
    /// How many they are.
    count: usize,
    /// The furthest that it has been, as seen when vCPUs joined, since the last time that one was alone.
    furthest: i128,
}

impl Mean {
    /// The mean; with nobody there, what it was last.
    fn get(&mut self) -> i128 {
        // the quotient is 0 most of the time, and a division of 128 bits is long
        if self.sum.abs() >= self.weights && self.weights > 0 {
            let step = self.sum / self.weights;
            self.base += step;
            self.sum -= step * self.weights;
        }
        self.base
    }

    /// What joining vCPUs are measured against: the mean, had nobody pulled it back.
    fn furthest(&mut self) -> i128 {
        let mean = self.get();
        self.furthest = if self.count < 2 {
            mean
        } else {
            self.furthest.max(mean)
        };
        self.furthest
    }

    fn join(&mut self, entity: &Entity) {
        self.count += 1;
        let weight = i128::from(entity.weight);
        self.sum += weight * (entity.vtime - self.base);
        self.weights += weight;
    }

    fn leave(&mut self, entity: &Entity) {
        self.count -= 1;
        let weight = i128::from(entity.weight);
        self.weights -= weight;
        if self.weights == 0 {
            self.base = entity.vtime;
            self.sum = 0;
        } else {
            self.sum -= weight * (entity.vtime - self.base);
        }
    }
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
            mean: Mean {
                base: 0,
                sum: 0,
                weights: 0,
                count: 0,
                furthest: 0,
            },
            rate_limit_ns: 0,
            next_arrival: 0,
        }
    }

    fn get(&self, slot: usize) -> Option<Entity> {
        *self.entities.get(slot)?
    }

    /// Changes an entity; the mean goes along where it is in that.
    fn change(&mut self, slot: usize, change: impl FnOnce(&mut Entity)) {
        let Some(Some(entity)) = self.entities.get_mut(slot) else {
            return;
        };
        if entity.is_runnable() {
            self.mean.leave(entity);
        }
        change(entity);
        if entity.is_runnable() {
            self.mean.join(entity);
        }
    }

    /// Moves the virtual times of the running vCPUs up to now.
    fn settle(&mut self, now_ns: u64) {
        for index in 0..self.running.len() {
            self.change(self.running[index], |entity| {
                let Activity::Running { since_ns, .. } = &mut entity.activity else {
                    return;
                };
                let ran_ns = now_ns.saturating_sub(*since_ns);
                *since_ns = now_ns.max(*since_ns);
                entity.vtime += entity.vtime_in(ran_ns);
            });
        }
        self.catch_up();
    }

    /// Forgets by how much more than [`MAX_LAG_NS`] running vCPUs are behind the mean: all the time they cannot get more than
    /// the CPU that they have. To bound those ahead instead would lose the order between them.
    fn catch_up(&mut self) {
        if self.running.len() < 2 && self.queue.first().is_none() {
            // nobody to be behind of
            return;
        }
        let mut mean = self.mean.get();
        loop {
            // the mean with those in it that are too far behind, each at the bound below it
            let mut rest = self.mean;
            for entity in self.too_far_behind(mean) {
                rest.leave(&entity);
                rest.sum -= i128::from(entity.weight) * entity.vtime_in(MAX_LAG_NS);
            }
            let next = rest.get();
            if next <= mean {
                break;
            }
            mean = next;
        }
        for index in 0..self.running.len() {
            self.change(self.running[index], |entity| {
                entity.vtime = entity.vtime.max(mean - entity.vtime_in(MAX_LAG_NS));
            });
        }
    }

    /// The running vCPUs that are more than [`MAX_LAG_NS`] behind `mean`.
    fn too_far_behind(&self, mean: i128) -> impl Iterator<Item = Entity> {
        let running = self.running.iter().filter_map(|slot| self.get(*slot));
        running.filter(move |entity| entity.vtime < mean - entity.vtime_in(MAX_LAG_NS))
    }

    /// Forgets by how much more than [`MAX_LAG_NS`] a vCPU is ahead of the mean or behind it.
    fn bound(&mut self, slot: usize) {
        let mean = self.mean.furthest();
        self.change(slot, |entity| {
            let most = entity.vtime_in(MAX_LAG_NS);
            entity.vtime = entity.vtime.clamp(mean - most, mean + most);
        });
    }

    fn enqueue(&mut self, slot: usize) {
        self.change(slot, |entity| entity.activity = Activity::Queued);
        if let Some(entity) = self.get(slot) {
            self.queue.set(slot, (entity.vtime, self.next_arrival));
            self.next_arrival += 1;
        }
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

    /// How long a vCPU runs until it is [`GRAIN_NS`] ahead of the next in line. `None` where it is the only one that can run:
    /// of the turns on several CPUs one at most has no end, so that it is known whom to tell when another vCPU wakes.
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
    fn make_room(&self, vtime: i128, now_ns: u64) -> Option<MakeRoom> {
        let rank = |slot: &usize| {
            let Entity {
                activity, vtime, ..
            } = self.get(*slot)?;
            let Activity::Running { is_open_ended, .. } = activity else {
                return None;
            };
            Some((is_open_ended, vtime, *slot))
        };
        let (_, _, slot) = self.running.iter().filter_map(rank).max()?;
        let entity = self.get(slot)?;
        let Activity::Running {
            start_ns,
            is_open_ended,
            ..
        } = entity.activity
        else {
            return None;
        };
        let after_ns = if entity.vtime > vtime {
            let ran_ns = now_ns.saturating_sub(start_ns);
            self.rate_limit_ns.saturating_sub(ran_ns)
        } else if is_open_ended {
            // it got no end as nobody waited; now somebody does
            self.timeslice(&entity)?
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
            weight: weight.max(1),
            vtime: self.mean.get(),
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
        self.change(slot, |entity| entity.weight = weight.max(1));
        self.bound(slot);
        if let (Some(entity), Some((_, arrival))) = (self.get(slot), self.queue.key(slot)) {
            self.queue.set(slot, (entity.vtime, arrival));
        }
    }

    fn set_rate_limit(&mut self, ns: u64) {
        self.rate_limit_ns = ns;
    }

    fn wake(&mut self, Unit(slot): Unit, now_ns: u64) -> Option<MakeRoom> {
        if self.get(slot)?.is_runnable() {
            return None;
        }
        self.settle(now_ns);
        self.bound(slot);
        self.enqueue(slot);
        let vtime = self.get(slot)?.vtime;
        self.make_room(vtime, now_ns)
    }

    fn block(&mut self, Unit(slot): Unit, now_ns: u64) {
        if !self.take_off_cpu(slot, now_ns) {
            self.unqueue(slot);
        }
        self.change(slot, |entity| entity.activity = Activity::Blocked);
    }

    fn yield_now(&mut self, Unit(slot): Unit, now_ns: u64) {
        if self.take_off_cpu(slot, now_ns) {
            self.line_up();
            self.change(slot, |entity| entity.activity = Activity::Queued);
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
            && let Some(Some(entity)) = self.entities.get_mut(other)
            && let Activity::Running { since_ns, .. } = &mut entity.activity
        {
            *since_ns = since_ns.saturating_add(ns);
        }
        let mean = self.mean.get();
        self.change(slot, |entity| {
            let most = mean + entity.vtime_in(MAX_LAG_NS);
            let charged = entity.vtime + entity.vtime_in(ns);
            entity.vtime = charged.min(most).max(entity.vtime);
        });
        if let (Some(entity), Some((_, arrival))) = (self.get(slot), self.queue.key(slot)) {
            self.queue.set(slot, (entity.vtime, arrival));
        }
    }

    fn pick(&mut self, now_ns: u64) -> Option<Pick> {
        if self.queue.first().is_none() {
            self.line_up();
        }
        let (_, slot) = self.queue.first()?;
        self.queue.remove(slot);
        self.line_up();
        self.running.push(slot);
        let timeslice_ns = self.timeslice(&self.get(slot)?);
        self.change(slot, |entity| {
            entity.activity = Activity::Running {
                since_ns: now_ns,
                start_ns: now_ns,
                is_open_ended: timeslice_ns.is_none(),
            };
        });
        let unit = Unit(slot);
        Some(Pick { unit, timeslice_ns })
    }
}
