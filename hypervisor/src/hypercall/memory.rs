//! `memory_op`. Source: `public/memory.h`.
//!
//! dom0's frames are where it thinks they are (GFN = MFN): a frame that it gives up is free for others, and one that it
//! asks back is its own old one, or nothing.

use guest_abi::errno::Errno;
use guest_abi::memory::{
    E820Entry, MEMOP_CMD_MASK, MEMOP_EXTENT_SHIFT, XENMAPSPACE_grant_table,
    XENMAPSPACE_shared_info, XENMEM_add_to_physmap, XENMEM_current_reservation,
    XENMEM_decrease_reservation, XENMEM_maximum_gpfn, XENMEM_maximum_ram_page,
    XENMEM_maximum_reservation, XENMEM_memory_map, XENMEM_populate_physmap,
    XENMEM_remove_from_physmap, XenAddToPhysmap, XenMemoryMap, XenMemoryReservation,
    XenRemoveFromPhysmap,
};
use guest_abi::xen::DOMID_SELF;
use hv_core::addr::{Gfn, Gva, Mfn, PageOrder};
use hv_hw::virt::VcpuHw;

use super::{Answer, Call, Stop, low};
use crate::domain::space::{self, SpaceError};

/// Extents served in one go; the guest comes again for the rest.
const BATCH: u64 = 64;

/// Errors of the address space as Xen numbers them.
impl From<SpaceError> for Stop {
    fn from(error: SpaceError) -> Self {
        Self::Refused(match error {
            SpaceError::NotThere => Errno::ENOENT,
            SpaceError::NotYours => Errno::EPERM,
            SpaceError::OutOfRange => Errno::EINVAL,
            SpaceError::OutOfMemory => Errno::ENOMEM,
        })
    }
}

