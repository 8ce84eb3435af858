//! The toolstack's calls about one domain, made by a test in dom0's place: a domain is made for each, looked at from all
//! sides, and destroyed.

use core::hint::black_box;
use core::mem::offset_of;
use guest_abi::Errno;
use guest_abi::arch_x86::xen::{CpuUserRegs, VcpuGuestContext};
use guest_abi::domctl::{
    XEN_DOMCTL_CDF_hap, XEN_DOMCTL_CDF_hvm, XEN_DOMCTL_INTERFACE_VERSION,
    XEN_DOMCTL_SCHEDOP_getinfo, XEN_DOMCTL_SCHEDOP_putinfo, XEN_DOMCTL_createdomain,
    XEN_DOMCTL_destroydomain, XEN_DOMCTL_get_cpu_policy, XEN_DOMCTL_getdomaininfo,
    XEN_DOMCTL_gethvmcontext, XEN_DOMCTL_gethvmcontext_partial, XEN_DOMCTL_getvcpuaffinity,
    XEN_DOMCTL_getvcpucontext, XEN_DOMCTL_getvcpuinfo, XEN_DOMCTL_ioport_permission,
    XEN_DOMCTL_max_vcpus, XEN_DOMCTL_scheduler_op, XEN_DOMCTL_sendtrigger,
    XEN_DOMCTL_set_cpu_policy, XEN_DOMCTL_sethvmcontext, XEN_DOMCTL_setvcpuaffinity,
    XEN_DOMCTL_setvcpucontext, XEN_SCHEDULER_CREDIT2, XEN_VCPUAFFINITY_HARD, XenCpuidLeaf,
    XenDomctl, XenDomctlCpuPolicy, XenDomctlCreatedomain, XenDomctlGetdomaininfo,
    XenDomctlGetvcpuinfo, XenDomctlHvmcontext, XenDomctlHvmcontextPartial,
    XenDomctlIoportPermission, XenDomctlMaxVcpus, XenDomctlSchedulerOp, XenDomctlSendtrigger,
    XenDomctlVcpuaffinity, XenDomctlVcpucontext, XenMsrEntry,
};
use guest_abi::hvm::save::{
    HVM_FILE_MAGIC, HVM_SAVE_CODE_CPU, HVM_SAVE_CODE_HEADER, HVM_SAVE_CODE_MTRR, HvmHwCpu,
    HvmHwMtrr, HvmSaveDescriptor, HvmSaveHeader, segment,
};
use guest_abi::xen::{
    __HYPERVISOR_domctl, __HYPERVISOR_physdev_op, __HYPERVISOR_platform_op, __HYPERVISOR_sysctl,
    XEN_X86_EMU_LAPIC, XenctlBitmap,
};
use guest_rt::{
    Stop, Test, Verdict, broken, check, check_eq, event, hypercall, insn, memory, probe, skip,
};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

pub(crate) static TESTS: &[Test] = &[
    Test::new("toolstack_calls_are_not_for_guests", not_for_guests),
    Test::new("domctl_that_is_not_there_is_refused", unknown),
    Test::new("domctl_policy_read_and_written_back", policy_round_trip),
    Test::new("domctl_policy_without_a_feature", policy_without_feature),
    Test::new("domctl_policy_that_is_too_much_is_named", policy_too_much),
    Test::new("domctl_context_as_libxl_sets_it", context),
    Test::new("domctl_whole_context_read_and_written_back", whole_context),
    Test::new("domctl_context_that_no_vcpu_has_is_refused", bad_context),
    Test::new("domctl_registers_read_and_written_back", registers),
    Test::new("domctl_vcpus_are_told_and_pinned", vcpus),
    Test::new("domctl_scheduler_weight_and_cap", weight),
    Test::new("domctl_rights_are_not_given", rights),
];

/// domctl with `body` at the start of its union; the result, and the body that came back.
fn domctl<T: IntoBytes + FromBytes + Immutable + Copy>(cmd: u32, domain: u16, body: T) -> (i64, T) {
    let (result, op) = call(cmd, domain, body);
    let back = T::read_from_prefix(op.u.as_bytes()).map_or(body, |(back, _)| back);
    (result, back)
}

