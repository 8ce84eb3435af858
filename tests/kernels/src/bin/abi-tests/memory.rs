//! Memory: what is the guest's, what is not, and the balloon of a domain whose memory is identity-mapped.

use guest_abi::Errno::{EFAULT, ESRCH};
use guest_abi::arch_x86::hvm::start_info::XEN_HVM_MEMMAP_TYPE_UNUSABLE;
use guest_abi::memory::{
    XENMAPSPACE_shared_info, XENMEM_add_to_physmap, XENMEM_current_reservation,
    XENMEM_decrease_reservation, XENMEM_maximum_gpfn, XENMEM_maximum_reservation,
    XENMEM_memory_map, XENMEM_populate_physmap, XENMEM_remove_from_physmap, XenAddToPhysmap,
    XenMemoryMap, XenMemoryReservation, XenRemoveFromPhysmap,
};
use guest_abi::xen::DOMID_SELF;
use guest_rt::hypercall::{memory as call, refused};
use guest_rt::memory::{MAPPED_END, PAGE_SIZE, for_each_range, spare_range};
use guest_rt::{Stop, Test, Verdict, check, check_eq, event, hypercall, insn, probe, skip};

pub(crate) static TESTS: &[Test] = &[
    Test::new("memory_spare_ram_holds_what_is_written", ram),
    Test::new("memory_not_given_cannot_be_touched", not_given),
    Test::new("memory_map_by_hypercall", map_by_hypercall),
    Test::new("memory_reservation_counts", counts),
    Test::new("balloon_own_frame_comes_back_zeroed", own_frame),
    Test::new("balloon_many_frames", many_frames),
    Test::new("balloon_2_mib_extent", big_extent),
    Test::new("balloon_frame_given_up_is_gone", frame_is_gone),
    Test::new("balloon_foreign_frames_are_refused", foreign),
    Test::new("balloon_bad_arguments", bad_arguments),
    Test::new("physmap_shared_info_moves", shared_info_moves),
    Test::new("physmap_remove", remove),
];

/// First page of the spare range that these tests use; those before belong to other tests.
const FIRST_PAGE: u64 = 16;

fn spare() -> Result<u64, Stop> {
    match spare_range() {
        Some(start) => Ok(start + FIRST_PAGE * PAGE_SIZE),
        None => Err(guest_rt::broken!("no spare RAM")),
    }
}

fn need_dom0() -> Verdict {
    if !hypercall::present() {
        skip!("no hypervisor");
    }
    if insn::cpuid(0x4000_0004, 0).ecx != 0 {
        skip!("not dom0");
    }
    Ok(())
}

/// `op` on extents of 2^`order` pages at these frames.
fn reservation(op: u32, frames: &[u64], order: u32) -> i64 {
    let arg = XenMemoryReservation {
        extent_start: frames.as_ptr() as u64,
        nr_extents: frames.len() as u64,
        extent_order: order,
        mem_flags: 0,
        domid: DOMID_SELF,
        _pad: [0; 6],
    };
    call(op, arg).0
}

fn pages() -> i64 {
    call(XENMEM_current_reservation, DOMID_SELF).0
}

fn ram() -> Verdict {
    let start = spare()?;
    for page in 0..1024 {
        let at = start + page * PAGE_SIZE;
        check!(
            probe::write_spare(at, at ^ 0x5A5A).is_ok(),
            "write at {at:#x} faults"
        );
    }
    insn::flush_tlb();
    for page in 0..1024 {
        let at = start + page * PAGE_SIZE;
        check_eq!(insn::peek(at), Ok(at ^ 0x5A5A), "page at {at:#x}");
    }
    Ok(())
}

/// RAM of the host that the map calls unusable (the hypervisor's own is there) reads all-ones and keeps no write.
fn not_given() -> Verdict {
    need_dom0()?;
    let mut places = [0u64; 16];
    let mut count = 0;
    for_each_range(|start, size, kind| {
        if kind == XEN_HVM_MEMMAP_TYPE_UNUSABLE {
            for at in [start, start + size / 2, start + size - PAGE_SIZE] {
                if count < places.len() && at < MAPPED_END {
                    places[count] = at & !7;
                    count += 1;
                }
            }
        }
    });
    if count == 0 {
        skip!("no unusable range below 4 GiB");
    }
    for &at in &places[..count] {
        check_eq!(insn::peek(at), Ok(u64::MAX), "read at {at:#x}");
        check!(
            probe::write_not_given(at, 0x1234).is_ok(),
            "write at {at:#x} faults in the guest"
        );
        check_eq!(
            insn::peek(at),
            Ok(u64::MAX),
            "read at {at:#x} after a write"
        );
    }
    Ok(())
}

