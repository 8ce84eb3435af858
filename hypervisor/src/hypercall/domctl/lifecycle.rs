//! A domain's life: made, paused, its vCPUs and its memory allowed, told about, shut down, destroyed.

use alloc::sync::Arc;

use guest_abi::domctl::{
    XEN_DOMCTL_CDF_hap, XEN_DOMCTL_CDF_hvm, XEN_DOMCTL_CDF_oos_off, XEN_DOMCTL_CDF_s3_integrity,
    XEN_DOMCTL_CDF_xs_domain, XEN_DOMCTL_GRANT_version_mask, XenDomctlCreatedomain,
    XenDomctlMaxMem, XenDomctlMaxVcpus, XenDomctlPagingMempool, XenDomctlTscInfo,
};
use guest_abi::errno::Errno;
use guest_abi::sched::{SHUTDOWN_MAX, SchedRemoteShutdown};
use guest_abi::xen::XEN_X86_EMU_LAPIC;
use hv_core::addr::PAGE_SIZE;
use hv_core::domid::DomId;
use hv_core::vcpu::time::GuestTsc;
use hv_hw::domain_log;
use hv_hw::virt::VcpuHw;

use crate::domain::create::{self, DomainConfig, DomainResources, MAX_PORT, MAX_VCPUS};
use crate::domain::destroy::{self, Progress};
use crate::domain::grants::{DEFAULT_GRANT_FRAMES, DEFAULT_MAPTRACK_FRAMES, MAX_GRANT_FRAMES};
use crate::domain::lifecycle::{PauseError, PauseReasons};
use crate::domain::policies::clock_of;
use crate::domain::{
    Domain, ShutdownReason, info as record, registry, soft_reset, space, wallclock,
};
use crate::hypercall::domctl::{Answer, Call, Domctl, Stop};
use crate::hypercall::{caller, event_channel};
use crate::machine::host;
use crate::pcpu::hand_off;
use crate::runner::Next;

/// PVH by hardware; the other flags ask for nothing that we do or leave.
const FLAGS_REQUIRED: u32 = XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap;
const FLAGS_KNOWN: u32 = FLAGS_REQUIRED
    | XEN_DOMCTL_CDF_s3_integrity
    | XEN_DOMCTL_CDF_oos_off
    | XEN_DOMCTL_CDF_xs_domain;
/// The only version of grant tables.
const GRANT_VERSION: u32 = 1;
const KIB_PER_PAGE: u64 = 4;
/// The most frames' worth of handles for mappings of others' grants.
const MAX_MAPTRACK_FRAMES: u32 = 4096;

impl From<PauseError> for Stop {
    fn from(error: PauseError) -> Self {
        Self::Refused(match error {
            PauseError::NotPaused => Errno::EINVAL,
            PauseError::TooMany => Errno::EOVERFLOW,
        })
    }
}

/// DOMCTL_createdomain: a domain without vCPUs and memory, paused. The number is given; 0 and what is no domain's
/// number ask for any.
pub(super) fn create(op: &mut Domctl) -> Answer {
    let body: XenDomctlCreatedomain = op.body();
    let config = checked(&body)?;
    let wanted = match op.domid() {
        0 => None,
        raw => DomId::new(raw),
    };
    let none_left = if wanted.is_some() {
        Errno::EEXIST
    } else {
        Errno::ENOMEM
    };
    let number = registry::reserve(wanted).ok_or(none_left)?;
    let domain = create::domain(number.id(), config, DomainResources::none()?)?;
    let domain = Arc::new(domain);
    registry::add(domain.clone());
    // once it is known: who sets the time meanwhile tells it, or has set it before
    wallclock::tell(&domain);
    let (id, vcpus) = (domain.id, domain.vcpus.len());
    domain_log!(domain.log, Info, "{id}: created, {vcpus} vCPUs");
    op.reply_domid(number.id());
    Ok(0)
}

