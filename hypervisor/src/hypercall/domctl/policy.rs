//! A domain's CPUID and MSRs, as its toolstack reads and sets them before it starts.

use arrayvec::ArrayVec;
use guest_abi::domctl::{XenCpuidLeaf, XenDomctlCpuPolicy, XenMsrEntry};
use guest_abi::errno::Errno;
use hv_core::addr::Gva;
use hv_core::cpuid::{CpuidLeaf, CpuidRegs, LeafRefused, MAX_POLICY_LEAVES};
use hv_hw::domain_log;
use hv_hw::virt::VcpuHw;

use crate::domain::Policies;
use crate::hypercall::cpu_policy::{self, MAX_POLICY_MSRS};
use crate::hypercall::domctl::{Answer, Call, Domctl, lifecycle};
use crate::machine::host::host;

/// What err_leaf, err_subleaf and err_msr say where nothing is wrong with any.
const NONE: u32 = u32::MAX;

/// DOMCTL_get_cpu_policy.
///
/// # Errors
/// ENOBUFS where there is too little room, EFAULT.
pub(super) fn get<H: VcpuHw>(call: &mut Call<'_, H>, op: &mut Domctl) -> Answer {
    let mut body: XenDomctlCpuPolicy = op.body();
    let policies = op.domain()?.policies();
    let leaves = policies.cpuid.policy_leaves();
    body.nr_leaves = cpu_policy::put_leaves(call, body.leaves, body.nr_leaves, &leaves)?;
    let msrs = cpu_policy::msrs(policies.msrs.arch_capabilities());
    body.nr_msrs = cpu_policy::put_msrs(call, body.msrs, body.nr_msrs, &msrs)?;
    op.reply(&body);
    Ok(0)
}

/// DOMCTL_set_cpu_policy: leaves and MSRs that take the place of those that the domain has, until it starts.
///
/// # Errors
/// EEXIST once it has started, E2BIG, EFAULT; ERANGE for what a policy has not, EINVAL for what is more than the domain
/// may have: then the reply names it.
pub(super) fn set<H: VcpuHw>(call: &mut Call<'_, H>, op: &mut Domctl) -> Answer {
    let mut body: XenDomctlCpuPolicy = op.body();
    let domain = lifecycle::another(call, op)?;
    if domain.has_started() {
        return Err(Errno::EEXIST.into());
    }
    let leaves = read_leaves(call, &body)?;
    let msrs = read_msrs(call, &body)?;
    [body.err_leaf, body.err_subleaf, body.err_msr] = [NONE; 3];
    let now = domain.policies();
    let options = Policies::options(domain.id, domain.config.vcpus);
    let cpuid = match now.cpuid.replaced(&host().cpuid, &options, &leaves) {
        Ok(cpuid) => cpuid,
        Err(refused) => {
            let (errno, leaf, subleaf) = match refused {
                LeafRefused::Unknown { leaf, subleaf } => (Errno::ERANGE, leaf, subleaf),
                LeafRefused::TooMuch { leaf, subleaf } => (Errno::EINVAL, leaf, subleaf),
                LeafRefused::OtherVendor { theirs, ours } => {
                    domain_log!(
                        domain.log,
                        Warning,
                        "{}: cannot run here: it is of a CPU that says {theirs}, and this one says {ours}",
                        domain.id
                    );
                    (Errno::EINVAL, 0, NONE)
                }
            };
            (body.err_leaf, body.err_subleaf) = (leaf, subleaf);
            op.reply(&body);
            return Err(errno.into());
        }
    };
    let mut arch_capabilities = now.msrs.arch_capabilities();
    for msr in &msrs {
        if let Err(errno) = cpu_policy::apply_msr(msr, &mut arch_capabilities) {
            body.err_msr = msr.idx;
            op.reply(&body);
            return Err(errno.into());
        }
    }
    domain.set_policies(now.within(cpuid, arch_capabilities));
    Ok(0)
}

fn read_leaves<H: VcpuHw>(
    call: &Call<'_, H>,
    body: &XenDomctlCpuPolicy,
) -> Result<ArrayVec<CpuidLeaf, MAX_POLICY_LEAVES>, Errno> {
    let mut leaves = ArrayVec::new();
    for index in 0..u64::from(body.nr_leaves) {
        let at = call
            .runner
            .element::<XenCpuidLeaf>(Gva::new(body.leaves), index)?;
        if leaves.is_full() {
            return Err(Errno::E2BIG);
        }
        let given: XenCpuidLeaf = call.runner.copy_in(at)?;
        leaves.push(CpuidLeaf {
            leaf: given.leaf,
            subleaf: given.subleaf,
            regs: CpuidRegs {
                eax: given.a,
                ebx: given.b,
                ecx: given.c,
                edx: given.d,
            },
        });
    }
    Ok(leaves)
}

fn read_msrs<H: VcpuHw>(
    call: &Call<'_, H>,
    body: &XenDomctlCpuPolicy,
) -> Result<ArrayVec<XenMsrEntry, MAX_POLICY_MSRS>, Errno> {
    let mut msrs = ArrayVec::new();
    for index in 0..u64::from(body.nr_msrs) {
        let at = call
            .runner
            .element::<XenMsrEntry>(Gva::new(body.msrs), index)?;
        if msrs.is_full() {
            return Err(Errno::E2BIG);
        }
        msrs.push(call.runner.copy_in(at)?);
    }
    Ok(msrs)
}