fn call<T: IntoBytes + Immutable>(cmd: u32, domain: u16, body: T) -> (i64, XenDomctl) {
    let mut op = XenDomctl {
        cmd,
        interface_version: XEN_DOMCTL_INTERFACE_VERSION,
        domain,
        _pad: [0; 3],
        u: [0; 16],
    };
    let result = match body.write_to_prefix(op.u.as_mut_bytes()) {
        Ok(()) => hypercall::with_only(__HYPERVISOR_domctl, &mut op),
        Err(_) => 0,
    };
    (result, op)
}

/// Makes a domain with `vcpus` vCPUs, lets `look` look at it, and destroys it.
fn with_domain(vcpus: u32, look: impl FnOnce(u16) -> Verdict) -> Verdict {
    event::setup()?;
    if insn::cpuid(0x4000_0004, 0).ecx != 0 {
        skip!("not dom0");
    }
    let mut wanted = XenDomctlCreatedomain {
        flags: XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap,
        max_vcpus: vcpus,
        max_evtchn_port: 1023,
        max_grant_frames: 4,
        max_maptrack_frames: 4,
        grant_opts: 1,
        ..Default::default()
    };
    wanted.arch.emulation_flags = XEN_X86_EMU_LAPIC;
    let (result, op) = call(XEN_DOMCTL_createdomain, 0, wanted);
    if result != 0 {
        return Err(broken!("createdomain: {result}"));
    }
    let verdict = make_vcpus(op.domain, vcpus).and_then(|()| look(op.domain));
    check_eq!(
        domctl(XEN_DOMCTL_destroydomain, op.domain, 0u64).0,
        0,
        "destroydomain"
    );
    verdict
}

fn make_vcpus(domain: u16, vcpus: u32) -> Result<(), Stop> {
    let max = XenDomctlMaxVcpus { max: vcpus };
    match domctl(XEN_DOMCTL_max_vcpus, domain, max).0 {
        0 => Ok(()),
        result => Err(broken!("max_vcpus: {result}")),
    }
}

fn refused(errno: Errno) -> i64 {
    hypercall::refused(errno)
}

fn not_for_guests() -> Verdict {
    event::setup()?;
    if insn::cpuid(0x4000_0004, 0).ecx == 0 {
        skip!("dom0");
    }
    for number in [
        __HYPERVISOR_domctl,
        __HYPERVISOR_sysctl,
        __HYPERVISOR_platform_op,
        __HYPERVISOR_physdev_op,
    ] {
        let mut op = [0u64; 18];
        check_eq!(
            hypercall::with_only(number, &mut op),
            refused(Errno::EPERM),
            "hypercall {number}"
        );
    }
    Ok(())
}

fn unknown() -> Verdict {
    with_domain(1, |domain| {
        for cmd in [0, 6, 49, 999] {
            let result = domctl(cmd, domain, 0u64).0;
            check_eq!(result, refused(Errno::ENOSYS), "domctl {cmd}");
        }
        let gone = domctl(
            XEN_DOMCTL_getvcpuinfo,
            0x7F00,
            XenDomctlGetvcpuinfo::default(),
        );
        check_eq!(
            gone.0,
            refused(Errno::ESRCH),
            "of a domain that is not there"
        );
        Ok(())
    })
}

type Leaves = [XenCpuidLeaf; 120];

fn read_policy(domain: u16, leaves: &mut Leaves) -> Result<(u32, XenMsrEntry), Stop> {
    let mut msrs = [XenMsrEntry::default(); 2];
    let body = XenDomctlCpuPolicy {
        nr_leaves: leaves.len() as u32,
        nr_msrs: 2,
        leaves: leaves.as_mut_ptr() as u64,
        msrs: msrs.as_mut_ptr() as u64,
        ..Default::default()
    };
    let (result, told) = domctl(XEN_DOMCTL_get_cpu_policy, domain, body);
    check_eq!((result, told.nr_msrs), (0, 2), "get_cpu_policy");
    Ok((told.nr_leaves, msrs[0]))
}

