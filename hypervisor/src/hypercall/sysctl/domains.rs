//! The list of domains, for `xl list` and everybody who looks one up.

use guest_abi::sysctl::XenSysctlGetdomaininfolist;
use hv_hw::virt::VcpuHw;

use crate::domain::{info, registry};
use crate::hypercall::sysctl::put;
use crate::hypercall::{Answer, Call};

/// XEN_SYSCTL_getdomaininfolist: up to `max_domains` domains from `first_domain` on, by ascending domid.
///
/// # Errors
/// EFAULT.
pub(super) fn list<H: VcpuHw>(
    call: &mut Call<'_, H>,
    arg: &mut XenSysctlGetdomaininfolist,
) -> Answer {
    let mut told = 0;
    for domain in registry::all().filter(|domain| domain.id.get() >= arg.first_domain) {
        if told == arg.max_domains {
            break;
        }
        put(call, arg.buffer, told, &info::describe(&domain))?;
        told += 1;
    }
    arg.num_domains = told;
    Ok(0)
}
