//! A domain's context: records as libxl writes them, the whole written back, and what no vCPU has.

use core::mem::offset_of;
use guest_abi::Errno;
use guest_abi::arch_x86::xen::{CpuUserRegs, VcpuGuestContext};
use guest_abi::domctl::{
    XEN_DOMCTL_getdomaininfo, XEN_DOMCTL_gethvmcontext, XEN_DOMCTL_gethvmcontext_partial,
    XEN_DOMCTL_getvcpucontext, XEN_DOMCTL_getvcpuinfo, XEN_DOMCTL_sethvmcontext,
    XEN_DOMCTL_setvcpucontext, XenDomctlGetdomaininfo, XenDomctlGetvcpuinfo, XenDomctlHvmcontext,
    XenDomctlHvmcontextPartial, XenDomctlVcpucontext,
};
use guest_abi::hvm::save::{
    HVM_FILE_MAGIC, HVM_SAVE_CODE_CPU, HVM_SAVE_CODE_HEADER, HVM_SAVE_CODE_MTRR, HvmHwCpu,
    HvmHwMtrr, HvmSaveDescriptor, HvmSaveHeader, segment,
};
use guest_rt::hypercall::refused;
use guest_rt::{Stop, Test, Verdict, broken, check, check_eq, insn, memory, probe, skip};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::{domctl, with_domain};

pub(crate) static TESTS: &[Test] = &[
    Test::new("domctl_context_as_libxl_sets_it", context),
    Test::new("domctl_whole_context_read_and_written_back", whole_context),
    Test::new("domctl_context_that_no_vcpu_has_is_refused", bad_context),
    Test::new("domctl_registers_read_and_written_back", registers),
];

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
    let (result, _, _) = domctl(XEN_DOMCTL_gethvmcontext_partial, domain, body);
    (result, value)
}

/// The header that the hypervisor writes.
fn header(domain: u16) -> Result<HvmSaveHeader, Stop> {
    let (result, _, size) = domctl(
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
    let (result, _, told) = domctl(XEN_DOMCTL_gethvmcontext, domain, body);
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
            domctl(XEN_DOMCTL_getvcpuinfo, domain, asked).2.online
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
    let (result, _, told) = domctl(XEN_DOMCTL_gethvmcontext, domain, body);
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
        let (_, _, info) = domctl(
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
