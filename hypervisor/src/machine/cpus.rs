//! The physical CPUs as others see them: a mailbox each, where work for it is left before it is woken.
//!
//! Whoever leaves something for a CPU sets its flag first and wakes it then ([`wake`]); the CPU clears the flag before
//! it looks. What is left lies with whom it is about (a vCPU's requests, the queue of hand-offs): here are only the
//! flags.

use hv_hw::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use hv_core::sched::DEFAULT_RATE_LIMIT_US;
use hv_hw::irq;
use hv_hw::percpu::{self, MAX_CPUS};

use crate::machine::kicked::Kicked;
use crate::machine::machine;

/// What others leave for a CPU.
pub(crate) struct Mailbox {
    /// It is to leave the guest, or idleness.
    pub(crate) wake: AtomicBool,
    /// Which of its vCPUs were kicked and have not looked yet.
    pub(crate) kicked: Kicked,
    /// The time of the vCPU that has the CPU is over.
    pub(crate) is_slice_over: AtomicBool,
    /// What else there is to look at: [`PendingWork`].
    pub(crate) pending_work: AtomicU8,
}

/// What happens rarely, a bit each.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum PendingWork {
    /// Capped domains begin a new period.
    Period = 1,
    /// Somebody let go of something of a domain that is kept by such uses only.
    Zombies = 2,
    /// The scheduler's rate limit is another.
    RateLimit = 4,
    /// A vCPU is on its way to this CPU.
    HandOffs = 8,
}

impl Mailbox {
    const fn new() -> Self {
        Self {
            wake: AtomicBool::new(false),
            kicked: Kicked::new(),
            is_slice_over: AtomicBool::new(false),
            pending_work: AtomicU8::new(0),
        }
    }
}

/// The CPUs of a machine.
pub(super) struct Cpus {
    /// How many run vCPUs.
    online: AtomicU32,
    mailboxes: [Mailbox; MAX_CPUS],
    /// ns that each has been idle.
    idle_ns: [AtomicU64; MAX_CPUS],
    /// How long a vCPU keeps one at least, in µs; 0 for no such time.
    rate_limit_us: AtomicU32,
}

impl Cpus {
    pub(super) const fn new() -> Self {
        Self {
            online: AtomicU32::new(0),
            mailboxes: [const { Mailbox::new() }; MAX_CPUS],
            idle_ns: [const { AtomicU64::new(0) }; MAX_CPUS],
            rate_limit_us: AtomicU32::new(DEFAULT_RATE_LIMIT_US),
        }
    }
}

fn cpus() -> &'static Cpus {
    &machine().cpus
}

#[inline]
pub(crate) fn mailbox(cpu: u32) -> Option<&'static Mailbox> {
    cpus().mailboxes.get(usize::try_from(cpu).ok()?)
}

/// How many CPUs run vCPUs; their numbers start at 0.
#[must_use]
pub(crate) fn online() -> u32 {
    cpus().online.load(Ordering::Relaxed)
}

/// One more CPU runs vCPUs.
pub(crate) fn came_online() {
    cpus().online.fetch_add(1, Ordering::Relaxed);
}

/// How long a CPU has been idle; 0 for one that there is not.
#[must_use]
pub(crate) fn idle_ns(cpu: u32) -> u64 {
    idle(cpu).map_or(0, |idle| idle.load(Ordering::Relaxed))
}

/// Counts time in which a CPU had nothing to run.
pub(crate) fn note_idle(cpu: u32, ns: u64) {
    if let Some(idle) = idle(cpu) {
        idle.fetch_add(ns, Ordering::Relaxed);
    }
}

fn idle(cpu: u32) -> Option<&'static AtomicU64> {
    cpus().idle_ns.get(usize::try_from(cpu).ok()?)
}

/// Makes a CPU look at its vCPUs: out of the guest, or out of idleness.
#[inline]
pub(crate) fn wake(cpu: u32) {
    let Some(mailbox) = mailbox(cpu) else {
        return;
    };
    mailbox.wake.store(true, Ordering::Release);
    if cpu != percpu::this().id() {
        irq::send_kick(cpu);
    }
}

/// The same, because its vCPU with that mark was kicked.
#[inline]
pub(crate) fn wake_for_vcpu(cpu: u32, mark: u64) {
    if let Some(mailbox) = mailbox(cpu) {
        mailbox.kicked.add(mark);
    }
    wake(cpu);
}

/// One of its vCPUs that were kicked has looked.
#[inline]
pub(crate) fn kick_served(cpu: u32) {
    if let Some(mailbox) = mailbox(cpu) {
        mailbox.kicked.kick_served();
    }
}

/// Ends the time of the vCPU that has the CPU: others go first.
pub(crate) fn end_slice(cpu: u32) {
    if let Some(mailbox) = mailbox(cpu) {
        mailbox.is_slice_over.store(true, Ordering::Release);
    }
    wake(cpu);
}

/// The scheduler's rate limit in µs: how long a vCPU keeps a CPU at least; 0 for no such time.
#[must_use]
pub(crate) fn rate_limit_us() -> u32 {
    cpus().rate_limit_us.load(Ordering::Relaxed)
}

/// Sets the scheduler's rate limit on all CPUs.
pub(crate) fn set_rate_limit(us: u32) {
    cpus().rate_limit_us.store(us, Ordering::Relaxed);
    for cpu in 0..online() {
        tell(cpu, PendingWork::RateLimit);
    }
}

/// Has this CPU look, before it goes on with a guest, whether a zombie is one no longer.
#[cold]
pub(crate) fn look_at_zombies() {
    tell(percpu::this().id(), PendingWork::Zombies);
}

pub(crate) fn tell(cpu: u32, pending_work: PendingWork) {
    if let Some(mailbox) = mailbox(cpu) {
        mailbox
            .pending_work
            .fetch_or(pending_work as u8, Ordering::Release);
    }
    wake(cpu);
}
