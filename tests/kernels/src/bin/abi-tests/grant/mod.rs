//! Grants, of a domain to itself.
//!
//! Here is what the tests share, and the table's size and version; by topic: [`mapping`], [`copying`], [`random`],
//! [`foreign`].

pub(crate) mod copying;
pub(crate) mod foreign;
pub(crate) mod mapping;
pub(crate) mod random;

use guest_abi::grant_table::{
    GNTST_bad_domain, GNTST_okay, GNTTABOP_copy, GNTTABOP_get_version, GNTTABOP_map_grant_ref,
    GNTTABOP_query_size, GNTTABOP_set_version, GNTTABOP_unmap_grant_ref, GTF_reading, GTF_writing,
    GnttabCopy, GnttabCopyPtr, GnttabGetVersion, GnttabMapGrantRef, GnttabQuerySize,
    GnttabSetVersion, GnttabUnmapGrantRef,
};
use guest_abi::memory::{
    XENMAPSPACE_grant_table, XENMEM_add_to_physmap, XENMEM_current_reservation,
    XENMEM_decrease_reservation, XenAddToPhysmap, XenMemoryReservation,
};
use guest_abi::xen::{__HYPERVISOR_grant_table_op, DOMID_SELF};
use guest_rt::hypercall::{self, memory as call};
use guest_rt::memory::{PAGE_SIZE, spare_range};
use guest_rt::{Stop, Test, Verdict, check, check_eq, event, insn, probe, skip};

pub(crate) static TESTS: &[Test] = &[Test::new("grant_table_size_and_version", size_and_version)];

/// First page of the spare range that these tests use: the table, then pages to grant, then places to map at.
const FIRST_PAGE: u64 = 1200;
/// The first reference that a kernel may use (`public/grant_table.h, GNTTAB_NR_RESERVED_ENTRIES`).
const FIRST_REF: u32 = 8;
const OWN: u16 = 0;

pub(crate) fn page(index: u64) -> Result<u64, Stop> {
    match spare_range() {
        Some(start) => Ok(start + (FIRST_PAGE + index) * PAGE_SIZE),
        None => Err(guest_rt::broken!("no spare RAM")),
    }
}

/// Makes the table's first frame visible, and says where.
pub(crate) fn table() -> Result<u64, Stop> {
    if !hypercall::present() {
        skip!("no hypervisor");
    }
    if insn::cpuid(0x4000_0004, 0).ecx != u32::from(OWN) {
        skip!("not dom0");
    }
    event::setup()?;
    let at = page(0)?;
    let arg = XenAddToPhysmap {
        domid: DOMID_SELF,
        size: 0,
        space: XENMAPSPACE_grant_table,
        idx: 0,
        gpfn: at >> 12,
    };
    check_eq!(
        call(XENMEM_add_to_physmap, arg).0,
        0,
        "add_to_physmap of the grant table"
    );
    Ok(at)
}

/// Writes an entry: who may use which page, and how.
fn grant(reference: u32, flags: u16, domid: u16, address: u64) -> Verdict {
    let entry = u64::from(flags) | u64::from(domid) << 16 | (address >> 12) << 32;
    let at = page(0)? + u64::from(reference) * 8;
    check!(probe::write_spare(at, entry).is_ok(), "writing an entry");
    Ok(())
}

/// The reading and writing marks of an entry.
fn marks(reference: u32) -> Result<u16, Stop> {
    let entry = insn::peek(page(0)? + u64::from(reference) * 8);
    let entry = entry.map_err(|_| guest_rt::broken!("the grant table cannot be read"))?;
    Ok(entry as u16 & (GTF_reading | GTF_writing))
}

pub(crate) fn grant_table<T>(op: u32, elements: &mut [T]) -> i64 {
    hypercall::with_array(
        __HYPERVISOR_grant_table_op,
        op,
        elements.as_mut_ptr() as u64,
        elements.len() as u64,
    )
}

pub(crate) fn element(reference: u32, at: u64, flags: u32) -> GnttabMapGrantRef {
    GnttabMapGrantRef {
        host_addr: at,
        flags,
        ref_: reference,
        dom: OWN,
        status: 77,
        ..Default::default()
    }
}

