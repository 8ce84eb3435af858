//! Which vCPU runs next: the contract between the run loop of each physical CPU and a scheduling policy.
//!
//! A [`Policy`] keeps the vCPUs of one run queue, from which any number of physical CPUs pick. It has no clock and no lock;
//! consequences (a running vCPU should make room) are return values. [`credit2`] is what runs, [`round_robin`] the oracle
//! it is tested against: both must agree on *whether* there is somebody to run.

pub mod cap;
pub mod credit2;
pub mod round_robin;
#[cfg(test)]
mod tests;

use crate::vcpu::VcpuId;

/// Whom to run, and for how long.
#[must_use = "a picked vCPU counts as running"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pick {
    /// The vCPU to run.
    pub vcpu: VcpuId,
    /// After so many ns it is to be [preempted](Policy::preempt); `None` while nobody else wants the CPU.
    pub timeslice_ns: Option<u64>,
}

/// Chooses among vCPUs. Each is blocked, queued or running. What makes no sense for the state a vCPU is in, or for one
/// that was never added, has no effect.
pub trait Policy {
    /// Adds a vCPU, blocked. `weight` (1 and up; 256 is the usual) is its share of the CPU relative to others.
    fn add(&mut self, vcpu: VcpuId, weight: u16);

    /// Forgets a vCPU in any state.
    fn remove(&mut self, vcpu: VcpuId);

    /// Queues a blocked vCPU. Returns the running vCPU that should make room for it (preempt, then pick) where no
    /// physical CPU idles.
    #[must_use = "the vCPU may wait for its turn longer than it should"]
    fn wake(&mut self, vcpu: VcpuId, now_ns: u64) -> Option<VcpuId>;

    /// A running or queued vCPU waits for an event, or was paused.
    fn block(&mut self, vcpu: VcpuId, now_ns: u64);

    /// A running vCPU lets the next in line go first.
    fn yield_now(&mut self, vcpu: VcpuId, now_ns: u64);

    /// A running vCPU has lost its CPU (its timeslice is over, or it makes room) and stays ready.
    fn preempt(&mut self, vcpu: VcpuId, now_ns: u64);

    /// Chooses a queued vCPU, which counts as running from now; `None` where none is queued.
    fn pick(&mut self, now_ns: u64) -> Option<Pick>;
}
