//! The table itself: its size, its version, where it is.

use alloc::sync::Arc;

use guest_abi::compat::XenUlong;
use guest_abi::errno::Errno;
use guest_abi::grant_table::{
    GNTST_bad_domain, GNTST_general_error, GNTST_okay, GNTST_permission_denied, GnttabGetVersion,
    GnttabQuerySize, GnttabSetVersion, GnttabSetupTable,
};
use hv_core::addr::{Gfn, Gva};
use hv_hw::virt::VcpuHw;

use crate::domain::Domain;
use crate::domain::grants::{self, NoFrame};
use crate::hypercall::grant_table::{Answer, Call, Stop, caller};

#[inline(never)]
pub(in crate::hypercall) fn query_size<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    if call.arg(2) != 1 {
        return Err(Errno::EINVAL.into());
    }
    let mut arg: GnttabQuerySize = call.runner.copy_in(call.pointer(1))?;
    match target(call, arg.dom) {
        Ok(domain) => {
            (arg.nr_frames, arg.max_nr_frames) = domain.grants.size();
            arg.status = GNTST_okay;
        }
        Err(status) => arg.status = status,
    }
    call.runner.copy_out(call.pointer(1), &arg)?;
    Ok(0)
}

/// GNTTABOP_setup_table: grows the table and tells where its frames are in the domain's memory, all ones for nowhere.
#[inline(never)]
pub(in crate::hypercall) fn setup<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    if call.arg(2) != 1 {
        return Err(Errno::EINVAL.into());
    }
    let mut arg: GnttabSetupTable = call.runner.copy_in(call.pointer(1))?;
    arg.status = match target(call, arg.dom) {
        Ok(domain) => list_frames(call, &domain, &arg)?,
        Err(status) => status,
    };
    call.runner.copy_out(call.pointer(1), &arg)?;
    Ok(0)
}

fn list_frames<H: VcpuHw>(
    call: &Call<'_, H>,
    domain: &Domain,
    arg: &GnttabSetupTable,
) -> Result<i16, Stop> {
    let (_, max) = domain.grants.size();
    if arg.nr_frames > max {
        return Ok(GNTST_general_error);
    }
    if let Some(last) = arg.nr_frames.checked_sub(1)
        && grants::frame(domain, last) == Err(NoFrame::NotYet)
    {
        return Err(Stop::Continuation);
    }
    for index in 0..arg.nr_frames {
        let Ok(mfn) = grants::frame(domain, index) else {
            return Ok(GNTST_general_error);
        };
        let place = domain.special_place(mfn).map_or(u64::MAX, Gfn::as_u64);
        let list = Gva::new(arg.frame_list);
        let to = call.runner.element::<XenUlong>(list, u64::from(index))?;
        call.runner.copy_out(to, &XenUlong(place))?;
    }
    Ok(GNTST_okay)
}

/// GNTTABOP_set_version: it is 1 and stays so.
pub(in crate::hypercall) fn set_version<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: GnttabSetVersion = call.runner.copy_in(call.pointer(1))?;
    match arg.version {
        1 => Ok(0),
        2 => Err(Errno::ENOSYS.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

pub(in crate::hypercall) fn get_version<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let mut arg: GnttabGetVersion = call.runner.copy_in(call.pointer(1))?;
    caller::target(call.runner, arg.dom)?;
    arg.version = 1;
    call.runner.copy_out(call.pointer(1), &arg)?;
    Ok(0)
}

/// The domain that an argument names, or a status.
fn target<H: VcpuHw>(call: &Call<'_, H>, raw: u16) -> Result<Arc<Domain>, i16> {
    caller::target(call.runner, raw).map_err(|stop| match stop {
        Stop::Refused(Errno::EPERM) => GNTST_permission_denied,
        _ => GNTST_bad_domain,
    })
}