/// Maps, and says with which status and handle.
pub(crate) fn map_as(element: GnttabMapGrantRef) -> Result<(i16, u32), Stop> {
    let mut elements = [element];
    check_eq!(
        grant_table(GNTTABOP_map_grant_ref, &mut elements),
        0,
        "map_grant_ref"
    );
    Ok((elements[0].status, elements[0].handle))
}

fn map(reference: u32, at: u64, flags: u32) -> Result<u32, Stop> {
    let (status, handle) = map_as(element(reference, at, flags))?;
    check_eq!(status, GNTST_okay, "mapping of reference {reference}");
    Ok(handle)
}

pub(crate) fn unmap(handle: u32, at: u64) -> Result<i16, Stop> {
    let mut elements = [GnttabUnmapGrantRef {
        host_addr: at,
        handle,
        status: 77,
        ..Default::default()
    }];
    check_eq!(
        grant_table(GNTTABOP_unmap_grant_ref, &mut elements),
        0,
        "unmap_grant_ref"
    );
    Ok(elements[0].status)
}

pub(crate) fn reservation(op: u32, address: u64) -> i64 {
    let frame = address >> 12;
    let arg = XenMemoryReservation {
        extent_start: &raw const frame as u64,
        nr_extents: 1,
        domid: DOMID_SELF,
        ..Default::default()
    };
    call(op, arg).0
}

/// Empties a page's place, to map at.
pub(crate) fn hole(index: u64) -> Result<u64, Stop> {
    let at = page(index)?;
    if insn::peek(at) != Ok(u64::MAX) {
        check_eq!(
            reservation(XENMEM_decrease_reservation, at),
            1,
            "making a hole"
        );
    }
    Ok(at)
}

fn pages() -> i64 {
    call(XENMEM_current_reservation, DOMID_SELF).0
}

pub(crate) fn write(at: u64, value: u64) -> Verdict {
    check!(
        probe::write_spare(at, value).is_ok(),
        "write at {at:#x} faults"
    );
    Ok(())
}

fn size_and_version() -> Verdict {
    table()?;
    let mut size = [GnttabQuerySize {
        dom: DOMID_SELF,
        ..Default::default()
    }];
    check_eq!(grant_table(GNTTABOP_query_size, &mut size), 0, "query_size");
    check_eq!(size[0].status, GNTST_okay, "its status");
    check!(
        size[0].nr_frames >= 1 && size[0].max_nr_frames >= size[0].nr_frames,
        "{} frames of at most {}",
        size[0].nr_frames,
        size[0].max_nr_frames
    );
    size[0].dom = 0x7000;
    check_eq!(
        grant_table(GNTTABOP_query_size, &mut size),
        0,
        "query_size of no domain"
    );
    check_eq!(size[0].status, GNTST_bad_domain, "its status");
    let mut version = [GnttabSetVersion { version: 1 }];
    check_eq!(
        grant_table(GNTTABOP_set_version, &mut version),
        0,
        "set_version 1"
    );
    let mut version = [GnttabGetVersion {
        dom: DOMID_SELF,
        ..Default::default()
    }];
    check_eq!(
        grant_table(GNTTABOP_get_version, &mut version),
        0,
        "get_version"
    );
    check_eq!(version[0].version, 1, "the version");
    Ok(())
}

/// A side of a copy: a reference, or a frame of the caller's own.
pub(crate) fn side(u: u64, offset: u16) -> GnttabCopyPtr {
    GnttabCopyPtr {
        u,
        domid: DOMID_SELF,
        offset,
        _pad: 0,
    }
}

pub(crate) fn copy(
    source: GnttabCopyPtr,
    dest: GnttabCopyPtr,
    len: u16,
    flags: u16,
) -> Result<i16, Stop> {
    let mut elements = [GnttabCopy {
        source,
        dest,
        len,
        flags,
        status: 77,
        _pad: 0,
    }];
    check_eq!(grant_table(GNTTABOP_copy, &mut elements), 0, "copy");
    Ok(elements[0].status)
}
