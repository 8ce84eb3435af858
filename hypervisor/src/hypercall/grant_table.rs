//! `grant_table_op`: the table itself. Source: `public/grant_table.h`.
//!
//! A domain has its table, so that its kernel comes up as on any Xen; mapping and copying need a second domain, and say
//! that they are not supported.

use guest_abi::errno::Errno;
use guest_abi::grant_table::{
    GNTST_bad_domain, GNTST_okay, GNTTABOP_get_version, GNTTABOP_query_size, GNTTABOP_set_version,
    GnttabGetVersion, GnttabQuerySize, GnttabSetVersion,
};
use guest_abi::xen::DOMID_SELF;
use hv_hw::virt::VcpuHw;

use super::{Answer, Call};
use crate::domain::MAX_GRANT_FRAMES;

/// Serves it: the array in the second argument, its length in the third.
#[inline(never)]
pub(super) fn handle<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    match call.sub_op() {
        GNTTABOP_query_size => query_size(call),
        GNTTABOP_set_version => set_version(call),
        GNTTABOP_get_version => get_version(call),
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn query_size<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    if call.args[2] != 1 {
        return Err(Errno::EINVAL.into());
    }
    let mut arg: GnttabQuerySize = call.runner.copy_in(call.pointer(1))?;
    if arg.dom == DOMID_SELF || arg.dom == call.runner.domain.id.get() {
        arg.nr_frames = call.runner.domain.grant_frames();
        arg.max_nr_frames = MAX_GRANT_FRAMES;
        arg.status = GNTST_okay;
    } else {
        arg.status = GNTST_bad_domain;
    }
    call.runner.copy_out(call.pointer(1), &arg)?;
    Ok(0)
}

fn set_version<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: GnttabSetVersion = call.runner.copy_in(call.pointer(1))?;
    match arg.version {
        1 => Ok(0),
        2 => Err(Errno::ENOSYS.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn get_version<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let mut arg: GnttabGetVersion = call.runner.copy_in(call.pointer(1))?;
    if arg.dom != DOMID_SELF && arg.dom != call.runner.domain.id.get() {
        return Err(Errno::ESRCH.into());
    }
    arg.version = 1;
    call.runner.copy_out(call.pointer(1), &arg)?;
    Ok(0)
}
