//! Grants, of a domain to itself: mapping, copying, what is refused, and what becomes of a page in use.

use guest_abi::Errno;
use guest_abi::Errno::{EINVAL, EPERM};
use guest_abi::grant_table::{
    GNTCOPY_dest_gref, GNTCOPY_source_gref, GNTMAP_application_map, GNTMAP_contains_pte,
    GNTMAP_device_map, GNTMAP_host_map, GNTMAP_readonly, GNTST_bad_copy_arg, GNTST_bad_domain,
    GNTST_bad_gntref, GNTST_bad_handle, GNTST_okay, GNTST_permission_denied, GNTTABOP_copy,
    GNTTABOP_get_version, GNTTABOP_map_grant_ref, GNTTABOP_query_size, GNTTABOP_set_version,
    GNTTABOP_unmap_grant_ref, GTF_permit_access, GTF_reading, GTF_readonly, GTF_writing,
    GnttabCopy, GnttabCopyPtr, GnttabGetVersion, GnttabMapGrantRef, GnttabQuerySize,
    GnttabSetVersion, GnttabUnmapGrantRef,
};
use guest_abi::memory::{
    XENMAPSPACE_gmfn_foreign, XENMAPSPACE_grant_table, XENMEM_acquire_resource,
    XENMEM_add_to_physmap, XENMEM_add_to_physmap_batch, XENMEM_current_reservation,
    XENMEM_decrease_reservation, XENMEM_populate_physmap, XENMEM_remove_from_physmap,
    XENMEM_resource_grant_table, XenAddToPhysmap, XenAddToPhysmapBatch, XenMemAcquireResource,
    XenMemoryReservation, XenRemoveFromPhysmap,
};
use guest_abi::xen::{__HYPERVISOR_grant_table_op, DOMID_SELF};
use guest_rt::hypercall::{self, memory as call, refused};
use guest_rt::memory::{PAGE_SIZE, spare_range};
use guest_rt::{Stop, Test, Verdict, check, check_eq, event, insn, probe, skip};

pub(crate) static TESTS: &[Test] = &[
    Test::new("grant_table_size_and_version", size_and_version),
    Test::new("grant_mapping_shares_the_page", shares),
    Test::new("grant_read_only_mapping_keeps_writes_out", read_only),
    Test::new("grant_mapped_twice_ends_with_the_last", twice),
    Test::new("grant_map_refusals", map_refusals),
    Test::new("grant_unmap_refusals", unmap_refusals),
    Test::new("grant_page_given_up_while_mapped", given_up),
    Test::new("grant_mapping_goes_by_its_handle_only", by_handle_only),
    Test::new("grant_many_mappings_in_one_call", many),
    Test::new("grant_copy_every_way", copies),
    Test::new("grant_copy_refusals", copy_refusals),
    Test::new("grant_sequence_of_random_operations", random),
    Test::new("foreign_pages_of_no_other_domain", foreign),
    Test::new("resource_of_no_other_domain", resource),
];

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

fn shares() -> Verdict {
    table()?;
    let (own, at) = (page(1)?, hole(2)?);
    write(own + 8, 0x1111)?;
    grant(FIRST_REF, GTF_permit_access, OWN, own)?;
    let handle = map(FIRST_REF, at, GNTMAP_host_map)?;
    let through = insn::peek(at + 8);
    write(at + 16, 0x2222)?;
    let back = insn::peek(own + 16);
    let during = marks(FIRST_REF)?;
    let status = unmap(handle, at)?;
    check_eq!(through, Ok(0x1111), "what the mapping shows");
    check_eq!(back, Ok(0x2222), "what was written through it");
    check_eq!(during, GTF_reading | GTF_writing, "marks while mapped");
    check_eq!(status, GNTST_okay, "unmapping");
    check_eq!(marks(FIRST_REF)?, 0, "marks after");
    check_eq!(insn::peek(at + 8), Ok(u64::MAX), "the place after");
    check_eq!(insn::peek(own + 8), Ok(0x1111), "the page after");
    Ok(())
}

