//! What a toolstack's domain shares with one that it made: its grant table, granted pages, event channels, parameters,
//! and memory set aside.

use guest_abi::Errno;
use guest_abi::event_channel::{
    EVTCHNOP_alloc_unbound, EVTCHNOP_bind_interdomain, EVTCHNOP_status, EVTCHNSTAT_interdomain,
    EVTCHNSTAT_unbound, EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnStatus,
};
use guest_abi::grant_table::{
    GNTCOPY_source_gref, GNTMAP_host_map, GNTST_bad_domain, GNTST_okay, GTF_permit_access,
    GTF_reading, GTF_writing, GnttabCopyPtr, GnttabMapGrantRef,
};
use guest_abi::hvm::hvm_op::{HVMOP_get_param, HVMOP_set_param, XenHvmParam};
use guest_abi::hvm::params::{HVM_NR_PARAMS, HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_STORE_PFN};
use guest_abi::memory::{
    E820Entry, XENMEM_acquire_resource, XENMEM_claim_pages, XENMEM_current_reservation,
    XENMEM_maximum_gpfn, XENMEM_maximum_reservation, XENMEM_populate_physmap,
    XENMEM_remove_from_physmap, XENMEM_resource_grant_table, XENMEM_set_memory_map,
    XenForeignMemoryMap, XenMemAcquireResource, XenMemoryMap, XenMemoryReservation,
    XenRemoveFromPhysmap,
};
use guest_abi::sched::SCHEDOP_yield;
use guest_abi::sysctl::{XEN_SYSCTL_physinfo, XenSysctlPhysinfo};
use guest_abi::xen::{__HYPERVISOR_sched_op, DOMID_SELF};
use guest_rt::hypercall::{self, memory as call, refused};
use guest_rt::{Stop, Test, Verdict, check, check_eq, event, insn};

use crate::domain::{DATA_GFN, HALTING, create, destroy, free_pages, look_away, look_into};
use crate::grant::{copy, element, hole, map_as, page, reservation, side, table, unmap, write};
use crate::toolstack::sysctl;

pub(crate) static TESTS: &[Test] = &[
    Test::new("between_granted_page_outlives_its_granter", granted),
    Test::new("between_event_channel_and_its_end", channel),
    Test::new("between_parameters", parameters),
    Test::new("between_claimed_memory", claims),
    Test::new("between_reservations_and_map", reservations),
];

/// Maps the first frame of the domain's grant table at `at`.
fn acquire(domid: u16, at: u64) -> Verdict {
    let arg = XenMemAcquireResource {
        domid,
        type_: XENMEM_resource_grant_table,
        ..Default::default()
    };
    let (result, size) = call(XENMEM_acquire_resource, arg);
    check_eq!(result, 0, "size of the grant table");
    check!(size.nr_frames > 0, "{} frames", size.nr_frames);
    let gfn = at >> 12;
    let arg = XenMemAcquireResource {
        nr_frames: 1,
        frame_list: &raw const gfn as u64,
        ..arg
    };
    check_eq!(call(XENMEM_acquire_resource, arg).0, 0, "acquire_resource");
    let behind = XenMemAcquireResource {
        frame: u64::from(size.nr_frames),
        ..arg
    };
    check_eq!(
        call(XENMEM_acquire_resource, behind).0,
        refused(Errno::EINVAL),
        "a frame behind the last"
    );
    Ok(())
}

fn remove(at: u64) -> i64 {
    let arg = XenRemoveFromPhysmap {
        domid: DOMID_SELF,
        gpfn: at >> 12,
        ..Default::default()
    };
    call(XENMEM_remove_from_physmap, arg).0
}

