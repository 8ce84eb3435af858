//! Who calls, and whose the domain is that a call names. Who may make a call at all stands in the table.

use guest_abi::errno::Errno;

use alloc::sync::Arc;

use guest_abi::xen::DOMID_SELF;
use hv_core::domid::DomId;

use crate::domain::{Domain, registry};
use crate::hypercall::Stop;
use crate::hypercall::table::Who;
use crate::runner::Runner;

/// Whether the caller is among those who may.
///
/// # Errors
/// EPERM.
#[inline(always)]
pub(super) fn may<H>(runner: &Runner<H>, who: Who) -> Result<(), Stop> {
    match who {
        Who::Everybody => Ok(()),
        Who::HardwareDomain if runner.domain.is_hardware => Ok(()),
        Who::HardwareDomain => Err(Errno::EPERM.into()),
    }
}

/// The domain that an argument names: the caller's own, or, for the hardware domain, any.
///
/// # Errors
/// ESRCH where there is none, EPERM where it is not the caller's to touch.
#[inline]
pub(crate) fn target<H>(runner: &Runner<H>, raw: u16) -> Result<Arc<Domain>, Stop> {
    if raw == DOMID_SELF || raw == runner.domain.id.get() {
        return Ok(runner.domain.clone());
    }
    if !runner.domain.is_hardware {
        return Err(Errno::EPERM.into());
    }
    let id = DomId::new(raw).ok_or(Errno::ESRCH)?;
    registry::find(id).ok_or(Stop::Refused(Errno::ESRCH))
}
