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

pub(super) mod maps;
pub(super) mod physmap;
pub(super) mod reservation;
pub(super) mod resource;

use guest_abi::errno::Errno;
use guest_abi::memory::{MEMOP_CMD_MASK, MEMOP_EXTENT_SHIFT};
use hv_core::addr::Mfn;
use hv_hw::virt::VcpuHw;

use crate::domain::Domain;
use crate::domain::grants::{self, NoFrame};
use crate::domain::space::SpaceError;
use crate::hypercall::{Answer, Call, Stop};

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

/// XENMEM_increase_reservation: pages without a guest frame are of no use to a domain that has a p2m;
/// XENMEM_get_vnumainfo.
pub(super) fn not_supported<H: VcpuHw>(_: &mut Call<'_, H>) -> Answer {
    Err(Errno::EOPNOTSUPP.into())
}

/// XENMEM_reserved_device_memory_map: there are none.
pub(super) fn no_regions<H: VcpuHw>(_: &mut Call<'_, H>) -> Answer {
    Err(Errno::ENOENT.into())
}

impl<H: VcpuHw> Call<'_, H> {
    /// How many elements of a memory operation are done.
    fn extents_done(&self) -> u64 {
        self.arg(0) >> MEMOP_EXTENT_SHIFT
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
        NoFrame::NotYet => Stop::Continuation,
    })
}

/// Has the guest come again for what follows the first `done` elements.
fn continuation<H: VcpuHw>(call: &mut Call<'_, H>, done: u64) -> Stop {
    let command = call.arg(0) & MEMOP_CMD_MASK;
    let regs = call.runner.hw.regs();
    regs.set_rdi(command | (done << MEMOP_EXTENT_SHIFT));
    Stop::Continuation
}
