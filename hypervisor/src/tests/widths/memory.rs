//! Memory that comes, goes and is told of.

use super::*;

fn reservation(guest: &Guest, gfns: &[u64]) -> XenMemoryReservation {
    let gfns: Vec<_> = gfns.iter().copied().map(XenUlong).collect();
    XenMemoryReservation {
        extent_start: guest.put_all(ARRAY, &gfns),
        nr_extents: gfns.len() as u64,
        domid: DOMID_SELF,
        ..XenMemoryReservation::default()
    }
}

#[test]
fn memory_comes_and_goes() {
    let outcome = alike(|guest| {
        let number = __HYPERVISOR_memory_op;
        let pages =
            |guest: &mut Guest| guest.with(number, XENMEM_current_reservation, DOMID_SELF).0;
        let given = reservation(guest, &[0x100, 0x101, 0x102]);
        let populated = guest.with(number, XENMEM_populate_physmap, given);
        let many = pages(guest);
        // the second is there no longer
        let taken = reservation(guest, &[0x101, 0x101, 0x102]);
        let taken = guest.with(number, XENMEM_decrease_reservation, taken);
        let fewer = pages(guest);
        // more than go in one piece
        let all: Vec<u64> = (0..70).map(|at| 0x200 + at % 7 + at / 7 * 7).collect();
        let batch = reservation(guest, &all[..40]);
        let batch = guest.with(number, XENMEM_populate_physmap, batch);
        let highest = guest.with(number, XENMEM_maximum_gpfn, DOMID_SELF).0;
        (populated, many, taken, fewer, batch.0, highest)
    });
    assert_eq!((outcome.0.0, outcome.2.0), (3, 1));
    assert_eq!(outcome.1 - outcome.3, 1);
}

#[test]
fn pages_of_other_kinds_are_mapped_and_taken_out() {
    let outcome = alike(|guest| {
        let number = __HYPERVISOR_memory_op;
        let place = XenAddToPhysmap {
            domid: DOMID_SELF,
            space: XENMAPSPACE_grant_table,
            gpfn: 0x300,
            ..XenAddToPhysmap::default()
        };
        let added = guest.with(number, XENMEM_add_to_physmap, place);
        let idxs = [0, 1, u64::from(u32::MAX)].map(XenUlong);
        let gpfns = [0x301, 0x302, 0x303].map(XenUlong);
        let batch = XenAddToPhysmapBatch {
            domid: DOMID_SELF,
            space: 1,
            size: 3,
            foreign_domid: 0,
            idxs: guest.put_all(ARRAY, &idxs),
            gpfns: guest.put_all(ARRAY + 0x100, &gpfns),
            errs: ARRAY + 0x200,
        };
        let batch = guest.with(number, XENMEM_add_to_physmap_batch, batch);
        let errors: [u8; 12] = guest.get(ARRAY + 0x200);
        let gone = XenRemoveFromPhysmap {
            domid: DOMID_SELF,
            gpfn: 0x302,
            ..XenRemoveFromPhysmap::default()
        };
        let removed = guest.with(number, XENMEM_remove_from_physmap, gone);
        let twice = guest.with(number, XENMEM_remove_from_physmap, gone);
        let places = [0x301, 0x302].map(|gfn| {
            let p2m = guest.runner.domain.p2m.lock();
            let gfn = hv_core::addr::Gfn::new(gfn);
            p2m.lookup(&hv_hw::direct_map::DirectTables, gfn).is_some()
        });
        (added.0, batch.0, errors, removed.0, twice.0, places)
    });
    assert_eq!((outcome.0, outcome.1), (0, 0));
    assert_eq!(outcome.5, [true, false]);
}

#[test]
fn a_domain_is_told_the_memory_map_that_it_gave_itself_last() {
    use guest_abi::memory::{E820Entry, XENMEM_set_memory_map, XenForeignMemoryMap};
    let outcome = alike(|guest| {
        // as it is, though they overlap
        let entry = |addr, type_| E820Entry {
            addr,
            size: 0x9000,
            type_,
        };
        let entries = [entry(0x1000, 2), entry(0, 1), entry(0x10_0000, 77)];
        guest.put_all(ARRAY, &entries);
        let map = |nr_entries| XenMemoryMap {
            nr_entries,
            buffer: ARRAY,
            ..XenMemoryMap::default()
        };
        let number = __HYPERVISOR_memory_op;
        let set = |guest: &mut Guest, domid, nr_entries| {
            let arg = XenForeignMemoryMap {
                domid,
                map: map(nr_entries),
                ..XenForeignMemoryMap::default()
            };
            guest.with(number, XENMEM_set_memory_map, arg).0
        };
        let before = guest.runner.domain.heap.bytes();
        assert_eq!(set(guest, DOMID_SELF, 3), 0);
        assert_eq!(set(guest, DOMID_SELF, 1025), refused(Errno::EINVAL));
        guest.put_all(ARRAY, &[E820Entry::default(); 3]);
        let told = guest.with(number, XENMEM_memory_map, map(2));
        assert_eq!((told.0, told.1.nr_entries), (0, 2));
        assert_eq!(
            guest.get::<[u8; 60]>(ARRAY)[40..],
            [0; 20],
            "no more than wanted"
        );
        let told = guest.with(number, XENMEM_memory_map, map(5));
        assert_eq!((told.0, told.1.nr_entries), (0, 3));
        let table: [u8; 60] = guest.get(ARRAY);
        assert_eq!(table, *entries.as_bytes());
        let charged = guest.runner.domain.heap.bytes() - before;
        assert_eq!(set(guest, DOMID_SELF, 0), 0);
        assert_eq!(guest.runner.domain.heap.bytes(), before);
        let empty = guest.with(number, XENMEM_memory_map, map(5)).0;
        assert_eq!(empty, refused(Errno::ENOSYS));
        charged
    });
    assert!(outcome == 60 || outcome == 0, "{outcome} bytes");
}

#[test]
fn guest_is_told_which_of_its_memory_is_ram() {
    const INFO: Gfn = Gfn::new(5000);
    let outcome = alike(|guest| {
        let domain = guest.runner.domain.clone();
        let mfn = domain.shared_info.mfn();
        space::map_special(&mut guest.runner.hw, &domain, mfn, INFO).unwrap();
        let ask = |domid, pfn| XenHvmGetMemType {
            domid,
            pfn,
            mem_type: 77,
            ..XenHvmGetMemType::default()
        };
        [
            ask(DOMID_SELF, AREA >> 12),
            ask(DOMID_SELF, INFO.as_u64()),
            ask(DOMID_SELF, INFO.as_u64() + 1),
            ask(DOMID_SELF, u64::MAX),
            ask(DOMID_FIRST_RESERVED - 1, 1),
        ]
        .map(|arg| {
            let (answer, arg) = guest.with(__HYPERVISOR_hvm_op, HVMOP_get_mem_type, arg);
            (answer, arg.mem_type)
        })
    });
    let [ram, nothing] = [(0, HVMMEM_ram_rw), (0, HVMMEM_mmio_dm)];
    let denied = (refused(Errno::EPERM), 77);
    assert_eq!(outcome, [ram, ram, nothing, nothing, denied]);
}
