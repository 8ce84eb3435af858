//! Streams taken apart as they were put together, and registers that toolstacks set.

use guest_abi::hvm::save::{HVM_SAVE_CODE_CPU, HvmHwMtrr, segment};
use proptest::prelude::*;
use std::vec::Vec;

use super::*;
use crate::cpuid::CpuidPolicy;
use crate::cpuid::tests::{options, skylake_x};

const HEADER: HvmSaveHeader = HvmSaveHeader {
    magic: HVM_FILE_MAGIC,
    version: HVM_FILE_VERSION,
    changeset: u64::MAX,
    cpuid: 0x0005_0654,
    gtsc_khz: 3_504_000,
};

fn policy() -> CpuidPolicy {
    CpuidPolicy::build(&skylake_x(), &options())
}

/// The registers with which libxc 4.17 starts a PVH guest's first vCPU.
fn libxc_bsp() -> HvmHwCpu {
    let mut cpu = HvmHwCpu::new_zeroed();
    for which in [segment::CS, segment::DS, segment::ES, segment::SS] {
        cpu.limit[which] = !0;
        cpu.arbytes[which] = 0xc93;
    }
    cpu.arbytes[segment::CS] = 0xc9b;
    cpu.limit[segment::TR] = 0x67;
    cpu.arbytes[segment::TR] = 0x8b;
    cpu.cr0 = CR0_PE | CR0_ET;
    cpu.rip = 0x100_0000;
    cpu.gprs[1] = 0x7000;
    cpu.dr6 = 0xFFFF_0FF0;
    cpu.dr7 = 0x400;
    cpu
}

#[test]
fn what_libxc_starts_a_guest_with_is_taken() {
    let mut cpu = libxc_bsp();
    assert_eq!(check_cpu(&mut cpu, &policy()), Ok(()));
    assert_eq!(cpu.rflags, 2);
    assert_eq!(from_arbytes(cpu.arbytes[segment::CS]), 0xC09B);
    assert_eq!(from_arbytes(cpu.arbytes[segment::TR]), 0x8B);
    assert_eq!(from_arbytes(cpu.arbytes[segment::LDTR]), 1 << 16);
}

#[test]
fn registers_that_no_vcpu_can_have_are_refused() {
    let changes: &[fn(&mut HvmHwCpu)] = &[
        |c| c.cr0 = CR0_ET | CR0_PG,
        |c| c.cr0 = CR0_PE,
        |c| c.cr0 |= 1 << 32,
        |c| c.cr0 |= CR0_NW,
        |c| c.cr3 = 1 << 46,
        |c| c.cr4 = 1 << 13,
        |c| c.msr_efer = 1 << 12,
        |c| (c.cr0, c.msr_efer) = (c.cr0 | CR0_PG, EFER_LME),
        |c| c.cr4 = CR4_PCIDE,
        |c| (*c, c.arbytes[segment::CS]) = (long_mode(), 0xe9b),
        |c| (*c, c.arbytes[segment::CS]) = (long_mode(), 0x609b),
        |c| c.msr_tsc_aux = 1 << 32,
        |c| c.flags = 2,
        |c| c.pad0 = 1,
        |c| c.rflags = 1 << 15,
        |c| c.dr7 = 1 << 32,
        |c| c.base[segment::FS] = 1 << 47,
        |c| c.msr_lstar = 1 << 63,
    ];
    for (n, change) in changes.iter().enumerate() {
        let mut cpu = libxc_bsp();
        change(&mut cpu);
        assert_eq!(
            check_cpu(&mut cpu, &policy()),
            Err(BadRecord::Values),
            "change {n}"
        );
    }
}

/// The same in 64-bit mode.
fn long_mode() -> HvmHwCpu {
    let mut cpu = libxc_bsp();
    cpu.cr4 = CR4_PAE;
    cpu.msr_efer = EFER_LME;
    cpu.cr0 |= CR0_PG;
    cpu.arbytes[segment::CS] = 0xa9b;
    cpu
}

