//! VCPUOP_initialise of an HVM or PVH guest: the first state that a guest gives one of its vCPUs, as a record of
//! registers.
//!
//! What only the CPUID policy decides is checked with the record ([`super::context::check_cpu`]).
//! Source: `public/hvm/hvm_vcpu.h`; Xen's `arch/x86/hvm/domain.c, arch_set_info_hvm_guest`.

use guest_abi::hvm::hvm_vcpu::{
    VCPU_HVM_MODE_32B, VCPU_HVM_MODE_64B, VcpuHvmContext, VcpuHvmX8632, VcpuHvmX8664,
};
use guest_abi::hvm::save::{HvmHwCpu, segment};
use zerocopy::{FromBytes, IntoBytes};

use super::context::{BadRecord, empty_cpu};
use crate::x86::access::{ACCESSED, BUSY, CODE, CODE_OR_DATA, PRESENT, WRITABLE};
use crate::x86::{CR0_ET, CR0_PG, CR4_PAE, DR6_RESET, DR7_RESET, EFER_LMA, EFER_LME};

const RFLAGS_KNOWN: u64 = 0x3F_7FD7;

/// The record's places of CS, DS, SS, ES, TR, in the order of the context.
const SEGMENTS: [usize; 5] = [
    segment::CS,
    segment::DS,
    segment::SS,
    segment::ES,
    segment::TR,
];
const GRANULAR: u32 = 1 << 11;
const BUSY_TSS: u32 = 0xB;

/// The record of the registers that `context` asks for.
///
/// # Errors
/// [`BadRecord::Values`] for a mode that does not exist, padding that is not 0, and registers that do not go together.
pub fn record(context: &VcpuHvmContext) -> Result<HvmHwCpu, BadRecord> {
    if context.pad != 0 {
        return Err(BadRecord::Values);
    }
    let bytes = context.cpu_regs.as_bytes();
    let mut cpu = match context.mode {
        VCPU_HVM_MODE_32B => narrow(&read(bytes)?)?,
        VCPU_HVM_MODE_64B => wide(&read(bytes)?)?,
        _ => return Err(BadRecord::Values),
    };
    cpu.cr0 |= CR0_ET;
    cpu.rflags = cpu.rflags & RFLAGS_KNOWN | empty_cpu().rflags;
    cpu.dr6 = DR6_RESET;
    cpu.dr7 = DR7_RESET;
    Ok(cpu)
}

fn read<T: FromBytes>(bytes: &[u8]) -> Result<T, BadRecord> {
    let (regs, _) = T::read_from_prefix(bytes).map_err(|_| BadRecord::Values)?;
    Ok(regs)
}

fn narrow(regs: &VcpuHvmX8632) -> Result<HvmHwCpu, BadRecord> {
    let is_long_without_wish = regs.efer & EFER_LMA != 0 && regs.efer & EFER_LME == 0;
    if regs.pad1 != 0 || regs.pad2 != [0; 3] || is_long_without_wish {
        return Err(BadRecord::Values);
    }
    let order = [
        regs.eax, regs.ebx, regs.ecx, regs.edx, regs.ebp, regs.esi, regs.edi, regs.esp,
    ];
    let mut cpu = HvmHwCpu {
        rip: regs.eip.into(),
        rflags: regs.eflags.into(),
        cr0: regs.cr0.into(),
        cr3: regs.cr3.into(),
        cr4: regs.cr4.into(),
        msr_efer: regs.efer,
        ..empty_cpu()
    };
    for (place, value) in cpu.gprs.iter_mut().zip(order) {
        *place = value.into();
    }
    for (index, place) in SEGMENTS.into_iter().enumerate() {
        cpu.base[place] = regs.bases[index].into();
        cpu.limit[place] = regs.limits[index];
        cpu.arbytes[place] = access(place, regs.ars[index].into());
    }
    check_segments(&cpu)?;
    Ok(cpu)
}

