//! The MSR policy over the recorded Skylake-X of the CPUID tests.

use alloc::vec::Vec;
use proptest::prelude::*;

use super::number::*;
use super::*;
use crate::cpuid::tests::{options, skylake_x};
use crate::cpuid::{CpuidOptions, Provides};

fn policy_with(provides: Provides) -> MsrPolicy {
    let options = CpuidOptions {
        provides,
        ..options()
    };
    let cpuid = CpuidPolicy::build(&skylake_x(), &options);
    let host = HostMsrs {
        platform_id: 0x0010_0000_0000_0000,
        microcode_revision: 0x0200_0064_0000_0000,
        misc_enable: 0x85_0089,
        arch_capabilities: u64::MAX,
        ..HostMsrs::default()
    };
    MsrPolicy::build(&cpuid, &host)
}

fn policy() -> MsrPolicy {
    policy_with(Provides::all())
}

fn read(msr: u32) -> MsrRead {
    policy().read(msr, &MsrState::RESET)
}

fn write(msr: u32, value: u64) -> MsrWrite {
    policy().write(
        msr,
        value,
        &mut MsrState::RESET.clone(),
        &MsrContext::default(),
    )
}

/// What a guest may read, all of it: a register that appears here by accident shows in review.
fn readable() -> Vec<u32> {
    let mut list: Vec<u32> = [
        0x10, 0x17, 0x1b, 0x3a, 0x48, 0x8b, 0xce, 0xfe, 0x10a, 0x140, 0x179, 0x17a, 0x198, 0x199,
        0x19c, 0x1a0, 0x1d9, 0x250, 0x258, 0x259, 0x277, 0x2ff, 0x6e0, 0xda0,
    ]
    .into();
    list.extend(0x200..0x210);
    list.extend(0x268..0x270);
    list.extend(0x800..0x840);
    list.extend([0x4000_0000, 0xc000_0080]);
    list
}

#[test]
fn what_is_not_listed_faults_both_ways() {
    let listed = readable();
    let policy = policy();
    let low = 0..0x2000;
    let high = 0xc000_0000..0xc000_2000;
    let xen = 0x3fff_ff00..0x4000_0200;
    for msr in low.chain(high).chain(xen).chain([u32::MAX]) {
        let is_fault = policy.read(msr, &MsrState::RESET) == MsrRead::Fault;
        assert_eq!(is_fault, !listed.contains(&msr), "{msr:#x}");
        if is_fault {
            for value in [0, 1, u64::MAX] {
                assert_eq!(write(msr, value), MsrWrite::Fault, "{msr:#x}");
            }
        }
    }
}

#[test]
fn what_early_linux_reads_without_a_fault_handler_has_an_answer() {
    assert_eq!(read(IA32_MISC_ENABLE), MsrRead::Value(0x1801));
    assert_eq!(read(IA32_APIC_BASE), MsrRead::Backed(BackedMsr::ApicBase));
    assert_eq!(read(0x802), MsrRead::Backed(BackedMsr::X2Apic(2)));
    assert_eq!(read(IA32_EFER), MsrRead::Backed(BackedMsr::Efer));
}

#[test]
fn constants_ignore_or_refuse_writes() {
    assert_eq!(write(IA32_MISC_ENABLE, 0), MsrWrite::Done);
    assert_eq!(write(IA32_BIOS_SIGN_ID, 0), MsrWrite::Done);
    assert_eq!(write(IA32_FEATURE_CONTROL, 5), MsrWrite::Fault);
    assert_eq!(write(IA32_MTRRCAP, 0x508), MsrWrite::Fault);
    assert_eq!(write(MSR_MISC_FEATURES_ENABLES, 2), MsrWrite::Fault);
    assert_eq!(write(IA32_XSS, 0), MsrWrite::Done);
    assert_eq!(write(IA32_XSS, 1 << 8), MsrWrite::Fault);
}

#[test]
fn cpuid_faulting_is_announced_and_kept() {
    let policy = policy_with(Provides::all());
    let mut state = MsrState::RESET;
    assert_eq!(
        policy.read(MSR_PLATFORM_INFO, &state),
        MsrRead::Value(1 << 31)
    );
    for value in [1, 0, 1] {
        let context = MsrContext::default();
        let written = policy.write(MSR_MISC_FEATURES_ENABLES, value, &mut state, &context);
        assert_eq!(written, MsrWrite::Done);
        let read = policy.read(MSR_MISC_FEATURES_ENABLES, &state);
        assert_eq!(
            (read, state.faults_cpuid()),
            (MsrRead::Value(value), value == 1)
        );
    }
    let record = state.mtrr_record(0x0007_0406_0007_0406);
    assert_eq!(state.with_mtrrs(&record, 46), Some(state));
}

