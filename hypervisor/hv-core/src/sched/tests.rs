//! Both policies under the same random life.

use std::collections::BTreeMap;
use std::vec;

use proptest::prelude::*;

use super::credit2::Credit2;
use super::round_robin::RoundRobin;
use super::{MakeRoom, Pick, Policy, Unit};

mod shares;
mod simulator;

const MS: u64 = 1_000_000;

#[derive(Clone, Debug)]
enum Op {
    Add(usize, u16),
    Remove(usize),
    SetWeight(usize, u16),
    Wake(usize),
    Block(usize),
    Yield(usize),
    Preempt(usize),
    Charge(usize, u64),
    Pick,
    Pass(u64),
}

/// The ends of the range more often than others.
fn weight() -> impl Strategy<Value = u16> {
    prop_oneof![any::<u16>(), Just(1), Just(u16::MAX)]
}

fn op() -> impl Strategy<Value = Op> {
    let id = 0..6usize;
    prop_oneof![
        (id.clone(), weight()).prop_map(|(id, weight)| Op::Add(id, weight)),
        (id.clone(), weight()).prop_map(|(id, weight)| Op::SetWeight(id, weight)),
        id.clone().prop_map(Op::Remove),
        id.clone().prop_map(Op::Wake),
        id.clone().prop_map(Op::Wake),
        id.clone().prop_map(Op::Block),
        id.clone().prop_map(Op::Yield),
        (id.clone(), any::<u64>()).prop_map(|(id, ns)| Op::Charge(id, ns)),
        id.prop_map(Op::Preempt),
        Just(Op::Pick),
        Just(Op::Pick),
        (0..50 * MS).prop_map(Op::Pass),
        // a fortnight: virtual time starts over many times, and has to do with turns that nobody ends
        (0..1u64 << 50).prop_map(Op::Pass),
    ]
}

/// Applies all but picks. The policies choose differently, so a running vCPU of one may be queued in the other: the
/// number of vCPUs in each state is what must agree, and operations name the vCPU by its role.
fn apply(policy: &mut impl Policy, op: &Op, now_ns: u64) {
    match *op {
        Op::Add(id, weight) => policy.add(Unit(id), weight),
        Op::Remove(id) => policy.remove(Unit(id), now_ns),
        Op::SetWeight(id, weight) => policy.set_weight(Unit(id), weight, now_ns),
        Op::Wake(id) => {
            let _ = policy.wake(Unit(id), now_ns);
        }
        Op::Block(id) => policy.block(Unit(id), now_ns),
        Op::Charge(id, ns) => policy.charge(Unit(id), ns, Some(Unit(0))),
        Op::Yield(_) | Op::Preempt(_) | Op::Pick | Op::Pass(_) => {}
    }
}

proptest! {
    /// With one CPU that gives up its vCPU before each pick, both policies find somebody to run at the same times, and
    /// never one that is not ready.
    #[test]
    fn somebody_runs_exactly_where_round_robin_finds_somebody(ops in prop::collection::vec(op(), 0..300)) {
        let (mut credit2, mut oracle) = (Credit2::new(), RoundRobin::new());
        let mut ready = BTreeMap::new();
        let mut now_ns = 0;
        let (mut ours, mut theirs): (Option<Unit>, Option<Unit>) = (None, None);
        for op in &ops {
            apply(&mut credit2, op, now_ns);
            apply(&mut oracle, op, now_ns);
            match *op {
                Op::Add(id, _) => { ready.entry(Unit(id)).or_insert(false); }
                Op::Remove(id) => { ready.remove(&Unit(id)); }
                Op::Wake(id) => { ready.entry(Unit(id)).and_modify(|is_ready| *is_ready = true); }
                Op::Block(id) => { ready.entry(Unit(id)).and_modify(|is_ready| *is_ready = false); }
                Op::Yield(id) => credit2.yield_now(Unit(id), now_ns),
                Op::Preempt(id) => credit2.preempt(Unit(id), now_ns),
                Op::Pass(ns) => now_ns += ns,
                Op::SetWeight(..) | Op::Charge(..) => {}
                Op::Pick => {
                    if let Some(running) = ours { credit2.preempt(running, now_ns); }
                    if let Some(running) = theirs { oracle.preempt(running, now_ns); }
                    ours = credit2.pick(now_ns).map(|pick| pick.unit);
                    theirs = oracle.pick(now_ns).map(|pick| pick.unit);
                    prop_assert_eq!(ours.is_some(), theirs.is_some());
                    prop_assert_eq!(ours.is_some(), ready.values().any(|is_ready| *is_ready));
                    if let Some(picked) = ours {
                        prop_assert_eq!(ready.get(&picked), Some(&true));
                    }
                }
            }
        }
    }
}

