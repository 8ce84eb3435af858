//! CPUID: answered from the domain's policy, or with #GP where the guest asked for that (CPUID faulting).

use hv_hw::virt::{Event, VcpuHw};

use crate::exit::{Next, Runner, done};
use crate::runner::raise;

#[inline]
pub(super) fn handle<H: VcpuHw>(runner: &mut Runner<H>) -> Next {
    if runner.msr_state.faults_cpuid() && runner.hw.cpl() != 0 {
        return raise(runner, Event::PROTECTION);
    }
    let view = runner.cpuid_view();
    let regs = runner.hw.regs();
    let (leaf, subleaf) = (low(regs.rax()), low(regs.rcx()));
    let answer = runner.policies.cpuid.query(leaf, subleaf, &view);
    let regs = runner.hw.regs();
    regs.set_rax(u64::from(answer.eax));
    regs.set_rbx(u64::from(answer.ebx));
    regs.set_rcx(u64::from(answer.ecx));
    regs.set_rdx(u64::from(answer.edx));
    done(runner)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "CPUID takes the lower halves"
)]
fn low(register: u64) -> u32 {
    register as u32
}
