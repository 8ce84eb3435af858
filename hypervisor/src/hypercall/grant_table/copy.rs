//! GNTTABOP_copy.

use guest_abi::grant_table::{GNTST_okay, GnttabCopy};
use hv_core::grant::{CopyRequest, GrantError};
use hv_hw::virt::VcpuHw;

use crate::domain::grants;
use crate::hypercall::grant_table::array::Array;
use crate::hypercall::grant_table::{Answer, Call};

/// Copies made in one go.
const BATCH: u32 = 64;

#[inline(never)]
pub(in crate::hypercall) fn handle<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let array = Array::of(call, BATCH)?;
    array.each(call, |call, element: &mut GnttabCopy| {
        let copied = CopyRequest::decode(element)
            .and_then(|request| grants::copy(&call.runner.domain, &request));
        element.status = copied.map_or_else(GrantError::status, |()| GNTST_okay);
    })?;
    array.done::<GnttabCopy, H>(call)
}
