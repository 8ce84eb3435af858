//! `multicall`: several hypercalls in one exit. Source: `public/xen.h`, multicall_entry.
//!
//! An entry finds its arguments where any hypercall does, in the registers, which are the guest's own again afterwards.
//! One that has to be executed again leaves its arguments moved on in its entry; the multicall then begins with it.

use core::mem::offset_of;

use guest_abi::compat::{CompatMulticallEntry, Width, XenUlong};
use guest_abi::errno::Errno;
use guest_abi::xen::{__HYPERVISOR_multicall, MulticallEntry};
use hv_core::addr::Gva;
use hv_hw::time;
use hv_hw::virt::VcpuHw;

use crate::hypercall::{ARGUMENTS, Answer, Call, Stop, dispatch};
use crate::runner::{Activity, Next};

/// Entries in one go; the guest comes again for the rest.
const BATCH: u64 = 32;
/// No entry is begun later than this after the first: each may do as much as a hypercall of its own.
const BATCH_NS: u64 = 100_000;

/// Where an entry's result is.
const fn result_offset(width: Width) -> u64 {
    match width {
        Width::Bits64 => offset_of!(MulticallEntry, result) as u64,
        Width::Bits32 => offset_of!(CompatMulticallEntry, result) as u64,
    }
}

/// Serves it: the array in the first argument, its length in the second.
#[inline(never)]
pub(super) fn handle<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let (array, count) = (call.pointer(0), call.arg(1));
    let begin_tsc = time::now();
    let mut done = 0;
    while done < count {
        let at = call.runner.element::<MulticallEntry>(array, done)?;
        if done != 0 && (done == BATCH || is_to_stop(call) || is_late(begin_tsc)) {
            return Err(come_again(call, at, count - done));
        }
        let mut entry: MulticallEntry = call.runner.copy_in(at)?;
        if !one(call, &mut entry) {
            call.runner.copy_out(at, &entry)?;
            return Err(come_again(call, at, count - done));
        }
        let result = at.checked_add(result_offset(call.runner.width));
        let result = result.ok_or(Errno::EFAULT)?;
        call.runner.copy_out(result, &XenUlong(entry.result))?;
        done += 1;
    }
    Ok(0)
}

/// True where an entry took the vCPU off the CPU, as one that waits for events does: what follows is done when it is
/// back.
fn is_to_stop<H: VcpuHw>(call: &Call<'_, H>) -> bool {
    call.runner.activity != Activity::Ready || call.next == Next::Yield
}

fn is_late(begin_tsc: u64) -> bool {
    time::ticks_to_ns(time::now().saturating_sub(begin_tsc)) >= BATCH_NS
}

/// Leaves the rest of the array for the next execution.
fn come_again<H: VcpuHw>(call: &mut Call<'_, H>, rest: Gva, count: u64) -> Stop {
    let regs = call.runner.hw.regs();
    regs.set_rdi(rest.as_u64());
    regs.set_rsi(count);
    Stop::Continuation
}

/// Executes an entry; false where there is more to do, which its arguments say then. Batches in batches are refused.
fn one<H: VcpuHw>(call: &mut Call<'_, H>, entry: &mut MulticallEntry) -> bool {
    if entry.op == __HYPERVISOR_multicall {
        entry.result = Errno::EINVAL.to_rax();
        return true;
    }
    let regs = call.runner.hw.regs();
    let mut outer = [0; ARGUMENTS.len()];
    for ((register, saved), arg) in ARGUMENTS.into_iter().zip(&mut outer).zip(entry.args) {
        *saved = core::mem::replace(&mut regs.gpr[register], arg);
    }
    let answer = dispatch(call, entry.op);
    let regs = call.runner.hw.regs();
    let mut inner = outer;
    for (register, arg) in ARGUMENTS.into_iter().zip(&mut inner) {
        core::mem::swap(&mut regs.gpr[register], arg);
    }
    entry.result = match answer {
        Ok(result) => result,
        Err(stop) => match stop.reconsidered(call.runner) {
            Stop::Refused(errno) => errno.to_rax(),
            Stop::Continuation => {
                entry.args[..inner.len()].copy_from_slice(&inner);
                return false;
            }
        },
    };
    true
}
