//! XENMEM_acquire_resource: a domain's grant table in the memory of its toolstack, which fills its first entries.

use guest_abi::compat::XenUlong;
use guest_abi::errno::Errno;
use guest_abi::memory::{
    XENMEM_resource_grant_table, XENMEM_resource_grant_table_id_shared, XenMemAcquireResource,
};
use guest_abi::xen::DOMID_SELF;
use hv_core::addr::{Gfn, Gva};
use hv_hw::virt::VcpuHw;

use crate::domain::{Domain, space};
use crate::hypercall::memory::{continuation, grant_frame};
use crate::hypercall::{Answer, Call, Stop, caller};

/// Frames mapped in one go; the guest comes again for the rest.
const BATCH: u64 = 32;

/// Maps frames of the resource, or tells how many there are.
pub(in crate::hypercall) fn acquire<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let mut arg: XenMemAcquireResource = call.runner.copy_in(call.pointer(1))?;
    if arg.pad != 0 {
        return Err(Errno::EINVAL.into());
    }
    let own = &call.runner.domain;
    if arg.domid == DOMID_SELF || arg.domid == own.id.get() {
        return Err(Errno::EPERM.into());
    }
    let domain = caller::target(call.runner, arg.domid)?;
    match (arg.type_, arg.id) {
        (XENMEM_resource_grant_table, XENMEM_resource_grant_table_id_shared) => {}
        // status frames belong to version 2
        (XENMEM_resource_grant_table, _) => return Err(Errno::EINVAL.into()),
        _ => return Err(Errno::EOPNOTSUPP.into()),
    }
    if arg.frame_list != 0 {
        return map(call, &domain, &arg);
    }
    if arg.nr_frames != 0 {
        return Err(Errno::EINVAL.into());
    }
    (_, arg.nr_frames) = domain.grants.size();
    call.runner.copy_out(call.pointer(1), &arg)?;
    Ok(0)
}

fn map<H: VcpuHw>(call: &mut Call<'_, H>, domain: &Domain, arg: &XenMemAcquireResource) -> Answer {
    let done = call.extents_done();
    let count = u64::from(arg.nr_frames);
    let (_, max) = domain.grants.size();
    let end = arg.frame.checked_add(count).ok_or(Errno::EINVAL)?;
    if done > count || end > u64::from(max) {
        return Err(Errno::EINVAL.into());
    }
    let stop = count.min(done + BATCH);
    for index in done..stop {
        let at = call
            .runner
            .element::<XenUlong>(Gva::new(arg.frame_list), index)?;
        let XenUlong(gfn) = call.runner.copy_in(at)?;
        map_frame(call, domain, arg.frame + index, Gfn::new(gfn))?;
    }
    if stop < count {
        return Err(continuation(call, stop));
    }
    Ok(0)
}

fn map_frame<H: VcpuHw>(
    call: &mut Call<'_, H>,
    domain: &Domain,
    index: u64,
    gfn: Gfn,
) -> Result<(), Stop> {
    let mfn = grant_frame(domain, index, Errno::ENOMEM)?;
    let runner = &mut *call.runner;
    space::map_foreign_special(&mut runner.hw, (&runner.domain, gfn), (domain, mfn))?;
    Ok(())
}
