//! Pages of other kinds than RAM, and of other domains, in a domain's address space.

use guest_abi::compat::XenUlong;
use guest_abi::errno::Errno;
use guest_abi::memory::{
    XENMAPIDX_grant_table_status, XENMAPSPACE_gmfn_foreign, XENMAPSPACE_grant_table,
    XENMAPSPACE_shared_info, XenAddToPhysmap, XenAddToPhysmapBatch, XenRemoveFromPhysmap,
};
use hv_core::addr::{Gfn, Gva};
use hv_hw::virt::VcpuHw;

use crate::domain::{Domain, space};
use crate::hypercall::memory::{continuation, grant_frame};
use crate::hypercall::{Answer, Call, Stop, caller};

/// Entries served in one go; the guest comes again for the rest.
const BATCH: u64 = 64;

pub(in crate::hypercall) fn add<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: XenAddToPhysmap = call.runner.copy_in(call.pointer(1))?;
    let domain = caller::target(call.runner, arg.domid)?;
    add_special(call, &domain, arg.space, arg.idx, Gfn::new(arg.gpfn))?;
    Ok(0)
}

/// A page that the domain shares with the hypervisor.
fn add_special<H: VcpuHw>(
    call: &mut Call<'_, H>,
    domain: &Domain,
    space: u32,
    index: u64,
    gfn: Gfn,
) -> Result<(), Stop> {
    let mfn = match space {
        XENMAPSPACE_shared_info if index == 0 => domain.shared_info.mfn(),
        // there are no status frames in version 1
        XENMAPSPACE_grant_table if index & XENMAPIDX_grant_table_status == 0 => {
            grant_frame(domain, index, Errno::EINVAL)?
        }
        XENMAPSPACE_shared_info | XENMAPSPACE_grant_table => return Err(Errno::EINVAL.into()),
        _ => return Err(Errno::ENOSYS.into()),
    };
    space::map_special(&mut call.runner.hw, domain, mfn, gfn)?;
    Ok(())
}

/// XENMEM_add_to_physmap_batch: pages one by one, each with its own result.
pub(in crate::hypercall) fn add_batch<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let done = call.extents_done();
    let arg: XenAddToPhysmapBatch = call.runner.copy_in(call.pointer(1))?;
    let domain = caller::target(call.runner, arg.domid)?;
    let size = u64::from(arg.size);
    if done > size {
        return Err(Errno::EINVAL.into());
    }
    let stop = size.min(done + BATCH);
    for index in done..stop {
        let at = |base| call.runner.element::<XenUlong>(Gva::new(base), index);
        let XenUlong(source) = call.runner.copy_in(at(arg.idxs)?)?;
        let XenUlong(gfn) = call.runner.copy_in(at(arg.gpfns)?)?;
        let error = match add_one(call, &domain, &arg, (source, Gfn::new(gfn))) {
            Ok(()) => 0,
            Err(Stop::Refused(errno)) => errno.to_i32(),
            Err(Stop::Continuation) => return Err(Stop::Continuation),
        };
        let to = call.runner.element::<i32>(Gva::new(arg.errs), index)?;
        call.runner.copy_out(to, &error)?;
    }
    if stop < size {
        return Err(continuation(call, stop));
    }
    Ok(0)
}

fn add_one<H: VcpuHw>(
    call: &mut Call<'_, H>,
    domain: &Domain,
    arg: &XenAddToPhysmapBatch,
    (source, gfn): (u64, Gfn),
) -> Result<(), Stop> {
    if u32::from(arg.space) != XENMAPSPACE_gmfn_foreign {
        return add_special(call, domain, u32::from(arg.space), source, gfn);
    }
    let owner = caller::target(call.runner, arg.foreign_domid)?;
    if owner.id == domain.id {
        return Err(Errno::EINVAL.into());
    }
    let source = Gfn::new(source);
    space::map_foreign(&mut call.runner.hw, (domain, gfn), (&owner, source))?;
    Ok(())
}

pub(in crate::hypercall) fn remove<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: XenRemoveFromPhysmap = call.runner.copy_in(call.pointer(1))?;
    let domain = caller::target(call.runner, arg.domid)?;
    space::unmap(&mut call.runner.hw, &domain, Gfn::new(arg.gpfn))?;
    Ok(0)
}
