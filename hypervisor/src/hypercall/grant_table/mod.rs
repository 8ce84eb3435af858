//! `grant_table_op`. Source: `public/grant_table.h`; version 1 entries.
//!
//! Most operations take an array and answer each element with a status of its own; long arrays are done in pieces, after
//! each of which the guest comes again with the rest. The story of a mapping is told in [`crate::domain::grants`].

mod array;
mod copy;
mod map;
mod table;
mod unmap;

use guest_abi::errno::Errno;
use guest_abi::grant_table::{
    GNTTABOP_copy, GNTTABOP_get_version, GNTTABOP_map_grant_ref, GNTTABOP_query_size,
    GNTTABOP_set_version, GNTTABOP_setup_table, GNTTABOP_unmap_and_replace,
    GNTTABOP_unmap_grant_ref,
};
use hv_hw::virt::VcpuHw;

use super::{Answer, Call, Stop, caller};

/// Serves it: the array in the second argument, its length in the third.
#[inline(never)]
pub(super) fn handle<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    match call.sub_op() {
        GNTTABOP_map_grant_ref => map::handle(call),
        GNTTABOP_unmap_grant_ref => unmap::handle(call),
        GNTTABOP_copy => copy::handle(call),
        GNTTABOP_query_size => table::query_size(call),
        GNTTABOP_set_version => table::set_version(call),
        GNTTABOP_get_version => table::get_version(call),
        GNTTABOP_setup_table => table::setup(call),
        GNTTABOP_unmap_and_replace => unmap::replace(call),
        // transfers, and what belongs to version 2 or to other architectures
        _ => Err(Errno::ENOSYS.into()),
    }
}
