//! What a guest and the domain that owns the machine find of AMD's MSRs.

use alloc::vec::Vec;

use super::super::number::*;
use super::super::{BackedMsr, MsrContext, MsrPolicy, MsrRead, MsrState, MsrWrite};
use super::*;
use crate::cpuid::amd_host;
use crate::cpuid::tests::options;
use crate::cpuid::{CpuidPolicy, CpuidRegs, HostCpuid};

/// Answers for any MSR, with its number.
fn host() -> HostMsrs {
    HostMsrs::read(&amd_host(), |msr| Some(u64::from(msr) << 8 | 0xff))
}

fn policy(host: &HostMsrs) -> MsrPolicy {
    MsrPolicy::build(&CpuidPolicy::build(&amd_host(), &options()), host)
}

fn read(host: &HostMsrs, msr: u32) -> MsrRead {
    policy(host).read(msr, &MsrState::RESET)
}

fn write(msr: u32, value: u64) -> MsrWrite {
    let context = MsrContext::default();
    policy(&host()).write(msr, value, &mut MsrState::RESET.clone(), &context)
}

/// What a guest may read, all of it, and with writes that do nothing: a register that appears here by accident shows in
/// review.
fn listed() -> (Vec<u32>, Vec<u32>) {
    let mut readable: Vec<u32> = [
        0x10,
        0x1b,
        0x48,
        0x8b,
        0xce,
        0xfe,
        0x140,
        0x179,
        0x17a,
        0x1d9,
        0x250,
        0x258,
        0x259,
        0x277,
        0x2ff,
        0x6e0,
        0xda0,
        0x4000_0000,
        EXTENDED_FEATURES,
        SYSCFG,
        HWCR,
        TOP_MEM,
        TOP_MEM2,
        NB_CFG,
        INTERRUPT_PENDING,
        VM_CR,
        BU_CFG,
        BU_CFG2,
        DE_CFG,
        EX_CFG,
    ]
    .into();
    for range in [
        0x200..0x210,
        0x268..0x270,
        0x800..0x840,
        0xc001_0000..0xc001_0008,
        0xc001_0200..0xc001_020c,
        0xc000_0408..0xc000_040b,
    ] {
        readable.extend(range);
    }
    let ignoring = [
        SYSCFG,
        TOP_MEM,
        TOP_MEM2,
        NB_CFG,
        PATCH_LOADER,
        VM_CR,
        BU_CFG,
        BU_CFG2,
        DE_CFG,
        EX_CFG,
    ];
    let amd = |msr: &u32| *msr >= 0xc000_0400 && (*msr & 0xffff_fff8 != 0xc001_0010);
    let mut ignoring = Vec::from(ignoring);
    ignoring.extend(
        readable
            .iter()
            .copied()
            .filter(amd)
            .filter(|msr| *msr != INTERRUPT_PENDING),
    );
    (readable, ignoring)
}

const EXTENDED_FEATURES: u32 = IA32_EFER;

#[test]
fn what_is_not_listed_faults_both_ways() {
    let (readable, ignoring) = listed();
    let policy = policy(&host().for_guest());
    let ranges = [
        0..0x2000,
        0xc000_0000..0xc000_2000,
        0xc001_0000..0xc001_2000,
    ];
    for msr in ranges.into_iter().flatten() {
        let is_fault = policy.read(msr, &MsrState::RESET) == MsrRead::Fault;
        assert_eq!(is_fault, !readable.contains(&msr), "{msr:#x}");
        let is_ignored = msr >= 0xc000_0400 && write(msr, u64::MAX) == MsrWrite::Done;
        assert_eq!(is_ignored, ignoring.contains(&msr), "{msr:#x}");
        if is_fault && !is_ignored {
            assert_eq!(write(msr, 0), MsrWrite::Fault, "{msr:#x}");
        }
    }
}