fn write_policy(domain: u16, leaves: &[XenCpuidLeaf]) -> (i64, XenDomctlCpuPolicy) {
    let body = XenDomctlCpuPolicy {
        nr_leaves: leaves.len() as u32,
        leaves: leaves.as_ptr() as u64,
        ..Default::default()
    };
    domctl(XEN_DOMCTL_set_cpu_policy, domain, body)
}

fn policy_round_trip() -> Verdict {
    with_domain(2, |domain| {
        let mut leaves = [XenCpuidLeaf::default(); 120];
        let (count, msr) = read_policy(domain, &mut leaves)?;
        check_eq!((msr.idx, msr.val), (0xCE, 0), "the first MSR");
        let given = leaves.get(..count as usize).unwrap_or_default();
        check!(
            given.is_sorted_by_key(|leaf| (leaf.leaf, leaf.subleaf)),
            "leaves are not in order"
        );
        check_eq!(write_policy(domain, given).0, 0, "set_cpu_policy");
        let mut again = [XenCpuidLeaf::default(); 120];
        check_eq!(read_policy(domain, &mut again)?.0, count, "leaves after");
        check!(again == leaves, "written back, the policy differs");
        let few = XenDomctlCpuPolicy {
            nr_leaves: 3,
            leaves: again.as_mut_ptr() as u64,
            ..Default::default()
        };
        check_eq!(
            domctl(XEN_DOMCTL_get_cpu_policy, domain, few).0,
            refused(Errno::ENOBUFS),
            "with room for three leaves"
        );
        check_eq!(
            domctl(XEN_DOMCTL_set_cpu_policy, 0, few).0,
            refused(Errno::EINVAL),
            "of the caller's own domain"
        );
        Ok(())
    })
}

fn policy_without_feature() -> Verdict {
    const RDRAND: u32 = 1 << 30;
    const SSE3: u32 = 1;
    with_domain(1, |domain| {
        let mut leaves = [XenCpuidLeaf::default(); 120];
        let (count, _) = read_policy(domain, &mut leaves)?;
        let all = leaves.get(..count as usize).unwrap_or_default();
        let Some(one) = all.iter().find(|leaf| leaf.leaf == 1) else {
            return Err(broken!("no leaf 1"));
        };
        let less = XenCpuidLeaf {
            c: one.c & !(RDRAND | SSE3),
            ..*one
        };
        check_eq!(
            write_policy(domain, &[less]).0,
            0,
            "set_cpu_policy of leaf 1"
        );
        let before = one.c;
        read_policy(domain, &mut leaves)?;
        let after = leaves.iter().find(|leaf| leaf.leaf == 1).map(|leaf| leaf.c);
        check_eq!(after, Some(before & !(RDRAND | SSE3)), "leaf 1, ECX");
        Ok(())
    })
}

fn policy_too_much() -> Verdict {
    with_domain(1, |domain| {
        let mut leaves = [XenCpuidLeaf::default(); 120];
        read_policy(domain, &mut leaves)?;
        let too_many = XenCpuidLeaf {
            a: leaves[0].a + 1,
            ..leaves[0]
        };
        let (result, told) = write_policy(domain, &[too_many]);
        check_eq!(
            (result, told.err_leaf, told.err_subleaf, told.err_msr),
            (refused(Errno::EINVAL), 0, !0, !0),
            "one basic leaf more"
        );
        let odd = XenCpuidLeaf {
            leaf: 0x16,
            subleaf: !0,
            ..Default::default()
        };
        let (result, told) = write_policy(domain, &[odd]);
        check_eq!(
            (result, told.err_leaf, told.err_msr),
            (refused(Errno::ERANGE), 0x16, !0),
            "a leaf that the form has not"
        );
        let msr = XenMsrEntry {
            idx: 0x10,
            ..Default::default()
        };
        let body = XenDomctlCpuPolicy {
            nr_msrs: 1,
            msrs: &raw const msr as u64,
            ..Default::default()
        };
        let (result, told) = domctl(XEN_DOMCTL_set_cpu_policy, domain, body);
        check_eq!(
            (result, told.err_leaf, told.err_msr),
            (refused(Errno::ERANGE), !0, 0x10),
            "an MSR that the form has not"
        );
        Ok(())
    })
}

