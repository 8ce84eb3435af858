//! Which vCPU runs next: the contract between the run loop of each physical CPU and a scheduling policy.
//!
//! A [`Policy`] keeps the vCPUs of one run queue, from which any number of physical CPUs pick. It has no clock and no
//! lock; consequences (a running vCPU should make room) are return values. [`credit2`] is what runs, [`round_robin`]
//! the oracle it is tested against: both must agree on *whether* there is somebody to run. [`cap`] limits domains,
//! whatever the policy.

pub mod cap;
pub mod credit2;
pub mod round_robin;
#[cfg(test)]
mod tests;

/// Rate limits that can be set, in µs, beside 0 for none (`public/sysctl.h, XEN_SYSCTL_SCHED_RATELIMIT_MIN` and
/// `_MAX`).
const RATE_LIMITS_US: core::ops::RangeInclusive<u32> = 100..=500_000;
/// The rate limit where nobody set one, in µs: credit2's in Xen.
pub const DEFAULT_RATE_LIMIT_US: u32 = 1000;

/// True where a rate limit of so many µs can be set.
#[must_use]
pub fn is_rate_limit(us: u32) -> bool {
    us == 0 || RATE_LIMITS_US.contains(&us)
}

/// Names a vCPU to a policy: a small number of the caller's choice, free again after [`Policy::remove`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Unit(pub usize);

/// Whom to run, and for how long.
#[must_use = "a picked vCPU counts as running"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pick {
    /// The vCPU to run.
    pub unit: Unit,
    /// After so many ns it is to be [preempted](Policy::preempt); `None` while nobody else wants the CPU.
    pub timeslice_ns: Option<u64>,
}

/// A running vCPU that is to be [preempted](Policy::preempt) for one that woke.
#[must_use = "the vCPU that woke may wait for its turn longer than it should"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MakeRoom {
    pub unit: Unit,
    /// In so many ns from now, or when its timeslice ends, whichever is first.
    pub after_ns: u64,
}

/// Chooses among vCPUs. Each is blocked, queued or running. What makes no sense for the state a vCPU is in, or for one
/// that was never added, has no effect.
pub trait Policy {
    /// Adds a vCPU, blocked. `weight` (1 and up; 256 is the usual) is its share of the CPU relative to others.
    fn add(&mut self, unit: Unit, weight: u16);

    /// Forgets a vCPU in any state.
    fn remove(&mut self, unit: Unit, now_ns: u64);

    /// Gives a vCPU, in any state, another weight from now on.
    fn set_weight(&mut self, unit: Unit, weight: u16, now_ns: u64);

    /// Has a vCPU keep the CPU for at least so many ns once it has it, unless it gives it up itself; 0 for no such
    /// time.
    fn set_rate_limit(&mut self, ns: u64);

    /// Queues a blocked vCPU. Returns the running vCPU that should make room for it where no physical CPU idles.
    fn wake(&mut self, unit: Unit, now_ns: u64) -> Option<MakeRoom>;

    /// A running or queued vCPU waits for an event, or was paused.
    fn block(&mut self, unit: Unit, now_ns: u64);

    /// A running vCPU lets the next in line go first, this once.
    fn yield_now(&mut self, unit: Unit, now_ns: u64);

    /// A running vCPU has lost its CPU (its timeslice is over, or it makes room) and stays ready.
    fn preempt(&mut self, unit: Unit, now_ns: u64);

    /// Charges a vCPU that does not run for `ns` of CPU time that was spent on its behalf, up to now, in the turn of
    /// `instead_of`, who is not charged for it.
    fn charge(&mut self, unit: Unit, ns: u64, instead_of: Option<Unit>);

    /// Chooses a queued vCPU, which counts as running from now; `None` where none is queued.
    fn pick(&mut self, now_ns: u64) -> Option<Pick>;
}
