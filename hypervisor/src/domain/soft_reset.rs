//! What a domain's kernel has set up with the hypervisor is forgotten, so that another can start in its place: one that
//! it put into its memory itself, by kexec or for a dump of its crash.
//!
//! Its memory, its vCPUs, its parameters and its grant table stay, as in Xen: the new kernel finds the grants of its
//! rings there. Its ports the hypercall has closed before. Its upcalls, which Xen leaves as they are, end too: a kernel
//! that knows the domain's vector alone would get its events as interrupts of a local APIC, of which it ends none.
//! Source: Xen's `domain_soft_reset`, `arch_domain_soft_reset`.

use hv_hw::sync::atomic::Ordering;

use guest_abi::hvm::params::HVM_PARAM_CALLBACK_IRQ;
use hv_core::addr::PageOrder;
use hv_hw::virt::VcpuHw;

use crate::domain::Domain;
use crate::domain::space::{self, SpaceError};

/// Forgets the places that its vCPUs registered, and puts RAM where it had its shared info: a kernel that knows nothing
/// of that page would find a hole there. None of its vCPUs runs.
///
/// # Errors
/// [`SpaceError::OutOfMemory`] where there is no page for that; the hole stays then.
pub(crate) fn forget_kernel<H: VcpuHw>(domain: &Domain, hw: &mut H) -> Result<(), SpaceError> {
    let infos = domain.events.lock().forget_vcpu_infos();
    drop(infos);
    domain.callback.forget();
    domain.lifecycle.lock().params[HVM_PARAM_CALLBACK_IRQ as usize] = 0;
    for vcpu in &domain.vcpus {
        vcpu.upcall_vector.store(0, Ordering::Release);
        let areas = vcpu.account.lock().forget_copies();
        drop(areas);
    }
    let Some(place) = domain.special_place(domain.shared_info.mfn()) else {
        return Ok(());
    };
    space::unmap(hw, domain, place)?;
    space::populate(domain, place, PageOrder::SIZE_4K)
}