/// A stream of a header, one record and the end.
#[repr(C)]
struct Stream<T> {
    header_head: HvmSaveDescriptor,
    header: HvmSaveHeader,
    head: HvmSaveDescriptor,
    body: T,
    end: HvmSaveDescriptor,
}

fn head(typecode: u16, instance: u16, length: usize) -> HvmSaveDescriptor {
    HvmSaveDescriptor {
        typecode,
        instance,
        length: length as u32,
    }
}

fn stream<T>(header: HvmSaveHeader, typecode: u16, instance: u16, body: T) -> Stream<T> {
    Stream {
        header_head: head(HVM_SAVE_CODE_HEADER, 0, size_of::<HvmSaveHeader>()),
        header,
        head: head(typecode, instance, size_of::<T>()),
        body,
        end: HvmSaveDescriptor::default(),
    }
}

fn set_context<T>(domain: u16, stream: &Stream<T>) -> i64 {
    let body = XenDomctlHvmcontext {
        size: size_of_val(stream) as u32,
        _pad: 0,
        buffer: core::ptr::from_ref(stream) as u64,
    };
    domctl(XEN_DOMCTL_sethvmcontext, domain, body).0
}

/// One record of vCPU `instance`.
fn record<T: FromBytes + IntoBytes>(domain: u16, typecode: u16, instance: u32) -> (i64, T) {
    let mut value = T::new_zeroed();
    let body = XenDomctlHvmcontextPartial {
        type_: u32::from(typecode),
        instance,
        bufsz: size_of::<T>() as u64,
        buffer: core::ptr::from_mut(&mut value) as u64,
    };
    let (result, _) = domctl(XEN_DOMCTL_gethvmcontext_partial, domain, body);
    (result, value)
}

/// The header that the hypervisor writes.
fn header(domain: u16) -> Result<HvmSaveHeader, Stop> {
    let (result, size) = domctl(
        XEN_DOMCTL_gethvmcontext,
        domain,
        XenDomctlHvmcontext::default(),
    );
    check_eq!(result, 0, "size of the context");
    let Some(buffer) = memory::spare_range() else {
        skip!("no spare RAM")
    };
    let body = XenDomctlHvmcontext {
        size: size.size,
        _pad: 0,
        buffer,
    };
    let (result, told) = domctl(XEN_DOMCTL_gethvmcontext, domain, body);
    check!(
        result == 0 && told.size <= size.size,
        "gethvmcontext: {result}, {} of {} bytes",
        told.size,
        size.size
    );
    let mut words = [0u64; 4];
    for (at, word) in (buffer..).step_by(8).zip(&mut words) {
        *word = insn::peek(at).map_err(|fault| broken!("spare RAM faults: {fault:?}"))?;
    }
    let [head, ..] = words;
    check_eq!(
        head & 0xFFFF,
        u64::from(HVM_SAVE_CODE_HEADER),
        "the first record"
    );
    let found = HvmSaveHeader::read_from_suffix(words.as_bytes());
    let Ok((_, header)) = found else {
        return Err(broken!("four words hold a header"));
    };
    check_eq!(header.magic, HVM_FILE_MAGIC, "magic");
    let small = XenDomctlHvmcontext { size: 8, ..body };
    check_eq!(
        domctl(XEN_DOMCTL_gethvmcontext, domain, small).0,
        refused(Errno::ENOSPC),
        "with 8 bytes of room"
    );
    Ok(header)
}

