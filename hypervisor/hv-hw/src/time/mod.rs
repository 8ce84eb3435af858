//! The hypervisor's clock is the time-stamp counter. Its frequency is measured at boot ([`calibrate`]); ticks become
//! nanoseconds by the scale of guests' clocks, so that their time and ours agree to the tick.

pub mod calibrate;
pub mod rtc;

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use hv_core::vcpu::time::ClockScale;

/// The TSC when the hypervisor was entered: zero of the uptime.
static START: AtomicU64 = AtomicU64::new(0);
/// Ticks a millisecond, 0 until known.
static TSC_KHZ: AtomicU64 = AtomicU64::new(0);
/// The scale that guests' clocks have too; 0 until known.
static SCALE: AtomicU64 = AtomicU64::new(0);

/// Says when the uptime began.
pub fn set_start(tsc: u64) {
    START.store(tsc, Ordering::Relaxed);
}

/// Says how fast the TSC runs. `khz` is above 0 and below 2^32.
pub fn set_tsc_khz(khz: u64) {
    let khz = u32::try_from(khz).unwrap_or(u32::MAX).max(1);
    let scale = ClockScale::from_tsc_khz(khz).map_or(0, ClockScale::to_bits);
    SCALE.store(scale, Ordering::Relaxed);
    TSC_KHZ.store(u64::from(khz), Ordering::Relaxed);
}

/// TSC ticks ↔ ns; `None` until measured.
#[inline]
#[must_use]
pub fn scale() -> Option<ClockScale> {
    ClockScale::from_bits(SCALE.load(Ordering::Relaxed))
}

/// Ticks a millisecond; 0 until measured.
#[inline]
#[must_use]
pub fn tsc_khz() -> u64 {
    TSC_KHZ.load(Ordering::Relaxed)
}

#[cfg(target_os = "none")]
#[inline]
#[must_use]
pub fn now() -> u64 {
    crate::insn::rdtsc()
}

/// The TSC of this thread's board.
#[cfg(not(target_os = "none"))]
#[must_use]
pub fn now() -> u64 {
    crate::hosted::board().tsc()
}

/// The TSC when the hypervisor was entered.
#[must_use]
pub fn start() -> u64 {
    START.load(Ordering::Relaxed)
}

/// Ticks as nanoseconds (0 until the frequency is known), as a guest's clock counts them.
#[inline]
#[must_use]
pub fn ticks_to_ns(ticks: u64) -> u64 {
    scale().map_or(0, |scale| scale.ticks_to_ns(ticks))
}

/// Nanoseconds as ticks (0 until the frequency is known).
#[inline]
#[must_use]
pub fn ns_to_ticks(ns: u64) -> u64 {
    scale().map_or(0, |scale| scale.ns_to_ticks(ns))
}

/// Nanoseconds since the hypervisor was entered; before the frequency is known, ticks.
#[inline]
#[must_use]
pub fn uptime_ns() -> u64 {
    let ticks = now().wrapping_sub(start());
    if tsc_khz() == 0 {
        ticks
    } else {
        ticks_to_ns(ticks)
    }
}

/// Waits `ns` nanoseconds; where the frequency is unknown, that many ticks.
pub fn spin_ns(ns: u64) {
    let ticks = if tsc_khz() == 0 { ns } else { ns_to_ticks(ns) };
    let begin = now();
    while now().wrapping_sub(begin) < ticks {
        core::hint::spin_loop();
    }
}

/// A moment as log lines show it: seconds since entry, or ticks until the frequency is known.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    ticks: u64,
}

impl Stamp {
    #[must_use]
    pub fn now() -> Self {
        Self {
            ticks: now().wrapping_sub(start()),
        }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if tsc_khz() == 0 {
            return write!(f, "[{:>7} kticks]", self.ticks / 1000);
        }
        let us = ticks_to_ns(self.ticks) / 1000;
        write!(f, "[{:>5}.{:06}]", us / 1_000_000, us % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds_and_back_within_a_tick() {
        set_tsc_khz(2_500_000);
        assert!((999_999_999..=1_000_000_000).contains(&ticks_to_ns(2_500_000_000)));
        for ns in [0, 1, 999, 1_000_000_007, 86_400_000_000_000] {
            let back = ticks_to_ns(ns_to_ticks(ns));
            assert!((ns..=ns + 1).contains(&back), "{ns} became {back}");
        }
    }
}