fn read_only() -> Verdict {
    table()?;
    let (own, at) = (page(1)?, hole(2)?);
    write(own, 0x3333)?;
    grant(FIRST_REF, GTF_permit_access | GTF_readonly, OWN, own)?;
    let (status, _) = map_as(element(FIRST_REF, at, GNTMAP_host_map))?;
    check_eq!(
        status,
        GNTST_bad_gntref,
        "mapping to write what may be read"
    );
    let handle = map(FIRST_REF, at, GNTMAP_host_map | GNTMAP_readonly)?;
    let during = marks(FIRST_REF)?;
    let through = insn::peek(at);
    let _ = probe::write_spare(at, 0x4444);
    let after = insn::peek(own);
    let status = unmap(handle, at)?;
    check_eq!(during, GTF_reading, "marks while mapped");
    check_eq!(through, Ok(0x3333), "what the mapping shows");
    check_eq!(after, Ok(0x3333), "the page after a write to the mapping");
    check_eq!(status, GNTST_okay, "unmapping");
    Ok(())
}

fn twice() -> Verdict {
    table()?;
    let (own, first, second) = (page(1)?, hole(2)?, hole(3)?);
    grant(FIRST_REF, GTF_permit_access, OWN, own)?;
    let reader = map(FIRST_REF, first, GNTMAP_host_map | GNTMAP_readonly)?;
    let one = marks(FIRST_REF)?;
    let writer = map(FIRST_REF, second, GNTMAP_host_map)?;
    let two = marks(FIRST_REF)?;
    check!(reader != writer, "two mappings with one handle");
    check_eq!(unmap(writer, second)?, GNTST_okay, "unmapping the writer");
    let left = marks(FIRST_REF)?;
    check_eq!(unmap(reader, first)?, GNTST_okay, "unmapping the reader");
    check_eq!(one, GTF_reading, "marks with a reader");
    check_eq!(two, GTF_reading | GTF_writing, "marks with both");
    check_eq!(left, GTF_reading, "marks with the reader left");
    check_eq!(marks(FIRST_REF)?, 0, "marks with none");
    Ok(())
}

fn map_refusals() -> Verdict {
    table()?;
    let (own, at) = (page(1)?, hole(2)?);
    grant(FIRST_REF, GTF_permit_access, OWN, own)?;
    grant(FIRST_REF + 1, GTF_permit_access, 7, own)?;
    grant(FIRST_REF + 2, 0, OWN, own)?;
    grant(FIRST_REF + 3, GTF_permit_access, OWN, 0xF_FFFF << 12)?;
    let good = element(FIRST_REF, at, GNTMAP_host_map);
    let expect = |what: &str, element: GnttabMapGrantRef| -> Verdict {
        let (status, handle) = map_as(element)?;
        if status == GNTST_okay {
            let _ = unmap(handle, element.host_addr);
        }
        check!(status < 0, "{what}: status {status}");
        Ok(())
    };
    for reference in [
        FIRST_REF + 1,
        FIRST_REF + 2,
        FIRST_REF + 3,
        511,
        512,
        1 << 20,
        u32::MAX,
    ] {
        expect(
            "a reference that grants nothing",
            element(reference, at, GNTMAP_host_map),
        )?;
    }
    for dom in [7, 0x7000, 0x7FF1, 0x7FF4, 0xFFFF] {
        expect("no such granter", GnttabMapGrantRef { dom, ..good })?;
    }
    for flags in [
        0,
        GNTMAP_readonly,
        GNTMAP_device_map,
        GNTMAP_host_map | GNTMAP_application_map,
        GNTMAP_host_map | GNTMAP_contains_pte,
    ] {
        expect("flags", GnttabMapGrantRef { flags, ..good })?;
    }
    for host_addr in [at + 8, !0xFFF, 1 << 52] {
        expect("an address", GnttabMapGrantRef { host_addr, ..good })?;
    }
    check_eq!(marks(FIRST_REF)?, 0, "marks after all refusals");
    check_eq!(
        marks(FIRST_REF + 3)?,
        0,
        "marks of the entry without a page"
    );
    check_eq!(
        hypercall::with_array(
            __HYPERVISOR_grant_table_op,
            GNTTABOP_map_grant_ref,
            5 << 30,
            1
        ),
        refused(Errno::EFAULT),
        "an array nowhere"
    );
    check_eq!(
        hypercall::with_array(__HYPERVISOR_grant_table_op, GNTTABOP_map_grant_ref, 0, 0),
        0,
        "an empty array"
    );
    Ok(())
}

