//! How many exits a scenario causes: asked of the hypervisor by debug key, while a script waits.

use std::time::Duration;

use super::job::{SWITCH_INPUT, fault};
use crate::console::Seen;
use crate::running::Running;
use crate::verdict::{TestResult, Verdict};

/// Exits so far and when, in µs of virtual time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExitSample {
    total: u64,
    time_us: u64,
}

/// Presses the debug key x, reads its summary, and lets the script go on.
pub(super) fn ask_for_exits(running: &mut Running) -> Option<ExitSample> {
    let limit = running.console.clock().after(Duration::from_secs(20));
    running
        .console
        .send(&[SWITCH_INPUT, b"x", SWITCH_INPUT].concat())
        .ok()?;
    let Seen::Found(_) = running.console.wait_for(&["exits total="], limit) else {
        return None;
    };
    let sample = exit_sample(&running.console.finish_line(Duration::from_secs(2)))?;
    running.console.send(b"\n").ok()?;
    Some(sample)
}

/// Reads `exits total=N time_us=N`.
fn exit_sample(line: &str) -> Option<ExitSample> {
    let field = |name: &str| {
        let (_, rest) = line.split_once(name)?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    Some(ExitSample {
        total: field("exits total=")?,
        time_us: field("time_us=")?,
    })
}

pub(super) fn judge_exit_rate(samples: &[ExitSample], limit: u64) -> Verdict {
    let name = "exit-rate";
    let [before, after] = samples else {
        return fault(
            name,
            TestResult::Error,
            format!("{} samples instead of two", samples.len()),
        );
    };
    let exits = after.total.saturating_sub(before.total);
    let us = after.time_us.saturating_sub(before.time_us).max(1);
    let rate = exits.saturating_mul(1_000_000) / us;
    let text = format!("{rate} exits a second ({exits} in {us} us)");
    let result = if rate < limit {
        TestResult::Success
    } else {
        TestResult::Failure
    };
    fault(name, result, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_exits_over_virtual_time() {
        let before = exit_sample("(hem) exits total=1000 time_us=2000000").unwrap();
        let after = exit_sample("exits total=3500 time_us=12000000").unwrap();
        assert_eq!(
            judge_exit_rate(&[before, after], 300).result,
            TestResult::Success
        );
        assert_eq!(
            judge_exit_rate(&[before, after], 250).result,
            TestResult::Failure
        );
        assert_eq!(judge_exit_rate(&[before], 300).result, TestResult::Error);
    }
}
