//! Messages with a level and a time: `error!`, `warn!`, `info!`, `debug!`, and `guest_log!` for what a guest can trigger.
//!
//! A line is `[    0.123456] text`, the time in seconds since the hypervisor was entered (before the TSC's frequency is known,
//! in ticks). `loglvl` and `guest_loglvl` say what is shown; messages above the first of an option's two levels pass a limit
//! of [`BURST`] lines a second. Each guest has limits of its own ([`GuestLog`]): none can have another's lines held back.

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use hv_core::domid::DomId;
use hv_core::options::{LogLevel, LogThresholds};

use crate::{console, time};

/// Lines a second that pass the rate limit.
pub const BURST: u32 = 10;

/// Levels as numbers one above `LogLevel`'s order; 0 shows nothing.
struct Thresholds {
    always: AtomicU8,
    limited: AtomicU8,
}

static HOST: Thresholds = Thresholds {
    always: AtomicU8::new(3),
    limited: AtomicU8::new(3),
};
static GUEST: Thresholds = Thresholds {
    always: AtomicU8::new(0),
    limited: AtomicU8::new(2),
};

/// Applies `loglvl` and `guest_loglvl`.
pub fn set_levels(host: LogThresholds, guest: LogThresholds) {
    HOST.set(host);
    GUEST.set(guest);
}

/// Prints a message of the hypervisor. Called through the macros.
pub fn message(level: LogLevel, text: fmt::Arguments<'_>) {
    HOST.message(level, text, &LIMIT, None);
}

/// What a guest prints and what is said of it, each at a rate of its own, so that a guest that keeps breaking rules can still
/// be read.
#[derive(Debug)]
pub struct GuestLog {
    of: DomId,
    words: RateLimit,
    deeds: RateLimit,
}

impl GuestLog {
    /// For a domain that has not printed anything.
    #[must_use]
    pub const fn new(of: DomId) -> Self {
        Self {
            of,
            words: RateLimit::new(),
            deeds: RateLimit::new(),
        }
    }

    /// Prints a line of the guest's own, at level Info.
    pub fn words(&self, line: &str) {
        let text = format_args!("{}: {line}", self.of);
        GUEST.message(LogLevel::Info, text, &self.words, Some(self.of));
    }

    /// Prints what the guest did. Called through [`crate::guest_log`].
    pub fn deed(&self, level: LogLevel, text: fmt::Arguments<'_>) {
        GUEST.message(level, text, &self.deeds, Some(self.of));
    }
}

impl Thresholds {
    fn set(&self, levels: LogThresholds) {
        self.always
            .store(levels.always.map_or(0, number), Ordering::Relaxed);
        self.limited
            .store(levels.limited.map_or(0, number), Ordering::Relaxed);
    }
    fn message(
        &self,
        level: LogLevel,
        text: fmt::Arguments<'_>,
        limit: &RateLimit,
        of: Option<DomId>,
    ) {
        let level_number = number(level);
        if level_number <= self.always.load(Ordering::Relaxed) {
            line(level, text);
        } else if level_number <= self.limited.load(Ordering::Relaxed)
            && let Some(suppressed) = limit.pass(time::uptime_ns())
        {
            if suppressed > 0 {
                match of {
                    Some(of) => line(
                        LogLevel::Warning,
                        format_args!("{of}: {suppressed} messages suppressed"),
                    ),
                    None => line(
                        LogLevel::Warning,
                        format_args!("{suppressed} messages suppressed"),
                    ),
                }
            }
            line(level, text);
        }
    }
}

fn number(level: LogLevel) -> u8 {
    match level {
        LogLevel::Error => 1,
        LogLevel::Warning => 2,
        LogLevel::Info => 3,
        LogLevel::Debug => 4,
    }
}

fn line(level: LogLevel, text: fmt::Arguments<'_>) {
    let prefix = match level {
        LogLevel::Error => "error: ",
        LogLevel::Warning => "warning: ",
        LogLevel::Info => "",
        LogLevel::Debug => "debug: ",
    };
    console::write_fmt(format_args!("{} {prefix}{text}\n", time::Stamp::now()));
}

static LIMIT: RateLimit = RateLimit::new();

/// Lets [`BURST`] events a second pass and counts the others.
#[derive(Debug)]
struct RateLimit {
    /// When the current second began.
    since_ns: AtomicU64,
    passed: AtomicU32,
    suppressed: AtomicU32,
}

impl RateLimit {
    const fn new() -> Self {
        Self {
            since_ns: AtomicU64::new(0),
            passed: AtomicU32::new(0),
            suppressed: AtomicU32::new(0),
        }
    }
    /// `Some` where an event at `now_ns` passes, with how many were held back before it.
    fn pass(&self, now_ns: u64) -> Option<u32> {
        if now_ns.wrapping_sub(self.since_ns.load(Ordering::Relaxed)) >= 1_000_000_000 {
            self.since_ns.store(now_ns, Ordering::Relaxed);
            self.passed.store(0, Ordering::Relaxed);
        }
        if self.passed.fetch_add(1, Ordering::Relaxed) < BURST {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// Logs that a domain died or the host is degraded.
#[macro_export]
macro_rules! error {
    ($($arg:tt)*) => { $crate::console::log::message($crate::console::log::Level::Error, format_args!($($arg)*)) };
}

/// Logs that somebody misbehaved and we coped. Use [`crate::guest_log`] where that somebody is a guest.
#[macro_export]
macro_rules! warn {
    ($($arg:tt)*) => { $crate::console::log::message($crate::console::log::Level::Warning, format_args!($($arg)*)) };
}

/// Logs a milestone of boot or of a domain's life.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::console::log::message($crate::console::log::Level::Info, format_args!($($arg)*)) };
}

/// Logs a request's details.
#[macro_export]
macro_rules! debug {
    ($($arg:tt)*) => { $crate::console::log::message($crate::console::log::Level::Debug, format_args!($($arg)*)) };
}

/// Logs, at the rate of the guest's [`GuestLog`], what it triggered: `guest_log!(domain.log, Warning, "{}: …", vcpu.id)`.
#[macro_export]
macro_rules! guest_log {
    ($log:expr, $level:ident, $($arg:tt)*) => {
        $log.deed($crate::console::log::Level::$level, format_args!($($arg)*))
    };
}

pub use hv_core::options::LogLevel as Level;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_passes_a_burst_and_reports_what_it_held_back() {
        let limit = RateLimit::new();
        let passed = (0..BURST + 5)
            .filter(|_| limit.pass(5_000_000_000).is_some())
            .count();
        assert_eq!(passed, BURST as usize);
        assert_eq!(limit.pass(6_000_000_000), Some(5));
        assert_eq!(limit.pass(6_000_000_001), Some(0));
    }
}
