//! Mapping: what a mapping shows and how it ends, what is refused, and what becomes of a page in use.

use guest_abi::Errno;
use guest_abi::grant_table::{
    GNTMAP_application_map, GNTMAP_contains_pte, GNTMAP_device_map, GNTMAP_host_map,
    GNTMAP_readonly, GNTST_bad_gntref, GNTST_bad_handle, GNTST_okay, GNTTABOP_map_grant_ref,
    GNTTABOP_unmap_grant_ref, GTF_permit_access, GTF_reading, GTF_readonly, GTF_writing,
    GnttabMapGrantRef, GnttabUnmapGrantRef,
};
use guest_abi::memory::{
    XENMAPSPACE_grant_table, XENMEM_add_to_physmap, XENMEM_decrease_reservation,
    XENMEM_populate_physmap, XENMEM_remove_from_physmap, XenAddToPhysmap, XenRemoveFromPhysmap,
};
use guest_abi::xen::{__HYPERVISOR_grant_table_op, DOMID_SELF};
use guest_rt::hypercall::{self, memory as call, refused};
use guest_rt::memory::PAGE_SIZE;
use guest_rt::{Test, Verdict, check, check_eq, insn, probe};

use super::{
    FIRST_REF, OWN, element, grant, grant_table, hole, map, map_as, marks, page, pages,
    reservation, table, unmap, write,
};

pub(crate) static TESTS: &[Test] = &[
    Test::new("grant_mapping_shares_the_page", shares),
    Test::new("grant_read_only_mapping_keeps_writes_out", read_only),
    Test::new("grant_mapped_twice_ends_with_the_last", twice),
    Test::new("grant_map_refusals", map_refusals),
    Test::new("grant_unmap_refusals", unmap_refusals),
    Test::new("grant_page_given_up_while_mapped", given_up),
    Test::new("grant_mapping_goes_by_its_handle_only", by_handle_only),
    Test::new("grant_many_mappings_in_one_call", many),
];

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
    for reference in [
        FIRST_REF + 1,
        FIRST_REF + 2,
        FIRST_REF + 3,
        511,
        512,
        1 << 20,
        u32::MAX,
    ] {
        map_refused(
            "a reference that grants nothing",
            element(reference, at, GNTMAP_host_map),
        )?;
    }
    for dom in [7, 0x7000, 0x7FF1, 0x7FF4, 0xFFFF] {
        map_refused("no such granter", GnttabMapGrantRef { dom, ..good })?;
    }
    for flags in [
        0,
        GNTMAP_readonly,
        GNTMAP_device_map,
        GNTMAP_host_map | GNTMAP_application_map,
        GNTMAP_host_map | GNTMAP_contains_pte,
    ] {
        map_refused("flags", GnttabMapGrantRef { flags, ..good })?;
    }
    for host_addr in [at + 8, !0xFFF, 1 << 52] {
        map_refused("an address", GnttabMapGrantRef { host_addr, ..good })?;
    }
    check_eq!(marks(FIRST_REF)?, 0, "marks after all refusals");
    check_eq!(
        marks(FIRST_REF + 3)?,
        0,
        "marks of the entry without a page"
    );
    arrays_of_nothing()
}

/// Maps one element, which must be refused.
fn map_refused(what: &str, element: GnttabMapGrantRef) -> Verdict {
    let (status, handle) = map_as(element)?;
    if status == GNTST_okay {
        let _ = unmap(handle, element.host_addr);
    }
    check!(status < 0, "{what}: status {status}");
    Ok(())
}

/// An array that is not there, and one without elements.
fn arrays_of_nothing() -> Verdict {
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
