//! `vm_assist`. Source: `public/xen.h`, VMASST_*.

use core::sync::atomic::Ordering;

use guest_abi::errno::Errno;
use guest_abi::xen::{VMASST_CMD_disable, VMASST_CMD_enable, VMASST_TYPE_runstate_update_flag};
use hv_hw::virt::VcpuHw;

use super::{Answer, Call, low};

/// Serves it: the command, then the type.
#[inline(never)]
pub(super) fn handle<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let is_on = match call.sub_op() {
        VMASST_CMD_enable => true,
        VMASST_CMD_disable => false,
        _ => return Err(Errno::ENOSYS.into()),
    };
    if low(call.arg(1)) != VMASST_TYPE_runstate_update_flag {
        return Err(Errno::EINVAL.into());
    }
    call.runner
        .domain
        .has_runstate_flag
        .store(is_on, Ordering::Release);
    Ok(0)
}
