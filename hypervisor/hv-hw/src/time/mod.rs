//! The hypervisor's clock is the time-stamp counter. Its frequency is measured at boot ([`calibrate`]); ticks become
//! nanoseconds by one multiplication.

pub mod calibrate;
pub mod rtc;

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::insn;

/// The TSC when the hypervisor was entered: zero of the uptime.
static START: AtomicU64 = AtomicU64::new(0);
/// Ticks a millisecond, 0 until known.
static TSC_KHZ: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds a tick, and ticks a nanosecond, in units of 2^-32.
static NS_PER_TICK: AtomicU64 = AtomicU64::new(0);
static TICKS_PER_NS: AtomicU64 = AtomicU64::new(0);

/// Says when the uptime began.
pub fn set_start(tsc: u64) {
    START.store(tsc, Ordering::Relaxed);
}

/// Says how fast the TSC runs. `khz` is above 0 and below 2^32.
pub fn set_tsc_khz(khz: u64) {
    const NS_PER_MS: u64 = 1_000_000;
    let khz = khz.clamp(1, u64::from(u32::MAX));
    NS_PER_TICK.store((NS_PER_MS << 32) / khz, Ordering::Relaxed);
    TICKS_PER_NS.store((khz << 32) / NS_PER_MS, Ordering::Relaxed);
    TSC_KHZ.store(khz, Ordering::Relaxed);
}

/// Ticks a millisecond; 0 until measured.
#[inline]
#[must_use]
pub fn tsc_khz() -> u64 {
    TSC_KHZ.load(Ordering::Relaxed)
}

/// The TSC now.
#[inline]
#[must_use]
pub fn now() -> u64 {
    insn::rdtsc()
}

/// The TSC when the hypervisor was entered.
#[must_use]
pub fn start() -> u64 {
    START.load(Ordering::Relaxed)
}

/// Ticks as nanoseconds (0 until the frequency is known); exact to 2^-32 of a nanosecond a tick.
#[inline]
#[must_use]
pub fn ticks_to_ns(ticks: u64) -> u64 {
    scale(ticks, NS_PER_TICK.load(Ordering::Relaxed))
}

/// Nanoseconds as ticks (0 until the frequency is known).
#[inline]
#[must_use]
pub fn ns_to_ticks(ns: u64) -> u64 {
    scale(ns, TICKS_PER_NS.load(Ordering::Relaxed))
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

/// `value` times `factor` / 2^32; saturates, which takes centuries.
#[inline]
fn scale(value: u64, factor: u64) -> u64 {
    u64::try_from((u128::from(value) * u128::from(factor)) >> 32).unwrap_or(u64::MAX)
}

/// A moment as log lines show it: seconds since entry, or ticks until the frequency is known.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    ticks: u64,
}

impl Stamp {
    /// This moment.
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
        assert_eq!(
            ticks_to_ns(2_500_000_000),
            1_000_000_000 - 1 + u64::from(ticks_to_ns(2_500_000_000) == 1_000_000_000)
        );
        for ns in [0, 1, 999, 1_000_000_007, 86_400_000_000_000] {
            let back = ticks_to_ns(ns_to_ticks(ns));
            assert!(ns - back <= 1 + ns / 1_000_000_000, "{ns} became {back}");
        }
    }
}
