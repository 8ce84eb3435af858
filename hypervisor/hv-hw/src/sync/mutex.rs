//! The lock under a [`RankedLock`](super::RankedLock): a ticket lock, or the model checker's (`--cfg shuttle`).

#[cfg(not(shuttle))]
mod kind {
    use core::sync::atomic::Ordering;

    use spin::RelaxStrategy;
    use spin::mutex::ticket::{TicketMutex, TicketMutexGuard};

    use crate::{insn, percpu};

    /// Fair: in the order of arrival.
    pub(crate) type Mutex<T> = TicketMutex<T, Watch>;
    /// Unlocks when dropped.
    pub(crate) type MutexGuard<'a, T> = TicketMutexGuard<'a, T, Watch>;

    /// Spins politely, and panics after about a minute: a lock held that long is a bug, and silence would hide it.
    /// Turns that are far apart belong to different waits, so that taking a free lock costs nothing for this.
    #[derive(Debug)]
    pub(crate) struct Watch;

    /// PAUSE takes 10 to 140 cycles.
    const SPINS_BEFORE_PANIC: u32 = 1 << 30;
    /// Ticks of the TSC, some milliseconds.
    const ONE_WAIT: u64 = 1 << 24;

    impl RelaxStrategy for Watch {
        #[inline(never)]
        fn relax() {
            core::hint::spin_loop();
            let cpu = percpu::this();
            let now = insn::rdtsc();
            let last = cpu.spun_at.swap(now, Ordering::Relaxed);
            let spins = if now.wrapping_sub(last) < ONE_WAIT {
                cpu.spins.load(Ordering::Relaxed) + 1
            } else {
                0
            };
            cpu.spins.store(spins, Ordering::Relaxed);
            assert!(spins < SPINS_BEFORE_PANIC, "a lock was not released");
        }
    }
}

#[cfg(shuttle)]
mod kind {
    pub(crate) use shuttle::sync::MutexGuard;

    /// A panic of a test ends it: what it left locked stays usable.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
        }
        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0
                .get_mut()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
        }
    }
}

pub(crate) use kind::{Mutex, MutexGuard};
