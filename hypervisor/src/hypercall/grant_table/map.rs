//! GNTTABOP_map_grant_ref.

use guest_abi::grant_table::{GNTST_okay, GnttabMapGrantRef};
use hv_core::domid::DomId;
use hv_core::grant::{GrantError, Handle, MapRequest};
use hv_hw::virt::VcpuHw;

use crate::domain::{grants, registry};
use crate::hypercall::grant_table::array::Array;
use crate::hypercall::grant_table::{Answer, Call};

/// Mappings made in one go.
const BATCH: u32 = 64;

#[inline(never)]
pub(in crate::hypercall) fn handle<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let array = Array::of(call, BATCH)?;
    array.each(call, |call, element: &mut GnttabMapGrantRef| {
        match map(call, element) {
            Ok(handle) => {
                element.handle = handle.get();
                element.status = GNTST_okay;
                element.dev_bus_addr = 0;
            }
            Err(error) => element.status = error.status(),
        }
    })?;
    array.done::<GnttabMapGrantRef, H>(call)
}

fn map<H: VcpuHw>(
    call: &mut Call<'_, H>,
    element: &GnttabMapGrantRef,
) -> Result<Handle, GrantError> {
    let request = MapRequest::decode(element)?;
    let granter = DomId::new(request.granter).ok_or(GrantError::BadDomain)?;
    let granter = registry::find(granter).ok_or(GrantError::BadDomain)?;
    let runner = &mut *call.runner;
    grants::map(&mut runner.hw, &runner.domain, granter, &request)
}
