//! The MSR policy: what is listed works, all else raises #GP.

use guest_rt::insn::{cpuid, rdmsr_safe, wrmsr_safe};
use guest_rt::{Test, Verdict, check, check_eq, hypercall, insn, probe, skip, traps};

pub(crate) static TESTS: &[Test] = &[
    Test::new("msr_listed_can_be_read", listed),
    Test::new("msr_values", values),
    Test::new("msr_not_listed_faults_low_range", scan_low),
    Test::new("msr_not_listed_faults_high_range", scan_high),
    Test::new("msr_not_listed_faults_elsewhere", scan_elsewhere),
    Test::new("msr_invalid_writes_fault", invalid_writes),
    Test::new("msr_ignored_writes", ignored_writes),
    Test::new("msr_values_survive_exits", survive),
    Test::new("msr_mtrr_storage", mtrr),
    Test::new("msr_hypercall_page", hypercall_page),
];

/// What Intel's CPUs have beside.
const INTEL: &[u32] = &[0x17, 0x3A, 0x198, 0x199, 0x19C, 0x1A0];

/// What AMD's CPUs have beside: MC4_MISC1, PERFCTR0, SYSCFG, HWCR, TOP_MEM, TOP_MEM2, NB_CFG, C1E's, VM_CR, the
/// counters of family 15h, DE_CFG, EX_CFG.
const AMD: &[u32] = &[
    0xC000_0408,
    0xC001_0004,
    0xC001_0010,
    0xC001_0015,
    0xC001_001A,
    0xC001_001D,
    0xC001_001F,
    0xC001_0055,
    0xC001_0114,
    0xC001_0200,
    0xC001_1029,
    0xC001_102C,
];

/// The other counters and thresholds; BU_CFG and BU_CFG2 where the host has them; for dom0 IORR, TSEG and
/// MMIO_CONF_BASE.
fn may_be_amds(msr: u32) -> bool {
    insn::is_amd()
        && matches!(msr, 0xC000_0408..=0xC000_040A | 0xC001_0000..=0xC001_0007 | 0xC001_0200..=0xC001_020B
            | 0xC001_0016..=0xC001_0019 | 0xC001_0058 | 0xC001_0112 | 0xC001_0113 | 0xC001_1023 | 0xC001_102A)
}

fn vendors() -> &'static [u32] {
    if insn::is_amd() { AMD } else { INTEL }
}

const ALWAYS: &[u32] = &[
    0x10,
    0x1B,
    0x8B,
    0xCE,
    0xFE,
    0x140,
    0x174,
    0x175,
    0x176,
    0x179,
    0x17A,
    0x1D9,
    0x250,
    0x258,
    0x259,
    0x268,
    0x269,
    0x26A,
    0x26B,
    0x26C,
    0x26D,
    0x26E,
    0x26F,
    0x277,
    0x2FF,
    0x6E0,
    0x802,
    0x803,
    0x808,
    0x80A,
    0x80D,
    0x80F,
    0x810,
    0x828,
    0x830,
    0x832,
    0x838,
    0x839,
    0x83E,
    0xC000_0080,
    0xC000_0081,
    0xC000_0082,
    0xC000_0083,
    0xC000_0084,
    0xC000_0100,
    0xC000_0101,
    0xC000_0102,
];

fn need_hypervisor() -> Verdict {
    if !hypercall::present() {
        skip!("no hypervisor");
    }
    Ok(())
}

fn listed() -> Verdict {
    need_hypervisor()?;
    let base = rdmsr_safe(0x1B).unwrap_or(0);
    check!(wrmsr_safe(0x1B, base | 0x400).is_ok(), "x2APIC mode faults");
    for &msr in ALWAYS.iter().chain(vendors()) {
        check!(
            rdmsr_safe(msr).is_ok(),
            "RDMSR of {msr:#x} faults: {:x?}",
            rdmsr_safe(msr)
        );
    }
    for msr in conditional() {
        check!(
            rdmsr_safe(msr).is_ok(),
            "RDMSR of {msr:#x} faults though CPUID shows it"
        );
    }
    Ok(())
}

/// MSRs that CPUID announces.
fn conditional() -> impl Iterator<Item = u32> {
    let leaf7 = cpuid(7, 0);
    let speculation =
        leaf7.edx & (1 << 26 | 1 << 27 | 1 << 31) != 0 || cpuid(0x8000_0008, 0).ebx & 1 << 14 != 0;
    let tsc_aux = cpuid(0x8000_0001, 0).edx & 1 << 27 != 0 || leaf7.ecx & 1 << 22 != 0;
    let xsaves = cpuid(1, 0).ecx & 1 << 26 != 0 && cpuid(0xD, 1).eax & 1 << 3 != 0;
    [
        (0x3B, leaf7.ebx & 1 << 1 != 0),
        (0x48, speculation),
        (0x10A, leaf7.edx & 1 << 29 != 0),
        (0xDA0, xsaves),
        (0xC000_0103, tsc_aux),
    ]
    .into_iter()
    .filter_map(|(msr, is_shown)| is_shown.then_some(msr))
}