/// What is asked for, where it can be had.
fn checked(body: &XenDomctlCreatedomain) -> Result<DomainConfig, Errno> {
    let vcpus = u16::try_from(body.max_vcpus).map_err(|_| Errno::EINVAL)?;
    let is_known = body.flags & FLAGS_REQUIRED == FLAGS_REQUIRED
        && body.flags & !FLAGS_KNOWN == 0
        && body.arch.emulation_flags & !XEN_X86_EMU_LAPIC == 0
        && body.vmtrace_size == 0;
    let grant_version = body.grant_opts & XEN_DOMCTL_GRANT_version_mask;
    if !is_known || grant_version != GRANT_VERSION {
        return Err(Errno::EOPNOTSUPP);
    }
    if vcpus == 0 || vcpus > MAX_VCPUS {
        return Err(Errno::EINVAL);
    }
    if body.cpupool_id != 0 {
        return Err(Errno::ENOENT);
    }
    Ok(DomainConfig {
        is_hardware: false,
        vcpus,
        flags: body.flags,
        emulation_flags: body.arch.emulation_flags,
        misc_flags: body.arch.misc_flags,
        ssidref: body.ssidref,
        handle: body.handle,
        max_port: body.max_evtchn_port.min(MAX_PORT),
        max_grant_frames: limit(
            body.max_grant_frames,
            (DEFAULT_GRANT_FRAMES, MAX_GRANT_FRAMES),
        )?,
        max_maptrack_frames: limit(
            body.max_maptrack_frames,
            (DEFAULT_MAPTRACK_FRAMES, MAX_MAPTRACK_FRAMES),
        )?,
    })
}

/// A limit as given, where that is not above ours; a negative one stands for the default.
fn limit(given: i32, (default, most): (u32, u32)) -> Result<u32, Errno> {
    match u32::try_from(given) {
        Ok(given) if given <= most => Ok(given),
        Ok(_) => Err(Errno::EINVAL),
        Err(_) => Ok(default),
    }
}

/// The domain that it is about, which is not the caller's own.
pub(super) fn another<H: VcpuHw>(call: &Call<'_, H>, op: &Domctl) -> Result<Arc<Domain>, Stop> {
    let domain = op.domain()?;
    if domain.id == call.runner.domain.id {
        return Err(Errno::EINVAL.into());
    }
    Ok(domain)
}

/// DOMCTL_destroydomain: executed again until nothing is left that takes work.
pub(super) fn destroy<H: VcpuHw>(call: &mut Call<'_, H>, op: &Domctl) -> Answer {
    let domain = another(call, op)?;
    match destroy::step(&domain, &mut call.runner.hw) {
        Progress::Done => Ok(0),
        Progress::More => Err(Stop::Continuation),
        Progress::WaitForCpus => Err(call.again_after_others()),
    }
}

/// DOMCTL_pausedomain: returns once none of its vCPUs runs.
pub(super) fn pause<H: VcpuHw>(call: &mut Call<'_, H>, op: &Domctl) -> Answer {
    let domain = another(call, op)?;
    domain.pause()?;
    domain.wait_until_still();
    Ok(0)
}

pub(super) fn unpause<H: VcpuHw>(call: &mut Call<'_, H>, op: &Domctl) -> Answer {
    another(call, op)?.unpause()?;
    call.next = Next::Look;
    Ok(0)
}

/// DOMCTL_max_vcpus: gives all vCPUs what they run on. Executed again after a failure, it goes on.
pub(super) fn max_vcpus<H: VcpuHw>(call: &mut Call<'_, H>, op: &Domctl) -> Answer {
    let body: XenDomctlMaxVcpus = op.body();
    let domain = another(call, op)?;
    if body.max != u32::from(domain.config.vcpus) || domain.is_dying() {
        return Err(Errno::EINVAL.into());
    }
    for index in 0..domain.vcpus.len() {
        hand_off::spawn(&domain, index)?;
    }
    call.next = Next::Look;
    Ok(0)
}

/// DOMCTL_max_mem: how much RAM it may have, in KiB; less than it has is no error.
pub(super) fn max_mem(op: &Domctl) -> Answer {
    let body: XenDomctlMaxMem = op.body();
    let domain = op.domain()?;
    let pages = body.max_memkb / KIB_PER_PAGE;
    space::set_max_pages(&domain, pages);
    Ok(0)
}

/// DOMCTL_getdomaininfo: of the first domain with that number or a higher one.
pub(super) fn get_info(op: &mut Domctl) -> Answer {
    let domain = registry::first_from(op.domid()).ok_or(Errno::ESRCH)?;
    op.reply_domid(domain.id);
    op.reply(&record::describe(&domain));
    Ok(0)
}

/// DOMCTL_resumedomain: lets one that has shut down go on where it is.
pub(super) fn resume<H: VcpuHw>(call: &mut Call<'_, H>, op: &Domctl) -> Answer {
    another(call, op)?.resume();
    call.next = Next::Look;
    Ok(0)
}