fn granted() -> Verdict {
    const OTHERS: u64 = 0xAAAA_0001;
    table()?;
    // places first, since giving a page up may split a table of our own for good
    let (entries, at) = (hole(300)?, hole(301)?);
    let before = free_pages();
    let domid = create(&HALTING)?;
    acquire(domid, entries)?;
    write(entries, u64::from(GTF_permit_access) | DATA_GFN << 32)?;
    let window = look_into(domid, DATA_GFN)?;
    write(window + 8, OTHERS)?;
    look_away()?;
    let (status, handle) = map_as(GnttabMapGrantRef {
        dom: domid,
        ..element(0, at, GNTMAP_host_map)
    })?;
    check_eq!(status, GNTST_okay, "mapping");
    let marks = insn::peek(entries).map(|entry| entry as u16);
    check_eq!(
        marks,
        Ok(GTF_permit_access | GTF_reading | GTF_writing),
        "marks in the other's table"
    );
    check_eq!(insn::peek(at + 8), Ok(OTHERS), "the other's page");
    let source = GnttabCopyPtr {
        domid,
        ..side(0, 8)
    };
    let target = page(4)?;
    check_eq!(
        copy(source, side(target >> 12, 0), 8, GNTCOPY_source_gref)?,
        GNTST_okay,
        "copying"
    );
    check_eq!(insn::peek(target), Ok(OTHERS), "what was copied");
    destroy(domid)?;
    check_eq!(insn::peek(at + 8), Ok(OTHERS), "the page of a dead domain");
    let (status, _) = map_as(GnttabMapGrantRef {
        dom: domid,
        ..element(0, hole(302)?, GNTMAP_host_map)
    })?;
    check_eq!(status, GNTST_bad_domain, "mapping of a dead domain's page");
    check_eq!(unmap(handle, at)?, GNTST_okay, "unmapping");
    check_eq!(
        insn::peek(entries).map(|entry| entry as u16),
        Ok(GTF_permit_access),
        "marks after"
    );
    check_eq!(remove(entries), 0, "unmapping of the table");
    for index in 300..303 {
        let _ = reservation(XENMEM_populate_physmap, page(index)?);
    }
    // what is left of the domain goes when its CPU looks up
    let _ = hypercall::plain(__HYPERVISOR_sched_op, [u64::from(SCHEDOP_yield), 0]);
    // ours came back: one page for each of the first two holes, and none for the third, which was made later
    check_eq!(free_pages() + 2, before, "free pages after all");
    Ok(())
}

fn status(dom: u16, port: u32) -> Result<EvtchnStatus, Stop> {
    let arg = EvtchnStatus {
        dom,
        port,
        ..Default::default()
    };
    let (result, status) = hypercall::event_channel(EVTCHNOP_status, arg);
    check_eq!(result, 0, "status of port {port} of {dom:#x}");
    Ok(status)
}

fn channel() -> Verdict {
    table()?;
    let domid = create(&HALTING)?;
    let arg = EvtchnAllocUnbound {
        dom: domid,
        remote_dom: DOMID_SELF,
        port: 0,
    };
    let (result, theirs) = hypercall::event_channel(EVTCHNOP_alloc_unbound, arg);
    check_eq!(result, 0, "alloc_unbound for another domain");
    let waiting = status(domid, theirs.port)?;
    check_eq!(
        (waiting.status, waiting.u),
        (EVTCHNSTAT_unbound, 0),
        "their port"
    );
    let arg = EvtchnBindInterdomain {
        remote_dom: domid,
        remote_port: theirs.port,
        ..Default::default()
    };
    let (result, ours) = hypercall::event_channel(EVTCHNOP_bind_interdomain, arg);
    check_eq!(result, 0, "bind_interdomain");
    let port = ours.local_port;
    event::mask(port);
    let (here, there) = (status(DOMID_SELF, port)?, status(domid, theirs.port)?);
    check_eq!(
        (here.status, here.interdomain_port),
        (EVTCHNSTAT_interdomain, theirs.port),
        "our port"
    );
    check_eq!(
        (there.status, there.interdomain_port),
        (EVTCHNSTAT_interdomain, port),
        "their port"
    );
    let (again, _) = hypercall::event_channel(EVTCHNOP_bind_interdomain, arg);
    check!(again < 0, "a port is bound twice");
    check_eq!(event::send(port), 0, "sending to a paused domain");
    destroy(domid)?;
    check_eq!(
        status(DOMID_SELF, port)?.status,
        EVTCHNSTAT_unbound,
        "our port when the other end is gone"
    );
    check_eq!(event::send(port), 0, "sending to nobody");
    check_eq!(event::close(port), 0, "closing");
    event::take_pending(port);
    Ok(())
}

