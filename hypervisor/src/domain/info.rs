//! What a toolstack is told of a domain. Source: `public/domctl.h, xen_domctl_getdomaininfo`.

use hv_hw::sync::atomic::Ordering;

use guest_abi::domctl::{
    XEN_DOMCTL_CDF_xs_domain, XEN_DOMINF_blocked, XEN_DOMINF_dying, XEN_DOMINF_hap,
    XEN_DOMINF_hvm_guest, XEN_DOMINF_paused, XEN_DOMINF_running, XEN_DOMINF_shutdown,
    XEN_DOMINF_shutdownshift, XEN_DOMINF_xs_domain, XenArchDomainconfig, XenDomctlGetdomaininfo,
};
use hv_core::addr::Gfn;
use hv_core::vcpu::runstate::RunState;

use crate::domain::destroy::TeardownStage;
use crate::domain::vcpu::Vcpu;
use crate::domain::{Domain, PauseReasons};
use crate::machine::host;

/// `public/domctl.h, XEN_INVALID_MAX_VCPU_ID`: no vCPU was made yet.
const NO_VCPU: u32 = u32::MAX;

/// The domain's record, as DOMCTL_getdomaininfo and SYSCTL_getdomaininfolist give it.
#[must_use]
pub(crate) fn describe(domain: &Domain) -> XenDomctlGetdomaininfo {
    let made = || domain.vcpus.iter().filter(|vcpu| vcpu.is_made());
    let up = || made().filter(|vcpu| vcpu.is_up.load(Ordering::Acquire));
    let lifecycle = domain.lifecycle.lock();
    let (handle, ended, teardown_stage) =
        (lifecycle.handle, lifecycle.ended, lifecycle.teardown_stage);
    drop(lifecycle);
    let mut flags = XEN_DOMINF_hvm_guest | XEN_DOMINF_hap | states(domain);
    if teardown_stage == TeardownStage::Zombie {
        flags |= XEN_DOMINF_dying;
    }
    if let Some(why) = ended {
        flags |= XEN_DOMINF_shutdown | (why.reason() & 0xFF) << XEN_DOMINF_shutdownshift;
    }
    if domain.config.flags & XEN_DOMCTL_CDF_xs_domain != 0 {
        flags |= XEN_DOMINF_xs_domain;
    }
    let shared_info = domain.special_place(domain.shared_info.mfn());
    XenDomctlGetdomaininfo {
        domain: domain.id.get(),
        flags,
        tot_pages: domain.pages(),
        max_pages: domain.limits.max_pages.load(Ordering::Relaxed),
        outstanding_pages: domain.limits.claim.load(Ordering::Relaxed),
        shared_info_frame: shared_info.map_or(u64::MAX, Gfn::as_u64),
        cpu_time: made().map(|vcpu| cpu_time_ns(vcpu)).sum(),
        nr_online_vcpus: u32::try_from(up().count()).unwrap_or(u32::MAX),
        max_vcpu_id: made()
            .next_back()
            .map_or(NO_VCPU, |vcpu| u32::from(vcpu.id.index)),
        ssidref: domain.config.ssidref,
        handle,
        gpaddr_bits: domain.policies().cpuid.physical_bits(),
        arch_config: XenArchDomainconfig {
            emulation_flags: domain.config.emulation_flags,
            misc_flags: domain.config.misc_flags,
        },
        ..XenDomctlGetdomaininfo::default()
    }
}

/// Paused, running, and blocked: no vCPU that is up is ready.
fn states(domain: &Domain) -> u32 {
    let mut flags = XEN_DOMINF_blocked;
    if domain.pause_reasons().contains(PauseReasons::PAUSED) {
        flags |= XEN_DOMINF_paused;
    }
    for vcpu in &domain.vcpus {
        if !vcpu.is_up.load(Ordering::Acquire) {
            continue;
        }
        if !vcpu.is_blocked() {
            flags &= !XEN_DOMINF_blocked;
        }
        if vcpu.is_running() {
            flags |= XEN_DOMINF_running;
        }
    }
    flags
}

/// How long a vCPU has had a CPU, in ns.
#[must_use]
pub(crate) fn cpu_time_ns(vcpu: &Vcpu) -> u64 {
    let state = vcpu.account.lock().state();
    state.time_in(RunState::Running, host::now_ns())
}
