//! Checks and what they print, as the guest test kernels do: a line `--- test NAME: VERDICT[: text]` each, and `---
//! done` at the end.

use alloc::string::String;

use hv_hw::info;
use hv_hw::virt::Backend;

use crate::start::Bench;

/// Why a check did not succeed.
pub(crate) enum Stop {
    /// This CPU has nothing of the kind.
    Skip(String),
    /// The seam does not keep its promise.
    Failure(String),
}

/// How a check ended.
pub(crate) type Verdict = Result<(), Stop>;

/// A check.
pub(crate) struct Check<B: Backend> {
    name: &'static str,
    run: fn(&mut Bench<B>) -> Verdict,
}

impl<B: Backend> Check<B> {
    pub(crate) const fn new(name: &'static str, run: fn(&mut Bench<B>) -> Verdict) -> Self {
        Self { name, run }
    }
}

/// Ends a check unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::report::Stop::Failure(alloc::format!($($text)+)));
        }
    };
}

/// Ends a check unless both are equal.
#[macro_export]
macro_rules! check_eq {
    ($got:expr, $want:expr, $($text:tt)+) => {
        match ($got, $want) {
            (got, want) => $crate::check!(
                got == want,
                "{}: got {got:x?}, want {want:x?}",
                alloc::format!($($text)+)
            ),
        }
    };
}

/// Ends a check that has nothing to check on this CPU.
#[macro_export]
macro_rules! skip {
    ($($text:tt)+) => { return Err($crate::report::Stop::Skip(alloc::format!($($text)+))) };
}

/// Runs the checks whose names have the word `test=` of the command line in them, all where it has none.
pub(crate) fn run_all<B: Backend>(bench: &mut Bench<B>, command_line: &str, checks: &[Check<B>]) {
    let wanted = command_line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("test="))
        .unwrap_or_default();
    for Check { name, run } in checks.iter().filter(|check| check.name.contains(wanted)) {
        match run(bench) {
            Ok(()) => info!("--- test {name}: Success"),
            Err(Stop::Skip(text)) => info!("--- test {name}: Skip: {text}"),
            Err(Stop::Failure(text)) => info!("--- test {name}: Failure: {text}"),
        }
    }
}
