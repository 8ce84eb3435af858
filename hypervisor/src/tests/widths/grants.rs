//! Grants.

use super::*;

/// Has the guest's grant table, with a grant of [`SHARED`] to itself.
fn grant_shared(guest: &mut Guest) {
    let grant = GrantEntryV1 {
        flags: GTF_permit_access,
        domid: guest.runner.domain.id.get(),
        frame: (SHARED >> 12) as u32,
    };
    let table = guest.runner.domain.clone();
    let table = crate::domain::grants::frame(&table, 0).unwrap();
    let table = SharedFrame::new(table).unwrap();
    table.write_bytes(REF * 8, grant.as_bytes());
}

/// The reference of that grant.
const REF: usize = 8;

#[test]
fn grant_table_is_set_up_and_listed() {
    let outcome = alike(|guest| {
        let setup = GnttabSetupTable {
            dom: DOMID_SELF,
            nr_frames: 2,
            frame_list: ARRAY,
            ..GnttabSetupTable::default()
        };
        let setup = guest.array(GNTTABOP_setup_table, &[setup]);
        let nowhere = guest.get::<XenUlong>(ARRAY);
        let place = XenAddToPhysmap {
            domid: DOMID_SELF,
            space: XENMAPSPACE_grant_table,
            gpfn: TABLE >> 12,
            ..XenAddToPhysmap::default()
        };
        let placed = guest.with(__HYPERVISOR_memory_op, XENMEM_add_to_physmap, place);
        let listed = guest.array(GNTTABOP_setup_table, &setup.1);
        let somewhere = guest.get::<XenUlong>(ARRAY);
        let size = GnttabQuerySize {
            dom: DOMID_SELF,
            ..GnttabQuerySize::default()
        };
        let size = guest.array(GNTTABOP_query_size, &[size]);
        (
            (setup.0, nowhere.0 as u32, placed.0, listed.0, somewhere),
            size,
        )
    });
    assert_eq!(outcome.0.1, u32::MAX);
    assert_eq!(outcome.0.4, XenUlong(TABLE >> 12));
}

#[test]
fn grants_are_mapped_and_unmapped() {
    let outcome = alike(|guest| {
        grant_shared(guest);
        let own = guest.runner.domain.id.get();
        let map = |host_addr| GnttabMapGrantRef {
            host_addr,
            flags: GNTMAP_host_map,
            ref_: 8,
            dom: own,
            ..GnttabMapGrantRef::default()
        };
        let mapped = guest.array(GNTTABOP_map_grant_ref, &[map(0x40_0000), map(0x40_1000)]);
        let unmap = mapped.1.iter().map(|map| GnttabUnmapGrantRef {
            host_addr: map.host_addr,
            handle: map.handle,
            ..GnttabUnmapGrantRef::default()
        });
        let unmap: Vec<_> = unmap.collect();
        let unmapped = guest.array(GNTTABOP_unmap_grant_ref, &unmap);
        (
            mapped.0,
            mapped.1.iter().map(|map| map.status).collect::<Vec<_>>(),
            unmapped.0,
            unmapped.1.iter().map(|map| map.status).collect::<Vec<_>>(),
        )
    });
    let fine = vec![GNTST_okay; 2];
    assert_eq!(outcome, (0, fine.clone(), 0, fine));
}

#[test]
fn grants_are_copied() {
    let outcome = alike(|guest| {
        grant_shared(guest);
        let own = guest.runner.domain.id.get();
        guest.put_bytes(SHARED, b"granted");
        let copy = |offset| GnttabCopy {
            source: GnttabCopyPtr {
                u: 8,
                domid: own,
                offset: 0,
                ..GnttabCopyPtr::default()
            },
            dest: GnttabCopyPtr {
                u: AREA >> 12,
                domid: DOMID_SELF,
                offset,
                ..GnttabCopyPtr::default()
            },
            len: 7,
            flags: GNTCOPY_source_gref,
            ..GnttabCopy::default()
        };
        let copies: Vec<_> = (0..100).map(|at| copy(at * 8)).collect();
        let copied = guest.array(GNTTABOP_copy, &copies);
        let bytes: [u8; 32] = guest.get(AREA + 96 * 8);
        let statuses: Vec<_> = copied.1.iter().map(|copy| copy.status).collect();
        (copied.0, statuses, bytes)
    });
    assert_eq!((outcome.0, outcome.1), (0, vec![GNTST_okay; 100]));
    assert_eq!(&outcome.2[24..31], b"granted");
}
