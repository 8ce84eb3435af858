//! Domains that a test in dom0's place makes by the toolstack's calls: their life, their end, and that nothing is left.

use guest_abi::Errno;
use guest_abi::domctl::{
    XEN_DOMCTL_CDF_hap, XEN_DOMCTL_CDF_hvm, XEN_DOMCTL_INTERFACE_VERSION, XEN_DOMCTL_createdomain,
    XEN_DOMCTL_destroydomain, XEN_DOMCTL_getdomaininfo, XEN_DOMCTL_max_mem, XEN_DOMCTL_max_vcpus,
    XEN_DOMCTL_pausedomain, XEN_DOMCTL_sethvmcontext, XEN_DOMCTL_soft_reset,
    XEN_DOMCTL_unpausedomain, XEN_DOMINF_blocked, XEN_DOMINF_paused, XEN_DOMINF_shutdown,
    XEN_DOMINF_shutdownshift, XenDomctl, XenDomctlCreatedomain, XenDomctlGetdomaininfo,
    XenDomctlHvmcontext, XenDomctlMaxMem, XenDomctlMaxVcpus,
};
use guest_abi::event_channel::{EVTCHNOP_alloc_unbound, EvtchnAllocUnbound};
use guest_abi::hvm::save::{
    HVM_FILE_MAGIC, HVM_FILE_VERSION, HVM_SAVE_CODE_CPU, HVM_SAVE_CODE_END, HVM_SAVE_CODE_HEADER,
    HvmHwCpu, HvmSaveDescriptor, HvmSaveHeader, segment,
};
use guest_abi::memory::{
    XENMAPSPACE_gmfn_foreign, XENMEM_add_to_physmap_batch, XENMEM_populate_physmap,
    XENMEM_remove_from_physmap, XenAddToPhysmapBatch, XenMemoryReservation, XenRemoveFromPhysmap,
};
use guest_abi::sched::{
    SCHEDOP_yield, SHUTDOWN_crash, SHUTDOWN_poweroff, SHUTDOWN_reboot, SHUTDOWN_soft_reset,
};
use guest_abi::sysctl::{XEN_SYSCTL_physinfo, XenSysctlPhysinfo};
use guest_abi::xen::{
    __HYPERVISOR_domctl, __HYPERVISOR_sched_op, DOMID_SELF, VIRQ_DOM_EXC, XEN_X86_EMU_LAPIC,
};
use guest_rt::hypercall::{self, memory as call, refused};
use guest_rt::memory::{PAGE_SIZE, spare_range};
use guest_rt::{Stop, Test, Verdict, check, check_eq, event, insn, probe, skip};
use zerocopy::{FromZeros, IntoBytes};

use crate::domctl::domctl;
use crate::toolstack::sysctl;

pub(crate) static TESTS: &[Test] = &[
    Test::new("domctl_of_another_version_is_refused", other_version),
    Test::new("domctl_of_no_domain_is_refused", no_domain),
    Test::new("domain_cannot_be_what_is_not_supported", unsupported),
    Test::new("domain_runs_and_reboots", runs),
    Test::new("domain_that_halts_for_ever_is_off", halts),
    Test::new("domain_that_triple_faults_has_crashed", crashes),
    Test::new("domain_that_loops_is_paused_and_destroyed", loops),
    Test::new("domain_destroyed_while_mapped_is_a_zombie", zombie),
    Test::new("domain_goes_on_after_a_soft_reset", soft_reset),
    Test::new("domain_200_times_leaves_nothing", many),
];

/// Page of the spare range at which these tests look into a domain.
const WINDOW_PAGE: u64 = 1900;
/// The domain's code, and the page behind it.
const CODE_GFN: u64 = 0x100;
pub(crate) const DATA_GFN: u64 = 0x101;
const MAGIC: u32 = 0x600D_D0E5;

