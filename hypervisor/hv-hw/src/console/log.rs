//! Messages with a level and a time: `error!`, `warn!`, `info!` for what the hypervisor says by itself, and for what a
//! domain causes, by its [`GuestLog`], `guest_log!` and `domain_log!`.
//!
//! A line is `[    0.123456] text`, the time in seconds since the hypervisor was entered (before the TSC's frequency is
//! known, in ticks). `loglvl` and `guest_loglvl` say what is shown; messages above the first of an option's two levels
//! pass a limit of [`BURST`] lines a second. What domains cause is bounded in bytes a second as well, for each and for
//! all together, whatever its level ([`hv_core::log_budget`]); `cargo xtask ci` checks that code which guests drive
//! uses nothing else.

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use hv_core::domid::DomId;
use hv_core::log_budget::Bucket;
use hv_core::options::{LogLevel, LogThresholds};

use crate::console::{self, Charge};
use crate::once_a_machine;
use crate::sync::{RankedLock, rank};
use crate::time;

/// Lines a second that pass the rate limit.
pub const BURST: u32 = 10;

/// Levels as numbers one above `LogLevel`'s order; 0 shows nothing.
struct Thresholds {
    always: AtomicU8,
    limited: AtomicU8,
}

/// Which lines are shown.
struct Filter {
    host: Thresholds,
    guest: Thresholds,
    limit: RateLimit,
}

once_a_machine! {
    fn filter() -> Filter = Filter {
        host: Thresholds {
            always: AtomicU8::new(3),
            limited: AtomicU8::new(3),
        },
        guest: Thresholds {
            always: AtomicU8::new(0),
            limited: AtomicU8::new(2),
        },
        limit: RateLimit::new(),
    };
}

/// Applies `loglvl` and `guest_loglvl`.
pub fn set_levels(host: LogThresholds, guest: LogThresholds) {
    filter().host.set(host);
    filter().guest.set(guest);
}

/// Prints a message of the hypervisor. Called through the macros.
pub fn message(level: LogLevel, text: fmt::Arguments<'_>) {
    let at = time::Stamp::now();
    let suppressed = match filter().host.shown(level) {
        Shown::Always => 0,
        Shown::Limited => match filter().limit.pass(time::uptime_ns()) {
            Some(suppressed) => suppressed,
            None => return,
        },
        Shown::Never => return,
    };
    if suppressed > 0 {
        let text = format_args!("{suppressed} messages suppressed");
        let level = LogLevel::Warning;
        console::write_fmt(format_args!("{}\n", Line { at, level, text }));
    }
    console::write_fmt(format_args!("{}\n", Line { at, level, text }));
}

/// What a domain prints and what is said of it. Each kind has a rate of its own, so that a guest that keeps breaking
/// rules can still be read, and its end be seen.
#[derive(Debug)]
pub struct GuestLog {
    of: DomId,
    voices: RankedLock<Voices, { rank::LOG }>,
}

#[derive(Debug)]
struct Voices {
    words: Voice,
    deeds: Voice,
    life: Voice,
    /// Messages that nobody has been told of yet.
    suppressed: u32,
}

#[derive(Debug)]
struct Voice {
    limit: RateLimit,
    bytes: Bucket,
}

impl GuestLog {
    /// For a domain that has not printed anything.
    #[must_use]
    pub fn new(of: DomId) -> Self {
        let voice = || Voice {
            limit: RateLimit::new(),
            bytes: Bucket::of_newborn(time::uptime_ns()),
        };
        Self {
            of,
            voices: RankedLock::new(Voices {
                words: voice(),
                deeds: voice(),
                life: voice(),
                suppressed: 0,
            }),
        }
    }

    /// Prints a line of the guest's own, at level Info of `guest_loglvl`.
    pub fn words(&self, line: &str) {
        let text = format_args!("{}: {line}", self.of);
        let shown = filter().guest.shown(LogLevel::Info);
        self.say(shown, |voices| &mut voices.words, (LogLevel::Info, text));
    }

    /// Prints what the guest did, by `guest_loglvl`. Called through [`crate::guest_log`].
    pub fn deed(&self, level: LogLevel, text: fmt::Arguments<'_>) {
        let shown = filter().guest.shown(level);
        self.say(shown, |voices| &mut voices.deeds, (level, text));
    }

    /// Prints what became of the domain, by `loglvl`. Called through [`crate::domain_log`].
    pub fn life(&self, level: LogLevel, text: fmt::Arguments<'_>) {
        let shown = filter().host.shown(level);
        self.say(shown, |voices| &mut voices.life, (level, text));
    }

    /// Prints the registers of `vcpu`, which dies, by `loglvl` at level Info: all of `text`, or a line that says why
    /// not.
    pub fn dump(&self, vcpu: &dyn fmt::Display, text: &str) {
        if matches!(filter().host.shown(LogLevel::Info), Shown::Never) {
            return;
        }
        let at = time::Stamp::now();
        let lines = Dump { at, vcpu, text };
        let now_ns = time::uptime_ns();
        if !console::write_for_guest(format_args!("{lines}"), Charge::Dump, now_ns) {
            let why = format_args!("{vcpu}: its registers are left out, since guests fill the log");
            self.life(LogLevel::Info, why);
        }
    }

