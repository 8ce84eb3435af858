//! RDMSR and WRMSR: the policy decides, and names who holds the value.

use hv_core::addr::Gpa;
use hv_core::device::lapic;
use hv_core::msr::{BackedMsr, MsrContext, MsrRead, MsrWrite};
use hv_hw::virt::{Event, SystemRegs, SystemSet, VcpuHw};

use crate::exit::{Next, Runner, apic, done};
use crate::guest_mem::hypercall_page;
use crate::pcpu::Pcpu;
use crate::runner::raise;

#[inline]
pub(super) fn read<H: VcpuHw>(runner: &mut Runner<H>) -> Next {
    let msr = number(runner);
    let value = match runner.policies.msrs.read(msr, &runner.msr_state) {
        MsrRead::Value(value) => Some(value),
        MsrRead::Backed(holder) => read_backed(runner, holder),
        MsrRead::Fault => None,
    };
    match value {
        Some(value) => {
            runner.hw.regs().set_edx_eax(value);
            done(runner)
        }
        None => raise(runner, Event::PROTECTION),
    }
}

#[inline]
pub(super) fn write<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu) -> Next {
    let msr = number(runner);
    let value = runner.hw.regs().edx_eax();
    let context = MsrContext {
        cr0: runner.hw.paging().cr0,
        efer: runner.hw.paging().efer,
    };
    let outcome = match runner
        .policies
        .msrs
        .write(msr, value, &mut runner.msr_state, &context)
    {
        MsrWrite::Done => Some(()),
        MsrWrite::Backed(holder, value) => write_backed(runner, pcpu, holder, value),
        MsrWrite::Fault => None,
    };
    match outcome {
        Some(()) => done(runner),
        None => raise(runner, Event::PROTECTION),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the number is in ECX")]
fn number<H: VcpuHw>(runner: &mut Runner<H>) -> u32 {
    runner.hw.regs().rcx() as u32
}

/// The MSR's value; `None` raises #GP.
fn read_backed<H: VcpuHw>(runner: &mut Runner<H>, holder: BackedMsr) -> Option<u64> {
    match holder {
        BackedMsr::Efer => Some(runner.hw.system(SystemSet::EFER).efer),
        BackedMsr::Pat => Some(runner.hw.system(SystemSet::PAT).pat),
        BackedMsr::DebugCtl => Some(runner.hw.system(SystemSet::DEBUGCTL).debugctl),
        BackedMsr::Tsc => Some(runner.guest_tsc()),
        BackedMsr::TscDeadline => Some(deadline(runner)),
        BackedMsr::ApicBase => Some(runner.lapic.base()),
        BackedMsr::X2Apic(register) => {
            let now = runner.domain_tsc();
            runner
                .lapic
                .read(lapic::X2APIC_FIRST + u32::from(register), now)
                .ok()
        }
        BackedMsr::SpecCtrl => Some(runner.hw.system(SystemSet::SPEC_CTRL).spec_ctrl),
        BackedMsr::HypercallPage => Some(0),
    }
}

/// Sets the MSR; `None` raises #GP.
fn write_backed<H: VcpuHw>(
    runner: &mut Runner<H>,
    pcpu: &mut Pcpu,
    holder: BackedMsr,
    value: u64,
) -> Option<()> {
    match holder {
        BackedMsr::Efer => set(runner, SystemSet::EFER, |regs| &mut regs.efer, value),
        BackedMsr::Pat => set(runner, SystemSet::PAT, |regs| &mut regs.pat, value),
        BackedMsr::DebugCtl => set(
            runner,
            SystemSet::DEBUGCTL,
            |regs| &mut regs.debugctl,
            value,
        ),
        BackedMsr::Tsc => {
            let deadline = deadline(runner);
            runner.set_guest_tsc(value);
            set_deadline(runner, pcpu, deadline);
        }
        BackedMsr::TscDeadline => set_deadline(runner, pcpu, value),
        BackedMsr::ApicBase => apic::set_base(runner, pcpu, value)?,
        BackedMsr::X2Apic(register) => {
            let now = runner.domain_tsc();
            let msr = lapic::X2APIC_FIRST + u32::from(register);
            let effect = runner.lapic.write(msr, value, now).ok()?;
            apic::apply(runner, pcpu, effect);
        }
        BackedMsr::SpecCtrl => set(
            runner,
            SystemSet::SPEC_CTRL,
            |regs| &mut regs.spec_ctrl,
            value,
        ),
        BackedMsr::HypercallPage => {
            hypercall_page::fill(&runner.domain, Gpa::new(value))?;
            runner.latch_width();
        }
    }
    Some(())
}

/// Sets one that the vCPU's registers have.
fn set<H: VcpuHw>(
    runner: &mut Runner<H>,
    which: SystemSet,
    place: fn(&mut SystemRegs) -> &mut u64,
    value: u64,
) {
    let mut regs = SystemRegs::default();
    *place(&mut regs) = value;
    runner.hw.set_system(&regs, which);
}

/// IA32_TSC_DEADLINE, of the guest's TSC: the APIC's timer counts by the domain's. 0 where none is set.
fn deadline<H: VcpuHw>(runner: &Runner<H>) -> u64 {
    match runner.lapic.tsc_deadline() {
        0 => 0,
        tsc => in_guest_tsc(runner, tsc),
    }
}

fn set_deadline<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu, deadline: u64) {
    let tsc = match deadline {
        0 => 0,
        deadline => in_domain_tsc(runner, deadline),
    };
    let now = runner.domain_tsc();
    let effect = runner.lapic.set_tsc_deadline(tsc, now);
    apic::apply(runner, pcpu, effect);
}

/// What the guest's TSC is when the domain's is `tsc`; above 0.
fn in_guest_tsc<H: VcpuHw>(runner: &Runner<H>, tsc: u64) -> u64 {
    let own = runner.policies.tsc.of_host(tsc);
    own.wrapping_add(runner.vcpu.tsc_moved()).max(1)
}

/// What the domain's TSC is when the guest's is `tsc`, above 0: as far from now as that.
fn in_domain_tsc<H: VcpuHw>(runner: &Runner<H>, tsc: u64) -> u64 {
    let now = runner.domain_tsc();
    let rate = runner.policies.tsc;
    let guest_now = rate.of_host(now).wrapping_add(runner.vcpu.tsc_moved());
    match tsc.checked_sub(guest_now) {
        Some(ahead) => now.saturating_add(rate.to_host(ahead)),
        None => now.saturating_sub(rate.to_host(guest_now - tsc)).max(1),
    }
}