/// Writes [`MAGIC`] at the start of the data page, prints a line, and shuts down for a reboot.
const SPEAKING: [u8; 64] = {
    let mut code = [0; 64];
    let text = [
        0xC7, 0x05, 0x00, 0x10, 0x10, 0x00, 0xE5, 0xD0, 0x0D,
        0x60, // mov dword [0x101000], MAGIC
        0xBA, 0xE9, 0x00, 0x00, 0x00, // mov edx, 0xE9
        0xBE, 0x34, 0x00, 0x10, 0x00, // mov esi, 0x100034
        0xAC, 0x84, 0xC0, 0x74, 0x03, 0xEE, 0xEB,
        0xF8, // lodsb; test al, al; jz +3; out dx, al; jmp -8
        0xB8, 0x1D, 0x00, 0x00, 0x00, // mov eax, sched_op
        0xBB, 0x02, 0x00, 0x00, 0x00, // mov ebx, SCHEDOP_shutdown
        0xB9, 0x30, 0x00, 0x10, 0x00, // mov ecx, 0x100030
        0x0F, 0x01, 0xC1, 0xF4, // vmcall; hlt
        0x90, 0x01, 0x00, 0x00, 0x00, // at 0x30: SHUTDOWN_reboot
        b'h', b'e', b'l', b'l', b'o', b'\n', 0, // at 0x34
    ];
    let mut index = 0;
    while index < text.len() {
        code[index] = text[index];
        index += 1;
    }
    code
};
/// Shuts down for a soft reset; let go on, it writes [`MAGIC`] at the start of the data page and shuts down for a
/// reboot.
const RESETTING: [u8; 64] = [
    0xB8, 0x1D, 0x00, 0x00, 0x00, // mov eax, sched_op
    0xBB, 0x02, 0x00, 0x00, 0x00, // mov ebx, SCHEDOP_shutdown
    0xB9, 0x30, 0x00, 0x10, 0x00, // mov ecx, 0x100030
    0x0F, 0x01, 0xC1, // vmcall
    0xC7, 0x05, 0x00, 0x10, 0x10, 0x00, 0xE5, 0xD0, 0x0D, 0x60, // mov dword [0x101000], MAGIC
    0xB8, 0x1D, 0x00, 0x00, 0x00, // mov eax, sched_op
    0xB9, 0x34, 0x00, 0x10, 0x00, // mov ecx, 0x100034
    0x0F, 0x01, 0xC1, // vmcall
    0xFA, 0xF4, 0x90, 0x90, 0x90, 0x90, 0x90, // cli; hlt
    0x05, 0x00, 0x00, 0x00, // at 0x30: SHUTDOWN_soft_reset
    0x01, 0x00, 0x00, 0x00, // at 0x34: SHUTDOWN_reboot
    0, 0, 0, 0, 0, 0, 0, 0,
];
/// cli; hlt
pub(crate) const HALTING: [u8; 64] = start_with([0xFA, 0xF4]);
/// ud2, without an IDT
const CRASHING: [u8; 64] = start_with([0x0F, 0x0B]);
/// jmp to itself
const LOOPING: [u8; 64] = start_with([0xEB, 0xFE]);

const fn start_with(first: [u8; 2]) -> [u8; 64] {
    let mut code = [0; 64];
    code[0] = first[0];
    code[1] = first[1];
    code
}

fn need_dom0() -> Verdict {
    event::setup()?;
    if insn::cpuid(0x4000_0004, 0).ecx != 0 {
        skip!("not dom0");
    }
    Ok(())
}

fn other_version() -> Verdict {
    need_dom0()?;
    let mut op = XenDomctl {
        cmd: XEN_DOMCTL_getdomaininfo,
        interface_version: XEN_DOMCTL_INTERFACE_VERSION + 1,
        domain: 0,
        _pad: [0; 3],
        u: [0; 16],
    };
    check_eq!(
        hypercall::with_only(__HYPERVISOR_domctl, &mut op),
        refused(Errno::EACCES),
        "getdomaininfo of the next version"
    );
    Ok(())
}