/// Serves it.
#[inline(never)]
pub(super) fn handle<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let done = call.args[0] >> MEMOP_EXTENT_SHIFT;
    match low(call.args[0] & MEMOP_CMD_MASK) {
        XENMEM_decrease_reservation => extents(call, done, decrease),
        XENMEM_populate_physmap => extents(call, done, populate),
        XENMEM_add_to_physmap => add_to_physmap(call),
        XENMEM_remove_from_physmap => remove_from_physmap(call),
        XENMEM_memory_map => memory_map(call),
        XENMEM_current_reservation | XENMEM_maximum_reservation => {
            own_domid(call, call.pointer(1))?;
            Ok(call.runner.domain.pages())
        }
        XENMEM_maximum_gpfn => {
            own_domid(call, call.pointer(1))?;
            Ok(call
                .runner
                .domain
                .p2m
                .lock()
                .max_gfn()
                .map_or(0, Gfn::as_u64))
        }
        XENMEM_maximum_ram_page => {
            let last = crate::memory::table()
                .ram()
                .last()
                .map(|ram| ram.end.as_u64());
            Ok(last.unwrap_or(0))
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// Whether an extent was served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Extent {
    Done,
    /// It cannot be, and neither can what follows.
    Stop,
}

/// Goes through the extents of a reservation, the first `done` of which are. Returns how many are done.
fn extents<H: VcpuHw>(
    call: &mut Call<'_, H>,
    done: u64,
    serve: fn(&mut Call<'_, H>, Gfn, PageOrder) -> Result<Extent, Stop>,
) -> Answer {
    let arg: XenMemoryReservation = call.runner.copy_in(call.pointer(1))?;
    if arg.domid != DOMID_SELF && arg.domid != call.runner.domain.id.get() {
        let errno = if call.runner.domain.is_hardware {
            Errno::ESRCH
        } else {
            Errno::EPERM
        };
        return Err(errno.into());
    }
    let order = u8::try_from(arg.extent_order).ok().and_then(PageOrder::new);
    let Some(order) = order.filter(|order| *order <= PageOrder::SIZE_2M) else {
        return Err(Errno::EPERM.into());
    };
    if done > arg.nr_extents || arg.nr_extents > u64::MAX >> MEMOP_EXTENT_SHIFT {
        return Err(Errno::EINVAL.into());
    }
    // one large extent counts as many small ones
    let batch = (BATCH >> order.get()).max(1);
    let stop = arg.nr_extents.min(done + batch);
    for index in done..stop {
        let at = call
            .runner
            .element::<u64>(Gva::new(arg.extent_start), index)?;
        let Ok(gfn) = call.runner.copy_in::<u64>(at) else {
            return Ok(index);
        };
        match serve(call, Gfn::new(gfn), order)? {
            Extent::Done => {}
            Extent::Stop => return Ok(index),
        }
    }
    if stop == arg.nr_extents {
        return Ok(stop);
    }
    let command = call.args[0] & MEMOP_CMD_MASK;
    call.runner
        .hw
        .regs()
        .set_rdi(command | (stop << MEMOP_EXTENT_SHIFT));
    Err(Stop::Again)
}

/// Takes RAM away from the guest.
fn decrease<H: VcpuHw>(call: &mut Call<'_, H>, gfn: Gfn, order: PageOrder) -> Result<Extent, Stop> {
    if !gfn.is_aligned(order) {
        return Ok(Extent::Stop);
    }
    for index in 0..order.frames() {
        let Some(page) = gfn.checked_add(index) else {
            return Ok(Extent::Stop);
        };
        if space::release(call.runner, page).is_err() {
            return Ok(Extent::Stop);
        }
    }
    Ok(Extent::Done)
}

/// Gives RAM to the guest where it has none.
fn populate<H: VcpuHw>(call: &mut Call<'_, H>, gfn: Gfn, order: PageOrder) -> Result<Extent, Stop> {
    if !gfn.is_aligned(order) {
        return Ok(Extent::Stop);
    }
    match space::populate(&call.runner.domain, gfn, order) {
        Ok(()) => Ok(Extent::Done),
        Err(_) => Ok(Extent::Stop),
    }
}

fn add_to_physmap<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: XenAddToPhysmap = call.runner.copy_in(call.pointer(1))?;
    if arg.domid != DOMID_SELF && arg.domid != call.runner.domain.id.get() {
        return Err(Errno::EPERM.into());
    }
    let mfn = match arg.space {
        XENMAPSPACE_shared_info if arg.idx == 0 => call.runner.domain.shared_info.mfn(),
        XENMAPSPACE_grant_table => grant_frame(call, arg.idx)?,
        XENMAPSPACE_shared_info => return Err(Errno::EINVAL.into()),
        _ => return Err(Errno::ENOSYS.into()),
    };
    space::map_special(call.runner, mfn, Gfn::new(arg.gpfn))?;
    Ok(0)
}

/// The frame of the grant table with this index; the table grows up to it.
fn grant_frame<H: VcpuHw>(call: &Call<'_, H>, index: u64) -> Result<Mfn, Stop> {
    let index = usize::try_from(index).map_err(|_| Errno::EINVAL)?;
    call.runner
        .domain
        .grow_grant_table(index)
        .ok_or(Stop::Refused(Errno::EINVAL))
}

fn remove_from_physmap<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: XenRemoveFromPhysmap = call.runner.copy_in(call.pointer(1))?;
    if arg.domid != DOMID_SELF && arg.domid != call.runner.domain.id.get() {
        return Err(Errno::EPERM.into());
    }
    space::unmap(call.runner, Gfn::new(arg.gpfn))?;
    Ok(0)
}

fn memory_map<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let mut arg: XenMemoryMap = call.runner.copy_in(call.pointer(1))?;
    let domain = call.runner.domain.clone();
    let entries = domain.e820.entries();
    let room = usize::try_from(arg.nr_entries).unwrap_or(usize::MAX);
    let mut written = 0;
    for (index, entry) in entries.iter().take(room).enumerate() {
        let at = call
            .runner
            .element::<E820Entry>(Gva::new(arg.buffer), index as u64)?;
        let raw = E820Entry {
            addr: entry.start,
            size: entry.size(),
            type_: entry.kind.as_u32(),
        };
        call.runner.copy_out(at, &raw)?;
        written += 1;
    }
    arg.nr_entries = written;
    call.runner.copy_out(call.pointer(1), &arg)?;
    Ok(0)
}

/// Checks that the u16 at `at` names the caller.
fn own_domid<H: VcpuHw>(call: &Call<'_, H>, at: Gva) -> Result<(), Stop> {
    let raw: u16 = call.runner.copy_in(at)?;
    if raw == DOMID_SELF || raw == call.runner.domain.id.get() {
        Ok(())
    } else if call.runner.domain.is_hardware {
        Err(Errno::ESRCH.into())
    } else {
        Err(Errno::EPERM.into())
    }
}