    /// Prints `line` where the limits of the voice allow; what they do not is counted, and the count told before the
    /// next line that passes.
    fn say(
        &self,
        shown: Shown,
        voice: fn(&mut Voices) -> &mut Voice,
        (level, text): (LogLevel, fmt::Arguments<'_>),
    ) {
        if matches!(shown, Shown::Never) {
            return;
        }
        let now_ns = time::uptime_ns();
        let mut voices = self.voices.lock();
        let suppressed = voices.suppressed;
        let Voice { limit, bytes } = voice(&mut voices);
        let passes = matches!(shown, Shown::Always) || limit.pass(now_ns).is_some();
        let lines = Lines {
            of: self.of,
            suppressed,
            line: Line {
                at: time::Stamp::now(),
                level,
                text,
            },
        };
        let is_printed = passes
            && console::write_for_guest(format_args!("{lines}"), Charge::Voice(bytes), now_ns);
        voices.suppressed = if is_printed {
            0
        } else {
            suppressed.saturating_add(1)
        };
    }
}

/// Whether messages of a level are shown.
#[derive(Clone, Copy)]
enum Shown {
    Always,
    /// [`BURST`] lines a second.
    Limited,
    Never,
}

impl Thresholds {
    fn set(&self, levels: LogThresholds) {
        self.always
            .store(levels.always.map_or(0, number), Ordering::Relaxed);
        self.limited
            .store(levels.limited.map_or(0, number), Ordering::Relaxed);
    }
    fn shown(&self, level: LogLevel) -> Shown {
        let level = number(level);
        if level <= self.always.load(Ordering::Relaxed) {
            Shown::Always
        } else if level <= self.limited.load(Ordering::Relaxed) {
            Shown::Limited
        } else {
            Shown::Never
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

/// A message as it is printed, without the end of its line.
#[derive(Clone, Copy)]
struct Line<'a> {
    at: time::Stamp,
    level: LogLevel,
    text: fmt::Arguments<'a>,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self.level {
            LogLevel::Error => "error: ",
            LogLevel::Warning => "warning: ",
            LogLevel::Info => "",
            LogLevel::Debug => "debug: ",
        };
        write!(out, "{} {prefix}{}", self.at, self.text)
    }
}

/// A message of a domain, after how many were held back before it.
struct Lines<'a> {
    of: DomId,
    suppressed: u32,
    line: Line<'a>,
}

impl fmt::Display for Lines<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.suppressed > 0 {
            let text = format_args!("{}: {} messages suppressed", self.of, self.suppressed);
            let level = LogLevel::Warning;
            let at = self.line.at;
            writeln!(out, "{}", Line { at, level, text })?;
        }
        writeln!(out, "{}", self.line)
    }
}

/// The registers of a vCPU, a message a line.
struct Dump<'a> {
    at: time::Stamp,
    vcpu: &'a dyn fmt::Display,
    text: &'a str,
}

impl fmt::Display for Dump<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, vcpu, text } = *self;
        for line in text.lines() {
            let text = format_args!("{vcpu}: {line}");
            let level = LogLevel::Info;
            writeln!(out, "{}", Line { at, level, text })?;
        }
        Ok(())
    }
}

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

/// Logs that the host is degraded. Not for what a guest can trigger, like the next two.
#[macro_export]
macro_rules! error {
    ($($arg:tt)*) => { $crate::console::log::message($crate::console::log::Level::Error, format_args!($($arg)*)) };
}

/// Logs that the machine or its configuration is not as it should be, and we coped.
#[macro_export]
macro_rules! warn {
    ($($arg:tt)*) => { $crate::console::log::message($crate::console::log::Level::Warning, format_args!($($arg)*)) };
}

/// Logs a milestone of boot, or what the user of the console asked for.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::console::log::message($crate::console::log::Level::Info, format_args!($($arg)*)) };
}

/// Logs what a guest did, shown by `guest_loglvl`, within the limits of its [`GuestLog`]:
/// `guest_log!(domain.log, Warning, "{}: …", vcpu.id)`.
#[macro_export]
macro_rules! guest_log {
    ($log:expr, $level:ident, $($arg:tt)*) => {
        $log.deed($crate::console::log::Level::$level, format_args!($($arg)*))
    };
}

/// Logs what became of a domain, shown by `loglvl`, within the limits of its [`GuestLog`]:
/// `domain_log!(domain.log, Info, "{}: …", domain.id)`.
#[macro_export]
macro_rules! domain_log {
    ($log:expr, $level:ident, $($arg:tt)*) => {
        $log.life($crate::console::log::Level::$level, format_args!($($arg)*))
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