/// IA32_DEBUGCTL.LBR and the registers of records: LBR_SELECT, LASTBRANCH_TOS, LER, LASTBRANCH_0.
#[test]
fn branch_records_are_absent() {
    assert_eq!(write(IA32_DEBUGCTL, 1), MsrWrite::Fault);
    assert_eq!(
        write(IA32_DEBUGCTL, 2),
        MsrWrite::Backed(BackedMsr::DebugCtl, 2)
    );
    for msr in [
        0x1C8, 0x1C9, 0x1DB, 0x1DC, 0x1DD, 0x1DE, 0x680, 0x6C0, 0xDC0, 0x14CE,
    ] {
        assert_eq!(read(msr), MsrRead::Fault, "{msr:#x}");
    }
}

#[test]
fn arch_capabilities_show_no_control_registers() {
    let bare = policy_with(Provides::empty());
    let MsrRead::Value(shown) = read(IA32_ARCH_CAPABILITIES) else {
        panic!("hidden");
    };
    for control in [7, 10, 11, 12, 18, 21, 22, 23, 25] {
        assert_eq!(shown & (1 << control), 0, "bit {control}");
    }
    assert_eq!(shown & 1, 1);
    assert_eq!(bare.read(IA32_SPEC_CTRL, &MsrState::RESET), MsrRead::Fault);
    assert!(!bare.passthrough().iter().any(|p| p.msr == IA32_PRED_CMD));
    assert!(!bare.passthrough().iter().any(|p| p.msr == IA32_TSC_AUX));
}

#[test]
fn the_passthrough_list_is_the_switched_state_and_commands() {
    let list: Vec<_> = policy()
        .passthrough()
        .iter()
        .map(|p| (p.msr, p.read, p.write))
        .collect();
    assert_eq!(list.len(), MAX_PASSTHROUGH);
    assert!(list.contains(&(IA32_TIME_STAMP_COUNTER, true, false)));
    assert!(list.contains(&(IA32_PRED_CMD, false, true)));
    assert!(list.contains(&(IA32_TSC_AUX, true, true)));
    assert!(list.contains(&(IA32_LSTAR, true, true)));
}

#[test]
fn speculation_control_takes_only_bits_that_cpuid_shows() {
    let backed = |v| MsrWrite::Backed(BackedMsr::SpecCtrl, v);
    assert_eq!(write(IA32_SPEC_CTRL, 5), backed(5));
    assert_eq!(write(IA32_SPEC_CTRL, 8), MsrWrite::Fault);
}

#[test]
fn efer_keeps_lma_and_refuses_lme_while_paging() {
    let at = |efer, cr0, value| {
        policy().write(
            IA32_EFER,
            value,
            &mut MsrState::RESET.clone(),
            &MsrContext { cr0, efer },
        )
    };
    let backed = |v| MsrWrite::Backed(BackedMsr::Efer, v);
    assert_eq!(at(0, 1, 0x100), backed(0x100));
    assert_eq!(at(0, 1, 0x500), backed(0x100));
    assert_eq!(at(0x500, CR0_PG | 1, 0x901), backed(0xd01));
    assert_eq!(at(0x500, CR0_PG | 1, 0x801), MsrWrite::Fault);
    assert_eq!(at(0, 1, 1 << 12), MsrWrite::Fault);
}

#[test]
fn the_hypercall_page_is_number_0_of_1() {
    let backed = |v| MsrWrite::Backed(BackedMsr::HypercallPage, v);
    assert_eq!(write(0x4000_0000, 0x1234_5000), backed(0x1234_5000));
    assert_eq!(write(0x4000_0000, 0x1234_5001), MsrWrite::Fault);
    assert_eq!(read(0x4000_0000), MsrRead::Value(0));
}

#[test]
fn the_apics_reserved_bits_are_refused() {
    let backed = |v| MsrWrite::Backed(BackedMsr::ApicBase, v);
    assert_eq!(write(IA32_APIC_BASE, 0xfee0_0d00), backed(0xfee0_0d00));
    assert_eq!(write(IA32_APIC_BASE, 0xfee0_0000), backed(0xfee0_0000));
    // for the local APIC to judge
    assert_eq!(write(IA32_APIC_BASE, 0xfed0_0900), backed(0xfed0_0900));
    for invalid in [0xfee0_0901, 0x10_0000_fee0_0900, 0xfee0_0a00] {
        assert_eq!(write(IA32_APIC_BASE, invalid), MsrWrite::Fault);
    }
}

