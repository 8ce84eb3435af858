//! The simplest policy: in turn, weights ignored. The oracle for others.

use alloc::collections::{BTreeSet, VecDeque};

use super::{Pick, Policy};
use crate::vcpu::VcpuId;

/// ns until the next one has its turn.
const TIMESLICE_NS: u64 = 10_000_000;

/// All ready vCPUs in one row.
#[derive(Default)]
pub struct RoundRobin {
    blocked: BTreeSet<VcpuId>,
    running: BTreeSet<VcpuId>,
    queue: VecDeque<VcpuId>,
}

impl RoundRobin {
    /// No vCPUs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Policy for RoundRobin {
    fn add(&mut self, vcpu: VcpuId, _weight: u16) {
        if !self.running.contains(&vcpu) && !self.queue.contains(&vcpu) {
            self.blocked.insert(vcpu);
        }
    }

    fn remove(&mut self, vcpu: VcpuId) {
        self.blocked.remove(&vcpu);
        self.running.remove(&vcpu);
        self.queue.retain(|queued| *queued != vcpu);
    }

    fn wake(&mut self, vcpu: VcpuId, _now_ns: u64) -> Option<VcpuId> {
        if !self.blocked.remove(&vcpu) {
            return None;
        }
        self.queue.push_back(vcpu);
        self.running.first().copied()
    }

    fn block(&mut self, vcpu: VcpuId, _now_ns: u64) {
        if self.running.contains(&vcpu) || self.queue.contains(&vcpu) {
            self.remove(vcpu);
            self.blocked.insert(vcpu);
        }
    }

    fn yield_now(&mut self, vcpu: VcpuId, now_ns: u64) {
        self.preempt(vcpu, now_ns);
    }

    fn preempt(&mut self, vcpu: VcpuId, _now_ns: u64) {
        if self.running.remove(&vcpu) {
            self.queue.push_back(vcpu);
        }
    }

    fn pick(&mut self, _now_ns: u64) -> Option<Pick> {
        let vcpu = self.queue.pop_front()?;
        self.running.insert(vcpu);
        Some(Pick {
            vcpu,
            timeslice_ns: (!self.queue.is_empty()).then_some(TIMESLICE_NS),
        })
    }
}
