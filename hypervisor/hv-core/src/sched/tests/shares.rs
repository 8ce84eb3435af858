//! How much CPU each vCPU gets, beside the ideal that gives each its share at every moment, and how long each waits.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::super::credit2::GRAIN_NS;
use super::super::credit2::entity::MAX_LAG_NS;
use super::super::{Policy, Unit};
use super::MS;
use super::simulator::Simulator;

const US: u64 = 1000;
/// How far a vCPU may be from its ideal, however long that is: its lag at the beginning and at the end, and a turn; for
/// each further CPU the lag of somebody to whom that gave more than his share.
const fn max_error_ns(cpus: u64) -> u64 {
    (2 + cpus) * 10 * MS
}

/// CPU time of each of those who can run, were it shared by weight at every moment; none has more than one CPU.
fn ideal_ns(cpus: u64, for_ns: u64, weights: &[(usize, u16)]) -> Vec<(usize, u64)> {
    let mut rest: Vec<_> = weights.to_vec();
    let mut ideal = Vec::new();
    let mut cpus_left = cpus;
    loop {
        let sum: u64 = rest.iter().map(|(_, weight)| u64::from(*weight)).sum();
        // whose share is more than a CPU gets a CPU, and the others share the rest
        let is_whole = |weight: u16| u64::from(weight) * cpus_left >= sum;
        let Some(place) = rest.iter().position(|(_, weight)| is_whole(*weight)) else {
            let share = |weight: u16| for_ns * cpus_left * u64::from(weight) / sum;
            ideal.extend(rest.iter().map(|(index, weight)| (*index, share(*weight))));
            return ideal;
        };
        ideal.push((rest.remove(place).0, for_ns));
        cpus_left -= 1;
        if rest.is_empty() || cpus_left == 0 {
            ideal.extend(rest.iter().map(|(index, _)| (*index, 0)));
            return ideal;
        }
    }
}

/// What happens between two stretches in which the same vCPUs can run.
#[derive(Clone, Debug)]
enum Change {
    Wake(usize),
    Block(usize),
    /// Naps of half a millisecond in each millisecond, for a while.
    Naps(usize, u64),
}

fn change(vcpus: usize) -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (0..vcpus).prop_map(Change::Wake),
        2 => (0..vcpus).prop_map(Change::Block),
        1 => (0..vcpus, 1..100u64).prop_map(|(index, times)| Change::Naps(index, times)),
    ]
}