fn first_registers() -> HvmHwCpu {
    let mut cpu = HvmHwCpu::new_zeroed();
    for which in [segment::CS, segment::DS, segment::ES, segment::SS] {
        cpu.limit[which] = !0;
        cpu.arbytes[which] = 0xc93;
    }
    cpu.arbytes[segment::CS] = 0xc9b;
    cpu.limit[segment::TR] = 0x67;
    cpu.arbytes[segment::TR] = 0x8b;
    cpu.cr0 = 0x11;
    cpu.rip = 0x10_0000;
    cpu.gprs[1] = 0x7000;
    cpu.dr6 = 0xFFFF_0FF0;
    cpu.dr7 = 0x400;
    cpu
}

fn context() -> Verdict {
    with_domain(2, |domain| {
        let header = header(domain)?;
        let (result, mut mtrr) = record::<HvmHwMtrr>(domain, HVM_SAVE_CODE_MTRR, 1);
        check_eq!(result, 0, "MTRRs of vCPU 1");
        mtrr.msr_mtrr_def_type = 0x806;
        mtrr.msr_mtrr_fixed[3] = 0x0606_0606_0606_0606;
        let records = stream(header, HVM_SAVE_CODE_MTRR, 1, mtrr);
        check_eq!(set_context(domain, &records), 0, "setting MTRRs");
        check_eq!(
            record::<HvmHwMtrr>(domain, HVM_SAVE_CODE_MTRR, 1),
            (0, mtrr),
            "MTRRs read back"
        );
        let cpu = first_registers();
        let records = stream(header, HVM_SAVE_CODE_CPU, 0, cpu);
        check_eq!(set_context(domain, &records), 0, "setting registers");
        let (result, back) = record::<HvmHwCpu>(domain, HVM_SAVE_CODE_CPU, 0);
        check_eq!(result, 0, "registers read back");
        check_eq!(
            (back.rip, back.gprs, back.cr0, back.rflags),
            (cpu.rip, cpu.gprs, cpu.cr0, 2),
            "rip, general registers, CR0, RFLAGS"
        );
        check_eq!(
            (back.arbytes[segment::CS], back.limit[segment::DS], back.dr7),
            (0xc9b, !0, 0x400),
            "CS's rights, DS's limit, DR7"
        );
        let online = |vcpu| {
            let asked = XenDomctlGetvcpuinfo {
                vcpu,
                ..Default::default()
            };
            domctl(XEN_DOMCTL_getvcpuinfo, domain, asked).1.online
        };
        check_eq!((online(0), online(1)), (1, 0), "online");
        check_eq!(
            record::<HvmHwMtrr>(domain, HVM_SAVE_CODE_MTRR, 1).1,
            mtrr,
            "MTRRs after setting registers"
        );
        Ok(())
    })
}

/// Reads the whole context of `domain` to `buffer`; its bytes.
fn whole(domain: u16, buffer: u64) -> Result<u32, Stop> {
    let body = XenDomctlHvmcontext {
        size: 32768,
        _pad: 0,
        buffer,
    };
    let (result, told) = domctl(XEN_DOMCTL_gethvmcontext, domain, body);
    check_eq!(result, 0, "gethvmcontext");
    Ok(told.size)
}

fn whole_context() -> Verdict {
    const SECOND: u64 = 0x1_0000;
    with_domain(2, |domain| {
        let Some(buffer) = memory::spare_range() else {
            skip!("no spare RAM")
        };
        let records = stream(header(domain)?, HVM_SAVE_CODE_CPU, 0, first_registers());
        check_eq!(set_context(domain, &records), 0, "setting registers");
        let size = whole(domain, buffer)?;
        check!(size > 2 * (1024 + 240), "{size} bytes of two vCPUs");
        let body = XenDomctlHvmcontext {
            size,
            _pad: 0,
            buffer,
        };
        check_eq!(
            domctl(XEN_DOMCTL_sethvmcontext, domain, body).0,
            0,
            "the whole context written back"
        );
        check_eq!(whole(domain, buffer + SECOND)?, size, "bytes after");
        let mut differences = 0;
        for at in (buffer..buffer + u64::from(size)).step_by(8) {
            if insn::peek(at) != insn::peek(at + SECOND) {
                differences += 1;
            }
        }
        // the TSC goes on
        check_eq!(differences, 1, "words that differ");
        Ok(())
    })
}

