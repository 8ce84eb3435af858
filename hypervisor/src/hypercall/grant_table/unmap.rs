//! GNTTABOP_unmap_grant_ref: several mappings go with one flush.

use arrayvec::ArrayVec;

use guest_abi::grant_table::{
    GNTST_general_error, GNTST_okay, GnttabUnmapAndReplace, GnttabUnmapGrantRef,
};
use hv_core::grant::UnmapRequest;
use hv_hw::virt::VcpuHw;

use crate::domain::grants::{self, Unmapped};
use crate::hypercall::grant_table::array::Array;
use crate::hypercall::grant_table::{Answer, Call};

/// Mappings ended in one go, with one flush.
const BATCH: u32 = 32;

#[inline(never)]
pub(in crate::hypercall) fn handle<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let array = Array::of(call, BATCH)?;
    let mut pending = None;
    let mut unmapped = ArrayVec::<Unmapped, { BATCH as usize }>::new();
    let taken = array.each(call, |call, element: &mut GnttabUnmapGrantRef| {
        let result = UnmapRequest::decode(element)
            .and_then(|request| grants::unmap(&call.runner.domain, &request, &mut pending));
        element.status = match result {
            Ok(mapping) => {
                unmapped.push(mapping);
                GNTST_okay
            }
            Err(error) => error.status(),
        };
    });
    // what was taken out is finished, whatever went wrong after it
    let runner = &mut *call.runner;
    let done = grants::flush(&mut runner.hw, &runner.domain, pending);
    for unmapped in unmapped {
        unmapped.finish(&runner.domain, &done);
    }
    taken?;
    array.done::<GnttabUnmapGrantRef, H>(call)
}

/// GNTTABOP_unmap_and_replace: nothing of a domain with a p2m can be put in the place of a mapping.
#[inline(never)]
pub(in crate::hypercall) fn replace<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let array = Array::of(call, BATCH)?;
    array.each(call, |_, element: &mut GnttabUnmapAndReplace| {
        element.status = GNTST_general_error;
    })?;
    array.done::<GnttabUnmapAndReplace, H>(call)
}