/// Short and very long stretches.
fn stretch_ns() -> impl Strategy<Value = u64> {
    prop_oneof![1..5 * MS, 5 * MS..500 * MS, 10_000 * MS..20_000 * MS]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However long a stretch is, and whatever was before it, each vCPU's part of it is the ideal but for a constant.
    #[test]
    fn shares_are_ideal_after_any_history(
        cpus in 1..4u8,
        weights in prop::collection::vec(16u16..2048, 6),
        history in prop::collection::vec((change(6), stretch_ns()), 1..12),
    ) {
        let mut sim = Simulator::new(usize::from(cpus), &weights);
        let mut ready = [false; 6];
        for (change, for_ns) in history {
            match change {
                Change::Wake(index) => { sim.wake(index); ready[index] = true; }
                Change::Block(index) => { sim.block(index); ready[index] = false; }
                Change::Naps(index, times) => {
                    for _ in 0..times {
                        sim.block(index);
                        sim.pass(500 * US);
                        sim.wake(index);
                        sim.pass(500 * US);
                    }
                    ready[index] = true;
                }
            }
            let before: Vec<_> = (0..6).map(|index| sim.ran_ns(index)).collect();
            sim.pass(for_ns);
            let who: Vec<_> = (0..6).filter(|&index| ready[index]).map(|index| (index, weights[index])).collect();
            for (index, due_ns) in ideal_ns(cpus.into(), for_ns, &who) {
                let got_ns = sim.ran_ns(index) - before[index];
                prop_assert!(
                    got_ns.abs_diff(due_ns) <= max_error_ns(cpus.into()) + due_ns / 1000,
                    "{index} got {got_ns} of {due_ns}: {who:?} on {cpus}"
                );
            }
        }
    }

    /// Whoever waits is ahead of the mean by so much of its own CPU time at most, each of the others as much behind it,
    /// and each goes on for a grain: nobody waits for longer than that takes, however many wake meanwhile, and in what
    /// order.
    #[test]
    fn a_wait_is_no_longer_than_what_all_may_be_ahead_and_behind(
        weights in prop_oneof![
            (2..24usize).prop_map(|count| vec![256; count]),
            prop::collection::vec(64u16..1024, 2..24),
        ],
        history in prop::collection::vec((change(24), stretch_ns()), 1..40),
    ) {
        let mut sim = Simulator::new(1, &weights);
        let place = |index: usize| index % weights.len();
        for (change, for_ns) in history {
            match change {
                Change::Wake(index) => sim.wake(place(index)),
                Change::Block(index) => sim.block(place(index)),
                Change::Naps(index, times) => for _ in 0..times {
                    sim.block(place(index));
                    sim.pass(500 * US);
                    sim.wake(place(index));
                    sim.pass(500 * US);
                },
            }
            sim.pass(for_ns);
        }
        let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let others = weights.len() as u64 - 1;
        for (index, weight) in weights.iter().enumerate() {
            let weight = u64::from(*weight);
            let ahead_ns = (MAX_LAG_NS * (sum - weight)).div_ceil(weight);
            let due_ns = ahead_ns + others * (MAX_LAG_NS + GRAIN_NS) + US;
            let wait_ns = sim.record(index).longest_wait_ns;
            prop_assert!(wait_ns <= due_ns, "{index} waited {wait_ns}, not {due_ns}: {weights:?}");
        }
    }

    /// A vCPU that sleeps most of the time runs as soon as it wakes, and hogs lose no more than it uses.
    #[test]
    fn a_sleeper_is_served_at_once_and_takes_no_more_than_its_use(naps_ms in 20u64..200, use_ms in 1u64..3) {
        let mut sim = Simulator::new(1, &[256, 256]);
        sim.wake(0);
        for _ in 0..50 {
            sim.pass(naps_ms * MS);
            sim.wake(1);
            sim.pass(use_ms * MS);
            sim.block(1);
        }
        prop_assert_eq!(sim.record(1).longest_wait_ns, 0);
        prop_assert_eq!(sim.ran_ns(1), 50 * use_ms * MS);
        prop_assert_eq!(sim.ran_ns(0), 50 * naps_ms * MS);
    }
}

/// Many sleepers that wake one after another take no more from who ran before them than each may have saved.
#[test]
fn a_hog_waits_for_each_sleeper_that_wakes_no_longer_than_it_may_have_saved() {
    const SLEEPERS: usize = 40;
    let mut sim = Simulator::new(1, &[256; SLEEPERS + 1]);
    sim.wake(0);
    sim.pass(60_000 * MS);
    for index in 1..=SLEEPERS {
        sim.wake(index);
        sim.pass(1);
    }
    sim.pass(10_000 * MS);
    let wait_ns = sim.record(0).longest_wait_ns;
    let due_ns = SLEEPERS as u64 * (MAX_LAG_NS + GRAIN_NS);
    assert!(wait_ns <= due_ns, "waited {wait_ns}, not {due_ns}");
}

/// What was used while nobody else wanted it is not held against anybody, nor is what an idle time would have given.
#[test]
fn a_hog_alone_for_a_minute_makes_nobody_wait_after() {
    for first in [0, 1] {
        let mut sim = Simulator::new(1, &[256, 256]);
        sim.wake(first);
        sim.pass(60_000 * MS);
        sim.wake(1 - first);
        sim.pass(1_000 * MS);
        for index in [0, 1] {
            let wait_ns = sim.record(index).longest_wait_ns;
            assert!(wait_ns <= 25 * MS, "{index} waited {wait_ns} ns");
        }
    }
}

/// Alone on two CPUs, a light vCPU gets more than its weight gives it.
#[test]
fn what_a_weight_could_not_use_is_not_held_against_the_others() {
    let mut sim = Simulator::new(2, &[1024, 256, 256]);
    sim.wake(0);
    sim.wake(1);
    sim.pass(5_000 * MS);
    sim.wake(2);
    sim.pass(1_000 * MS);
    for index in 0..3 {
        let wait_ns = sim.record(index).longest_wait_ns;
        assert!(wait_ns <= 25 * MS, "{index} waited {wait_ns} ns");
    }
}

