//! `vm_assist`. Source: `public/xen.h`, VMASST_*.

use hv_hw::sync::atomic::Ordering;

use guest_abi::errno::Errno;
use guest_abi::xen::VMASST_TYPE_runstate_update_flag;
use hv_hw::virt::VcpuHw;

use crate::hypercall::{Answer, Call, low};

pub(super) fn enable<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    set(call, true)
}

pub(super) fn disable<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    set(call, false)
}

/// The type is in the second argument.
fn set<H: VcpuHw>(call: &mut Call<'_, H>, is_on: bool) -> Answer {
    if low(call.arg(1)) != VMASST_TYPE_runstate_update_flag {
        return Err(Errno::EINVAL.into());
    }
    call.runner
        .domain
        .has_runstate_flag
        .store(is_on, Ordering::Release);
    Ok(0)
}
