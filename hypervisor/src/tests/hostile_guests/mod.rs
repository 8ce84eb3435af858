//! Guests and tools that do anything at all, and what must hold whatever they do: no panic, no mapping of a frame
//! without a use, no end of a domain that did nothing to end it, no host interrupt that waits, and everything back at
//! their end.
//!
//! A test runs for a moment; HOSTILE_SECONDS says for how long each goes on, HOSTILE_SEED where it begins. A failure
//! names the seed of the life in which it came.
#![expect(
    non_upper_case_globals,
    reason = "constants carry the names of Xen's headers"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "random numbers are cut to what the ABI takes"
)]

mod calls;
mod exits;
mod guests;
mod oracle;
mod random;
mod states;
mod tools;

use std::time::{Duration, Instant};

use crate::tests::common::prepare;
use hv_hw::hosted::Clock;

/// Lives whole rounds, each from a seed of its own, and tells what they came to.
fn rounds<const N: usize>(name: &str, round: impl Fn(u64) -> [u64; N]) -> [u64; N] {
    const MOMENT: Duration = Duration::from_millis(1500);
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let patience = number("HOSTILE_SECONDS").map_or(MOMENT, Duration::from_secs);
    let first = number("HOSTILE_SEED").unwrap_or(1);
    prepare();
    let _clock = Clock::take_over();
    let begin = Instant::now();
    let mut total = [0; N];
    let mut seed = first;
    while seed == first || begin.elapsed() < patience {
        for (sum, count) in total.iter_mut().zip(round(seed)) {
            *sum += count;
        }
        seed += 1;
    }
    println!("{name}: seeds {first} to {seed}: {total:?}");
    total
}

#[test]
fn two_guests_that_do_anything_harm_nobody() {
    let [exits, calls, succeeded, again, narrow] = rounds(
        "exits, calls, of them fine, again, fine of 32-bit code",
        guests::life,
    );
    assert!(exits > 100 && calls > 100, "{exits} exits, {calls} calls");
    assert!(
        succeeded > calls / 10,
        "{succeeded} of {calls} calls did something"
    );
    assert!(again > 0, "no call was executed again");
    assert!(
        narrow > calls / 100,
        "{narrow} of {calls} were 32-bit code's"
    );
}

#[test]
fn toolstack_that_asks_for_anything_loses_nothing() {
    let [calls, succeeded] = rounds("calls, of them fine", tools::life);
    assert!(
        succeeded > calls / 20,
        "{succeeded} of {calls} calls did something"
    );
}

#[test]
fn forged_state_is_refused_or_run() {
    let [offered, taken] = rounds("states, of them taken", states::life);
    assert!(
        taken > 0 && taken < offered,
        "{taken} of {offered} were taken"
    );
}