fn no_domain() -> Verdict {
    need_dom0()?;
    for cmd in [
        XEN_DOMCTL_destroydomain,
        XEN_DOMCTL_pausedomain,
        XEN_DOMCTL_unpausedomain,
        XEN_DOMCTL_max_mem,
        XEN_DOMCTL_getdomaininfo,
    ] {
        for domid in [0x7000, DOMID_SELF, 0xFFFF] {
            check_eq!(
                domctl(cmd, domid, 0u64).0,
                refused(Errno::ESRCH),
                "domctl {cmd} of {domid:#x}"
            );
        }
    }
    for cmd in [
        XEN_DOMCTL_destroydomain,
        XEN_DOMCTL_pausedomain,
        XEN_DOMCTL_unpausedomain,
    ] {
        check_eq!(
            domctl(cmd, 0, 0u64).0,
            refused(Errno::EINVAL),
            "domctl {cmd} of the caller"
        );
    }
    check_eq!(
        domctl(1000, 0, 0u64).0,
        refused(Errno::ENOSYS),
        "a domctl that does not exist"
    );
    Ok(())
}

fn config() -> XenDomctlCreatedomain {
    let mut config = XenDomctlCreatedomain {
        flags: XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap,
        max_vcpus: 1,
        max_evtchn_port: 1023,
        max_grant_frames: -1,
        max_maptrack_frames: -1,
        grant_opts: 1,
        ..Default::default()
    };
    config.arch.emulation_flags = XEN_X86_EMU_LAPIC;
    config
}

fn unsupported() -> Verdict {
    need_dom0()?;
    let bad = [
        XenDomctlCreatedomain {
            flags: 0,
            ..config()
        },
        XenDomctlCreatedomain {
            flags: !0,
            ..config()
        },
        XenDomctlCreatedomain {
            max_vcpus: 0,
            ..config()
        },
        XenDomctlCreatedomain {
            max_vcpus: 1 << 20,
            ..config()
        },
        XenDomctlCreatedomain {
            grant_opts: 2,
            ..config()
        },
        XenDomctlCreatedomain {
            vmtrace_size: 4096,
            ..config()
        },
        XenDomctlCreatedomain {
            max_grant_frames: i32::MAX,
            ..config()
        },
    ];
    for config in bad {
        let (result, _, _) = domctl(XEN_DOMCTL_createdomain, 0, config);
        check!(result < 0, "made a domain of {config:?}");
    }
    // a number that is reserved is none: libxl gives one where any will do
    let (result, id, _) = domctl(XEN_DOMCTL_createdomain, 0x7FF0, config());
    check!(
        result == 0 && id < 0x7FF0,
        "a reserved number: {result}, {id:#x}"
    );
    check_eq!(
        domctl(XEN_DOMCTL_destroydomain, id, 0u64).0,
        0,
        "destroydomain"
    );
    Ok(())
}

pub(crate) fn free_pages() -> u64 {
    sysctl(XEN_SYSCTL_physinfo, XenSysctlPhysinfo::default())
        .1
        .free_pages
}

/// A domain with two pages of memory and `code` in the first, paused.
pub(crate) fn create(code: &[u8; 64]) -> Result<u16, Stop> {
    let (result, domid, _) = domctl(XEN_DOMCTL_createdomain, 0, config());
    check_eq!(result, 0, "createdomain");
    check!(domid > 0 && domid < 0x7FF0, "domid {domid:#x}");
    let vcpus = XenDomctlMaxVcpus { max: 1 };
    check_eq!(domctl(XEN_DOMCTL_max_vcpus, domid, vcpus).0, 0, "max_vcpus");
    let memory = XenDomctlMaxMem { max_memkb: 8 };
    check_eq!(domctl(XEN_DOMCTL_max_mem, domid, memory).0, 0, "max_mem");
    let gfns = [CODE_GFN, DATA_GFN, DATA_GFN + 1];
    check_eq!(
        populate(domid, &gfns),
        2,
        "populate_physmap of three pages where two are allowed"
    );
    let window = look_into(domid, CODE_GFN)?;
    let mut code = *code;
    for at in 0..code.len() - 2 {
        if code[at..at + 3] == [0x0F, 0x01, 0xC1] {
            code[at..at + 3].copy_from_slice(&hypercall::instruction());
        }
    }
    for (index, word) in code.chunks_exact(8).enumerate() {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        let at = window + index as u64 * 8;
        check!(
            probe::write_spare(at, u64::from_le_bytes(bytes)).is_ok(),
            "writing code faults"
        );
    }
    look_away()?;
    check_eq!(set_registers(domid), 0, "sethvmcontext");
    Ok(domid)
}