fn unmap_refusals() -> Verdict {
    table()?;
    let (own, at) = (page(1)?, hole(2)?);
    grant(FIRST_REF, GTF_permit_access, OWN, own)?;
    let handle = map(FIRST_REF, at, GNTMAP_host_map)?;
    for wrong in [handle + 1, handle ^ 0x1000, u32::MAX] {
        check_eq!(unmap(wrong, at)?, GNTST_bad_handle, "handle {wrong:#x}");
    }
    for wrong in [own, at + PAGE_SIZE, at + 4, !0xFFF] {
        check!(unmap(handle, wrong)? < 0, "unmapping at {wrong:#x}");
    }
    check_eq!(
        marks(FIRST_REF)?,
        GTF_reading | GTF_writing,
        "marks after all refusals"
    );
    check_eq!(unmap(handle, at)?, GNTST_okay, "unmapping");
    check_eq!(unmap(handle, at)?, GNTST_bad_handle, "unmapping again");
    check_eq!(marks(FIRST_REF)?, 0, "marks after");
    Ok(())
}

/// A page that its owner gives up stays until the last mapping of it ends; then it is free, and clean.
fn given_up() -> Verdict {
    table()?;
    let (own, at) = (page(1)?, hole(2)?);
    write(own, 0x5555)?;
    let before = pages();
    grant(FIRST_REF, GTF_permit_access, OWN, own)?;
    let handle = map(FIRST_REF, at, GNTMAP_host_map)?;
    check_eq!(
        reservation(XENMEM_decrease_reservation, own),
        1,
        "giving the page up"
    );
    let gone = insn::peek(own);
    let through = insn::peek(at);
    let early = reservation(XENMEM_populate_physmap, own);
    // the entry names a place without a page by now, but stands for the page that is mapped
    let second = map(FIRST_REF, hole(3)?, GNTMAP_host_map | GNTMAP_readonly)?;
    let again = insn::peek(page(3)?);
    check_eq!(unmap(second, page(3)?)?, GNTST_okay, "unmapping the second");
    let status = unmap(handle, at)?;
    let late = reservation(XENMEM_populate_physmap, own);
    check_eq!(gone, Ok(u64::MAX), "the place of the page given up");
    check_eq!(through, Ok(0x5555), "the mapping of the page given up");
    check_eq!(again, Ok(0x5555), "a second mapping of it");
    check!(early <= 0, "the frame was given again while it was mapped");
    check_eq!(status, GNTST_okay, "unmapping");
    check_eq!(late, 1, "populate_physmap after");
    check_eq!(insn::peek(own), Ok(0), "what the page holds then");
    check_eq!(pages(), before, "pages after all");
    Ok(())
}

