//! RDTSC and RDTSCP of a guest whose TSC is emulated: its toolstack wants it so, or the host's has another rate.

use hv_hw::virt::{SystemSet, VcpuHw};

use crate::exit::done;
use crate::runner::{Next, Runner};

/// Puts the guest's TSC into EDX:EAX and, for RDTSCP, TSC_AUX into ECX; the upper halves are cleared.
pub(super) fn read<H: VcpuHw>(runner: &mut Runner<H>, with_aux: bool) -> Next {
    const LOW: u64 = u32::MAX as u64;
    let tsc = runner.guest_tsc();
    let aux = with_aux.then(|| runner.hw.system(SystemSet::TSC_AUX).tsc_aux);
    let regs = runner.hw.regs();
    regs.set_rax(tsc & LOW);
    regs.set_rdx(tsc >> 32);
    if let Some(aux) = aux {
        regs.set_rcx(aux & LOW);
    }
    done(runner)
}
