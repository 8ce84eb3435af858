//! Both policies under the same random life, and the shares that Credit2 promises.

use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::credit2::Credit2;
use super::round_robin::RoundRobin;
use super::{Pick, Policy};
use crate::domid::DomId;
use crate::vcpu::VcpuId;

const MS: u64 = 1_000_000;

fn vcpu(index: u16) -> VcpuId {
    VcpuId {
        domid: DomId::DOM0,
        index,
    }
}

#[derive(Clone, Debug)]
enum Op {
    Add(u16, u16),
    Remove(u16),
    Wake(u16),
    Block(u16),
    Yield(u16),
    Preempt(u16),
    Pick,
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let id = 0..6u16;
    prop_oneof![
        (id.clone(), any::<u16>()).prop_map(|(id, weight)| Op::Add(id, weight)),
        id.clone().prop_map(Op::Remove),
        id.clone().prop_map(Op::Wake),
        id.clone().prop_map(Op::Wake),
        id.clone().prop_map(Op::Block),
        id.clone().prop_map(Op::Yield),
        id.prop_map(Op::Preempt),
        Just(Op::Pick),
        Just(Op::Pick),
        (0..50 * MS).prop_map(Op::Pass),
    ]
}

/// Applies all but picks. The policies choose differently, so a running vCPU of one may be queued in the other: the
/// number of vCPUs in each state is what must agree, and operations name the vCPU by its role.
fn apply(policy: &mut impl Policy, op: &Op, now_ns: u64) {
    match *op {
        Op::Add(id, weight) => policy.add(vcpu(id), weight),
        Op::Remove(id) => policy.remove(vcpu(id)),
        Op::Wake(id) => {
            let _ = policy.wake(vcpu(id), now_ns);
        }
        Op::Block(id) => policy.block(vcpu(id), now_ns),
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
        let (mut ours, mut theirs): (Option<VcpuId>, Option<VcpuId>) = (None, None);
        for op in &ops {
            apply(&mut credit2, op, now_ns);
            apply(&mut oracle, op, now_ns);
            match *op {
                Op::Add(id, _) => { ready.entry(vcpu(id)).or_insert(false); }
                Op::Remove(id) => { ready.remove(&vcpu(id)); }
                Op::Wake(id) => { ready.entry(vcpu(id)).and_modify(|is_ready| *is_ready = true); }
                Op::Block(id) => { ready.entry(vcpu(id)).and_modify(|is_ready| *is_ready = false); }
                Op::Yield(id) => credit2.yield_now(vcpu(id), now_ns),
                Op::Preempt(id) => credit2.preempt(vcpu(id), now_ns),
                Op::Pass(ns) => now_ns += ns,
                Op::Pick => {
                    if let Some(running) = ours { credit2.preempt(running, now_ns); }
                    if let Some(running) = theirs { oracle.preempt(running, now_ns); }
                    ours = credit2.pick(now_ns).map(|pick| pick.vcpu);
                    theirs = oracle.pick(now_ns).map(|pick| pick.vcpu);
                    prop_assert_eq!(ours.is_some(), theirs.is_some());
                    prop_assert_eq!(ours.is_some(), ready.values().any(|is_ready| *is_ready));
                    if let Some(picked) = ours {
                        prop_assert_eq!(ready.get(&picked), Some(&true));
                    }
                }
            }
        }
    }

    /// CPU hogs get time in proportion to their weights, on one CPU, within the few ms that slices are long.
    #[test]
    fn hogs_share_by_weight(weights in prop::collection::vec(16u16..1024, 2..6)) {
        let mut policy = Credit2::new();
        for (index, weight) in (0u16..).zip(&weights) {
            policy.add(vcpu(index), *weight);
            let _ = policy.wake(vcpu(index), 0);
        }
        let ran = run(&mut policy, 20_000 * MS);
        let total: u64 = ran.values().sum();
        let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        for (index, weight) in (0u16..).zip(&weights) {
            let due = total * u64::from(*weight) / sum;
            let got = ran.get(&vcpu(index)).copied().unwrap_or(0);
            prop_assert!(got.abs_diff(due) <= 100 * MS, "{index}: got {got} of {due}, {weights:?}");
        }
    }

    /// A vCPU that sleeps most of the time runs as soon as it wakes, and hogs lose no more than it uses.
    #[test]
    fn a_sleeper_is_served_at_once_and_takes_no_more_than_its_use(naps_ms in 20u64..200, use_ms in 1u64..3) {
        let mut policy = Credit2::new();
        policy.add(vcpu(0), 256);
        policy.add(vcpu(1), 256);
        let _ = policy.wake(vcpu(0), 0);
        let mut now_ns = 0;
        for _ in 0..50 {
            let hog = run_from(&mut policy, now_ns, naps_ms * MS);
            prop_assert_eq!(hog.get(&vcpu(0)).copied(), Some(naps_ms * MS));
            now_ns += naps_ms * MS;
            let Pick { vcpu: hog, .. } = policy.pick(now_ns).expect("the hog is ready");
            prop_assert_eq!(policy.wake(vcpu(1), now_ns), Some(hog));
            policy.preempt(hog, now_ns);
            let first = policy.pick(now_ns).expect("two are ready");
            prop_assert_eq!(first.vcpu, vcpu(1));
            now_ns += use_ms * MS;
            policy.block(vcpu(1), now_ns);
        }
    }
}

