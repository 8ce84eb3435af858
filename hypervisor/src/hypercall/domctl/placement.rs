//! Where and how much a domain's vCPUs run, and what is told of them.

use hv_hw::sync::atomic::Ordering;

use guest_abi::domctl::{
    XEN_DOMCTL_SCHEDOP_getinfo, XEN_DOMCTL_SCHEDOP_putinfo, XEN_DOMCTL_SENDTRIGGER_NMI,
    XEN_DOMCTL_SENDTRIGGER_POWER, XEN_DOMCTL_SENDTRIGGER_SLEEP, XEN_SCHEDULER_CREDIT2,
    XEN_VCPUAFFINITY_HARD, XEN_VCPUAFFINITY_SOFT, XenDomctlGetvcpuinfo, XenDomctlNodeaffinity,
    XenDomctlSchedulerOp, XenDomctlSendtrigger, XenDomctlVcpuaffinity,
};
use guest_abi::errno::Errno;
use guest_abi::xen::XenctlBitmap;
use hv_core::options::Scheduler;
use hv_core::vcpu::runstate::RunState;
use hv_hw::virt::VcpuHw;

use crate::domain::vcpu::{Requests, Vcpu};
use crate::hypercall::bitmap::{self, FIRST_BITS};
use crate::hypercall::domctl::{Answer, Call, Domctl, Stop, lifecycle};
use crate::machine::{cpus, host};

/// Which vCPU a body is about, where the domain has it and it was made.
fn vcpu(domain: &crate::domain::Domain, number: u32) -> Result<&Vcpu, Errno> {
    let vcpu = domain.vcpu(number).ok_or(Errno::EINVAL)?;
    if vcpu.is_made() {
        Ok(vcpu)
    } else {
        Err(Errno::ESRCH)
    }
}

/// DOMCTL_getvcpuinfo.
///
/// # Errors
/// EINVAL for a vCPU that it may not have, ESRCH for one that was not made.
pub(super) fn vcpu_info(op: &mut Domctl) -> Answer {
    let asked: XenDomctlGetvcpuinfo = op.body();
    let domain = op.domain()?;
    let vcpu = vcpu(&domain, asked.vcpu)?;
    let account = vcpu.account.lock().state();
    op.reply(&XenDomctlGetvcpuinfo {
        vcpu: asked.vcpu,
        online: u8::from(vcpu.is_up.load(Ordering::Acquire)),
        blocked: u8::from(vcpu.is_blocked()),
        running: u8::from(vcpu.is_running()),
        cpu_time: account.time_in(RunState::Running, host::now_ns()),
        cpu: vcpu.home(),
        ..XenDomctlGetvcpuinfo::default()
    });
    Ok(0)
}

/// The CPUs that there are, as bits.
fn online_cpus() -> u64 {
    let spare = FIRST_BITS.saturating_sub(cpus::online());
    u64::MAX.checked_shr(spare).unwrap_or(0)
}

/// DOMCTL_setvcpuaffinity. A vCPU stays on the CPU that it was made on, so its hard affinity must have that.
///
/// # Errors
/// EINVAL where nothing is asked for, or no CPU that there is; EOPNOTSUPP where the vCPU would have to move; EFAULT.
pub(super) fn set_affinity<H: VcpuHw>(call: &mut Call<'_, H>, op: &mut Domctl) -> Answer {
    let body: XenDomctlVcpuaffinity = op.body();
    let domain = op.domain()?;
    let vcpu = vcpu(&domain, body.vcpu)?;
    check_flags(body.flags)?;
    let online = online_cpus();
    if body.flags & XEN_VCPUAFFINITY_HARD != 0 {
        let hard = bitmap::first_bits(call, &body.cpumap_hard)?;
        if hard & online == 0 {
            return Err(Errno::EINVAL.into());
        }
        let home = 1u64.checked_shl(vcpu.home()).unwrap_or(0);
        if hard & home == 0 {
            return Err(Errno::EOPNOTSUPP.into());
        }
        vcpu.affinity.hard.store(hard, Ordering::Relaxed);
        bitmap::put(call, &body.cpumap_hard, |bit| has(hard & online, bit))?;
    }
    if body.flags & XEN_VCPUAFFINITY_SOFT != 0 {
        let soft = bitmap::first_bits(call, &body.cpumap_soft)?;
        if soft & online == 0 {
            return Err(Errno::EINVAL.into());
        }
        vcpu.affinity.soft.store(soft, Ordering::Relaxed);
        let hard = vcpu.affinity.hard.load(Ordering::Relaxed);
        bitmap::put(call, &body.cpumap_soft, |bit| {
            has(soft & hard & online, bit)
        })?;
    }
    Ok(0)
}