fn bad_context() -> Verdict {
    with_domain(1, |domain| {
        let header = header(domain)?;
        let mut cpu = first_registers();
        cpu.cr0 = 0x8000_0010;
        let records = stream(header, HVM_SAVE_CODE_CPU, 0, cpu);
        check_eq!(
            set_context(domain, &records),
            refused(Errno::EINVAL),
            "paging without protection"
        );
        let records = stream(header, HVM_SAVE_CODE_CPU, 5, first_registers());
        check_eq!(
            set_context(domain, &records),
            refused(Errno::EINVAL),
            "registers of vCPU 5"
        );
        let mut other = header;
        other.magic ^= 1;
        let records = stream(other, HVM_SAVE_CODE_CPU, 0, first_registers());
        check_eq!(
            set_context(domain, &records),
            refused(Errno::EINVAL),
            "another magic"
        );
        let mut endless = stream(header, HVM_SAVE_CODE_CPU, 0, first_registers());
        endless.end.typecode = HVM_SAVE_CODE_MTRR;
        endless.end.length = 8;
        check_eq!(
            set_context(domain, &endless),
            refused(Errno::ENODATA),
            "a stream that is cut short"
        );
        let (_, info) = domctl(
            XEN_DOMCTL_getdomaininfo,
            domain,
            XenDomctlGetdomaininfo::default(),
        );
        check_eq!(info.nr_online_vcpus, 0, "vCPUs online after all that");
        Ok(())
    })
}

fn registers() -> Verdict {
    with_domain(1, |domain| {
        let records = stream(header(domain)?, HVM_SAVE_CODE_CPU, 0, first_registers());
        check_eq!(set_context(domain, &records), 0, "setting registers");
        let Some(buffer) = memory::spare_range() else {
            skip!("no spare RAM")
        };
        let of = |vcpu| XenDomctlVcpucontext {
            vcpu,
            _pad: 0,
            ctxt: buffer,
        };
        check_eq!(
            domctl(XEN_DOMCTL_getvcpucontext, domain, of(0)).0,
            0,
            "getvcpucontext"
        );
        let regs = buffer + offset_of!(VcpuGuestContext, user_regs) as u64;
        let rip = regs + offset_of!(CpuUserRegs, rip) as u64;
        let rax = regs + 10 * 8;
        check_eq!(insn::peek(rip), Ok(0x10_0000), "RIP");
        check_eq!(probe::write_spare(rax, 0x600D), Ok(()), "writing RAX");
        check_eq!(
            domctl(XEN_DOMCTL_setvcpucontext, domain, of(0)).0,
            0,
            "setvcpucontext"
        );
        let (_, back) = record::<HvmHwCpu>(domain, HVM_SAVE_CODE_CPU, 0);
        check_eq!(
            (back.gprs[0], back.gprs[1], back.rip),
            (0x600D, 0x7000, 0x10_0000),
            "RAX, RBX, RIP after"
        );
        let cr0 = buffer + offset_of!(VcpuGuestContext, ctrlreg) as u64;
        check_eq!(probe::write_spare(cr0, 0x10), Ok(()), "writing CR0");
        check_eq!(
            domctl(XEN_DOMCTL_setvcpucontext, domain, of(0)).0,
            refused(Errno::EOPNOTSUPP),
            "setvcpucontext of another CR0"
        );
        check_eq!(
            domctl(XEN_DOMCTL_getvcpucontext, domain, of(1)).0,
            refused(Errno::EINVAL),
            "getvcpucontext of vCPU 1"
        );
        Ok(())
    })
}

