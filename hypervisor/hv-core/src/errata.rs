//! Errata of AMD's CPUs that a bit of a model-specific register mends.
//!
//! A kernel that runs without a hypervisor sets these bits itself where its firmware did not. Guests are given none of
//! the registers, and one guest's hang, machine check or corrupted lock is everybody's: they are set for all of them,
//! once on each CPU. Weaknesses that leak (Zenbleed and its like) are `speculation`'s.
//!
//! Sources: AMD's Revision Guides, 41322 (family 10h), 44739 (12h), 53072 (16h), 55449 (17h); Xen's
//! `arch/x86/cpu/amd.c`, `arch/x86/hvm/svm/svm.c, svm_init_erratum_383`; Linux's `arch/x86/kernel/cpu/amd.c`; FreeBSD's
//! `sys/amd64/amd64/initcpu.c`; NetBSD's `sys/arch/x86/x86/errata.c`.
//!
//! Not here: 1474 (a core of Zen 1 or 2 may hang after 1044 days), whose mend costs the deeper sleep and is due after
//! 1000 days; those of processors without nested paging, on which no guest runs.

use alloc::vec::Vec;
use core::fmt;

use crate::cpuid::{HostCpuid, Vendor, family_and_model};

/// Interrupt Pending: what the chipset is told of idle cores, and C1E.
const INTERRUPT_PENDING: u32 = 0xc001_0055;
/// Load-store configuration.
const LS_CFG: u32 = 0xc001_1020;
/// Instruction-cache configuration.
const IC_CFG: u32 = 0xc001_1021;
/// Data-cache configuration.
const DC_CFG: u32 = 0xc001_1022;
/// Floating-point configuration.
const FP_CFG: u32 = 0xc001_1028;
/// Decode configuration.
const DE_CFG: u32 = 0xc001_1029;
/// Branch-prediction configuration.
const BP_CFG: u32 = 0xc001_102e;

/// What is done to the bits of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Set(u64),
    Clear(u64),
}

impl Change {
    fn applied_to(self, value: u64) -> u64 {
        match self {
            Self::Set(bits) => value | bits,
            Self::Clear(bits) => value & !bits,
        }
    }
}

/// An erratum, and its mend.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// AMD's number of it.
    number: u16,
    family: u32,
    /// The first model that has it and the last.
    models: (u32, u32),
    msr: u32,
    change: Change,
    /// What happens without the mend.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for who reads the table, and its test")
    )]
    what: &'static str,
}

const ANY: (u32, u32) = (0, 0xff);

const fn row(
    number: u16,
    family: u32,
    models: (u32, u32),
    (msr, change): (u32, Change),
    what: &'static str,
) -> Row {
    Row {
        number,
        family,
        models,
        msr,
        change,
        what,
    }
}

const NO_C1E: (u32, Change) = (INTERRUPT_PENDING, Change::Clear(3 << 27));
const C1E: &str = "the local APIC's timer stops while all cores idle";
const STACK: &str = "a long run of pushes or pops leaves a wrong stack pointer";

const fn set(msr: u32, bit: u32) -> (u32, Change) {
    (msr, Change::Set(1 << bit))
}

/// In the order of their numbers; a number may have a row for each family.
const TABLE: &[Row] = &[
    row(
        383,
        0x10,
        ANY,
        set(DC_CFG, 47),
        "page tables that change size of a page under a running guest machine-check the core",
    ),
    // firmware may switch it on again where dom0 enables ACPI
    row(400, 0x10, ANY, NO_C1E, C1E),
    row(400, 0x11, ANY, NO_C1E, C1E),
    row(
        665,
        0x12,
        ANY,
        set(DE_CFG, 31),
        "a division of integers may do anything",
    ),
    row(721, 0x10, ANY, set(DE_CFG, 0), STACK),
    row(721, 0x12, ANY, set(DE_CFG, 0), STACK),
    row(
        776,
        0x16,
        (0, 0),
        set(IC_CFG, 26),
        "branches in two consecutive pages are predicted wrongly, and what follows is undefined",
    ),
    row(
        793,
        0x16,
        (0, 0xf),
        set(LS_CFG, 15),
        "a locked instruction after writes that combine hangs the core (CVE-2013-6885)",
    ),
    row(
        1021,
        0x17,
        (0, 0xf),
        set(DE_CFG, 13),
        "a load may have what an older store overwrote",
    ),
    row(
        1033,
        0x17,
        (1, 1),
        set(LS_CFG, 4),
        "a locked instruction may hang the machine",
    ),
    row(
        1049,
        0x17,
        (0, 0xf),
        set(FP_CFG, 4),
        "FCMOV may move what it should not",
    ),
    row(
        1095,
        0x17,
        (0, 0xf),
        set(LS_CFG, 57),
        "a locked instruction may not order a later load, with two threads a core",
    ),
    row(
        1485,
        0x19,
        (0x10, 0x1f),
        set(BP_CFG, 5),
        "#UD on instructions that are there",
    ),
    row(
        1485,
        0x19,
        (0x60, 0xaf),
        set(BP_CFG, 5),
        "#UD on instructions that are there",
    ),
];

/// What became of an erratum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The firmware was there first.
    ByFirmware,
    Mended,
    /// The CPU refuses the register or the bits.
    Refused,
}

/// What became of the errata of a CPU, by AMD's numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcomes(Vec<(u16, Outcome)>);

impl Outcomes {
    /// True where the CPU has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (number, outcome)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            let outcome = match outcome {
                Outcome::ByFirmware => "mended by firmware",
                Outcome::Mended => "mended",
                Outcome::Refused => "not mended (the CPU refuses)",
            };
            write!(f, "{separator}{number} {outcome}")?;
        }
        Ok(())
    }
}

/// Mends the errata of the CPU that `cpuid` describes, by its MSRs: `rdmsr` answers `None` and `wrmsr` false where the
/// CPU refuses. Under another hypervisor nothing is done: the machine is that one's.
pub fn mend(
    cpuid: &HostCpuid,
    rdmsr: impl Fn(u32) -> Option<u64>,
    mut wrmsr: impl FnMut(u32, u64) -> bool,
) -> Outcomes {
    const HYPERVISOR: u32 = 1 << 31;
    let one = cpuid.get(1, 0);
    if cpuid.vendor() != Vendor::Amd || one.ecx & HYPERVISOR != 0 {
        return Outcomes::default();
    }
    let outcomes = of_signature(one.eax).map(|row| (row.number, mend_one(row, &rdmsr, &mut wrmsr)));
    Outcomes(outcomes.collect())
}

fn mend_one(
    row: &Row,
    rdmsr: impl Fn(u32) -> Option<u64>,
    wrmsr: impl FnOnce(u32, u64) -> bool,
) -> Outcome {
    let Some(value) = rdmsr(row.msr) else {
        return Outcome::Refused;
    };
    let mended = row.change.applied_to(value);
    let is_mended = |value| row.change.applied_to(value) == value;
    if value == mended {
        Outcome::ByFirmware
    } else if wrmsr(row.msr, mended) && rdmsr(row.msr).is_some_and(is_mended) {
        // an emulator may take the write and forget it
        Outcome::Mended
    } else {
        Outcome::Refused
    }
}

fn of_signature(signature: u32) -> impl Iterator<Item = &'static Row> {
    let (family, model) = family_and_model(signature);
    TABLE
        .iter()
        .filter(move |row| row.family == family && (row.models.0..=row.models.1).contains(&model))
}

#[cfg(test)]
mod tests;