fn is_allowed(msr: u32, variable_mtrrs: u32) -> bool {
    ALWAYS.contains(&msr)
        || vendors().contains(&msr)
        || may_be_amds(msr)
        || (0x800..0x840).contains(&msr)
        || (0x200..0x200 + 2 * variable_mtrrs).contains(&msr)
        || conditional().any(|shown| shown == msr)
}

fn values() -> Verdict {
    need_hypervisor()?;
    for (msr, name) in [(0x140, "MISC_FEATURES"), (0x179, "MCG_CAP")] {
        check_eq!(rdmsr_safe(msr), Ok(0), "{name}");
    }
    if insn::is_amd() {
        amd_values()?;
    } else {
        intel_values()?;
    }
    check_eq!(
        rdmsr_safe(0xCE),
        Ok(1 << 31),
        "PLATFORM_INFO: CPUID faulting"
    );
    check_eq!(
        rdmsr_safe(0x1B).map(|v| v & !0x400),
        Ok(0xFEE0_0900),
        "APIC_BASE: boot CPU, enabled, in either mode"
    );
    check_eq!(
        rdmsr_safe(0x2FF).map(|v| v & 0xCFF),
        Ok(0x806),
        "MTRR default: on, write-back"
    );
    check_eq!(rdmsr_safe(0x277), Ok(0x0007_0406_0007_0406), "PAT at reset");
    check_eq!(
        rdmsr_safe(0xC000_0080).map(|v| v & 0xD00),
        Ok(0x500),
        "EFER: LME and LMA"
    );
    Ok(())
}

fn intel_values() -> Verdict {
    check_eq!(
        rdmsr_safe(0x3A),
        Ok(1),
        "FEATURE_CONTROL: locked, nothing enabled"
    );
    check_eq!(rdmsr_safe(0x198), Ok(0), "PERF_STATUS");
    check_eq!(
        rdmsr_safe(0x1A0).map(|v| v & 0x1800),
        Ok(0x1800),
        "MISC_ENABLE: no BTS, no PEBS"
    );
    Ok(())
}

fn amd_values() -> Verdict {
    let is_invariant = cpuid(0x8000_0007, 0).edx >> 8 & 1;
    for (msr, value, name) in [
        (
            0xC001_0015,
            u64::from(is_invariant) << 24,
            "HWCR: the TSC's rate",
        ),
        (0xC001_0114, 0, "VM_CR"),
        (0xC000_0408, 1 << 61, "MC4_MISC1: locked"),
    ] {
        check_eq!(rdmsr_safe(msr), Ok(value), "{name}");
    }
    // emulators have no such bit
    check!(
        matches!(rdmsr_safe(0xC001_1029), Ok(0 | 2)),
        "DE_CFG: whether LFENCE waits"
    );
    Ok(())
}

fn scan_low() -> Verdict {
    scan(0..0x2000)
}

fn scan_high() -> Verdict {
    scan(0xC000_0000..0xC000_2000)
}

fn scan_elsewhere() -> Verdict {
    scan(0x4000_0001..0x4000_0200)?;
    scan(0xC001_0000..0xC001_0300)?;
    scan(0xC001_1000..0xC001_1100)?;
    scan(0x8000_0000..0x8000_0040)
}

fn scan(range: core::ops::Range<u32>) -> Verdict {
    need_hypervisor()?;
    let variable_mtrrs = rdmsr_safe(0xFE).map_or(0, |cap| cap as u32 & 0xFF);
    let mut open = [0u32; 6];
    let mut count = 0;
    for msr in range.filter(|&msr| !is_allowed(msr, variable_mtrrs)) {
        match rdmsr_safe(msr) {
            Err(fault) => check!(
                fault.vector == traps::GP && fault.error == 0,
                "RDMSR of {msr:#x}: {fault:x?}"
            ),
            Ok(_) => {
                open[count % open.len()] = msr;
                count += 1;
            }
        }
    }
    check!(
        count == 0,
        "{count} MSRs can be read that are not listed, among them {:x?}",
        &open[..count.min(6)]
    );
    Ok(())
}