/// A policy with so many vCPUs of weight 256, all queued.
fn queued(count: usize) -> Credit2 {
    let mut policy = Credit2::new();
    for index in 0..count {
        policy.add(Unit(index), 256);
        assert_eq!(policy.wake(Unit(index), 0), None);
    }
    policy
}

#[test]
fn a_vcpu_that_yields_lets_the_next_one_go_first() {
    let mut policy = queued(2);
    let mut last = None;
    for _ in 0..100 {
        let Pick { unit, .. } = policy.pick(0).expect("both are ready");
        assert_ne!(Some(unit), last);
        policy.yield_now(unit, 0);
        last = Some(unit);
    }
}

/// What a sleeper has saved is still there after a yield.
#[test]
fn a_vcpu_that_yields_gives_up_this_turn_and_nothing_else() {
    let mut policy = queued(1);
    policy.add(Unit(1), 256);
    let hog = policy.pick(0).expect("one is ready").unit;
    let sleeper = Unit(1);
    assert!(policy.wake(sleeper, 100 * MS).is_some());
    policy.preempt(hog, 100 * MS);
    assert_eq!(policy.pick(100 * MS).expect("two").unit, sleeper);
    policy.yield_now(sleeper, 100 * MS);
    assert_eq!(policy.pick(100 * MS).expect("two").unit, hog);
    policy.preempt(hog, 101 * MS);
    let again = policy.pick(101 * MS).expect("two");
    assert_eq!(again.unit, sleeper);
    assert_eq!(again.timeslice_ns, Some(10 * MS));
}

#[test]
fn a_vcpu_alone_that_yields_goes_on() {
    let mut policy = queued(1);
    let Pick { unit, .. } = policy.pick(0).expect("one is ready");
    policy.yield_now(unit, 0);
    let again = policy.pick(0).expect("it is still");
    assert_eq!((again.unit, again.timeslice_ns), (unit, None));
}

#[test]
fn a_vcpu_alone_has_no_timeslice_until_another_wakes() {
    let mut policy = queued(1);
    policy.add(Unit(1), 1);
    let Pick { unit, timeslice_ns } = policy.pick(0).expect("one is ready");
    assert_eq!(timeslice_ns, None);
    let room = policy.wake(Unit(1), MS);
    assert_eq!(room, Some(MakeRoom { unit, after_ns: 0 }));
    policy.preempt(unit, MS);
    assert!(policy.pick(MS).expect("both").timeslice_ns.is_some());
}

#[test]
fn two_cpus_never_pick_the_same_vcpu() {
    let mut policy = queued(3);
    let picked = [(); 4].map(|()| policy.pick(0).map(|pick| pick.unit));
    assert_eq!(picked, [Some(Unit(0)), Some(Unit(1)), Some(Unit(2)), None]);
}

/// Who wakes all the time does not make the CPU switch all the time.
#[test]
fn a_running_vcpu_is_not_preempted_within_the_rate_limit() {
    for limit_ns in [0, MS, 5 * MS] {
        let mut policy = queued(1);
        policy.add(Unit(1), 256);
        policy.set_rate_limit(limit_ns);
        let hog = policy.pick(0).expect("one is ready").unit;
        for ran_ns in [MS / 4, MS / 2, 3 * MS] {
            let room = policy.wake(Unit(1), ran_ns);
            let after_ns = limit_ns.saturating_sub(ran_ns);
            let due = MakeRoom {
                unit: hog,
                after_ns,
            };
            assert_eq!(room, Some(due), "{limit_ns} {ran_ns}");
            policy.block(Unit(1), ran_ns);
        }
        assert!(policy.wake(Unit(1), 20 * MS).is_some());
        policy.preempt(hog, 20 * MS);
        let slice_ns = policy.pick(20 * MS).and_then(|pick| pick.timeslice_ns);
        assert!(slice_ns >= Some(limit_ns));
    }
}