/// DOMCTL_soft_reset: lets one that has shut down go on without all that its old kernel had set up. Executed again
/// until its ports are closed.
///
/// # Errors
/// EINVAL where it has not shut down or is not paused, ENOMEM; it is as it was then but for its ports.
pub(super) fn soft_reset<H: VcpuHw>(call: &mut Call<'_, H>, op: &Domctl) -> Answer {
    let domain = another(call, op)?;
    let reasons = domain.pause_reasons();
    let is_still = reasons.contains(PauseReasons::SHUT_DOWN | PauseReasons::PAUSED)
        && !reasons.contains(PauseReasons::DYING)
        && !domain.is_any_vcpu_running();
    if !is_still {
        return Err(Errno::EINVAL.into());
    }
    if !event_channel::reset_ports(&domain) {
        return Err(Stop::Continuation);
    }
    soft_reset::forget_kernel(&domain, &mut call.runner.hw)?;
    domain_log!(domain.log, Info, "{}: soft reset", domain.id);
    domain.resume();
    call.next = Next::Look;
    Ok(0)
}

pub(super) fn set_handle(op: &Domctl) -> Answer {
    let handle: [u8; 16] = op.body();
    op.domain()?.lifecycle.lock().handle = handle;
    Ok(0)
}

/// Modes of a TSC (`public/arch-x86/cpuid.h, XEN_CPUID_TSC_MODE_*`): by need, always emulated, never.
const TSC_DEFAULT: u32 = 0;
const TSC_EMULATED: u32 = 1;
const TSC_NATIVE: u32 = 2;

/// DOMCTL_settscinfo: how the guest's TSC counts. One that is never emulated counts as the host's does, whatever rate
/// is asked for; one of another rate than the host's is emulated. Its value is a vCPU's, as with Xen.
pub(super) fn set_tsc_info<H: VcpuHw>(call: &Call<'_, H>, op: &Domctl) -> Answer {
    let body: XenDomctlTscInfo = op.body();
    let domain = another(call, op)?;
    let host_khz = host::host().tsc_khz;
    let tsc = match body.tsc_mode {
        TSC_DEFAULT => GuestTsc::of_rate(body.gtsc_khz, host_khz),
        TSC_EMULATED => GuestTsc::of_rate(body.gtsc_khz, host_khz).emulated(),
        TSC_NATIVE => GuestTsc::native(host_khz),
        _ => return Err(Errno::EINVAL.into()),
    };
    let incarnation = body.incarnation.wrapping_add(1);
    {
        let mut lifecycle = domain.lifecycle.lock();
        lifecycle.tsc_mode = body.tsc_mode;
        lifecycle.tsc_incarnation = incarnation;
    }
    let policies = domain.policies();
    domain.set_policies(policies.with_tsc(tsc, (body.tsc_mode, incarnation)));
    Ok(0)
}

/// DOMCTL_gettscinfo: of a TSC that is never emulated there is nothing to say.
pub(super) fn get_tsc_info(op: &mut Domctl) -> Answer {
    let domain = op.domain()?;
    let (tsc_mode, incarnation) = {
        let lifecycle = domain.lifecycle.lock();
        (lifecycle.tsc_mode, lifecycle.tsc_incarnation)
    };
    let tsc = domain.policies().tsc;
    let (gtsc_khz, elapsed_nsec) = match tsc_mode {
        TSC_NATIVE => (0, 0),
        _ => {
            let now = domain.tsc_at(hv_hw::time::now());
            (tsc.khz(), clock_of(tsc).ticks_to_ns(now))
        }
    };
    op.reply(&XenDomctlTscInfo {
        tsc_mode,
        gtsc_khz,
        incarnation,
        pad: 0,
        elapsed_nsec,
    });
    Ok(0)
}

/// DOMCTL_set_paging_mempool_size: how many bytes of memory are set aside for its page tables.
///
/// # Errors
/// ENOMEM where they are not free, EINVAL for a domain that is being destroyed.
pub(super) fn set_paging_pool(op: &Domctl) -> Answer {
    let body: XenDomctlPagingMempool = op.body();
    space::set_table_pool(&*op.domain()?, body.size.div_ceil(PAGE_SIZE))?;
    Ok(0)
}

pub(super) fn paging_pool(op: &mut Domctl) -> Answer {
    let frames = op.domain()?.limits.pool.size();
    let size = frames.saturating_mul(PAGE_SIZE);
    op.reply(&XenDomctlPagingMempool { size });
    Ok(0)
}

/// SCHEDOP_remote_shutdown: the toolstack shuts a domain down as if it had done so itself.
pub(in crate::hypercall) fn remote_shutdown<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: SchedRemoteShutdown = call.runner.copy_in(call.pointer(1))?;
    if arg.reason > SHUTDOWN_MAX {
        return Err(Errno::EINVAL.into());
    }
    let domain = caller::target(call.runner, arg.domain_id)?;
    domain.end(
        ShutdownReason::from_reason(arg.reason),
        "its toolstack shut it down",
    );
    call.next = Next::Look;
    Ok(0)
}
