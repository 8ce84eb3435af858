//! The clock of tests on the host: the real one, until a test takes it over to say itself how much time passes.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::insn;

/// The TSC that a test has set; 0 where none has.
static TAKEN_OVER: AtomicU64 = AtomicU64::new(0);

/// The TSC now.
#[must_use]
pub fn now() -> u64 {
    match TAKEN_OVER.load(Ordering::Relaxed) {
        0 => insn::rdtsc(),
        ticks => ticks,
    }
}

/// While it lives, time stands still but for [`advance`](Self::advance).
#[derive(Debug)]
pub struct Clock(());

impl Clock {
    /// Stops the clock. One at a time.
    #[must_use]
    pub fn take_over() -> Self {
        TAKEN_OVER.store(insn::rdtsc(), Ordering::Relaxed);
        Self(())
    }

    /// Lets `ticks` pass, where somebody has the clock.
    pub fn advance(ticks: u64) {
        let _ = TAKEN_OVER.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            (now != 0).then(|| now.wrapping_add(ticks))
        });
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        TAKEN_OVER.store(0, Ordering::Relaxed);
    }
}
