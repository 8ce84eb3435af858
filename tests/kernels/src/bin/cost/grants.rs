//! Operations between domains, done by a domain with itself: that is how Xen's figures were measured.

use crate::ops::{NO_BUDGET, call, row, send, spare, succeeded};
use crate::samples::measure;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use guest_abi::grant_table::{
    GNTCOPY_source_gref, GNTMAP_host_map, GNTST_okay, GNTTABOP_copy, GNTTABOP_map_grant_ref,
    GNTTABOP_unmap_grant_ref, GTF_permit_access, GnttabCopy, GnttabCopyPtr, GnttabMapGrantRef,
    GnttabUnmapGrantRef,
};
use guest_abi::memory::{
    XENMAPSPACE_grant_table, XENMEM_add_to_physmap, XENMEM_decrease_reservation, XenAddToPhysmap,
    XenMemoryReservation,
};
use guest_abi::xen::{__HYPERVISOR_grant_table_op, __HYPERVISOR_memory_op, DOMID_SELF};
use guest_rt::timed;
use guest_rt::{Stop, Test, broken, check_eq, event, insn, probe};

pub(crate) static TESTS: &[Test] = &[
    row!(
        "evtchn_send_interdomain_masked_fresh",
        NO_BUDGET,
        channel(),
        |port| { send_masked(port) }
    ),
    row!(
        "evtchn_send_interdomain_with_upcall",
        Some(845),
        channel(),
        |port| { send_with_upcall(port) }
    ),
    row!("grant_map+unmap", Some(2280), granted(), |pages| map_unmap(
        pages
    )),
    row!("grant_map_8+unmap_8", Some(10_000), granted(), |pages| {
        map_unmap_8(pages)
    }),
    row!("grant_copy_64", NO_BUDGET, granted(), |pages| copy(
        pages, 64
    )),
    row!("grant_copy_4k", Some(1825), granted(), |pages| copy(
        pages, 4096
    )),
];

/// The pages of these rows, behind those that `ops` uses, in frames from the first spare one.
const TABLE: u64 = 64;
const PAGE: u64 = 65;
const TARGET: u64 = 66;
const HOLES: u64 = 68;
const REFERENCE: u32 = 8;

/// One channel for all rows: sending on the first port raises the second.
fn channel() -> Result<(u32, u32), Stop> {
    static PORTS: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];
    event::setup()?;
    if PORTS[0].load(SeqCst) == 0 {
        let (a, b) = event::loopback()?;
        PORTS[0].store(a, SeqCst);
        PORTS[1].store(b, SeqCst);
    }
    let (a, b) = (PORTS[0].load(SeqCst), PORTS[1].load(SeqCst));
    event::take_pending(a);
    event::take_pending(b);
    check_eq!(event::unmask(b), 0, "unmask");
    Ok((a, b))
}

fn send_masked((from, to): (u32, u32)) -> Result<u64, Stop> {
    event::mask(to);
    event::take_pending(to);
    send(from)
}

fn send_with_upcall((from, to): (u32, u32)) -> Result<u64, Stop> {
    event::unmask_quietly(to);
    let before = event::upcalls();
    insn::sti();
    let ticks = send(from);
    insn::cli();
    if event::upcalls() == before {
        return Err(broken!("no upcall"));
    }
    ticks
}

/// Sets the table up with one entry; gives the first spare frame.
fn granted() -> Result<u64, Stop> {
    event::setup()?;
    let first = spare()?;
    let arg = XenAddToPhysmap {
        domid: DOMID_SELF,
        size: 0,
        space: XENMAPSPACE_grant_table,
        idx: 0,
        gpfn: first + TABLE,
    };
    call(
        __HYPERVISOR_memory_op,
        XENMEM_add_to_physmap,
        &raw const arg as u64,
    )?;
    for frame in first + HOLES..first + HOLES + 8 {
        let arg = XenMemoryReservation {
            extent_start: &raw const frame as u64,
            nr_extents: 1,
            domid: DOMID_SELF,
            ..Default::default()
        };
        call(
            __HYPERVISOR_memory_op,
            XENMEM_decrease_reservation,
            &raw const arg as u64,
        )?;
    }
    let entry = u64::from(GTF_permit_access) | (first + PAGE) << 32;
    let at = ((first + TABLE) << 12) + u64::from(REFERENCE) * 8;
    probe::write_spare(at, entry).map_err(|_| broken!("no grant table"))?;
    Ok(first)
}

fn timed_op(op: u32, elements: u64, count: u64) -> Result<u64, Stop> {
    succeeded(timed::hypercall(
        __HYPERVISOR_grant_table_op,
        u64::from(op),
        elements,
        count,
    ))
}

fn map_unmap(first: u64) -> Result<u64, Stop> {
    map_unmap_some::<1>(first)
}

fn map_unmap_8(first: u64) -> Result<u64, Stop> {
    map_unmap_some::<8>(first)
}

fn map_unmap_some<const COUNT: usize>(first: u64) -> Result<u64, Stop> {
    let mut maps = [GnttabMapGrantRef {
        flags: GNTMAP_host_map,
        ref_: REFERENCE,
        ..Default::default()
    }; COUNT];
    for (index, map) in maps.iter_mut().enumerate() {
        map.host_addr = (first + HOLES + index as u64) << 12;
    }
    let up = timed_op(
        GNTTABOP_map_grant_ref,
        maps.as_mut_ptr() as u64,
        COUNT as u64,
    )?;
    let mut unmaps = maps.map(|map| GnttabUnmapGrantRef {
        host_addr: map.host_addr,
        handle: map.handle,
        ..Default::default()
    });
    let down = timed_op(
        GNTTABOP_unmap_grant_ref,
        unmaps.as_mut_ptr() as u64,
        COUNT as u64,
    )?;
    for (map, unmap) in maps.iter().zip(&unmaps) {
        if (map.status, unmap.status) != (GNTST_okay, GNTST_okay) {
            return Err(broken!("statuses {} and {}", map.status, unmap.status));
        }
    }
    Ok(up + down)
}

fn copy(first: u64, len: u16) -> Result<u64, Stop> {
    let side = |u, domid| GnttabCopyPtr {
        u,
        domid,
        offset: 0,
        _pad: 0,
    };
    let mut element = GnttabCopy {
        source: side(u64::from(REFERENCE), 0),
        dest: side(first + TARGET, DOMID_SELF),
        len,
        flags: GNTCOPY_source_gref,
        ..Default::default()
    };
    let ticks = timed_op(GNTTABOP_copy, &raw mut element as u64, 1)?;
    if element.status != GNTST_okay {
        return Err(broken!("status {}", element.status));
    }
    Ok(ticks)
}