pub(crate) fn populate(domid: u16, gfns: &[u64]) -> i64 {
    let arg = XenMemoryReservation {
        extent_start: gfns.as_ptr() as u64,
        nr_extents: gfns.len() as u64,
        domid,
        ..Default::default()
    };
    call(XENMEM_populate_physmap, arg).0
}

fn window() -> Result<u64, Stop> {
    match spare_range() {
        Some(start) => Ok(start + WINDOW_PAGE * PAGE_SIZE),
        None => Err(guest_rt::broken!("no spare RAM")),
    }
}

/// Maps a page of the domain, and says where.
pub(crate) fn look_into(domid: u16, gfn: u64) -> Result<u64, Stop> {
    let at = window()?;
    let (idx, gpfn, mut error) = (gfn, at >> 12, 77i32);
    let arg = XenAddToPhysmapBatch {
        domid: DOMID_SELF,
        space: XENMAPSPACE_gmfn_foreign as u16,
        size: 1,
        foreign_domid: domid,
        idxs: &raw const idx as u64,
        gpfns: &raw const gpfn as u64,
        errs: &raw mut error as u64,
    };
    let result = call(XENMEM_add_to_physmap_batch, arg).0;
    check!(
        result == 0 && error == 0,
        "foreign mapping: {result}, {error}"
    );
    Ok(at)
}

/// Undoes it; the page of our own that was there comes back.
pub(crate) fn look_away() -> Verdict {
    let gpfn = window()? >> 12;
    let arg = XenRemoveFromPhysmap {
        domid: DOMID_SELF,
        gpfn,
        ..Default::default()
    };
    check_eq!(
        call(XENMEM_remove_from_physmap, arg).0,
        0,
        "remove_from_physmap"
    );
    check_eq!(populate(DOMID_SELF, &[gpfn]), 1, "our own page back");
    Ok(())
}

/// Loads the entry state of PVH, as toolstacks do.
fn set_registers(domid: u16) -> i64 {
    let mut cpu = HvmHwCpu::new_zeroed();
    cpu.rip = CODE_GFN << 12;
    cpu.rflags = 2;
    cpu.cr0 = 0x11;
    cpu.dr6 = 0xFFFF_0FF0;
    cpu.dr7 = 0x400;
    for index in [
        segment::DS,
        segment::ES,
        segment::FS,
        segment::GS,
        segment::SS,
    ] {
        cpu.limit[index] = u32::MAX;
        cpu.arbytes[index] = 0xC93;
    }
    cpu.limit[segment::CS] = u32::MAX;
    cpu.arbytes[segment::CS] = 0xC9B;
    cpu.limit[segment::TR] = 0x67;
    cpu.arbytes[segment::TR] = 0x8B;
    let header = HvmSaveHeader {
        magic: HVM_FILE_MAGIC,
        version: HVM_FILE_VERSION,
        ..Default::default()
    };
    let mut stream = [0; 2048];
    let mut size = 0;
    let records: [(u16, &[u8]); 3] = [
        (HVM_SAVE_CODE_HEADER, header.as_bytes()),
        (HVM_SAVE_CODE_CPU, cpu.as_bytes()),
        (HVM_SAVE_CODE_END, &[]),
    ];
    for (typecode, body) in records {
        let head = HvmSaveDescriptor {
            typecode,
            instance: 0,
            length: body.len() as u32,
        };
        for part in [head.as_bytes(), body] {
            stream[size..size + part.len()].copy_from_slice(part);
            size += part.len();
        }
    }
    let arg = XenDomctlHvmcontext {
        size: size as u32,
        buffer: stream.as_ptr() as u64,
        ..Default::default()
    };
    domctl(XEN_DOMCTL_sethvmcontext, domid, arg).0
}

