//! `memory_op`. Source: `public/memory.h`.
//!
//! dom0's frames are where it thinks they are (GFN = MFN): a frame that it gives up is free for others, and one that it
//! asks back is its own old one, or nothing. What concerns another domain is for the hardware domain only.
//!
//! | file | |
//! |---|---|
//! | `reservation` | RAM that comes and goes, and how much there is |
//! | `physmap` | pages of other kinds, and of other domains |
//! | `resource` | a domain's grant table in the memory of its toolstack |
//! | `maps` | what a domain is told of its memory |

mod maps;
mod physmap;
mod reservation;
mod resource;

use guest_abi::errno::Errno;
use guest_abi::memory::{
    MEMOP_CMD_MASK, MEMOP_EXTENT_SHIFT, XENMEM_acquire_resource, XENMEM_add_to_physmap,
    XENMEM_add_to_physmap_batch, XENMEM_claim_pages, XENMEM_current_reservation,
    XENMEM_decrease_reservation, XENMEM_get_pod_target, XENMEM_get_vnumainfo,
    XENMEM_increase_reservation, XENMEM_maximum_gpfn, XENMEM_maximum_ram_page,
    XENMEM_maximum_reservation, XENMEM_memory_map, XENMEM_populate_physmap,
    XENMEM_remove_from_physmap, XENMEM_reserved_device_memory_map, XENMEM_set_memory_map,
    XENMEM_set_pod_target,
};
use hv_core::addr::Mfn;
use hv_hw::virt::VcpuHw;

use super::{Answer, Call, Stop, low};
use crate::domain::Domain;
use crate::domain::grants::{self, NoFrame};
use crate::domain::space::SpaceError;

/// Errors of the address space as Xen numbers them.
fn errno(error: SpaceError) -> Errno {
    match error {
        SpaceError::NotThere => Errno::ENOENT,
        SpaceError::NotYours => Errno::EPERM,
        SpaceError::OutOfRange | SpaceError::NoPage | SpaceError::Closed => Errno::EINVAL,
        SpaceError::OutOfMemory => Errno::ENOMEM,
    }
}

impl From<SpaceError> for Stop {
    fn from(error: SpaceError) -> Self {
        Self::Refused(errno(error))
    }
}

/// Serves it.
#[inline(never)]
pub(super) fn handle<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let done = call.arg(0) >> MEMOP_EXTENT_SHIFT;
    match low(call.arg(0) & MEMOP_CMD_MASK) {
        XENMEM_decrease_reservation => reservation::decrease(call, done),
        XENMEM_populate_physmap => reservation::populate(call, done),
        XENMEM_current_reservation => reservation::current(call),
        XENMEM_maximum_reservation => reservation::maximum(call),
        XENMEM_maximum_gpfn => reservation::maximum_gpfn(call),
        XENMEM_maximum_ram_page => Ok(reservation::maximum_ram_page()),
        XENMEM_claim_pages => reservation::claim(call),
        XENMEM_get_pod_target | XENMEM_set_pod_target => reservation::pod_target(call),
        XENMEM_add_to_physmap => physmap::add(call, done),
        XENMEM_add_to_physmap_batch => physmap::add_batch(call, done),
        XENMEM_remove_from_physmap => physmap::remove(call),
        XENMEM_acquire_resource => resource::acquire(call, done),
        XENMEM_memory_map => maps::memory_map(call),
        XENMEM_set_memory_map => maps::set_memory_map(call),
        XENMEM_reserved_device_memory_map => Err(Errno::ENOENT.into()),
        // pages without a guest frame are of no use to a domain that has a p2m
        XENMEM_increase_reservation | XENMEM_get_vnumainfo => Err(Errno::EOPNOTSUPP.into()),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// The frame of a domain's grant table with this index; the table grows up to it.
///
/// # Errors
/// `refused` past its limit, or where memory is out.
fn grant_frame(domain: &Domain, index: u64, refused: Errno) -> Result<Mfn, Stop> {
    let index = u32::try_from(index).map_err(|_| Errno::EINVAL)?;
    grants::frame(domain, index).map_err(|error| match error {
        NoFrame::Refused => Stop::Refused(refused),
        NoFrame::NotYet => Stop::Again,
    })
}

/// Has the guest come again for what follows the first `done` elements.
fn again<H: VcpuHw>(call: &mut Call<'_, H>, done: u64) -> Stop {
    let command = call.arg(0) & MEMOP_CMD_MASK;
    let regs = call.runner.hw.regs();
    regs.set_rdi(command | (done << MEMOP_EXTENT_SHIFT));
    Stop::Again
}