#[test]
fn x2apic_mode_is_what_cpuid_says() {
    let mut policy = policy();
    policy.has_x2apic = false;
    let write = |value| {
        policy.write(
            IA32_APIC_BASE,
            value,
            &mut MsrState::RESET.clone(),
            &MsrContext::default(),
        )
    };
    assert_eq!(write(0xfee0_0c00), MsrWrite::Fault);
    let backed = MsrWrite::Backed(BackedMsr::ApicBase, 0xfee0_0800);
    assert_eq!(write(0xfee0_0800), backed);
}

#[test]
fn mtrrs_start_as_all_write_back_and_check_their_types() {
    assert_eq!(read(IA32_MTRR_DEF_TYPE), MsrRead::Value(0x806));
    assert_eq!(read(IA32_MTRRCAP), MsrRead::Value(0x508));
    assert_eq!(write(IA32_MTRR_DEF_TYPE, 0xc06), MsrWrite::Done);
    for (msr, invalid) in [
        (0x2ff, 0x802),
        (0x2ff, 0x1806),
        (0x200, 2),
        (0x200, 0x106),
        (0x200, 1 << 46 | 6),
        (0x201, 1 << 46 | 0x800),
        (0x201, 1),
        (0x250, 0x0606_0606_0602_0606),
    ] {
        assert_eq!(
            write(msr, invalid),
            MsrWrite::Fault,
            "{msr:#x} {invalid:#x}"
        );
    }
}

proptest! {
    #[test]
    fn what_an_mtrr_takes_it_gives_back(writes in proptest::collection::vec((0x200u32..0x300, any::<u64>()), 0..60)) {
        let policy = policy();
        let mut state = MsrState::RESET;
        for (msr, value) in writes {
            // Make some of the values valid: types only, or an aligned base.
            for value in [value, value & 0x0404_0404_0404_0404, value & 0x3fff_ffff_f804] {
                let before = policy.read(msr, &state);
                match policy.write(msr, value, &mut state, &MsrContext::default()) {
                    MsrWrite::Done => prop_assert_eq!(policy.read(msr, &state), MsrRead::Value(value)),
                    MsrWrite::Fault => prop_assert_eq!(policy.read(msr, &state), before),
                    MsrWrite::Backed(backed, _) => prop_assert_eq!(backed, BackedMsr::Pat),
                }
            }
        }
    }

    #[test]
    fn a_pat_is_taken_exactly_where_every_entry_is_a_type(value in any::<u64>(), mask in any::<u64>()) {
        let value = value & mask & 0x0707_0707_0707_0707 | value & mask & mask << 1 & mask << 2;
        let valid = (0..8).all(|i| [0, 1, 4, 5, 6, 7].contains(&(value >> (8 * i) & 0xff)));
        prop_assert_eq!(write(IA32_PAT, value) != MsrWrite::Fault, valid);
    }
}

proptest! {
    #[test]
    fn mtrrs_written_one_by_one_are_those_of_the_record(writes in proptest::collection::vec((0usize..28, 0u64..1 << 40), 0..60)) {
        let mut state = MsrState::RESET;
        let policy = MsrPolicy::build(&crate::cpuid::CpuidPolicy::build(&crate::cpuid::tests::skylake_x(), &crate::cpuid::tests::options()), &HostMsrs::default());
        for (n, value) in writes {
            let msr = match n {
                0..16 => 0x200 + u32::try_from(n).unwrap(),
                16..27 => [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f][n - 16],
                _ => 0x2ff,
            };
            let _ = policy.write(msr, value & 0x0606_0606_06ff, &mut state, &MsrContext::default());
        }
        let record = state.mtrr_record(0x0007_0406_0007_0406);
        prop_assert_eq!(MsrState::RESET.with_mtrrs(&record, 46), Some(state));
    }
}

#[test]
fn records_with_values_that_cannot_be_written_are_refused() {
    let good = MsrState::RESET.mtrr_record(0x0007_0406_0007_0406);
    assert_eq!(MsrState::RESET.with_mtrrs(&good, 46), Some(MsrState::RESET));
    for change in [
        |r: &mut HvmHwMtrr| r.msr_pat_cr = 2,
        |r: &mut HvmHwMtrr| r.msr_mtrr_def_type = 2,
        |r: &mut HvmHwMtrr| r.msr_mtrr_var[1] = 1 << 50,
        |r: &mut HvmHwMtrr| r.msr_mtrr_fixed[10] = 7,
    ] {
        let mut bad = good;
        change(&mut bad);
        assert_eq!(MsrState::RESET.with_mtrrs(&bad, 46), None);
    }
}