/// What is set in access rights without being asked for.
const fn access(place: usize, given: u32) -> u32 {
    match place {
        segment::TR => given | BUSY,
        _ if given & PRESENT != 0 => given | ACCESSED,
        _ => given,
    }
}

fn check_segments(cpu: &HvmHwCpu) -> Result<(), BadRecord> {
    let dpl = |place: usize| cpu.arbytes[place] >> 5 & 3;
    let is_present = |place: usize| cpu.arbytes[place] & PRESENT != 0;
    let data_is_for_code = |place| !is_present(place) || dpl(place) <= dpl(segment::CS);
    let is_valid = SEGMENTS.into_iter().all(|place| {
        segment_is_valid(place, cpu.arbytes[place])
            && (!is_present(place) || limit_is_valid(cpu.limit[place], cpu.arbytes[place]))
    });
    let go_together = dpl(segment::SS) == dpl(segment::CS)
        && data_is_for_code(segment::DS)
        && data_is_for_code(segment::ES)
        && cpu.rip <= u64::from(cpu.limit[segment::CS]);
    if is_valid && go_together {
        Ok(())
    } else {
        Err(BadRecord::Values)
    }
}

fn segment_is_valid(place: usize, access: u32) -> bool {
    let kind = access & 0xF;
    let has = |bit| access & bit != 0;
    if access >> 12 != 0 {
        return false;
    }
    match place {
        segment::TR => !has(CODE_OR_DATA) && kind == BUSY_TSS && has(PRESENT),
        segment::DS | segment::ES if access == 0 => true,
        _ if !has(CODE_OR_DATA) || !has(PRESENT) => false,
        segment::CS => kind & CODE != 0,
        segment::SS => kind & CODE == 0 && kind & WRITABLE != 0,
        _ => kind & CODE == 0 || kind & WRITABLE != 0,
    }
}

/// Intel SDM vol. 3C, "Checks on Guest Segment Registers": granularity goes with the limit.
const fn limit_is_valid(limit: u32, access: u32) -> bool {
    let is_granular = access & GRANULAR != 0;
    (limit & 0xFFF == 0xFFF || !is_granular) && (limit >> 20 == 0 || is_granular)
}