fn info(domid: u16) -> Result<XenDomctlGetdomaininfo, Stop> {
    let (result, found, info) = domctl(
        XEN_DOMCTL_getdomaininfo,
        domid,
        XenDomctlGetdomaininfo::default(),
    );
    check_eq!(result, 0, "getdomaininfo");
    check_eq!((found, info.domain), (domid, domid), "whom it is about");
    Ok(info)
}

fn yield_cpu() {
    let _ = hypercall::plain(__HYPERVISOR_sched_op, [u64::from(SCHEDOP_yield), 0]);
}

/// Lets it run until it has shut down; returns why.
fn run(domid: u16) -> Result<u32, Stop> {
    const TURNS: u32 = 100_000;
    check_eq!(
        domctl(XEN_DOMCTL_unpausedomain, domid, 0u64).0,
        0,
        "unpausedomain"
    );
    for _ in 0..TURNS {
        let flags = info(domid)?.flags;
        if flags & XEN_DOMINF_shutdown != 0 {
            return Ok(flags >> XEN_DOMINF_shutdownshift & 0xFF);
        }
        yield_cpu();
    }
    check!(false, "it does not shut down");
    Ok(0)
}

pub(crate) fn destroy(domid: u16) -> Verdict {
    check_eq!(
        domctl(XEN_DOMCTL_destroydomain, domid, 0u64).0,
        0,
        "destroydomain"
    );
    Ok(())
}

/// No such domain any longer.
fn check_gone(domid: u16) -> Verdict {
    let (result, found, _) = domctl(
        XEN_DOMCTL_getdomaininfo,
        domid,
        XenDomctlGetdomaininfo::default(),
    );
    check!(result < 0 || found != domid, "d{domid} is still there");
    Ok(())
}

fn soft_reset() -> Verdict {
    need_dom0()?;
    destroy(create(&HALTING)?)?;
    let before = free_pages();
    let domid = create(&RESETTING)?;
    let reset = || domctl(XEN_DOMCTL_soft_reset, domid, 0u64).0;
    check_eq!(
        reset(),
        refused(Errno::EINVAL),
        "of one that has not shut down"
    );
    let arg = EvtchnAllocUnbound {
        dom: domid,
        remote_dom: DOMID_SELF,
        port: 0,
    };
    let alloc = || hypercall::event_channel(EVTCHNOP_alloc_unbound, arg);
    let (result, port) = alloc();
    check_eq!(result, 0, "a port of its");
    check_eq!(run(domid)?, SHUTDOWN_soft_reset, "why it shut down");
    check_eq!(reset(), refused(Errno::EINVAL), "of one that is not paused");
    check_eq!(
        domctl(XEN_DOMCTL_pausedomain, domid, 0u64).0,
        0,
        "pausedomain"
    );
    check_eq!(reset(), 0, "soft_reset");
    check_eq!(reset(), refused(Errno::EINVAL), "once more");
    let flags = info(domid)?.flags;
    check!(
        flags & XEN_DOMINF_shutdown == 0,
        "it is still shut down: {flags:#x}"
    );
    // the first port is free again
    let (result, again) = alloc();
    check_eq!(
        (result, again.port),
        (0, port.port),
        "a port after the reset"
    );
    check_eq!(run(domid)?, SHUTDOWN_reboot, "why it shut down after that");
    let word = insn::peek(look_into(domid, DATA_GFN)?);
    look_away()?;
    check_eq!(word, Ok(u64::from(MAGIC)), "what it wrote");
    destroy(domid)?;
    check_gone(domid)?;
    check_eq!(free_pages(), before, "free pages");
    Ok(())
}

