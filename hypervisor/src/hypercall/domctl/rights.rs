//! What a domain may reach of the machine: nothing, but for dom0, which has all of it. So a right is never given, and
//! taking one away that nobody has is no work.

use guest_abi::domctl::{
    XenDomctlIomemPermission, XenDomctlIoportPermission, XenDomctlIrqPermission,
    XenDomctlSetVirqHandler, XenDomctlSettimeoffset,
};
use guest_abi::errno::Errno;

use crate::domain::wallclock;
use crate::hypercall::domctl::{Answer, Domctl};

fn refuse_access(op: &Domctl, is_given: bool) -> Answer {
    let domain = op.domain()?;
    if is_given || domain.is_hardware {
        return Err(Errno::EOPNOTSUPP.into());
    }
    Ok(0)
}

/// DOMCTL_irq_permission.
///
/// # Errors
/// EOPNOTSUPP for a right that is to be given, or dom0's.
pub(super) fn irq(op: &Domctl) -> Answer {
    let body: XenDomctlIrqPermission = op.body();
    refuse_access(op, body.allow_access != 0)
}

/// DOMCTL_iomem_permission.
///
/// # Errors
/// As for [`irq`].
pub(super) fn iomem(op: &Domctl) -> Answer {
    let body: XenDomctlIomemPermission = op.body();
    refuse_access(op, body.allow_access != 0)
}

/// DOMCTL_ioport_permission.
///
/// # Errors
/// As for [`irq`].
pub(super) fn ioport(op: &Domctl) -> Answer {
    let body: XenDomctlIoportPermission = op.body();
    refuse_access(op, body.allow_access != 0)
}

/// DOMCTL_set_virq_handler: who gets the host's interrupts. It is dom0, and stays so.
///
/// # Errors
/// EINVAL for one that there is not, EOPNOTSUPP for another domain.
pub(super) fn virq_handler(op: &Domctl) -> Answer {
    let body: XenDomctlSetVirqHandler = op.body();
    let domain = op.domain()?;
    if body.virq >= guest_abi::xen::NR_VIRQS {
        return Err(Errno::EINVAL.into());
    }
    if !domain.is_hardware {
        return Err(Errno::EOPNOTSUPP.into());
    }
    Ok(0)
}

/// DOMCTL_settimeoffset: seconds by which the domain's wall clock is ahead of the host's.
///
/// # Errors
/// ESRCH.
pub(super) fn time_offset(op: &Domctl) -> Answer {
    let body: XenDomctlSettimeoffset = op.body();
    let domain = op.domain()?;
    domain.lifecycle.lock().time_offset_s = body.time_offset_seconds;
    wallclock::tell(&domain);
    Ok(0)
}