fn invalid_writes() -> Verdict {
    need_hypervisor()?;
    const NOT_CANONICAL: u64 = 0x8000_0000_0000_0000;
    let of_vendor: &[_] = if insn::is_amd() {
        &[
            (0x8B, 0, "PATCH_LEVEL"),
            (0xC000_0080, 0x1D01, "EFER.SVME"),
            (0xC001_0015, 0, "HWCR"),
            (0xC001_0117, 0x1000, "VM_HSAVE_PA"),
        ]
    } else {
        &[(0x3A, 5, "locked FEATURE_CONTROL")]
    };
    for &(msr, value, what) in of_vendor.iter().chain(&[
        (0xFE, 0, "MTRRcap"),
        (0x277, 2, "PAT with a reserved type"),
        (0x1D9, 1, "DEBUGCTL.LBR"),
        (0x2FF, 0x8000_0000, "reserved bits of the MTRR default"),
        (0x1B, 0xFEE0_0D01, "reserved bits of APIC_BASE"),
        (0x1B, 0xFEE0_0500, "x2APIC without enable"),
        (0xC000_0080, 0x8000_0000, "reserved bits of EFER"),
        (0xC000_0082, NOT_CANONICAL, "LSTAR not canonical"),
        (0xC000_0100, NOT_CANONICAL, "FS base not canonical"),
        (0xC000_0102, NOT_CANONICAL, "kernel GS base not canonical"),
        (0x803, 0, "x2APIC version"),
        (0x80B, 1, "x2APIC EOI with a value"),
        (0x8FF, 0, "no x2APIC register"),
        (0x480, 0, "VMX capability"),
        (0x4000_0000, 1, "hypercall page 1 of 1"),
    ]) {
        let result = wrmsr_safe(msr, value);
        check!(
            result.is_err_and(|f| f.vector == traps::GP),
            "WRMSR of {value:#x} to {msr:#x} ({what}): {result:x?}"
        );
    }
    let efer = rdmsr_safe(0xC000_0080).unwrap_or(0);
    check!(
        wrmsr_safe(0xC000_0080, efer & !0x100).is_err(),
        "LME can be cleared while paging"
    );
    Ok(())
}

fn ignored_writes() -> Verdict {
    need_hypervisor()?;
    let ignoring: &[_] = if insn::is_amd() {
        check!(
            wrmsr_safe(0xC001_0020, 0).is_ok(),
            "the loader of microcode faults"
        );
        &[0xC001_0010, 0xC001_001A, 0xC001_1029]
    } else {
        &[0x8B, 0x1A0]
    };
    for &msr in ignoring {
        let before = rdmsr_safe(msr);
        check!(wrmsr_safe(msr, 0).is_ok(), "WRMSR of 0 to {msr:#x} faults");
        check_eq!(rdmsr_safe(msr), before, "{msr:#x} after a write");
    }
    Ok(())
}

fn survive() -> Verdict {
    const REGISTERS: [u32; 9] = [
        0x174,
        0x175,
        0x176,
        0xC000_0081,
        0xC000_0082,
        0xC000_0083,
        0xC000_0084,
        0xC000_0100,
        0xC000_0102,
    ];
    // 16 bits: all that the first of them has on some CPUs
    let value = |index: usize| 0x1234 + index as u64 * 0x0101;
    for (index, &msr) in REGISTERS.iter().enumerate() {
        check!(
            wrmsr_safe(msr, value(index)).is_ok(),
            "WRMSR to {msr:#x} faults"
        );
    }
    for _ in 0..100 {
        let _ = cpuid(0, 0);
        let _ = insn::inb(0x20);
    }
    for (index, &msr) in REGISTERS.iter().enumerate() {
        check_eq!(
            rdmsr_safe(msr),
            Ok(value(index)),
            "MSR {msr:#x} after exits"
        );
        check!(wrmsr_safe(msr, 0).is_ok(), "WRMSR of 0 to {msr:#x} faults");
    }
    Ok(())
}

fn mtrr() -> Verdict {
    need_hypervisor()?;
    let variable = rdmsr_safe(0xFE).unwrap_or(0) & 0xFF;
    check!((1..=16).contains(&variable), "{variable} variable MTRRs");
    for (msr, value) in [
        (0x200, 0xC000_0000),
        (0x201, 0xC000_0800),
        (0x250, 0x0606_0606_0606_0606),
    ] {
        let before = rdmsr_safe(msr).unwrap_or(0);
        check!(
            wrmsr_safe(msr, value).is_ok(),
            "WRMSR of {value:#x} to {msr:#x} faults"
        );
        check_eq!(rdmsr_safe(msr), Ok(value), "{msr:#x} reads back");
        check!(
            wrmsr_safe(msr, before).is_ok(),
            "{msr:#x} cannot be put back"
        );
    }
    check!(
        wrmsr_safe(0x200, 2).is_err(),
        "a variable MTRR takes a reserved type"
    );
    check!(
        wrmsr_safe(0x250, 0x0202).is_err(),
        "a fixed MTRR takes a reserved type"
    );
    Ok(())
}

fn hypercall_page() -> Verdict {
    need_hypervisor()?;
    let Some(page) = guest_rt::memory::spare_range() else {
        skip!("no spare RAM")
    };
    check!(
        wrmsr_safe(0x4000_0000, page).is_ok(),
        "the hypercall page MSR cannot be written"
    );
    check_eq!(rdmsr_safe(0x4000_0000), Ok(0), "the MSR reads");
    for number in [0u64, 1, 17, 63] {
        // mov eax, number; the call; ret
        let [a, b, c] = hypercall::instruction();
        let want = [0xB8, number as u8, 0, 0, 0, a, b, c];
        check_eq!(
            insn::peek(page + number * 32),
            Ok(u64::from_le_bytes(want)),
            "stub {number}"
        );
    }
    check_eq!(
        insn::peek(page + 23 * 32).map(|v| v & 0xFFFF),
        Ok(0x0B0F),
        "stub of iret: UD2"
    );
    check_eq!(
        probe::version_through_page(page),
        0x0004_0011,
        "xen_version by its stub"
    );
    Ok(())
}