fn parameters() -> Verdict {
    table()?;
    let domid = create(&HALTING)?;
    let param = |index, value| XenHvmParam {
        domid,
        index,
        value,
        ..Default::default()
    };
    for (index, value) in [
        (HVM_PARAM_STORE_PFN, 0xFEFF8),
        (HVM_PARAM_CONSOLE_EVTCHN, 2),
    ] {
        check_eq!(
            hypercall::hvm(HVMOP_set_param, param(index, value)).0,
            0,
            "set_param {index}"
        );
        let (result, found) = hypercall::hvm(HVMOP_get_param, param(index, 0));
        check_eq!((result, found.value), (0, value), "get_param {index}");
    }
    for index in [HVM_NR_PARAMS, u32::MAX] {
        check_eq!(
            hypercall::hvm(HVMOP_set_param, param(index, 1)).0,
            refused(Errno::EINVAL),
            "set_param {index}"
        );
    }
    destroy(domid)?;
    check_eq!(
        hypercall::hvm(HVMOP_get_param, param(HVM_PARAM_STORE_PFN, 0)).0,
        refused(Errno::ESRCH),
        "get_param of a domain that is gone"
    );
    Ok(())
}

fn outstanding() -> u64 {
    sysctl(XEN_SYSCTL_physinfo, XenSysctlPhysinfo::default())
        .1
        .outstanding_pages
}

fn claims() -> Verdict {
    table()?;
    let before = outstanding();
    let domid = create(&HALTING)?;
    let claim = |pages| {
        let arg = XenMemoryReservation {
            nr_extents: pages,
            domid,
            ..Default::default()
        };
        call(XENMEM_claim_pages, arg).0
    };
    check_eq!(
        claim(3),
        refused(Errno::EINVAL),
        "more than the domain may have"
    );
    check_eq!(claim(2), refused(Errno::EINVAL), "what it has already");
    check_eq!(claim(0), 0, "ending a claim that there is not");
    let raised = crate::domctl::domctl(
        guest_abi::domctl::XEN_DOMCTL_max_mem,
        domid,
        guest_abi::domctl::XenDomctlMaxMem { max_memkb: 64 },
    );
    check_eq!(raised.0, 0, "max_mem");
    check_eq!(claim(12), 0, "claim_pages");
    check_eq!(outstanding(), before + 10, "pages set aside");
    check_eq!(claim(13), refused(Errno::EINVAL), "a second claim");
    check_eq!(
        crate::domain::populate(domid, &[DATA_GFN + 1]),
        1,
        "populate_physmap"
    );
    check_eq!(outstanding(), before + 9, "pages set aside after one");
    destroy(domid)?;
    check_eq!(outstanding(), before, "pages set aside after the domain");
    Ok(())
}

fn reservations() -> Verdict {
    table()?;
    let domid = create(&HALTING)?;
    check_eq!(call(XENMEM_current_reservation, domid).0, 2, "its pages");
    check_eq!(call(XENMEM_maximum_reservation, domid).0, 2, "its limit");
    check_eq!(
        call(XENMEM_maximum_gpfn, domid).0,
        DATA_GFN as i64,
        "its highest frame"
    );
    let entry = E820Entry {
        addr: 0,
        size: 1 << 20,
        type_: 1,
    };
    let map = |nr_entries, buffer| XenForeignMemoryMap {
        domid,
        map: XenMemoryMap {
            nr_entries,
            buffer,
            ..Default::default()
        },
        ..Default::default()
    };
    let list = &raw const entry as u64;
    check_eq!(
        call(XENMEM_set_memory_map, map(1, list)).0,
        0,
        "set_memory_map"
    );
    check!(
        call(XENMEM_set_memory_map, map(u32::MAX, list)).0 < 0,
        "set_memory_map of 2^32 - 1 entries"
    );
    check_eq!(
        call(XENMEM_set_memory_map, map(1, 5 << 30)).0,
        refused(Errno::EFAULT),
        "set_memory_map from nowhere"
    );
    destroy(domid)
}