/// DOMCTL_getvcpuaffinity: the masks as they were set, all ones where they were not.
///
/// # Errors
/// EINVAL where nothing is asked for, EFAULT.
pub(super) fn affinity<H: VcpuHw>(call: &mut Call<'_, H>, op: &mut Domctl) -> Answer {
    let body: XenDomctlVcpuaffinity = op.body();
    let domain = op.domain()?;
    let vcpu = vcpu(&domain, body.vcpu)?;
    check_flags(body.flags)?;
    let tell = |flag: u32, map: &XenctlBitmap, mask: u64| {
        if body.flags & flag == 0 {
            return Ok(());
        }
        bitmap::put(call, map, |bit| has(mask, bit) || mask == u64::MAX)
    };
    let hard = vcpu.affinity.hard.load(Ordering::Relaxed);
    let soft = vcpu.affinity.soft.load(Ordering::Relaxed);
    tell(XEN_VCPUAFFINITY_HARD, &body.cpumap_hard, hard)?;
    tell(XEN_VCPUAFFINITY_SOFT, &body.cpumap_soft, soft)?;
    Ok(0)
}

fn check_flags(flags: u32) -> Result<(), Errno> {
    let known = XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT;
    if flags & known == 0 || flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

fn has(mask: u64, bit: u32) -> bool {
    mask.checked_shr(bit).is_some_and(|rest| rest & 1 != 0)
}

/// DOMCTL_setnodeaffinity: there is one node.
///
/// # Errors
/// EINVAL without it, EFAULT.
pub(super) fn set_node_affinity<H: VcpuHw>(call: &mut Call<'_, H>, op: &Domctl) -> Answer {
    let body: XenDomctlNodeaffinity = op.body();
    op.domain()?;
    if bitmap::first_bits(call, &body.nodemap)? & 1 == 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}

/// DOMCTL_getnodeaffinity.
///
/// # Errors
/// EFAULT.
pub(super) fn node_affinity<H: VcpuHw>(call: &mut Call<'_, H>, op: &Domctl) -> Answer {
    let body: XenDomctlNodeaffinity = op.body();
    op.domain()?;
    bitmap::put(call, &body.nodemap, |node| node == 0)?;
    Ok(0)
}

/// DOMCTL_scheduler_op: weight and cap of credit2. No weight leaves it as it is, no cap ends one.
///
/// # Errors
/// EINVAL for another scheduler or a cap above what all its vCPUs could use, EOPNOTSUPP for parameters of single vCPUs.
pub(super) fn scheduler(op: &mut Domctl) -> Answer {
    let mut body: XenDomctlSchedulerOp = op.body();
    let domain = op.domain()?;
    let is_ours =
        body.sched_id == XEN_SCHEDULER_CREDIT2 && host::host().options.sched == Scheduler::Credit2;
    if !is_ours {
        return Err(Errno::EINVAL.into());
    }
    let [first, ..] = &mut body.u;
    match body.cmd {
        XEN_DOMCTL_SCHEDOP_getinfo => {
            let cap = u32::from(domain.cap.load(Ordering::Relaxed));
            *first = u32::from(domain.weight.load(Ordering::Relaxed)) | cap << 16;
            op.reply(&body);
            Ok(0)
        }
        XEN_DOMCTL_SCHEDOP_putinfo => {
            let [w0, w1, c0, c1] = first.to_le_bytes();
            let (weight, cap) = (u16::from_le_bytes([w0, w1]), u16::from_le_bytes([c0, c1]));
            if u32::from(cap) > 100 * u32::from(domain.config.vcpus) {
                return Err(Errno::EINVAL.into());
            }
            domain.cap.store(cap, Ordering::Relaxed);
            if weight != 0 {
                domain.weight.store(weight, Ordering::Relaxed);
            }
            domain.kick_all();
            Ok(0)
        }
        _ => Err(Errno::EOPNOTSUPP.into()),
    }
}

/// DOMCTL_sendtrigger: an NMI. PVH guests have no buttons, and no reset line.
///
/// # Errors
/// EINVAL and ESRCH for the vCPU, EOPNOTSUPP for buttons, ENOSYS for the rest.
pub(super) fn trigger<H: VcpuHw>(call: &mut Call<'_, H>, op: &Domctl) -> Answer {
    let body: XenDomctlSendtrigger = op.body();
    let domain = lifecycle::another(call, op)?;
    match body.trigger {
        XEN_DOMCTL_SENDTRIGGER_NMI => {
            vcpu(&domain, body.vcpu)?.request(Requests::NMI);
            Ok(0)
        }
        XEN_DOMCTL_SENDTRIGGER_POWER | XEN_DOMCTL_SENDTRIGGER_SLEEP => {
            Err(Stop::Refused(Errno::EOPNOTSUPP))
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}
