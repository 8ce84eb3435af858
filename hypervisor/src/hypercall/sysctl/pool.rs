//! The scheduler's name and parameters, and the one CPU pool that all CPUs and domains are in.

use guest_abi::domctl::XEN_SCHEDULER_CREDIT2;
use guest_abi::errno::Errno;
use guest_abi::sysctl::{
    XEN_SYSCTL_CPUPOOL_OP_FREEINFO, XEN_SYSCTL_CPUPOOL_OP_INFO, XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN,
    XEN_SYSCTL_SCHEDOP_getinfo, XEN_SYSCTL_SCHEDOP_putinfo, XenSysctlCpupoolOp, XenSysctlSchedId,
    XenSysctlSchedulerOp,
};
use guest_abi::xen::XenctlBitmap;
use hv_core::domid::DomId;
use hv_core::options::Scheduler;
use hv_core::sched::is_rate_limit;
use hv_hw::virt::VcpuHw;

use crate::domain::registry;
use crate::hypercall::{Answer, Call, bitmap};
use crate::machine::{cpus, host};

/// The one pool's number.
const POOL: u32 = 0;
/// What Xen has no number for: the round-robin scheduler.
const OTHER_SCHEDULER: u32 = 0;

fn scheduler_id() -> u32 {
    match host::host().options.sched {
        Scheduler::Credit2 => XEN_SCHEDULER_CREDIT2,
        Scheduler::RoundRobin => OTHER_SCHEDULER,
    }
}

pub(super) fn sched_id<H: VcpuHw>(_: &mut Call<'_, H>, arg: &mut XenSysctlSchedId) -> Answer {
    arg.sched_id = scheduler_id();
    Ok(0)
}

/// XEN_SYSCTL_cpupool_op. Pools are neither made nor changed.
///
/// # Errors
/// ENOENT past the last pool, ESRCH, EFAULT, EOPNOTSUPP for what would change a pool.
pub(super) fn cpupool<H: VcpuHw>(call: &mut Call<'_, H>, arg: &mut XenSysctlCpupoolOp) -> Answer {
    match arg.op {
        XEN_SYSCTL_CPUPOOL_OP_INFO if arg.cpupool_id == POOL => {
            arg.cpupool_id = POOL;
            arg.sched_id = scheduler_id();
            arg.n_dom = u32::try_from(registry::all().count()).unwrap_or(u32::MAX);
            put_cpus(call, &arg.cpumap, cpus::online())
        }
        XEN_SYSCTL_CPUPOOL_OP_INFO => Err(Errno::ENOENT.into()),
        XEN_SYSCTL_CPUPOOL_OP_FREEINFO => put_cpus(call, &arg.cpumap, 0),
        XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN if arg.cpupool_id == POOL => {
            let id = u16::try_from(arg.domid).map_err(|_| Errno::ESRCH)?;
            registry::find(DomId::new(id).ok_or(Errno::ESRCH)?).ok_or(Errno::ESRCH)?;
            Ok(0)
        }
        _ => Err(Errno::EOPNOTSUPP.into()),
    }
}

/// Fills the caller's bitmap with the first `count` CPUs.
fn put_cpus<H: VcpuHw>(call: &Call<'_, H>, map: &XenctlBitmap, count: u32) -> Answer {
    bitmap::put(call, map, |bit| bit < count)?;
    Ok(0)
}

/// XEN_SYSCTL_scheduler_op: the rate limit, a parameter of the whole scheduler. Both commands tell what holds then.
///
/// # Errors
/// ENOENT for a pool that is not there; EINVAL for another scheduler or command, or a rate limit out of range.
pub(super) fn scheduler<H: VcpuHw>(_: &mut Call<'_, H>, arg: &mut XenSysctlSchedulerOp) -> Answer {
    if arg.cpupool_id != POOL {
        return Err(Errno::ENOENT.into());
    }
    if arg.sched_id != scheduler_id() || arg.sched_id != XEN_SCHEDULER_CREDIT2 {
        return Err(Errno::EINVAL.into());
    }
    let [limit_us, ..] = &mut arg.u;
    match arg.cmd {
        XEN_SYSCTL_SCHEDOP_putinfo if is_rate_limit(*limit_us) => {
            cpus::set_rate_limit(*limit_us);
        }
        XEN_SYSCTL_SCHEDOP_getinfo => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    *limit_us = cpus::rate_limit_us();
    Ok(0)
}
