//! RAM that comes and goes, and how much of it a domain has.

use hv_hw::sync::atomic::Ordering;

use alloc::sync::Arc;

use guest_abi::compat::{Width, XenUlong};
use guest_abi::errno::Errno;
use guest_abi::memory::{
    MEMOP_EXTENT_SHIFT, XENMEMF_populate_on_demand, XenMemoryReservation, XenPodTarget,
};
use hv_core::addr::{Gfn, Gva, PageOrder};
use hv_hw::virt::VcpuHw;

use crate::domain::{Domain, pod, space};
use crate::hypercall::memory::continuation;
use crate::hypercall::{Answer, Call, Stop, caller};
use crate::machine::memory;

/// Pages served in one go; the guest comes again for the rest.
const BATCH: u64 = 64;
/// Guest frame numbers copied in at a time.
const CHUNK: usize = 8;

/// XENMEM_decrease_reservation: takes RAM away.
pub(in crate::hypercall) fn decrease<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    extents(call, |call, domain, (gfn, order), _| {
        space::release_block(&mut call.runner.hw, domain, gfn, order).is_ok()
    })
}

/// XENMEM_populate_physmap: gives RAM where there is none. A domain has none of its own populated on demand.
pub(in crate::hypercall) fn populate<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    extents(call, |call, domain, (gfn, order), flags| {
        if flags & XENMEMF_populate_on_demand == 0 {
            return space::populate(domain, gfn, order).is_ok();
        }
        let is_own = domain.id == call.runner.domain.id;
        !is_own && pod::mark(domain, gfn, order).is_ok()
    })
}

/// Goes through the extents of a reservation, some of which may be served already, until `serve` fails on one. Returns
/// how many are done.
#[inline]
fn extents<H: VcpuHw>(
    call: &mut Call<'_, H>,
    serve: impl Fn(&mut Call<'_, H>, &Domain, (Gfn, PageOrder), u32) -> bool,
) -> Answer {
    let done = call.extents_done();
    let arg: XenMemoryReservation = call.runner.copy_in(call.pointer(1))?;
    let domain = caller::target(call.runner, arg.domid)?;
    if done > arg.nr_extents || arg.nr_extents > most_extents(call.runner.width) {
        return Err(Errno::EINVAL.into());
    }
    let order = u8::try_from(arg.extent_order).ok().and_then(PageOrder::new);
    // larger ones take too long at a stretch; toolstacks try smaller ones then
    let Some(order) = order.filter(|order| *order <= PageOrder::SIZE_2M) else {
        return Ok(done);
    };
    // one large extent counts as many small ones
    let batch = (BATCH >> order.get()).max(1);
    let stop = arg.nr_extents.min(done + batch);
    let mut at = done;
    while at < stop {
        let mut gfns = [XenUlong(0); CHUNK];
        let count = usize::try_from(stop - at).map_or(CHUNK, |left| left.min(CHUNK));
        let from = call
            .runner
            .element::<XenUlong>(Gva::new(arg.extent_start), at)?;
        if call.runner.copy_in_all(from, &mut gfns[..count]).is_err() {
            return Ok(at);
        }
        for gfn in &gfns[..count] {
            let gfn = Gfn::new(gfn.0);
            if !gfn.is_aligned(order) || !serve(call, &domain, (gfn, order), arg.mem_flags) {
                return Ok(at);
            }
            at += 1;
        }
    }
    if stop == arg.nr_extents {
        return Ok(stop);
    }
    Err(continuation(call, stop))
}

/// As many as the register can count that says where a call goes on.
fn most_extents(width: Width) -> u64 {
    match width {
        Width::Bits64 => u64::MAX >> MEMOP_EXTENT_SHIFT,
        Width::Bits32 => u64::from(u32::MAX >> MEMOP_EXTENT_SHIFT),
    }
}

/// XENMEM_current_reservation: pages that the domain has.
pub(in crate::hypercall) fn current<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    Ok(named(call)?.pages())
}

/// XENMEM_maximum_reservation: pages that it may have.
pub(in crate::hypercall) fn maximum<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    Ok(named(call)?.limits.max_pages.load(Ordering::Relaxed))
}

/// XENMEM_maximum_gpfn: the highest guest frame that was ever mapped.
pub(in crate::hypercall) fn maximum_gpfn<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let highest = named(call)?.p2m.lock().max_gfn();
    Ok(highest.map_or(0, Gfn::as_u64))
}

/// XENMEM_maximum_ram_page: where the machine's RAM ends.
pub(in crate::hypercall) fn maximum_ram_page<H: VcpuHw>(_: &mut Call<'_, H>) -> Answer {
    let last = memory::table().ram().last();
    Ok(last.map_or(0, |ram| ram.end.as_u64()))
}

/// XENMEM_claim_pages: sets memory aside for a domain, counting what it has; 0 ends that.
pub(in crate::hypercall) fn claim<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: XenMemoryReservation = call.runner.copy_in(call.pointer(1))?;
    let domain = caller::target(call.runner, arg.domid)?;
    if arg.extent_start != 0 || arg.extent_order != 0 || arg.mem_flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    let claim = &domain.limits.claim;
    if arg.nr_extents == 0 {
        let _ = memory::set_claim(claim, 0);
        return Ok(0);
    }
    let more = arg.nr_extents.checked_sub(domain.pages());
    let more = more.filter(|more| *more > 0).ok_or(Errno::EINVAL)?;
    let is_allowed = arg.nr_extents <= domain.limits.max_pages.load(Ordering::Relaxed)
        && claim.load(Ordering::Relaxed) == 0
        && !domain.limits.is_closed();
    if !is_allowed {
        return Err(Errno::EINVAL.into());
    }
    if !memory::set_claim(claim, more) {
        return Err(Errno::ENOMEM.into());
    }
    // a domain that was closed meanwhile keeps no claim
    if domain.limits.is_closed() {
        let _ = memory::set_claim(claim, 0);
    }
    Ok(0)
}

/// XENMEM_set_pod_target: how many pages a domain is to have, those included that it has yet to touch.
pub(in crate::hypercall) fn set_pod_target<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: XenPodTarget = call.runner.copy_in(call.pointer(1))?;
    let domain = caller::target(call.runner, arg.domid)?;
    if arg.target_pages > domain.limits.max_pages.load(Ordering::Relaxed) {
        return Err(Errno::EINVAL.into());
    }
    if !pod::set_target(&domain, arg.target_pages)? {
        return Err(Stop::Continuation);
    }
    tell_pod(call, &domain, arg)
}

pub(in crate::hypercall) fn get_pod_target<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: XenPodTarget = call.runner.copy_in(call.pointer(1))?;
    let domain = caller::target(call.runner, arg.domid)?;
    tell_pod(call, &domain, arg)
}

fn tell_pod<H: VcpuHw>(call: &mut Call<'_, H>, domain: &Domain, mut arg: XenPodTarget) -> Answer {
    let counts = pod::counts(domain);
    arg.tot_pages = domain.pages();
    arg.pod_cache_pages = counts.cached;
    arg.pod_entries = counts.outstanding;
    call.runner.copy_out(call.pointer(1), &arg)?;
    Ok(0)
}

/// The domain that the u16 in the second argument names.
fn named<H: VcpuHw>(call: &Call<'_, H>) -> Result<Arc<Domain>, Stop> {
    let raw: u16 = call.runner.copy_in(call.pointer(1))?;
    caller::target(call.runner, raw)
}