#[test]
fn code_segment_and_pcids_are_checked_against_the_mode() {
    const L: u32 = 1 << 9;
    const D: u32 = 1 << 10;
    for (base, is_long) in [(libxc_bsp(), false), (long_mode(), true)] {
        for cs in [0, L, D, L | D] {
            for pcide in [0, CR4_PCIDE] {
                let mut cpu = base;
                cpu.arbytes[segment::CS] = 0x89b | cs;
                cpu.cr4 |= pcide;
                let is_valid = is_long && cs != L | D || !is_long && pcide == 0;
                let answer = check_cpu(&mut cpu, &policy());
                assert_eq!(
                    answer.is_ok(),
                    is_valid,
                    "long {is_long} {cs:#x} {pcide:#x}"
                );
            }
        }
    }
}

#[test]
fn lma_follows_lme_and_paging() {
    let mut cpu = libxc_bsp();
    cpu.cr4 = CR4_PAE;
    cpu.msr_efer = EFER_LME;
    cpu.cr0 |= CR0_PG;
    assert_eq!(check_cpu(&mut cpu, &policy()), Ok(()));
    assert_eq!(cpu.msr_efer, EFER_LME | EFER_LMA);
    cpu.cr0 &= !CR0_PG;
    assert_eq!(check_cpu(&mut cpu, &policy()), Ok(()));
    assert_eq!(cpu.msr_efer, EFER_LME);
}

#[test]
fn a_short_record_is_filled_up_and_a_long_one_refused() {
    let record = |body| Record {
        typecode: 14,
        instance: 0,
        body,
    };
    let mtrr: HvmHwMtrr = record(&[7]).read().unwrap();
    assert_eq!(mtrr.msr_pat_cr, 7);
    assert_eq!(
        record(&[0; 241]).read::<HvmHwMtrr>(),
        Err(BadRecord::TooLong)
    );
}

#[test]
fn streams_without_header_or_end_are_refused() {
    assert_eq!(Records::begin(&[]).map(|_| ()), Err(BadRecord::CutShort));
    let mut other = HEADER;
    other.magic += 1;
    let stream = Stream::begin(64, &other).unwrap().end().unwrap();
    assert_eq!(Records::begin(&stream).map(|_| ()), Err(BadRecord::Header));
    let stream = Stream::begin(64, &HEADER).unwrap().end().unwrap();
    let (_, mut records) = Records::begin(&stream[..stream.len() - 1]).unwrap();
    assert_eq!(records.next(), Some(Err(BadRecord::CutShort)));
    assert_eq!(records.next(), None);
}

#[test]
fn what_has_no_room_is_not_put() {
    let mut stream = Stream::begin(32 + 16, &HEADER).unwrap();
    assert_eq!(stream.put(HVM_SAVE_CODE_CPU, 0, &[0; 9]), Err(NoRoom));
    assert_eq!(stream.put(HVM_SAVE_CODE_CPU, 0, &[0; 8]), Ok(()));
    assert_eq!(stream.end(), Err(NoRoom));
}

proptest! {
    #[test]
    fn records_come_out_as_they_were_put_in(bodies in proptest::collection::vec((1u16..30, any::<u16>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..12)) {
        let mut stream = Stream::begin(4096, &HEADER).unwrap();
        for (typecode, instance, body) in &bodies {
            stream.put(*typecode, *instance, body).unwrap();
        }
        let bytes = stream.end().unwrap();
        let (header, records) = Records::begin(&bytes).unwrap();
        prop_assert_eq!(header, HEADER);
        let back: Result<Vec<_>, _> = records.map(|r| r.map(|r| (r.typecode, r.instance, r.body.to_vec()))).collect();
        prop_assert_eq!(back.unwrap(), bodies);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut stream = Stream::begin(4096, &HEADER).unwrap();
        let _ = stream.put(2, 0, &[1, 2, 3]);
        let mut with_header = stream.end().unwrap();
        with_header.truncate(32);
        with_header.extend_from_slice(&bytes);
        let (_, records) = Records::begin(&with_header).unwrap();
        for record in records.flatten() {
            if let Ok(mut cpu) = record.read::<HvmHwCpu>() {
                let _ = check_cpu(&mut cpu, &policy());
            }
        }
        let _ = Records::begin(&bytes);
    }

    #[test]
    fn access_rights_survive(access in any::<u32>()) {
        // a usable segment is present; of an unusable one only its unusability counts
        let access = access & 0xF07F | if access >> 16 & 1 == 0 { PRESENT } else { UNUSABLE };
        let back = from_arbytes(to_arbytes(access));
        prop_assert_eq!(back & UNUSABLE, access & UNUSABLE);
        if access & UNUSABLE == 0 {
            prop_assert_eq!(back, access);
        }
    }
}
