//! Hypercalls: number and sub-operation → handler.
//!
//! Route card, hypercall:
//! - hypervisor/src/exit/mod.rs:handle
//! - hypervisor/src/hypercall/mod.rs:dispatch, hypervisor/src/hypercall/table.rs:find
//! - hypervisor/src/hypercall/caller.rs:may
//! - hypervisor/src/hypercall/event_channel.rs:send and its neighbours: copy in, decode, check, act
//! - hypervisor/hv-core/src/evtchn/types.rs:Notify (what the core logic answers)
//! - hypervisor/src/domain/mod.rs:notify, hypervisor/src/domain/vcpu.rs:kick, back to hypervisor/src/main_loop/run_loop.rs:run
//!
//! A handler returns what goes to RAX, a refusal, or [`Stop::Continuation`]: then the guest executes the same
//! instruction again, with its arguments moved on, after whatever else was due. No other register of the guest's
//! changes. A caller in 32-bit code comes in by `narrow`; structures are copied in its layout by `runner::memory`.

mod bitmap;
pub(crate) mod caller;
mod console_io;
mod cpu_policy;
mod domctl;
mod event_channel;
mod grant_table;
mod hvm;
mod memory;
mod multicall;
mod narrow;
mod physdev;
mod platform;
mod sched;
mod sysctl;
mod table;
mod vcpu_op;
mod version;
mod vm_assist;

use guest_abi::errno::Errno;
use hv_core::addr::Gva;
use hv_core::x86::gpr::{RDI, RDX, RSI};
use hv_hw::virt::VcpuHw;

use crate::domain::vcpu::Requests;
use crate::pcpu::Pcpu;
use crate::runner::{Next, Runner, restart};

/// Why a hypercall has no result for RAX.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    Refused(Errno),
    /// It is to be executed again: there is more to do, or to wait for.
    Continuation,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

/// What a handler returns: RAX, or why not.
pub(crate) type Answer = Result<u64, Stop>;

/// A hypercall under way.
pub(crate) struct Call<'a, H> {
    pub runner: &'a mut Runner<H>,
    /// The CPU that it runs on.
    pub pcpu: &'a mut Pcpu,
    /// What to do when it is done.
    pub next: Next,
}

/// Where the arguments are; [`narrow`] puts those of a 32-bit caller there.
const ARGUMENTS: [usize; 5] = [RDI, RSI, RDX, 10, 8];

impl Stop {
    /// The same, unless a pointer only led to a page that is populated on demand and for which no frame has been found
    /// yet: one is looked for before the hypercall is made again.
    #[cold]
    fn reconsidered<H: VcpuHw>(self, runner: &Runner<H>) -> Self {
        let is_sought = || runner.vcpu().requests().contains(Requests::RELIEVE);
        match self {
            Self::Refused(Errno::EFAULT) if is_sought() => Self::Continuation,
            other => other,
        }
    }
}

impl<H: VcpuHw> Call<'_, H> {
    /// Argument `index`, 0 to 4, as it is in its register now.
    #[inline(always)]
    pub(crate) fn arg(&self, index: usize) -> u64 {
        self.runner.hw.read_regs().gpr[ARGUMENTS[index]]
    }
    /// An argument that points into the guest's memory.
    #[inline(always)]
    pub(crate) fn pointer(&self, index: usize) -> Gva {
        Gva::new(self.arg(index))
    }
}

/// The low half of a register, where the ABI has 32 bits.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the ABI takes the low half"
)]
#[inline]
pub(crate) fn low(value: u64) -> u32 {
    value as u32
}

/// Serves the hypercall that the guest made.
#[inline(always)]
pub(crate) fn handle<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu) -> Next {
    if runner.hw.is_64_bit_kernel() {
        handle_wide(runner, pcpu)
    } else {
        handle_other(runner, pcpu)
    }
}

/// From user mode, from 32-bit code, or from code of a kind that kernels do not use.
#[cold]
#[inline(never)]
fn handle_other<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu) -> Next {
    if runner.hw.cpl() != 0 {
        finish(runner, Errno::EPERM.to_rax());
        return Next::Resume;
    }
    if runner.hw.is_64_bit() {
        handle_wide(runner, pcpu)
    } else {
        narrow::handle(runner, pcpu)
    }
}

#[inline(always)]
fn handle_wide<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu) -> Next {
    let number = runner.hw.read_regs().rax();
    let mut call = Call {
        runner,
        pcpu,
        next: Next::Resume,
    };
    let answer = dispatch(&mut call, number);
    let next = call.next;
    match answer {
        Ok(result) => finish(runner, result),
        Err(stop) => match stop.reconsidered(runner) {
            Stop::Refused(errno) => finish(runner, errno.to_rax()),
            // what it left to do comes first in any case
            Stop::Continuation => {
                let _ = restart(runner, pcpu);
            }
        },
    }
    next
}

#[inline]
fn finish<H: VcpuHw>(runner: &mut Runner<H>, rax: u64) {
    runner.hw.regs().set_rax(rax);
    runner.skip();
}

/// Finds the row, asks whether the caller may, and has it served.
#[inline(never)]
fn dispatch<H: VcpuHw>(call: &mut Call<'_, H>, number: u64) -> Answer {
    let (serve, who) = table::find::<H>(number, call.arg(0))?;
    caller::may(call.runner, who)?;
    serve(call)
}
