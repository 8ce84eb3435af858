//! What came out of the guest: one match, one line an arm; a file per reason.

pub(crate) mod apic;
pub(super) mod control;
mod cpuid;
mod io;
mod mmio;
mod msr;
mod stage2;
mod task;
mod tsc;

use hv_core::emulate::ExitingInsn;
use hv_hw::domain_log;
use hv_hw::virt::{Event, IoExit, VcpuHw, VmExit, Waits};

use crate::domain::ShutdownReason;
use crate::pcpu::{Pcpu, irq};
use crate::runner::crash::{die, triple_fault};
use crate::runner::instruction::gone;
use crate::runner::{Activity, Next, Runner, raise};
use crate::{hypercall, power};
use hv_core::x86::RFLAGS_IF;

/// Does what the exit asks for. The two reasons that guests choose most are part of the run loop, where the decoded
/// reason is known without a look at it; the others share a function.
#[inline(always)]
pub(crate) fn handle<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu, exit: VmExit) -> Next {
    match exit {
        VmExit::Hypercall => {
            runner.vcpu.counts.count(&VmExit::Hypercall);
            if !runner.finds(ExitingInsn::Hypercall) {
                return gone(runner, pcpu);
            }
            hypercall::handle(runner, pcpu)
        }
        VmExit::Cpuid => {
            runner.vcpu.counts.count(&VmExit::Cpuid);
            if !runner.finds(ExitingInsn::Cpuid) {
                return gone(runner, pcpu);
            }
            cpuid::handle(runner)
        }
        other => handle_other(runner, pcpu, other),
    }
}

#[inline(never)]
fn handle_other<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu, exit: VmExit) -> Next {
    runner.vcpu.counts.count(&exit);
    // an instruction that exits is in no event's delivery: the two above need not look
    runner.interrupted = runner.hw.take_interrupted_event();
    if runner.interrupted.is_some() {
        // it is delivered again, and may be interrupted again
        pcpu.patience.end();
    }
    if !runner.hw.knows_length() && !is_found(runner, &exit) {
        return gone(runner, pcpu);
    }
    match exit {
        VmExit::Hypercall | VmExit::Cpuid => unreachable!("handled in the run loop"),
        VmExit::ExternalInterrupt(vector) => {
            irq::handle(pcpu, vector);
            Next::Resume
        }
        VmExit::Hlt => halt(runner),
        VmExit::ReadTsc { with_aux } => tsc::read(runner, with_aux),
        VmExit::Rdmsr => msr::read(runner),
        VmExit::Wrmsr => msr::write(runner, pcpu),
        VmExit::Io(access) => io::handle(runner, pcpu, access),
        VmExit::Stage2Fault(fault) => stage2::handle(runner, pcpu, fault),
        VmExit::Eoi(vector) => apic::eoi_exit(runner, vector),
        VmExit::ApicWrite(offset) => apic::write_exit(runner, pcpu, offset),
        VmExit::ControlWrite { register, value } => control::write(runner, pcpu, register, value),
        VmExit::Cr8Read { destination } => control::read_cr8(runner, pcpu, destination),
        VmExit::Xsetbv => control::xsetbv(runner),
        VmExit::InterruptWindow | VmExit::NmiWindow => close_windows(runner),
        VmExit::Exception { vector, error, .. } => exception(runner, vector, error),
        VmExit::TaskSwitch(switch) => task::handle(runner, pcpu, switch),
        VmExit::CacheFlush => cache_flush(runner),
        VmExit::Undefined(_) => raise(runner, Event::UNDEFINED),
        VmExit::PauseLoop => pause_loop(runner),
        VmExit::Nmi
        | VmExit::TprBelowThreshold
        | VmExit::BusLock
        | VmExit::InstructionTimeout
        | VmExit::Nothing => Next::Resume,
        VmExit::HostReset => power::machine_is_reset(),
        VmExit::TripleFault => triple_fault(runner),
        VmExit::Broken {
            reason,
            qualification,
        } => broken(runner, reason, qualification),
    }
}