fn by_handle_only() -> Verdict {
    let table = table()?;
    let (own, at) = (page(1)?, hole(2)?);
    write(own, 0x6666)?;
    grant(FIRST_REF, GTF_permit_access, OWN, own)?;
    let handle = map(FIRST_REF, at, GNTMAP_host_map)?;
    let removed = call(
        XENMEM_remove_from_physmap,
        XenRemoveFromPhysmap {
            domid: DOMID_SELF,
            _pad: [0; 6],
            gpfn: at >> 12,
        },
    )
    .0;
    let given_up = reservation(XENMEM_decrease_reservation, at);
    let populated = reservation(XENMEM_populate_physmap, at);
    let replaced = call(
        XENMEM_add_to_physmap,
        XenAddToPhysmap {
            domid: DOMID_SELF,
            size: 0,
            space: XENMAPSPACE_grant_table,
            idx: 0,
            gpfn: at >> 12,
        },
    )
    .0;
    let (mapped_over, other) = map_as(element(FIRST_REF, at, GNTMAP_host_map))?;
    if mapped_over == GNTST_okay {
        let _ = unmap(other, at);
    }
    // a mapping is nothing to grant on
    grant(FIRST_REF + 1, GTF_permit_access, OWN, at)?;
    let (granted_on, third) = map_as(element(FIRST_REF + 1, hole(3)?, GNTMAP_host_map))?;
    if granted_on == GNTST_okay {
        let _ = unmap(third, page(3)?);
    }
    let through = insn::peek(at);
    let status = unmap(handle, at)?;
    check!(removed < 0, "remove_from_physmap of a mapping");
    check!(given_up <= 0, "decrease_reservation of a mapping");
    check!(populated <= 0, "populate_physmap over a mapping");
    check!(replaced < 0, "add_to_physmap over a mapping");
    check!(mapped_over < 0, "a mapping over a mapping");
    check!(granted_on < 0, "a grant of a mapping");
    check_eq!(through, Ok(0x6666), "what the mapping shows after all");
    check_eq!(status, GNTST_okay, "unmapping");
    check_eq!(
        insn::peek(table).map(|_| ()),
        Ok(()),
        "the grant table is where it was"
    );
    Ok(())
}

