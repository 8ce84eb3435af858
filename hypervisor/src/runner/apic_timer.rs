//! The local APIC's timer of a vCPU, on its CPU's timers.

use hv_hw::virt::VcpuHw;

use super::Runner;
use crate::pcpu::Pcpu;

/// The APIC's timer has reached its deadline. The next period of a periodic one is waited for from when the vCPU runs
/// again: what it has not seen yet, another interrupt would not add to, and one that may not run costs nobody any time.
pub(crate) fn expired<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu) {
    let now = runner.domain_tsc();
    let next = runner.lapic.on_timer(now);
    runner.is_period_over = next.is_some() && runner.lapic.is_timer_periodic();
    set(runner, pcpu, next.filter(|_| !runner.is_period_over));
}

/// The vCPU is about to run: its periodic timer goes on, where it stood still.
#[inline]
pub(crate) fn begin_period<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu) {
    if runner.is_period_over {
        runner.is_period_over = false;
        let next = runner.lapic.on_timer(runner.domain_tsc());
        set(runner, pcpu, next);
    }
}

/// Sets the timer to a value of the domain's TSC, or unsets it.
pub(crate) fn set<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu, deadline: Option<u64>) {
    match deadline {
        Some(tsc) => pcpu.set_timer(runner.apic_timer, runner.host_tsc(tsc)),
        None => pcpu.cancel_timer(runner.apic_timer),
    }
}
