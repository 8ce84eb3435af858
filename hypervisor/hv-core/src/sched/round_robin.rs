//! The simplest policy: in turn, weights ignored. The oracle for others.

use alloc::collections::{BTreeSet, VecDeque};

use super::{MakeRoom, Pick, Policy, Unit};

/// ns until the next one has its turn.
const TIMESLICE_NS: u64 = 10_000_000;

/// All ready vCPUs in one row.
#[derive(Default)]
pub struct RoundRobin {
    blocked: BTreeSet<Unit>,
    running: BTreeSet<Unit>,
    queue: VecDeque<Unit>,
}

impl RoundRobin {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn forget(&mut self, unit: Unit) {
        self.blocked.remove(&unit);
        self.running.remove(&unit);
        self.queue.retain(|queued| *queued != unit);
    }
}

impl Policy for RoundRobin {
    fn add(&mut self, unit: Unit, _weight: u16) {
        if !self.running.contains(&unit) && !self.queue.contains(&unit) {
            self.blocked.insert(unit);
        }
    }

    fn remove(&mut self, unit: Unit, _now_ns: u64) {
        self.forget(unit);
    }

    fn set_weight(&mut self, _unit: Unit, _weight: u16, _now_ns: u64) {}

    fn set_rate_limit(&mut self, _ns: u64) {}

    fn wake(&mut self, unit: Unit, _now_ns: u64) -> Option<MakeRoom> {
        if !self.blocked.remove(&unit) {
            return None;
        }
        self.queue.push_back(unit);
        let &unit = self.running.first()?;
        Some(MakeRoom { unit, after_ns: 0 })
    }

    fn block(&mut self, unit: Unit, _now_ns: u64) {
        if self.running.contains(&unit) || self.queue.contains(&unit) {
            self.forget(unit);
            self.blocked.insert(unit);
        }
    }

    fn yield_now(&mut self, unit: Unit, now_ns: u64) {
        self.preempt(unit, now_ns);
    }

    fn preempt(&mut self, unit: Unit, _now_ns: u64) {
        if self.running.remove(&unit) {
            self.queue.push_back(unit);
        }
    }

    fn charge(&mut self, _unit: Unit, _ns: u64, _instead_of: Option<Unit>) {}

    fn pick(&mut self, _now_ns: u64) -> Option<Pick> {
        let unit = self.queue.pop_front()?;
        self.running.insert(unit);
        Some(Pick {
            unit,
            timeslice_ns: (!self.queue.is_empty()).then_some(TIMESLICE_NS),
        })
    }
}
