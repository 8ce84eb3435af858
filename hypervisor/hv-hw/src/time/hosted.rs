//! The clock of tests on the host: the real one, until a test takes it over to say itself how much time passes.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::insn;

/// The TSC that a test has set; 0 where none has.
static TAKEN_OVER: AtomicU64 = AtomicU64::new(0);
/// How far tests have moved the clock on: it never goes back, as tests in one process share what remembers times.
static AHEAD: AtomicU64 = AtomicU64::new(0);

/// The TSC now.
#[must_use]
pub fn now() -> u64 {
    match TAKEN_OVER.load(Ordering::Relaxed) {
        0 => running(),
        ticks => ticks,
    }
}

fn running() -> u64 {
    insn::rdtsc().wrapping_add(AHEAD.load(Ordering::Relaxed))
}

/// While it lives, time stands still but for [`advance`](Self::advance).
#[derive(Debug)]
pub struct Clock(());

impl Clock {
    /// Stops the clock. One at a time.
    #[must_use]
    pub fn take_over() -> Self {
        TAKEN_OVER.store(running(), Ordering::Relaxed);
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
        let ahead = TAKEN_OVER
            .load(Ordering::Relaxed)
            .wrapping_sub(insn::rdtsc());
        // a stopped clock that is behind by now is let go where it is
        AHEAD.fetch_max(
            ahead.cast_signed().max(0).cast_unsigned(),
            Ordering::Relaxed,
        );
        TAKEN_OVER.store(0, Ordering::Relaxed);
    }
}
