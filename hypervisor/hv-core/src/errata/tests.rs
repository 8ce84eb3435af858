//! The table against CPUs by signature, and its rows applied to MSRs that take, refuse or forget.

use core::cell::RefCell;
use std::collections::BTreeMap;
use std::string::ToString;

use super::*;
use crate::cpuid::CpuidRegs;

const JAGUAR: u32 = 0x0070_0f01;
const SUMMIT_RIDGE: u32 = 0x0080_0f11;

/// A CPU of AMD's with this signature and leaf 1 ECX.
fn amd(signature: u32, ecx: u32) -> HostCpuid {
    HostCpuid::read(|leaf, _| {
        let mut regs = CpuidRegs::default();
        match leaf {
            0 => {
                (regs.eax, regs.ebx, regs.edx, regs.ecx) =
                    (1, 0x6874_7541, 0x6974_6e65, 0x444d_4163);
            }
            1 => (regs.eax, regs.ecx) = (signature, ecx),
            _ => {}
        }
        regs
    })
}

/// What `mend` makes of a CPU whose MSRs have `initial`, and what they have then.
fn mended(cpuid: &HostCpuid, initial: u64) -> (Outcomes, BTreeMap<u32, u64>) {
    let msrs = RefCell::new(BTreeMap::new());
    let rdmsr = |msr: u32| Some(*msrs.borrow().get(&msr).unwrap_or(&initial));
    let outcomes = mend(cpuid, rdmsr, |msr, value| {
        msrs.borrow_mut().insert(msr, value);
        true
    });
    (outcomes, msrs.into_inner())
}

fn numbers(signature: u32) -> Vec<u16> {
    of_signature(signature).map(|row| row.number).collect()
}

#[test]
fn each_cpu_has_the_errata_of_its_revision_guide() {
    for (signature, name, expected) in [
        (0x0010_0f43, "Phenom II", &[383, 400, 721][..]),
        (0x0030_0f10, "Llano", &[665, 721]),
        (0x0060_0f12, "Zambezi", &[]),
        (JAGUAR, "Jaguar", &[776, 793]),
        (0x0073_0f01, "Puma", &[]),
        (SUMMIT_RIDGE, "Zen 1", &[1021, 1033, 1049, 1095]),
        (0x0080_0f82, "Zen+", &[1021, 1049, 1095]),
        (0x0083_0f10, "Zen 2", &[]),
        (0x00a0_0f11, "Zen 3", &[]),
        (0x00a1_0f11, "Zen 4", &[1485]),
        (0x00a6_0f12, "Zen 4, client", &[1485]),
        (0x00b0_0f20, "Zen 5", &[]),
    ] {
        assert_eq!(numbers(signature), expected, "{name}");
    }
}

#[test]
fn rows_stand_in_order_change_something_and_say_why() {
    assert!(TABLE.is_sorted_by_key(|row| row.number));
    for row in TABLE {
        let (Change::Set(bits) | Change::Clear(bits)) = row.change;
        assert!(bits != 0 && row.models.0 <= row.models.1, "{}", row.number);
        assert!(row.what.len() > 12, "{}", row.number);
    }
}

#[test]
fn bits_are_set_beside_those_that_are_there() {
    let (outcomes, msrs) = mended(&amd(SUMMIT_RIDGE, 0), 0b1000);
    assert_eq!(
        outcomes.to_string(),
        "1021 mended, 1033 mended, 1049 mended, 1095 mended"
    );
    let expected = [
        (LS_CFG, 0x0200_0000_0000_0018),
        (FP_CFG, 0x18),
        (DE_CFG, 0x2008),
    ];
    assert_eq!(msrs, BTreeMap::from(expected));
}

#[test]
fn what_firmware_did_is_not_done_again() {
    let (outcomes, msrs) = mended(&amd(JAGUAR, 0), 1 << 15 | 1 << 26);
    assert_eq!(
        outcomes.to_string(),
        "776 mended by firmware, 793 mended by firmware"
    );
    assert!(msrs.is_empty());
}

#[test]
fn sleep_that_stops_the_timer_is_switched_off() {
    let (_, msrs) = mended(&amd(0x0010_0f43, 0), u64::MAX);
    assert_eq!(
        msrs,
        BTreeMap::from([(INTERRUPT_PENDING, !(0b11 << 27))]),
        "all else is set already"
    );
}

#[test]
fn cpu_that_refuses_or_forgets_is_named() {
    let jaguar = amd(JAGUAR, 0);
    let refused = "776 not mended (the CPU refuses), 793 not mended (the CPU refuses)";
    let lacks = mend(&jaguar, |_| None, |_, _| panic!("there is no register"));
    assert_eq!(lacks.to_string(), refused);
    assert_eq!(
        mend(&jaguar, |_| Some(0), |_, _| false).to_string(),
        refused
    );
    assert_eq!(mend(&jaguar, |_| Some(0), |_, _| true).to_string(), refused);
}

#[test]
fn nothing_is_touched_under_another_hypervisor_or_on_anothers_cpu() {
    let untouched = |cpuid: &HostCpuid| {
        mend(
            cpuid,
            |_| panic!("it is not ours to read"),
            |_, _| panic!("it is not ours to write"),
        )
    };
    assert!(untouched(&amd(JAGUAR, 1 << 31)).is_empty());
    assert!(untouched(&crate::cpuid::tests::skylake_x()).is_empty());
}