fn vcpus() -> Verdict {
    with_domain(2, |domain| {
        let (result, info) = domctl(
            XEN_DOMCTL_getdomaininfo,
            domain,
            XenDomctlGetdomaininfo::default(),
        );
        check_eq!(
            (result, info.domain, info.max_vcpu_id),
            (0, domain, 1),
            "info"
        );
        check!(info.flags & 1 << 3 != 0, "not paused: {:#x}", info.flags);
        let beyond = XenDomctlGetvcpuinfo {
            vcpu: 2,
            ..Default::default()
        };
        check_eq!(
            domctl(XEN_DOMCTL_getvcpuinfo, domain, beyond).0,
            refused(Errno::EINVAL),
            "vCPU 2"
        );
        let mut map = 1u64;
        let mut affinity = XenDomctlVcpuaffinity {
            vcpu: 1,
            flags: XEN_VCPUAFFINITY_HARD,
            ..Default::default()
        };
        affinity.cpumap_hard = XenctlBitmap {
            bitmap: &raw mut map as u64,
            nr_bits: 64,
            _pad: 0,
        };
        check_eq!(
            domctl(XEN_DOMCTL_getvcpuaffinity, domain, affinity).0,
            0,
            "getvcpuaffinity"
        );
        check_eq!(map, !0, "hard affinity to begin with");
        map = black_box(1);
        check_eq!(
            domctl(XEN_DOMCTL_setvcpuaffinity, domain, affinity).0,
            0,
            "setvcpuaffinity to CPU 0"
        );
        black_box(&map);
        map = black_box(0);
        let _ = domctl(XEN_DOMCTL_getvcpuaffinity, domain, affinity);
        check_eq!(map, 1, "hard affinity");
        map = black_box(1 << 63);
        black_box(&map);
        check_eq!(
            domctl(XEN_DOMCTL_setvcpuaffinity, domain, affinity).0,
            refused(Errno::EINVAL),
            "setvcpuaffinity to CPU 63"
        );
        let power = XenDomctlSendtrigger {
            trigger: 3,
            vcpu: 0,
        };
        check_eq!(
            domctl(XEN_DOMCTL_sendtrigger, domain, power).0,
            refused(Errno::EOPNOTSUPP),
            "the power button"
        );
        Ok(())
    })
}

fn weight() -> Verdict {
    with_domain(1, |domain| {
        let mut op = XenDomctlSchedulerOp {
            sched_id: XEN_SCHEDULER_CREDIT2,
            cmd: XEN_DOMCTL_SCHEDOP_getinfo,
            ..Default::default()
        };
        let (result, told) = domctl(XEN_DOMCTL_scheduler_op, domain, op);
        check_eq!(
            (result, told.u[0]),
            (0, 256),
            "weight and cap to begin with"
        );
        op.cmd = XEN_DOMCTL_SCHEDOP_putinfo;
        op.u[0] = 512;
        check_eq!(
            domctl(XEN_DOMCTL_scheduler_op, domain, op).0,
            0,
            "weight 512"
        );
        op.u[0] = 50 << 16;
        check_eq!(domctl(XEN_DOMCTL_scheduler_op, domain, op).0, 0, "cap 50");
        op.cmd = XEN_DOMCTL_SCHEDOP_getinfo;
        let (_, told) = domctl(XEN_DOMCTL_scheduler_op, domain, op);
        check_eq!(told.u[0], 512 | 50 << 16, "weight and cap after");
        op.cmd = 7;
        check_eq!(
            domctl(XEN_DOMCTL_scheduler_op, domain, op).0,
            refused(Errno::EOPNOTSUPP),
            "another operation"
        );
        op.sched_id = 5;
        check_eq!(
            domctl(XEN_DOMCTL_scheduler_op, domain, op).0,
            refused(Errno::EINVAL),
            "another scheduler"
        );
        Ok(())
    })
}

fn rights() -> Verdict {
    with_domain(1, |domain| {
        let mut ports = XenDomctlIoportPermission {
            first_port: 0x3F8,
            nr_ports: 8,
            allow_access: 1,
            _pad: [0; 3],
        };
        check_eq!(
            domctl(XEN_DOMCTL_ioport_permission, domain, ports).0,
            refused(Errno::EOPNOTSUPP),
            "giving ports"
        );
        ports.allow_access = 0;
        check_eq!(
            domctl(XEN_DOMCTL_ioport_permission, domain, ports).0,
            0,
            "taking ports"
        );
        Ok(())
    })
}