/// More elements than are done in one go, with refusals among them.
fn many() -> Verdict {
    const COUNT: usize = 150;
    const PLACES: u64 = 100;
    table()?;
    let own = page(1)?;
    write(own, 0x7777)?;
    grant(FIRST_REF, GTF_permit_access, OWN, own)?;
    let place = |index: usize| Ok(page(PLACES)? + index as u64 * PAGE_SIZE);
    let mut maps = [GnttabMapGrantRef::default(); COUNT];
    for (index, map) in maps.iter_mut().enumerate() {
        hole(PLACES + index as u64)?;
        let reference = if index % 10 == 3 { 400 } else { FIRST_REF };
        *map = element(reference, place(index)?, GNTMAP_host_map);
    }
    check_eq!(
        grant_table(GNTTABOP_map_grant_ref, &mut maps),
        0,
        "map_grant_ref"
    );
    let mut unmaps = [GnttabUnmapGrantRef::default(); COUNT];
    for (index, (map, unmap)) in maps.iter().zip(unmaps.iter_mut()).enumerate() {
        let expected = if index % 10 == 3 {
            GNTST_bad_gntref
        } else {
            GNTST_okay
        };
        check_eq!(map.status, expected, "status of element {index}");
        let is_there = insn::peek(place(index)?) == Ok(0x7777);
        check_eq!(is_there, expected == GNTST_okay, "mapping {index}");
        let handle = if is_there { map.handle } else { u32::MAX };
        *unmap = GnttabUnmapGrantRef {
            host_addr: place(index)?,
            handle,
            ..Default::default()
        };
    }
    check_eq!(
        grant_table(GNTTABOP_unmap_grant_ref, &mut unmaps),
        0,
        "unmap_grant_ref"
    );
    for (index, unmap) in unmaps.iter().enumerate() {
        let expected = if index % 10 == 3 {
            GNTST_bad_handle
        } else {
            GNTST_okay
        };
        check_eq!(unmap.status, expected, "status of element {index}");
        check_eq!(insn::peek(place(index)?), Ok(u64::MAX), "place {index}");
    }
    check_eq!(marks(FIRST_REF)?, 0, "marks after");
    for index in 0..COUNT {
        let back = reservation(XENMEM_populate_physmap, place(index)?);
        check_eq!(back, 1, "populate_physmap of place {index}");
    }
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

fn copies() -> Verdict {
    table()?;
    let (from, to) = (page(1)?, page(4)?);
    grant(FIRST_REF, GTF_permit_access | GTF_readonly, OWN, from)?;
    grant(FIRST_REF + 1, GTF_permit_access, OWN, to)?;
    let ways = [
        (0, from >> 12, to >> 12),
        (GNTCOPY_source_gref, u64::from(FIRST_REF), to >> 12),
        (GNTCOPY_dest_gref, from >> 12, u64::from(FIRST_REF + 1)),
        (
            GNTCOPY_source_gref | GNTCOPY_dest_gref,
            u64::from(FIRST_REF),
            u64::from(FIRST_REF + 1),
        ),
    ];
    for (flags, source, dest) in ways {
        for word in 0..512 {
            write(from + word * 8, word << 32 | u64::from(flags))?;
            write(to + word * 8, u64::MAX)?;
        }
        let granter = |is_reference, side: GnttabCopyPtr| {
            let domid = if is_reference { OWN } else { DOMID_SELF };
            GnttabCopyPtr { domid, ..side }
        };
        let part = copy(
            granter(flags & GNTCOPY_source_gref != 0, side(source, 8)),
            granter(flags & GNTCOPY_dest_gref != 0, side(dest, 24)),
            1000,
            flags,
        )?;
        check_eq!(part, GNTST_okay, "status of a copy with flags {flags}");
        let word = |index: u64| insn::peek(to + index * 8);
        check_eq!(word(2), Ok(u64::MAX), "the word before");
        check_eq!(word(3), Ok(1 << 32 | u64::from(flags)), "the first word");
        check_eq!(word(127), Ok(125 << 32 | u64::from(flags)), "the last word");
        check_eq!(word(128), Ok(u64::MAX), "the word behind");
        let whole = copy(side(source, 0), side(dest, 0), 4096, flags)?;
        check_eq!(whole, GNTST_okay, "status of a whole page");
        check_eq!(
            word(511),
            Ok(511 << 32 | u64::from(flags)),
            "the last of all"
        );
    }
    check_eq!(marks(FIRST_REF)? | marks(FIRST_REF + 1)?, 0, "marks after");
    Ok(())
}

fn copy_refusals() -> Verdict {
    table()?;
    let (from, to) = (page(1)?, page(4)?);
    let hole = hole(2)? >> 12;
    write(to, 0x8888)?;
    grant(FIRST_REF, GTF_permit_access | GTF_readonly, OWN, to)?;
    grant(FIRST_REF + 1, GTF_permit_access, 7, from)?;
    let (from, to) = (from >> 12, to >> 12);
    check_eq!(
        copy(side(from, 4000), side(to, 0), 97, 0)?,
        GNTST_bad_copy_arg,
        "over the end of the source"
    );
    check_eq!(
        copy(side(from, 0), side(to, 65535), 65535, 0)?,
        GNTST_bad_copy_arg,
        "over the end of the target"
    );
    let others = GnttabCopyPtr {
        domid: 7,
        ..side(from, 0)
    };
    check_eq!(
        copy(others, side(to, 0), 8, 0)?,
        GNTST_permission_denied,
        "from another domain's page"
    );
    check_eq!(
        copy(others, side(to, 0), 8, GNTCOPY_source_gref)?,
        GNTST_bad_domain,
        "from no domain's grant"
    );
    for frame in [hole, 0xFEE00, 1 << 40, u64::MAX] {
        check!(
            copy(side(frame, 0), side(to, 0), 8, 0)? < 0,
            "from {frame:#x}"
        );
        check!(
            copy(side(from, 0), side(frame, 0), 8, 0)? < 0,
            "to {frame:#x}"
        );
    }
    let reference = u64::from(FIRST_REF);
    check_eq!(
        copy(side(from, 0), side(reference, 0), 8, GNTCOPY_dest_gref)?,
        GNTST_bad_gntref,
        "to a page that may be read"
    );
    for reference in [FIRST_REF + 1, 400, 512, u32::MAX] {
        let source = side(u64::from(reference), 0);
        check_eq!(
            copy(source, side(to, 0), 8, GNTCOPY_source_gref)?,
            GNTST_bad_gntref,
            "from reference {reference}"
        );
    }
    check_eq!(insn::peek(to << 12), Ok(0x8888), "the target after all");
    check_eq!(marks(FIRST_REF)?, 0, "marks after");
    Ok(())
}

/// Maps and unmaps in an order that a generator picks; what is visible where follows a table kept beside.
fn random() -> Verdict {
    const PAGES: u64 = 4;
    const PLACES: u64 = 8;
    table()?;
    for index in 0..PAGES {
        let own = page(10 + index)?;
        write(own, 0xA000 + index)?;
        grant(FIRST_REF + index as u32, GTF_permit_access, OWN, own)?;
    }
    for index in 0..PLACES {
        hole(20 + index)?;
    }
    let mut shown: [Option<(u32, u64)>; PLACES as usize] = [None; PLACES as usize];
    let mut seed = 0x1234_5678_9ABC_DEF1u64;
    for round in 0..400 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let (place, own) = (seed % PLACES, seed / PLACES % PAGES);
        let at = page(20 + place)?;
        let slot = &mut shown[place as usize];
        match *slot {
            Some((handle, _)) => {
                check_eq!(unmap(handle, at)?, GNTST_okay, "unmapping in round {round}");
                *slot = None;
            }
            None => {
                let handle = map(FIRST_REF + own as u32, at, GNTMAP_host_map)?;
                *slot = Some((handle, own));
            }
        }
        for (index, slot) in shown.iter().enumerate() {
            let expected = slot.map_or(u64::MAX, |(_, own)| 0xA000 + own);
            let found = insn::peek(page(20 + index as u64)?);
            check_eq!(found, Ok(expected), "place {index} in round {round}");
        }
    }
    for (index, slot) in shown.iter().enumerate() {
        if let Some((handle, _)) = slot {
            let at = page(20 + index as u64)?;
            check_eq!(unmap(*handle, at)?, GNTST_okay, "unmapping at the end");
        }
    }
    for index in 0..PAGES {
        check_eq!(marks(FIRST_REF + index as u32)?, 0, "marks of page {index}");
    }
    Ok(())
}