fn wide(regs: &VcpuHvmX8664) -> Result<HvmHwCpu, BadRecord> {
    const FLAT: [(u32, u32); 5] = [
        (u32::MAX, 0xA9B),
        (u32::MAX, 0xC93),
        (u32::MAX, 0xC93),
        (u32::MAX, 0xC93),
        (0x67, 0x8B),
    ];
    let is_canonical = regs.rip >> 47 == 0 || regs.rip >> 47 == u64::MAX >> 47;
    let is_long = regs.cr0 & CR0_PG != 0 && regs.cr4 & CR4_PAE != 0 && regs.efer & EFER_LME != 0;
    if !is_canonical || !is_long {
        return Err(BadRecord::Values);
    }
    let order = [
        regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rbp, regs.rsi, regs.rdi, regs.rsp,
    ];
    let mut cpu = HvmHwCpu {
        rip: regs.rip,
        rflags: regs.rflags,
        cr0: regs.cr0,
        cr3: regs.cr3,
        cr4: regs.cr4,
        msr_efer: regs.efer,
        ..empty_cpu()
    };
    for (place, value) in cpu.gprs.iter_mut().zip(order) {
        *place = value;
    }
    for (place, (limit, access)) in SEGMENTS.into_iter().zip(FLAT) {
        cpu.limit[place] = limit;
        cpu.arbytes[place] = access;
    }
    Ok(cpu)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn context<T: IntoBytes + zerocopy::Immutable>(mode: u32, regs: &T) -> VcpuHvmContext {
        let mut context = VcpuHvmContext {
            mode,
            pad: 0,
            cpu_regs: [0; 15],
        };
        let room = context.cpu_regs.as_mut_bytes();
        room[..size_of::<T>()].copy_from_slice(regs.as_bytes());
        context
    }

    /// What a PVH guest gives its second processor: protected mode, flat segments.
    fn flat() -> VcpuHvmX8632 {
        VcpuHvmX8632 {
            eax: 1,
            ebx: 2,
            esp: 0x8000,
            eip: 0x10_0000,
            cr0: 1,
            limits: [u32::MAX, u32::MAX, u32::MAX, u32::MAX, 0x67],
            ars: [0xC9A, 0xC92, 0xC92, 0xC92, 0x89],
            ..VcpuHvmX8632::default()
        }
    }

    fn long() -> VcpuHvmX8664 {
        VcpuHvmX8664 {
            rip: 0xFFFF_FFFF_8000_0000,
            rdi: 7,
            cr0: CR0_PG | 1,
            cr3: 0x1000,
            cr4: CR4_PAE,
            efer: EFER_LME,
            ..VcpuHvmX8664::default()
        }
    }

    #[test]
    fn registers_land_where_records_have_them() {
        let cpu = record(&context(VCPU_HVM_MODE_32B, &flat())).expect("valid");
        assert_eq!((cpu.gprs[0], cpu.gprs[1], cpu.gprs[7]), (1, 2, 0x8000));
        assert_eq!((cpu.rip, cpu.cr0, cpu.rflags), (0x10_0000, 0x11, 2));
        assert_eq!(cpu.arbytes[segment::CS], 0xC9B);
        assert_eq!(cpu.arbytes[segment::TR], 0x8B);
        let cpu = record(&context(VCPU_HVM_MODE_64B, &long())).expect("valid");
        assert_eq!((cpu.gprs[6], cpu.cr3), (7, 0x1000));
        assert_eq!(cpu.arbytes[segment::CS], 0xA9B);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let refuse = |change: fn(&mut VcpuHvmX8632)| {
            let mut regs = flat();
            change(&mut regs);
            let refused = record(&context(VCPU_HVM_MODE_32B, &regs));
            assert_eq!(refused.err(), Some(BadRecord::Values));
        };
        refuse(|regs| regs.pad1 = 1);
        refuse(|regs| regs.pad2[2] = 1);
        refuse(|regs| regs.efer = EFER_LMA);
        refuse(|regs| regs.ars[0] = 0);
        refuse(|regs| regs.ars[0] = 0xC92);
        refuse(|regs| regs.ars[1] = 0xC98);
        refuse(|regs| regs.ars[2] = 0xC90);
        refuse(|regs| regs.ars[2] = 0xCF2);
        refuse(|regs| regs.ars[3] = 0xCF2);
        refuse(|regs| regs.ars[4] = 0x99);
        refuse(|regs| regs.ars[0] |= 0x1000);
        refuse(|regs| regs.limits[0] = 0xFFFF);
        refuse(|regs| regs.limits[1] = 0x1000_0000);
        let refuse = |change: fn(&mut VcpuHvmX8664)| {
            let mut regs = long();
            change(&mut regs);
            let refused = record(&context(VCPU_HVM_MODE_64B, &regs));
            assert_eq!(refused.err(), Some(BadRecord::Values));
        };
        refuse(|regs| regs.rip = 1 << 47);
        refuse(|regs| regs.cr0 = 1);
        refuse(|regs| regs.cr4 = 0);
        refuse(|regs| regs.efer = 0);
        assert!(record(&context(2, &long())).is_err());
    }

    #[test]
    fn data_segments_may_be_absent() {
        let mut regs = flat();
        [regs.ars[1], regs.ars[3]] = [0; 2];
        assert!(record(&context(VCPU_HVM_MODE_32B, &regs)).is_ok());
    }

    proptest! {
        #[test]
        fn no_context_panics(mode in 0..3u32, regs: [u64; 15]) {
            let _ = record(&VcpuHvmContext { mode, pad: 0, cpu_regs: regs });
        }
    }
}