#[test]
fn weights_are_shares_within_a_thousandth() {
    let weights = [256, 512, 1024];
    let mut sim = Simulator::new(1, &weights);
    for index in 0..3 {
        sim.wake(index);
    }
    sim.pass(20_000 * MS);
    for (index, weight) in weights.into_iter().enumerate() {
        let due_ns = 20_000 * MS * u64::from(weight) / 1792;
        let got_ns = sim.ran_ns(index);
        assert!(
            got_ns.abs_diff(due_ns) <= due_ns / 1000,
            "{got_ns} of {due_ns}"
        );
    }
}

/// An hour of the least weights, in which virtual time is put back to 0 a hundred times.
#[test]
fn shares_and_waits_hold_while_virtual_time_starts_over() {
    let weights = [1, 2, 3];
    let mut sim = Simulator::new(1, &weights);
    for _ in 0..40 {
        for index in 0..3 {
            sim.wake(index);
        }
        let before = [0, 1, 2].map(|index| sim.ran_ns(index));
        sim.pass(60_000 * MS);
        for index in 0..3 {
            let due_ns = 60_000 * MS * u64::from(weights[index]) / 6;
            let got_ns = sim.ran_ns(index) - before[index];
            assert!(
                got_ns.abs_diff(due_ns) <= max_error_ns(1),
                "{index} got {got_ns} of {due_ns}"
            );
        }
        sim.block(1);
        sim.block(2);
        sim.pass(30_000 * MS);
        sim.block(0);
    }
    for index in 0..3 {
        let wait_ns = sim.record(index).longest_wait_ns;
        assert!(wait_ns <= 150 * MS, "{index} waited {wait_ns}");
    }
}

#[test]
fn nine_equals_share_four_cpus() {
    let mut sim = Simulator::new(4, &[256; 9]);
    for index in 0..9 {
        sim.wake(index);
    }
    sim.pass(20_000 * MS);
    for index in 0..9 {
        let got_ns = sim.ran_ns(index);
        assert!(got_ns.abs_diff(80_000 * MS / 9) <= 12 * MS, "{got_ns}");
    }
}

/// A toolstack that sets weights in a loop gives nobody more than the weights.
#[test]
fn change_of_weight_is_no_boost() {
    for weights in [[256, 256], [1, 512], [u16::MAX, 1]] {
        let mut sim = Simulator::new(1, &[256, 256]);
        sim.wake(0);
        sim.wake(1);
        for turn in 0..10_000 {
            let now_ns = sim.now_ns;
            sim.policy.set_weight(Unit(0), weights[turn % 2], now_ns);
            sim.pass(MS);
        }
        let (most, sum) = (u64::from(weights[0].max(weights[1])), 10_000 * MS);
        let due_ns = sum * most / (most + 256);
        let got_ns = sim.ran_ns(0);
        assert!(got_ns <= due_ns + max_error_ns(1), "{got_ns} of {due_ns}");
    }
}

/// Time spent for a vCPU in the turn of another is its own, and not the other's.
#[test]
fn who_is_charged_for_its_errands_runs_less() {
    let mut sim = Simulator::new(1, &[256; 3]);
    sim.wake(0);
    sim.wake(2);
    for _ in 0..1000 {
        sim.block(1);
        sim.pass(MS);
        let other = Unit(if sim.runs(0) { 0 } else { 2 });
        sim.policy.charge(Unit(1), MS, Some(other));
        sim.wake(1);
        sim.pass(5 * MS);
    }
    let [free, paid, other] = [0, 1, 2].map(|index| sim.ran_ns(index));
    // the simulator counts the errands as the others' time, which the policy does not
    let all = free + paid + other;
    assert!(free.abs_diff(other) <= max_error_ns(1), "{free} {other}");
    assert!(
        (paid + 1000 * MS).abs_diff(all / 3) <= 3 * max_error_ns(1),
        "{paid} of {all}"
    );
}