fn map_by_hypercall() -> Verdict {
    event::setup()?;
    let (result, answer) = call(
        XENMEM_memory_map,
        XenMemoryMap {
            nr_entries: 0,
            _pad: 0,
            buffer: 0,
        },
    );
    check!(
        result <= 0,
        "memory_map with no room: {result}, {} entries",
        answer.nr_entries
    );
    let map = XenMemoryMap {
        nr_entries: 128,
        _pad: 0,
        buffer: 5 << 30,
    };
    check_eq!(
        call(XENMEM_memory_map, map).0,
        refused(EFAULT),
        "memory_map to nowhere"
    );
    Ok(())
}

fn counts() -> Verdict {
    event::setup()?;
    let (current, maximum) = (pages(), call(XENMEM_maximum_reservation, DOMID_SELF).0);
    check!(
        current > 0 && maximum >= current,
        "{current} pages of at most {maximum}"
    );
    let highest = call(XENMEM_maximum_gpfn, DOMID_SELF).0;
    check!(
        highest >= (entry_end() >> 12) as i64,
        "highest frame {highest:#x}"
    );
    check_eq!(
        call(XENMEM_current_reservation, 0x7000u16).0,
        refused(ESRCH),
        "pages of no domain"
    );
    Ok(())
}

fn entry_end() -> u64 {
    guest_rt::entry::image().1 - PAGE_SIZE
}

fn own_frame() -> Verdict {
    need_dom0()?;
    event::setup()?;
    let at = spare()?;
    check!(probe::write_spare(at, 0xDEAD_BEEF).is_ok(), "write faults");
    let before = pages();
    check_eq!(
        reservation(XENMEM_decrease_reservation, &[at >> 12], 0),
        1,
        "decrease_reservation"
    );
    check_eq!(pages(), before - 1, "pages after");
    check_eq!(
        reservation(XENMEM_populate_physmap, &[at >> 12], 0),
        1,
        "populate_physmap of the same frame"
    );
    check_eq!(pages(), before, "pages after both");
    check_eq!(insn::peek(at), Ok(0), "what the frame holds");
    check!(probe::write_spare(at, 0x1234).is_ok(), "write faults");
    check_eq!(insn::peek(at), Ok(0x1234), "what was written");
    Ok(())
}

fn many_frames() -> Verdict {
    need_dom0()?;
    let first = spare()? >> 12;
    let frames: [u64; 512] = core::array::from_fn(|index| first + index as u64);
    let before = pages();
    for round in 0..3 {
        check_eq!(
            reservation(XENMEM_decrease_reservation, &frames, 0),
            512,
            "decrease_reservation, round {round}"
        );
        check_eq!(pages(), before - 512, "pages between");
        check_eq!(
            reservation(XENMEM_populate_physmap, &frames, 0),
            512,
            "populate_physmap, round {round}"
        );
        check_eq!(pages(), before, "pages after");
    }
    for frame in frames {
        check_eq!(insn::peek(frame << 12), Ok(0), "frame {frame:#x}");
    }
    Ok(())
}

fn big_extent() -> Verdict {
    need_dom0()?;
    let first = (spare()? >> 12).next_multiple_of(512);
    let before = pages();
    check_eq!(
        reservation(XENMEM_decrease_reservation, &[first], 9),
        1,
        "decrease_reservation of 2 MiB"
    );
    check_eq!(pages(), before - 512, "pages between");
    check_eq!(
        reservation(XENMEM_populate_physmap, &[first], 9),
        1,
        "populate_physmap of 2 MiB"
    );
    check_eq!(pages(), before, "pages after");
    check_eq!(insn::peek((first + 511) << 12), Ok(0), "last frame");
    Ok(())
}

fn frame_is_gone() -> Verdict {
    need_dom0()?;
    let at = spare()?;
    check_eq!(
        reservation(XENMEM_decrease_reservation, &[at >> 12], 0),
        1,
        "decrease_reservation"
    );
    let read = insn::peek(at);
    let written = probe::write_spare(at, 0x1234);
    let again = insn::peek(at);
    let twice = reservation(XENMEM_decrease_reservation, &[at >> 12], 0);
    let back = reservation(XENMEM_populate_physmap, &[at >> 12], 0);
    check_eq!(read, Ok(u64::MAX), "read of the frame given up");
    check!(
        written.is_ok(),
        "write to the frame given up faults in the guest"
    );
    check_eq!(again, Ok(u64::MAX), "read after the write");
    check!(twice <= 0, "the frame can be given up twice");
    check_eq!(back, 1, "populate_physmap of the same frame");
    Ok(())
}

