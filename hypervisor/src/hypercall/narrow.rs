//! Hypercalls of 32-bit code, in compatibility mode or outside long mode: arguments in EBX, ECX, EDX, ESI, EDI.
//!
//! They are put where those of 64-bit code are while the hypercall is served, so that handlers know of one place only;
//! [`Runner::width`] says how the caller lays its structures out. Source: Xen's `arch/x86/hvm/hypercall.c`.

use guest_abi::compat::Width;
use hv_core::x86::gpr::{RBX, RCX, RDI, RDX, RSI};
use hv_hw::virt::VcpuHw;

use crate::hypercall::{ARGUMENTS, Call, Stop, dispatch, finish, low};
use crate::pcpu::Pcpu;
use crate::runner::{Next, Runner, restart};

const NARROW_ARGUMENTS: [usize; 5] = [RBX, RCX, RDX, RSI, RDI];

/// Serves the hypercall that 32-bit code made.
#[cold]
#[inline(never)]
pub(super) fn handle<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu) -> Next {
    let outer = *runner.hw.read_regs();
    let regs = runner.hw.regs();
    for (place, from) in ARGUMENTS.into_iter().zip(NARROW_ARGUMENTS) {
        regs.gpr[place] = u64::from(low(outer.gpr[from]));
    }
    runner.width = Width::Bits32;
    let mut call = Call {
        runner,
        pcpu,
        next: Next::Resume,
    };
    let answer = dispatch(&mut call, u64::from(low(outer.rax())));
    let Call { runner, pcpu, next } = call;
    runner.width = Width::Bits64;
    let regs = runner.hw.regs();
    let moved_on = ARGUMENTS.map(|place| u64::from(low(regs.gpr[place])));
    *regs = outer;
    match answer {
        Ok(result) => finish(runner, u64::from(low(result))),
        Err(stop) => match stop.reconsidered(runner) {
            Stop::Refused(errno) => finish(runner, u64::from(low(errno.to_rax()))),
            Stop::Continuation => {
                let regs = runner.hw.regs();
                for (place, value) in NARROW_ARGUMENTS.into_iter().zip(moved_on) {
                    regs.gpr[place] = value;
                }
                let _ = restart(runner, pcpu);
            }
        },
    }
    next
}
