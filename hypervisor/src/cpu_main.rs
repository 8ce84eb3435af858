//! What each physical CPU does for ever: pick a vCPU, run it, account for it, and sleep where there is none.

use alloc::vec::Vec;

use hv_core::vcpu::runstate::RunState;
use hv_hw::irq as device;
use hv_hw::virt::VcpuHw;

use crate::cpu::Pcpu;
use crate::vcpu::run::{self, Stop};
use crate::vcpu::{Activity, Runner};
use crate::{irq, shutdown};
use core::sync::atomic::Ordering;

/// Runs the vCPUs that this CPU has, in turn.
pub fn run<H: VcpuHw>(mut pcpu: Pcpu, mut runners: Vec<Runner<H>>) -> ! {
    let mut loaded: Option<usize> = None;
    let mut last = 0;
    loop {
        let _ = pcpu.take_wake();
        for slot in 0..runners.len() {
            if runners[slot].vcpu().take_kick() {
                reconsider(&mut runners, &mut loaded, slot, &mut pcpu);
            }
        }
        let Some(slot) = pick(&runners, last) else {
            idle(&mut pcpu);
            continue;
        };
        pcpu.limit_slice(pick(&runners, slot) != Some(slot));
        last = slot;
        load(&mut runners, &mut loaded, slot, &pcpu);
        let runner = &mut runners[slot];
        account(runner, RunState::Running);
        let stop = run::run(runner, &mut pcpu);
        settle(runner, stop);
    }
}

/// Has a vCPU that was kicked look at what was left for it. What was asked for may change its registers, so it is switched
/// to first.
fn reconsider<H: VcpuHw>(
    runners: &mut [Runner<H>],
    loaded: &mut Option<usize>,
    slot: usize,
    pcpu: &mut Pcpu,
) {
    if runners[slot].vcpu().has_requests() {
        load(runners, loaded, slot, pcpu);
    }
    let runner = &mut runners[slot];
    runner.reconsider(pcpu);
    if runner.activity == Activity::Down {
        account(runner, RunState::Offline);
    }
}

/// The next vCPU behind `last` that can run.
fn pick<H>(runners: &[Runner<H>], last: usize) -> Option<usize> {
    let count = runners.len();
    (1..=count).map(|step| (last + step) % count).find(|slot| {
        let runner = &runners[*slot];
        runner.activity == Activity::Ready && !runner.domain.is_ending()
    })
}

/// Switches the CPU to the vCPU in `slot`, where it holds another.
fn load<H: VcpuHw>(
    runners: &mut [Runner<H>],
    loaded: &mut Option<usize>,
    slot: usize,
    pcpu: &Pcpu,
) {
    if *loaded == Some(slot) {
        return;
    }
    if let Some(old) = *loaded {
        runners[old].hw.unload(&pcpu.irqs_off);
    }
    runners[slot].hw.load(&pcpu.irqs_off);
    *loaded = Some(slot);
}

/// Books the time up to now.
fn account<H: VcpuHw>(runner: &Runner<H>, state: RunState) {
    let has_flag = runner.domain.has_runstate_flag.load(Ordering::Acquire);
    runner.vcpu().account.lock().change(state, has_flag);
}

/// Books what the vCPU does from now on; the end of dom0 is the end of all.
fn settle<H: VcpuHw>(runner: &Runner<H>, stop: Stop) {
    let state = match (stop, runner.activity) {
        (Stop::Ended, _) | (_, Activity::Waiting | Activity::Down) => RunState::Offline,
        (_, Activity::Ready) => RunState::Runnable,
        (_, Activity::Halted | Activity::Polling) => RunState::Blocked,
    };
    account(runner, state);
    if let Some(why) = runner.domain.ended()
        && runner.domain.is_hardware
    {
        shutdown::dom0_ended(why);
    }
}

/// Sleeps until something happens.
fn idle(pcpu: &mut Pcpu) {
    if pcpu.is_woken() {
        return;
    }
    pcpu.arm();
    if let Some(vector) = device::wait_for_interrupt(&mut pcpu.irqs_off) {
        let _ = irq::handle(pcpu, vector);
    }
}