/// False where the exit's instruction is one that will be stepped over, and is not in memory any more.
#[inline(never)]
fn is_found<H: VcpuHw>(runner: &mut Runner<H>, exit: &VmExit) -> bool {
    stepped_over(exit).is_none_or(|insn| runner.finds(insn))
}

/// The instruction that brought the exit about and is stepped over once that is served. Not those of whose operands a
/// CPU may not say enough: whoever serves them decodes them.
const fn stepped_over(exit: &VmExit) -> Option<ExitingInsn> {
    match *exit {
        VmExit::Hlt => Some(ExitingInsn::Hlt),
        VmExit::ReadTsc { with_aux: false } => Some(ExitingInsn::Rdtsc),
        VmExit::ReadTsc { with_aux: true } => Some(ExitingInsn::Rdtscp),
        VmExit::Rdmsr => Some(ExitingInsn::Rdmsr),
        VmExit::Wrmsr => Some(ExitingInsn::Wrmsr),
        VmExit::Xsetbv => Some(ExitingInsn::Xsetbv),
        VmExit::CacheFlush => Some(ExitingInsn::CacheFlush),
        VmExit::PauseLoop => Some(ExitingInsn::Pause),
        VmExit::Io(IoExit {
            port,
            size,
            is_in,
            is_string: false,
        }) => Some(ExitingInsn::Port { port, size, is_in }),
        _ => None,
    }
}

/// HLT: waits for an interrupt. With interrupts off on every vCPU of a domain, none can come: it has switched itself
/// off.
fn halt<H: VcpuHw>(runner: &mut Runner<H>) -> Next {
    runner.skip();
    let can_be_woken = runner.hw.rflags() & RFLAGS_IF != 0;
    if !can_be_woken && !runner.nmi_pending {
        runner.activity = Activity::Down;
        runner
            .vcpu()
            .is_up
            .store(false, hv_hw::sync::atomic::Ordering::Release);
        if runner.domain.is_every_vcpu_down() {
            runner.domain.end(
                ShutdownReason::PowerOff,
                "HLT with interrupts off on its last vCPU",
            );
        }
        return Next::Yield;
    }
    if runner.has_something_to_deliver() {
        return Next::Resume;
    }
    runner.activity = Activity::Halted;
    Next::Resume
}

/// What the vCPU waited for has come about. What it waits for still is asked for again before it is entered, as it is
/// not quiet.
fn close_windows<H: VcpuHw>(runner: &mut Runner<H>) -> Next {
    runner.hw.deliver(None, Waits::default());
    Next::Resume
}

/// Hands #DB and #AC on to the guest: they exit only so that one that raises the next in its own delivery comes out of
/// the CPU, which would go on for ever, and past the run loop's look at the host's interrupts. #MC is the host's.
fn exception<H: VcpuHw>(runner: &mut Runner<H>, vector: u8, error: Option<u32>) -> Next {
    const MACHINE_CHECK: u8 = 18;
    if vector == MACHINE_CHECK {
        hv_hw::cpu::machine_check();
    }
    raise(runner, Event::Exception { vector, error })
}

/// INVD must not be carried out: it would drop others' writes. Both are served by writing back.
fn cache_flush<H: VcpuHw>(runner: &mut Runner<H>) -> Next {
    if runner.domain.is_hardware {
        hv_hw::insn::wbinvd();
    }
    runner.skip();
    Next::Resume
}

/// The vCPU spins until another of its domain has done something: others run first.
fn pause_loop<H: VcpuHw>(runner: &mut Runner<H>) -> Next {
    runner.skip();
    Next::Yield
}

fn broken<H: VcpuHw>(runner: &mut Runner<H>, reason: u32, qualification: u64) -> Next {
    let id = runner.vcpu().id;
    domain_log!(
        runner.domain.log,
        Error,
        "{id}: unexpected VM exit {reason:#x}, qualification {qualification:#x}"
    );
    die(runner)
}

/// Steps over the instruction and goes on.
#[inline]
pub(crate) fn done<H: VcpuHw>(runner: &mut Runner<H>) -> Next {
    runner.skip();
    Next::Resume
}
