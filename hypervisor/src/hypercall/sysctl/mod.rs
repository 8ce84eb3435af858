//! `sysctl`: what a toolstack asks of the host. dom0 only. Source: `public/sysctl.h`, version 0x15.
//!
//! One struct for all commands, copied in once; the answer goes back into the caller's. Commands that are not in the
//! table below are not served: ENOSYS, never a false success.
//!
//! | file | what |
//! |---|---|
//! | `console` | the log, and debug keys |
//! | `cpu` | what CPUs can do: policies and feature words |
//! | `host` | memory, CPUs, topology |
//! | `domains` | the list of domains |
//! | `pool` | the one CPU pool, and its scheduler |

mod console;
mod cpu;
mod domains;
mod host;
mod pool;

use guest_abi::compat::Compat;
use guest_abi::errno::Errno;
use guest_abi::sysctl::{
    XEN_SYSCTL_INTERFACE_VERSION, XEN_SYSCTL_availheap, XEN_SYSCTL_cpupool_op,
    XEN_SYSCTL_cputopoinfo, XEN_SYSCTL_debug_keys, XEN_SYSCTL_get_cpu_featureset,
    XEN_SYSCTL_get_cpu_levelling_caps, XEN_SYSCTL_get_cpu_policy, XEN_SYSCTL_getcpuinfo,
    XEN_SYSCTL_getdomaininfolist, XEN_SYSCTL_numainfo, XEN_SYSCTL_pcitopoinfo, XEN_SYSCTL_physinfo,
    XEN_SYSCTL_readconsole, XEN_SYSCTL_sched_id, XEN_SYSCTL_scheduler_op, XenSysctl,
};
use hv_core::addr::Gva;
use hv_hw::virt::VcpuHw;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::hypercall::{Answer, Call, Stop};

#[inline(never)]
pub(super) fn handle<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let mut op: XenSysctl = call.runner.copy_in(call.pointer(0))?;
    if op.interface_version != XEN_SYSCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    let answer = serve(call, &mut op);
    // who gave too little room is told how much there was
    if matches!(answer, Ok(_) | Err(Stop::Refused(Errno::ENOBUFS))) {
        call.runner.copy_out(call.pointer(0), &op)?;
    }
    answer
}

fn serve<H: VcpuHw>(call: &mut Call<'_, H>, op: &mut XenSysctl) -> Answer {
    match op.cmd {
        XEN_SYSCTL_readconsole => with(call, op, console::read),
        XEN_SYSCTL_debug_keys => with(call, op, console::debug_keys),
        XEN_SYSCTL_physinfo => with(call, op, host::physinfo),
        XEN_SYSCTL_getcpuinfo => with(call, op, host::idle_times),
        XEN_SYSCTL_availheap => with(call, op, host::free_memory),
        XEN_SYSCTL_cputopoinfo => with(call, op, host::cpu_topology),
        XEN_SYSCTL_numainfo => with(call, op, host::numa),
        XEN_SYSCTL_pcitopoinfo => with(call, op, host::pci_topology),
        XEN_SYSCTL_getdomaininfolist => with(call, op, domains::list),
        XEN_SYSCTL_sched_id => with(call, op, pool::sched_id),
        XEN_SYSCTL_cpupool_op => with(call, op, pool::cpupool),
        XEN_SYSCTL_scheduler_op => with(call, op, pool::scheduler),
        XEN_SYSCTL_get_cpu_levelling_caps => with(call, op, cpu::levelling_caps),
        XEN_SYSCTL_get_cpu_featureset => with(call, op, cpu::featureset),
        XEN_SYSCTL_get_cpu_policy => with(call, op, cpu::policy),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// Runs `serve` on the body of `op`, and puts back what it leaves there.
fn with<T, H: VcpuHw>(
    call: &mut Call<'_, H>,
    op: &mut XenSysctl,
    serve: impl FnOnce(&mut Call<'_, H>, &mut T) -> Answer,
) -> Answer
where
    T: FromBytes + IntoBytes + Immutable,
{
    let (mut body, _) = T::read_from_prefix(op.u.as_bytes()).map_err(|_| Errno::EINVAL)?;
    let answer = serve(call, &mut body);
    body.write_to_prefix(op.u.as_mut_bytes())
        .map_err(|_| Errno::EINVAL)?;
    answer
}

/// Copies `value` out as element `index` of the caller's array at `array`.
///
/// # Errors
/// EFAULT.
fn put<T: Compat, H: VcpuHw>(
    call: &Call<'_, H>,
    array: u64,
    index: u32,
    value: &T,
) -> Result<(), Errno> {
    let at = call
        .runner
        .element::<T>(Gva::new(array), u64::from(index))?;
    call.runner.copy_out(at, value)
}