/// dom0 may have back what was its own, and nothing else.
fn foreign() -> Verdict {
    need_dom0()?;
    let mut taken = None;
    for_each_range(|start, size, kind| {
        if kind == XEN_HVM_MEMMAP_TYPE_UNUSABLE {
            for frame in [start >> 12, (start + size / 2) >> 12] {
                if reservation(XENMEM_populate_physmap, &[frame], 0) > 0 {
                    taken = Some(frame);
                }
            }
        }
    });
    check!(
        taken.is_none(),
        "populate_physmap gave dom0 frame {taken:x?}"
    );
    for frame in [0xFEE00, 0xA0, (1 << 40) - 1, u64::MAX >> 12, u64::MAX] {
        check!(
            reservation(XENMEM_populate_physmap, &[frame], 0) <= 0,
            "populate_physmap at frame {frame:#x}"
        );
    }
    Ok(())
}

fn bad_arguments() -> Verdict {
    need_dom0()?;
    let before = pages();
    let at = spare()? >> 12;
    let arg = |extent_start, nr_extents, extent_order, domid| XenMemoryReservation {
        extent_start,
        nr_extents,
        extent_order,
        mem_flags: 0,
        domid,
        _pad: [0; 6],
    };
    for op in [XENMEM_decrease_reservation, XENMEM_populate_physmap] {
        check!(
            call(op, arg(0, 1, 0, 0x7000)).0 <= 0,
            "operation {op} on no domain"
        );
        check!(
            call(op, arg(5 << 30, 1, 0, DOMID_SELF)).0 <= 0,
            "operation {op}, list nowhere"
        );
        check!(
            call(op, arg((&raw const at) as u64, 1, 63, DOMID_SELF)).0 <= 0,
            "operation {op}, order 63"
        );
        check!(
            call(op, arg(0, u64::MAX, 0, DOMID_SELF)).0 <= 0,
            "operation {op}, 2^64 - 1 extents"
        );
        check_eq!(
            call(op, arg(0, 0, 0, DOMID_SELF)).0,
            0,
            "operation {op} on nothing"
        );
    }
    for frame in [(1 << 40) - 1, u64::MAX] {
        check!(
            reservation(XENMEM_decrease_reservation, &[frame], 0) <= 0,
            "decrease_reservation of frame {frame:#x}"
        );
    }
    check_eq!(pages(), before, "pages after all refusals");
    Ok(())
}

fn shared_info_moves() -> Verdict {
    need_dom0()?;
    event::setup()?;
    let at = spare()?;
    let add = |gpfn| {
        let space = XENMAPSPACE_shared_info;
        call(
            XENMEM_add_to_physmap,
            XenAddToPhysmap {
                domid: DOMID_SELF,
                size: 0,
                space,
                idx: 0,
                gpfn,
            },
        )
        .0
    };
    let mask = insn::peek(event::shared_info_address() + 2560);
    check_eq!(add(at >> 12), 0, "add_to_physmap to another frame");
    let moved = insn::peek(at + 2560);
    let left = insn::peek(event::shared_info_address() + 2560);
    let back = event::map_shared_info();
    let refilled = reservation(XENMEM_populate_physmap, &[at >> 12], 0);
    back?;
    check_eq!(moved, mask, "the event mask in the new place");
    check_eq!(left, Ok(u64::MAX), "what is left in the old place");
    check_eq!(
        insn::peek(event::shared_info_address() + 2560),
        mask,
        "the event mask back in its place"
    );
    check_eq!(refilled, 1, "populate_physmap of the frame it was moved to");
    check!(add(u64::MAX) < 0, "add_to_physmap at no frame");
    event::map_shared_info()
}

fn remove() -> Verdict {
    need_dom0()?;
    let at = spare()?;
    let arg = |gpfn| XenRemoveFromPhysmap {
        domid: DOMID_SELF,
        _pad: [0; 6],
        gpfn,
    };
    check!(
        call(XENMEM_remove_from_physmap, arg(u64::MAX)).0 < 0,
        "remove of no frame"
    );
    check_eq!(
        call(XENMEM_remove_from_physmap, arg(at >> 12)).0,
        0,
        "remove of RAM"
    );
    check_eq!(insn::peek(at), Ok(u64::MAX), "read of the frame removed");
    // Xen leaves the page with the domain, so that it may have no room for another
    let back = reservation(XENMEM_populate_physmap, &[at >> 12], 0);
    check!(
        back == 0 || back == 1,
        "populate_physmap of the same frame: {back}"
    );
    Ok(())
}