#[test]
fn a_vcpu_that_yields_lets_the_next_one_go_first() {
    let mut policy = Credit2::new();
    for index in 0..2 {
        policy.add(vcpu(index), 256);
        assert_eq!(policy.wake(vcpu(index), 0), None);
    }
    let mut last = None;
    for _ in 0..100 {
        let Pick { vcpu, .. } = policy.pick(0).expect("both are ready");
        assert_ne!(Some(vcpu), last);
        policy.yield_now(vcpu, 0);
        last = Some(vcpu);
    }
}

#[test]
fn a_vcpu_alone_has_no_timeslice_and_makes_room_when_another_wakes() {
    let mut policy = Credit2::new();
    policy.add(vcpu(0), 256);
    policy.add(vcpu(1), 1);
    assert_eq!(policy.wake(vcpu(0), 0), None);
    let pick = policy.pick(0).expect("one is ready");
    assert_eq!(pick.timeslice_ns, None);
    assert_eq!(policy.wake(vcpu(1), MS), Some(vcpu(0)));
    policy.preempt(vcpu(0), MS);
    assert!(
        policy
            .pick(MS)
            .expect("both are ready")
            .timeslice_ns
            .is_some()
    );
}

#[test]
fn two_cpus_never_pick_the_same_vcpu() {
    let mut policy = Credit2::new();
    for index in 0..3 {
        policy.add(vcpu(index), 256);
        assert_eq!(policy.wake(vcpu(index), 0), None);
    }
    let picked: Vec<_> = (0..4)
        .map(|_| policy.pick(0).map(|pick| pick.vcpu))
        .collect();
    assert_eq!(picked, [Some(vcpu(0)), Some(vcpu(1)), Some(vcpu(2)), None]);
}

fn run(policy: &mut impl Policy, for_ns: u64) -> BTreeMap<VcpuId, u64> {
    run_from(policy, 0, for_ns)
}

/// Runs one CPU from `start_ns`; returns how long each vCPU had it.
fn run_from(policy: &mut impl Policy, start_ns: u64, for_ns: u64) -> BTreeMap<VcpuId, u64> {
    let mut ran = BTreeMap::new();
    let mut now_ns = start_ns;
    let end_ns = start_ns + for_ns;
    while now_ns < end_ns {
        let Some(pick) = policy.pick(now_ns) else {
            break;
        };
        let slice = pick.timeslice_ns.unwrap_or(for_ns).min(end_ns - now_ns);
        now_ns += slice;
        *ran.entry(pick.vcpu).or_default() += slice;
        policy.preempt(pick.vcpu, now_ns);
    }
    ran
}
