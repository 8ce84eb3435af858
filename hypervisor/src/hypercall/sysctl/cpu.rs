//! What CPUs can do: feature words, and the policies that domains' CPUID is made from.
//!
//! Of a PVH guest's two policies, the most that it may have and the default, there is one.

use arrayvec::ArrayVec;
use guest_abi::errno::Errno;
use guest_abi::sysctl::{
    XEN_SYSCTL_cpu_featureset_host, XEN_SYSCTL_cpu_featureset_hvm,
    XEN_SYSCTL_cpu_featureset_hvm_max, XEN_SYSCTL_cpu_featureset_pv,
    XEN_SYSCTL_cpu_featureset_pv_max, XEN_SYSCTL_cpu_featureset_raw, XEN_SYSCTL_cpu_policy_host,
    XEN_SYSCTL_cpu_policy_hvm_default, XEN_SYSCTL_cpu_policy_hvm_max,
    XEN_SYSCTL_cpu_policy_pv_default, XEN_SYSCTL_cpu_policy_pv_max, XEN_SYSCTL_cpu_policy_raw,
    XenSysctlCpuFeatureset, XenSysctlCpuLevellingCaps, XenSysctlCpuPolicy,
};
use hv_core::cpuid::{CpuidLeaf, FEATURE_WORDS, MAX_POLICY_LEAVES};
use hv_core::domid::DomId;
use hv_hw::virt::VcpuHw;

use crate::domain::Policies;
use crate::hypercall::sysctl::put;
use crate::hypercall::{Answer, Call, cpu_policy};
use crate::machine::host;

/// Whose CPUID.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Hosts,
    Guests,
}

/// XEN_SYSCTL_get_cpu_levelling_caps: what PV guests' CPUID can be masked with. There are none.
pub(super) fn levelling_caps<H: VcpuHw>(
    _: &mut Call<'_, H>,
    arg: &mut XenSysctlCpuLevellingCaps,
) -> Answer {
    arg.caps = 0;
    Ok(0)
}

/// XEN_SYSCTL_get_cpu_featureset.
///
/// # Errors
/// EINVAL for an index that there is not, EOPNOTSUPP for PV's, EFAULT, ENOBUFS where not all words had room.
pub(super) fn featureset<H: VcpuHw>(
    call: &mut Call<'_, H>,
    arg: &mut XenSysctlCpuFeatureset,
) -> Answer {
    let all = u32::try_from(FEATURE_WORDS).unwrap_or(u32::MAX);
    if arg.features == 0 {
        arg.nr_features = all;
        return Ok(0);
    }
    let whose = match arg.index {
        XEN_SYSCTL_cpu_featureset_raw | XEN_SYSCTL_cpu_featureset_host => Whose::Hosts,
        XEN_SYSCTL_cpu_featureset_hvm | XEN_SYSCTL_cpu_featureset_hvm_max => Whose::Guests,
        XEN_SYSCTL_cpu_featureset_pv | XEN_SYSCTL_cpu_featureset_pv_max => {
            return Err(Errno::EOPNOTSUPP.into());
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let words = words(whose);
    let room = arg.nr_features.min(all);
    for (index, word) in (0..room).zip(words) {
        put(call, arg.features, index, &word)?;
    }
    arg.nr_features = room;
    if room < all {
        return Err(Errno::ENOBUFS.into());
    }
    Ok(0)
}

#[inline(never)]
fn words(whose: Whose) -> [u32; FEATURE_WORDS] {
    let host = host::host();
    match whose {
        Whose::Hosts => host.cpuid.feature_words(host.msrs.arch_capabilities),
        Whose::Guests => {
            let policies = Policies::of_host(DomId::DOM0, 1);
            let arch_capabilities = policies.msrs.arch_capabilities();
            policies.cpuid.feature_words(arch_capabilities)
        }
    }
}

/// XEN_SYSCTL_get_cpu_policy.
///
/// # Errors
/// EINVAL for an index that there is not, EOPNOTSUPP for PV's, EFAULT, ENOBUFS where there is too little room.
pub(super) fn policy<H: VcpuHw>(call: &mut Call<'_, H>, arg: &mut XenSysctlCpuPolicy) -> Answer {
    let whose = match arg.index {
        _ if arg._rsvd != 0 => return Err(Errno::EINVAL.into()),
        XEN_SYSCTL_cpu_policy_raw | XEN_SYSCTL_cpu_policy_host => Whose::Hosts,
        XEN_SYSCTL_cpu_policy_hvm_max | XEN_SYSCTL_cpu_policy_hvm_default => Whose::Guests,
        XEN_SYSCTL_cpu_policy_pv_max | XEN_SYSCTL_cpu_policy_pv_default => {
            return Err(Errno::EOPNOTSUPP.into());
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let (leaves, arch_capabilities) = leaves(whose);
    arg.nr_leaves = cpu_policy::put_leaves(call, arg.leaves, arg.nr_leaves, &leaves)?;
    let msrs = cpu_policy::msrs(arch_capabilities);
    arg.nr_msrs = cpu_policy::put_msrs(call, arg.msrs, arg.nr_msrs, &msrs)?;
    Ok(0)
}

#[inline(never)]
fn leaves(whose: Whose) -> (ArrayVec<CpuidLeaf, MAX_POLICY_LEAVES>, u64) {
    let host = host::host();
    match whose {
        Whose::Hosts => (host.cpuid.policy_leaves(), host.msrs.arch_capabilities),
        Whose::Guests => {
            let policies = Policies::of_host(DomId::DOM0, 1);
            let arch_capabilities = policies.msrs.arch_capabilities();
            (policies.cpuid.policy_leaves(), arch_capabilities)
        }
    }
}
