//! What time limits are counted by: the work that the emulator has done, so that a busy host does not fail a test.
//!
//! A limit in seconds means seconds of one CPU of the emulator's own. Beside other work the emulator advances more
//! slowly, and so does its clock. A machine that sleeps (QEMU passes idle time without a CPU) still comes to its limit:
//! wall time counts too, for a small part.

use std::fs;
use std::time::{Duration, Instant};

/// Ticks a second in `/proc/PID/stat`: `USER_HZ`, a constant of Linux' ABI on x86-64.
const TICKS_PER_SECOND: u64 = 100;

/// A clock that starts at zero.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// The host's time.
    Wall {
        /// When it started.
        since: Instant,
    },
    /// CPU time of a process and its threads.
    Work {
        /// The process.
        pid: u32,
        /// When it was started.
        since: Instant,
        /// One in so many seconds of the host's time counts, where the process has done less than that.
        wall_share: u32,
    },
}

impl Clock {
    /// Returns the host's time from now on.
    #[must_use]
    pub fn wall() -> Self {
        Self::Wall {
            since: Instant::now(),
        }
    }

    /// Returns the clock of the process `pid`, which has just been started; one in `wall_share` seconds of the host's
    /// time counts in any case.
    #[must_use]
    pub fn of_process(pid: u32, wall_share: u32) -> Self {
        Self::Work {
            pid,
            since: Instant::now(),
            wall_share,
        }
    }

    /// Returns how much has passed.
    #[must_use]
    pub fn now(&self) -> Duration {
        match *self {
            Self::Wall { since } => since.elapsed(),
            Self::Work {
                pid,
                since,
                wall_share,
            } => {
                let least = since.elapsed() / wall_share.max(1);
                cpu_time(pid).map_or(least, |work| work.max(least))
            }
        }
    }

    /// Returns the limit that is reached after `duration` more, whatever is printed meanwhile.
    #[must_use]
    pub fn after(self, duration: Duration) -> Limit {
        self.limit(duration, FOREVER)
    }

    /// Returns the limit that is reached after `duration` more, or when nothing was printed for `silence`.
    #[must_use]
    pub fn limit(self, duration: Duration, silence: Duration) -> Limit {
        Limit {
            until: self.now().saturating_add(duration),
            clock: self,
            silence,
        }
    }
}

/// Longer than anyone waits, and short enough to be added to any time.
pub const FOREVER: Duration = Duration::from_secs(365 * 86400);

/// When a wait ends without what it waited for.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// What it is counted by.
    pub clock: Clock,
    /// On that clock.
    pub until: Duration,
    /// How long nothing may be printed.
    pub silence: Duration,
}

impl Limit {
    /// Says whether the time is over.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.clock.now() >= self.until
    }

    /// Returns the same limit, reached after `duration` more at the latest.
    #[must_use]
    pub fn within(self, duration: Duration) -> Self {
        let until = self.clock.now().saturating_add(duration).min(self.until);
        Self { until, ..self }
    }
}

/// Returns the CPU time that the process has used, user's and system's, with all its threads; nothing once it is gone.
/// Source: proc(5), `/proc/pid/stat`, fields 14 and 15.
fn cpu_time(pid: u32) -> Option<Duration> {
    ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
        .map(|ticks| Duration::from_millis(ticks.saturating_mul(1000 / TICKS_PER_SECOND)))
}

fn ticks(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, with any characters; the third follows the last of them.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn the_name_of_a_program_does_not_move_the_fields() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("12 (a"), None);
    }

    /// A process that ends with its test.
    struct Process(Child);

    impl Process {
        fn start(program: &str, args: &[&str]) -> Self {
            let mut command = Command::new(program);
            command
                .args(args)
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            Self(command.spawn().unwrap())
        }
    }

    impl Drop for Process {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A limit holds for the work of the process, not for the time that the host takes for it: one that gets little of
    /// a CPU, here none, is far from it when one that works has reached it.
    #[test]
    fn a_limit_counts_work_and_not_waiting() {
        let (works, waits) = (
            Process::start("/bin/sh", &["-c", "while :; do :; done"]),
            Process::start("sleep", &["600"]),
        );
        let clock = |process: &Process| Clock::of_process(process.0.id(), 16);
        let (busy, idle) = (clock(&works), clock(&waits));
        let limit = |clock: Clock| clock.after(Duration::from_millis(300));
        let (of_busy, of_idle) = (limit(busy), limit(idle));
        let wall = Clock::wall();
        while !of_busy.is_reached() && wall.now() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(of_busy.is_reached());
        // A host too busy for the one has let the other's share of wall time pass.
        assert!(!of_idle.is_reached() || wall.now() > Duration::from_secs(4));
    }

    #[test]
    fn a_machine_that_sleeps_comes_to_its_limit_too() {
        let since = Instant::now()
            .checked_sub(Duration::from_secs(160))
            .unwrap();
        let gone = Clock::Work {
            pid: u32::MAX,
            since,
            wall_share: 16,
        };
        assert!(gone.now() >= Duration::from_secs(10));
        assert!(gone.now() < Duration::from_secs(100));
    }
}