fn runs() -> Verdict {
    need_dom0()?;
    // the first look splits a large page of our own, for good
    destroy(create(&HALTING)?)?;
    let before = free_pages();
    let (result, port) = event::bind_virq(VIRQ_DOM_EXC);
    check_eq!(result, 0, "bind_virq of DOM_EXC");
    event::mask(port);
    let domid = create(&SPEAKING)?;
    let new = info(domid)?;
    check!(
        new.flags & XEN_DOMINF_paused != 0,
        "not paused: {:#x}",
        new.flags
    );
    check_eq!((new.tot_pages, new.max_pages), (2, 2), "pages");
    check_eq!((new.nr_online_vcpus, new.max_vcpu_id), (1, 0), "vCPUs");
    let _ = event::take_pending(port);
    check_eq!(run(domid)?, SHUTDOWN_reboot, "reason of its shutdown");
    check!(event::take_pending(port), "no VIRQ_DOM_EXC at its shutdown");
    let window = look_into(domid, DATA_GFN)?;
    let word = insn::peek(window);
    look_away()?;
    check_eq!(word, Ok(u64::from(MAGIC)), "what it wrote");
    destroy(domid)?;
    check!(event::take_pending(port), "no VIRQ_DOM_EXC at its end");
    check_eq!(event::close(port), 0, "close");
    check_gone(domid)?;
    check_eq!(free_pages(), before, "free pages");
    Ok(())
}

fn halts() -> Verdict {
    need_dom0()?;
    let domid = create(&HALTING)?;
    check_eq!(run(domid)?, SHUTDOWN_poweroff, "reason of its shutdown");
    destroy(domid)
}

fn crashes() -> Verdict {
    need_dom0()?;
    let domid = create(&CRASHING)?;
    check_eq!(run(domid)?, SHUTDOWN_crash, "reason of its shutdown");
    destroy(domid)
}

fn loops() -> Verdict {
    need_dom0()?;
    let before = free_pages();
    let domid = create(&LOOPING)?;
    check_eq!(
        domctl(XEN_DOMCTL_unpausedomain, domid, 0u64).0,
        0,
        "unpausedomain"
    );
    let mut ran = 0;
    for _ in 0..20 {
        yield_cpu();
        let now = info(domid)?;
        check!(now.cpu_time > ran, "it does not run: {} ns", now.cpu_time);
        check_eq!(
            now.flags & (XEN_DOMINF_blocked | XEN_DOMINF_paused),
            0,
            "flags"
        );
        ran = now.cpu_time;
    }
    check_eq!(
        domctl(XEN_DOMCTL_pausedomain, domid, 0u64).0,
        0,
        "pausedomain"
    );
    let paused = info(domid)?;
    yield_cpu();
    check_eq!(
        info(domid)?.cpu_time,
        paused.cpu_time,
        "CPU time while paused"
    );
    check_eq!(
        domctl(XEN_DOMCTL_unpausedomain, domid, 0u64).0,
        0,
        "unpausedomain"
    );
    yield_cpu();
    check!(info(domid)?.cpu_time > paused.cpu_time, "it does not go on");
    destroy(domid)?;
    check_gone(domid)?;
    check_eq!(free_pages(), before, "free pages");
    Ok(())
}

fn zombie() -> Verdict {
    need_dom0()?;
    let before = free_pages();
    let domid = create(&LOOPING)?;
    look_into(domid, CODE_GFN)?;
    destroy(domid)?;
    let dead = info(domid)?;
    check_eq!(dead.flags & 1, 1, "not dying: {:#x}", dead.flags);
    check_eq!(dead.tot_pages, 1, "pages that are left");
    look_away()?;
    check_gone(domid)?;
    check_eq!(free_pages(), before, "free pages");
    Ok(())
}

fn many() -> Verdict {
    need_dom0()?;
    let before = free_pages();
    let mut last = 0;
    for turn in 0..200 {
        let domid = create(if turn % 2 == 0 { &SPEAKING } else { &LOOPING })?;
        check!(domid != last, "d{domid} again at once");
        last = domid;
        if turn % 2 == 0 {
            check_eq!(run(domid)?, SHUTDOWN_reboot, "reason of its shutdown");
        } else if turn % 3 == 0 {
            check_eq!(
                domctl(XEN_DOMCTL_unpausedomain, domid, 0u64).0,
                0,
                "unpausedomain"
            );
            yield_cpu();
        }
        destroy(domid)?;
        check_eq!(free_pages(), before, "free pages after {turn} turns");
    }
    Ok(())
}
