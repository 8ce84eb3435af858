//! Who may do what: one table. A row that is missing denies.

use guest_abi::errno::Errno;
use guest_abi::xen::{
    __HYPERVISOR_console_io, __HYPERVISOR_domctl, __HYPERVISOR_event_channel_op,
    __HYPERVISOR_grant_table_op, __HYPERVISOR_hvm_op, __HYPERVISOR_memory_op,
    __HYPERVISOR_multicall, __HYPERVISOR_physdev_op, __HYPERVISOR_platform_op,
    __HYPERVISOR_sched_op, __HYPERVISOR_set_timer_op, __HYPERVISOR_sysctl, __HYPERVISOR_vcpu_op,
    __HYPERVISOR_vm_assist, __HYPERVISOR_xen_version,
};

use alloc::sync::Arc;

use guest_abi::xen::DOMID_SELF;
use hv_core::domid::DomId;

use super::Stop;
use crate::domain::{Domain, registry};
use crate::vcpu::Runner;

/// Who may make a hypercall at all. Operations on other domains are checked again where the domain is named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    /// Every domain.
    Everybody,
    /// The domain that owns the machine.
    HardwareDomain,
}

/// The table.
const fn who(number: u64) -> Option<Who> {
    match number {
        __HYPERVISOR_event_channel_op
        | __HYPERVISOR_vcpu_op
        | __HYPERVISOR_sched_op
        | __HYPERVISOR_xen_version
        | __HYPERVISOR_memory_op
        | __HYPERVISOR_hvm_op
        | __HYPERVISOR_grant_table_op
        | __HYPERVISOR_console_io
        | __HYPERVISOR_multicall
        | __HYPERVISOR_set_timer_op
        | __HYPERVISOR_vm_assist => Some(Who::Everybody),
        __HYPERVISOR_platform_op
        | __HYPERVISOR_physdev_op
        | __HYPERVISOR_sysctl
        | __HYPERVISOR_domctl => Some(Who::HardwareDomain),
        _ => None,
    }
}

/// Whether the caller may make hypercall `number`.
///
/// # Errors
/// EPERM where it is somebody else's, ENOSYS where nobody may, as there is no such hypercall.
#[inline]
pub fn may<H>(runner: &Runner<H>, number: u64, _sub_op: u64) -> Result<(), Stop> {
    match who(number) {
        Some(Who::Everybody) => Ok(()),
        Some(Who::HardwareDomain) if runner.domain.is_hardware => Ok(()),
        Some(Who::HardwareDomain) => Err(Errno::EPERM.into()),
        None => Err(Errno::ENOSYS.into()),
    }
}

/// The domain that an argument names: the caller's own, or, for the hardware domain, any.
///
/// # Errors
/// ESRCH where there is none, EPERM where it is not the caller's to touch.
#[inline]
pub fn target<H>(runner: &Runner<H>, raw: u16) -> Result<Arc<Domain>, Stop> {
    if raw == DOMID_SELF || raw == runner.domain.id.get() {
        return Ok(runner.domain.clone());
    }
    if !runner.domain.is_hardware {
        return Err(Errno::EPERM.into());
    }
    let id = DomId::new(raw).ok_or(Errno::ESRCH)?;
    registry::find(id).ok_or(Stop::Refused(Errno::ESRCH))
}