fn foreign() -> Verdict {
    table()?;
    let (own, at) = (page(1)?, hole(2)?);
    for (foreign_domid, expected) in [
        (DOMID_SELF, Errno::EINVAL),
        (OWN, Errno::EINVAL),
        (0x7000, Errno::ESRCH),
        (0x7FF1, Errno::ESRCH),
    ] {
        let (idx, gpfn, mut error) = (own >> 12, at >> 12, 77i32);
        let arg = XenAddToPhysmapBatch {
            domid: DOMID_SELF,
            space: XENMAPSPACE_gmfn_foreign as u16,
            size: 1,
            foreign_domid,
            idxs: &raw const idx as u64,
            gpfns: &raw const gpfn as u64,
            errs: &raw mut error as u64,
        };
        let result = call(XENMEM_add_to_physmap_batch, arg).0;
        check!(
            result < 0 || error == expected.to_i32(),
            "page of {foreign_domid:#x}: {result}, {error}"
        );
        check_eq!(insn::peek(at), Ok(u64::MAX), "the place after");
    }
    Ok(())
}

fn resource() -> Verdict {
    table()?;
    let arg = |domid| XenMemAcquireResource {
        domid,
        type_: XENMEM_resource_grant_table,
        ..Default::default()
    };
    for (domid, expected) in [(OWN, EPERM), (0x7000, Errno::ESRCH)] {
        check_eq!(
            call(XENMEM_acquire_resource, arg(domid)).0,
            refused(expected),
            "grant table of {domid:#x}"
        );
    }
    let padded = XenMemAcquireResource {
        pad: 1,
        ..arg(0x7000)
    };
    check_eq!(
        call(XENMEM_acquire_resource, padded).0,
        refused(EINVAL),
        "padding that is not 0"
    );
    Ok(())
}