#[test]
fn what_linux_reads_without_a_fault_handler_has_an_answer() {
    let guest = host().for_guest();
    assert_eq!(
        read(&guest, HWCR),
        MsrRead::Value(1 << 24),
        "an invariant TSC"
    );
    assert_eq!(read(&guest, SYSCFG), MsrRead::Value(0));
    assert_eq!(read(&guest, INTERRUPT_PENDING), MsrRead::Value(0));
    assert_eq!(read(&guest, DE_CFG), MsrRead::Value(2));
    assert_eq!(read(&guest, IA32_BIOS_SIGN_ID), MsrRead::Value(0x8bff));
}

#[test]
fn guest_is_told_what_became_of_lfence() {
    /// A CPU of AMD's with this in 0x80000021 EAX.
    fn cpu(features: u32) -> HostCpuid {
        HostCpuid::read(|leaf, subleaf| match leaf {
            0x8000_0021 => CpuidRegs {
                eax: features,
                ..CpuidRegs::default()
            },
            _ => amd_host().get(leaf, subleaf),
        })
    }
    for (features, de_cfg, expected) in [
        (0, None, 0),
        (0, Some(0), 0),
        (0, Some(0x202), 2),
        (1 << 2, None, 2),
        (1 << 2, Some(0), 2),
    ] {
        let rdmsr = |msr| if msr == DE_CFG { de_cfg } else { Some(0) };
        let host = HostMsrs::read(&cpu(features), rdmsr);
        assert_eq!(
            read(&host, DE_CFG),
            MsrRead::Value(expected),
            "{features:#x} {de_cfg:?}"
        );
    }
}

#[test]
fn registers_of_intel_fault() {
    for msr in [
        IA32_PLATFORM_ID,
        IA32_FEATURE_CONTROL,
        IA32_MISC_ENABLE,
        IA32_PERF_STATUS,
        IA32_PERF_CTL,
        IA32_THERM_STATUS,
        IA32_ARCH_CAPABILITIES,
    ] {
        assert_eq!(read(&host(), msr), MsrRead::Fault, "{msr:#x}");
        assert_eq!(write(msr, 0), MsrWrite::Fault, "{msr:#x}");
    }
    assert_eq!(write(IA32_BIOS_SIGN_ID, 0), MsrWrite::Fault);
}

#[test]
fn memory_map_is_for_the_domain_that_owns_the_machine() {
    let shown = 1 << 18 | 0b111 << 20;
    let value = |msr: u32| u64::from(msr) << 8 | 0xff;
    for msr in HARDWARE_DOMAIN {
        let expected = if msr == SYSCFG {
            value(msr) & shown
        } else {
            value(msr)
        };
        assert_eq!(read(&host(), msr), MsrRead::Value(expected), "{msr:#x}");
        let nothing = matches!(msr, SYSCFG | TOP_MEM | TOP_MEM2);
        let expected = if nothing {
            MsrRead::Value(0)
        } else {
            MsrRead::Fault
        };
        assert_eq!(read(&host().for_guest(), msr), expected, "{msr:#x}");
    }
    let lacking = HostMsrs::read(&amd_host(), |_| None);
    for msr in HARDWARE_DOMAIN.into_iter().chain([BU_CFG, BU_CFG2]) {
        assert_eq!(read(&lacking, msr), MsrRead::Fault, "{msr:#x}");
    }
}

#[test]
fn fast_fxsave_can_be_switched_on_and_svm_cannot() {
    assert_eq!(
        write(IA32_EFER, 1 << 14),
        MsrWrite::Backed(BackedMsr::Efer, 1 << 14)
    );
    for refused in [12, 13, 15, 21] {
        assert_eq!(write(IA32_EFER, 1 << refused), MsrWrite::Fault);
    }
}

#[test]
fn speculation_controls_follow_amds_bits() {
    assert_eq!(
        write(IA32_SPEC_CTRL, 0x87),
        MsrWrite::Backed(BackedMsr::SpecCtrl, 0x87)
    );
    assert_eq!(write(IA32_SPEC_CTRL, 1 << 10), MsrWrite::Fault);
    let policy = policy(&host());
    let mut commands = policy
        .passthrough()
        .iter()
        .filter(|p| p.msr == IA32_PRED_CMD);
    assert!(commands.next().is_some_and(|p| p.write && !p.read));
}
