//! `multicall`: several hypercalls in one exit. Source: `public/xen.h`, multicall_entry.

use guest_abi::errno::Errno;
use guest_abi::xen::{__HYPERVISOR_multicall, MulticallEntry};
use hv_core::addr::Gva;
use hv_hw::virt::VcpuHw;

use super::{Answer, Call, Stop, dispatch};

/// Entries in one go; the guest comes again for the rest.
const BATCH: u64 = 32;

/// Serves it: the array in the first argument, its length in the second.
#[inline(never)]
pub(super) fn handle<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let [array, count, ..] = call.args;
    let now = count.min(BATCH);
    for index in 0..now {
        let at = call
            .runner
            .element::<MulticallEntry>(Gva::new(array), index)?;
        let mut entry: MulticallEntry = call.runner.copy_in(at)?;
        entry.result = one(call, &entry);
        call.runner.copy_out(at, &entry)?;
    }
    if now == count {
        return Ok(0);
    }
    let next = call
        .runner
        .element::<MulticallEntry>(Gva::new(array), now)?;
    let regs = call.runner.hw.regs();
    regs.set_rdi(next.as_u64());
    regs.set_rsi(count - now);
    Err(Stop::Again)
}

/// Calls that would have to be continued are not for batches; neither are batches.
fn one<H: VcpuHw>(call: &mut Call<'_, H>, entry: &MulticallEntry) -> u64 {
    if entry.op == __HYPERVISOR_multicall {
        return Errno::EINVAL.to_rax();
    }
    let [a, b, c, d, e, _] = entry.args;
    let outer = core::mem::replace(&mut call.args, [a, b, c, d, e]);
    let saved = *call.runner.hw.regs();
    let answer = dispatch(call, entry.op);
    call.args = outer;
    match answer {
        Ok(result) => result,
        Err(Stop::Refused(errno)) => errno.to_rax(),
        Err(Stop::Again) => {
            *call.runner.hw.regs() = saved;
            Errno::E2BIG.to_rax()
        }
    }
}
