//! The time of day: what it was when system time was 0, told to every domain.

use hv_core::vcpu::time::WallClock;
use hv_hw::sync::{RankedLock, rank};

use crate::domain::{Domain, domains, registry};

/// The time of day, which all domains are told.
pub(super) type Shared = RankedLock<WallClock, { rank::SCHED }>;

/// Before anybody has said what time it is.
pub(super) const UNSET: WallClock = WallClock {
    seconds: 0,
    nanoseconds: 0,
};

/// Sets the time of day to what it was at `system_time_ns`; `None` where that is no time.
pub(crate) fn set(seconds: u64, nanoseconds: u32, system_time_ns: u64) -> Option<()> {
    let clock = WallClock::from_now(seconds, nanoseconds, system_time_ns)?;
    *domains().wall_clock.lock() = clock;
    for domain in registry::all() {
        tell(&domain);
    }
    Some(())
}

/// Tells a domain, with its offset, where its kernel looks.
pub(crate) fn tell(domain: &Domain) {
    // held until it is written: of two who tell it, the second has what was set last
    let lifecycle = domain.lifecycle.lock();
    let events = domain.events.lock();
    let clock = *domains().wall_clock.lock();
    let own = WallClock {
        seconds: clock.seconds.saturating_add_signed(lifecycle.time_offset_s),
        ..clock
    };
    own.write(events.width(), &domain.shared_info);
}
