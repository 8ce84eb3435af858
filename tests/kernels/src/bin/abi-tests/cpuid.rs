//! The CPUID policy: the hypervisor's leaves, what is shown and what is hidden.

use guest_abi::arch_x86::cpuid::{
    XEN_CPUID_FIRST_LEAF, XEN_CPUID_LEAF_HVM, XEN_CPUID_LEAF_HYPERCALL, XEN_CPUID_LEAF_VERSION,
    XEN_CPUID_SIGNATURE_EBX, XEN_CPUID_SIGNATURE_ECX, XEN_CPUID_SIGNATURE_EDX,
    XEN_HVM_CPUID_DOMID_PRESENT, XEN_HVM_CPUID_UPCALL_VECTOR, XEN_HVM_CPUID_VCPU_ID_PRESENT,
    XEN_HYPERCALL_PAGE_MSR,
};
use guest_rt::insn::{Cpuid, cpuid};
use guest_rt::{Test, Verdict, check, check_eq, hypercall, insn, skip, xsave};

pub(crate) static TESTS: &[Test] = &[
    Test::new("cpuid_hypervisor_leaves", hypervisor_leaves),
    Test::new("cpuid_hides_what_is_not_virtualised", hidden),
    Test::new("cpuid_shows_what_guests_need", shown),
    Test::new("cpuid_leaves_without_meaning_are_zero", zeroes),
    Test::new("cpuid_is_stable", stable),
    Test::new("cpuid_apic_ids_agree", apic_ids),
    Test::new("cpuid_xsave_sizes_follow_xcr0", xsave_sizes),
    Test::new("cpuid_osxsave_follows_cr4", osxsave),
    Test::new("cpuid_address_widths", widths),
];

fn need_hypervisor() -> Verdict {
    if !hypercall::present() {
        skip!("no hypervisor");
    }
    Ok(())
}

fn hypervisor_leaves() -> Verdict {
    need_hypervisor()?;
    let first = cpuid(XEN_CPUID_FIRST_LEAF, 0);
    check_eq!(first.eax, XEN_CPUID_FIRST_LEAF + 5, "highest leaf");
    check_eq!(
        [first.ebx, first.ecx, first.edx],
        [
            XEN_CPUID_SIGNATURE_EBX,
            XEN_CPUID_SIGNATURE_ECX,
            XEN_CPUID_SIGNATURE_EDX
        ],
        "signature"
    );
    check_eq!(cpuid(XEN_CPUID_LEAF_VERSION, 0).eax, 0x0004_0011, "version");
    let page = cpuid(XEN_CPUID_LEAF_HYPERCALL, 0);
    check_eq!(
        [page.eax, page.ebx, page.ecx, page.edx],
        [1, XEN_HYPERCALL_PAGE_MSR, 0, 0],
        "hypercall page leaf"
    );
    let hvm = cpuid(XEN_CPUID_LEAF_HVM, 0);
    let want =
        XEN_HVM_CPUID_VCPU_ID_PRESENT | XEN_HVM_CPUID_DOMID_PRESENT | XEN_HVM_CPUID_UPCALL_VECTOR;
    check_eq!(hvm.eax & want, want, "HVM features");
    check!(
        hvm.eax & !(want | 7) == 0,
        "unknown HVM features {:#x}",
        hvm.eax
    );
    check_eq!(hvm.ebx, 0, "vCPU id");
    check_eq!(
        cpuid(XEN_CPUID_FIRST_LEAF + 5, 0),
        Cpuid::default(),
        "PV leaf"
    );
    Ok(())
}

/// (leaf, sub-leaf, register 0 to 3, bit, name)
const HIDDEN: &[(u32, u32, usize, u32, &str)] = &[
    (1, 0, 2, 2, "DTES64"),
    (1, 0, 2, 3, "MONITOR"),
    (1, 0, 2, 4, "DS_CPL"),
    (1, 0, 2, 5, "VMX"),
    (1, 0, 2, 6, "SMX"),
    (1, 0, 2, 7, "EIST"),
    (1, 0, 2, 8, "TM2"),
    (1, 0, 2, 15, "PDCM"),
    (1, 0, 3, 21, "DS"),
    (1, 0, 3, 22, "ACPI"),
    (1, 0, 3, 29, "TM"),
    (7, 0, 1, 2, "SGX"),
    (7, 0, 1, 25, "Intel PT"),
    (7, 0, 2, 5, "WAITPKG"),
    (7, 0, 2, 7, "CET_SS"),
    (7, 0, 2, 29, "ENQCMD"),
    (7, 0, 2, 31, "PKS"),
    (7, 0, 3, 5, "UINTR"),
    (7, 0, 3, 15, "HYBRID"),
    (7, 0, 3, 18, "PCONFIG"),
    (7, 0, 3, 20, "CET_IBT"),
    (7, 0, 3, 22, "AMX-BF16"),
    (7, 0, 3, 24, "AMX-TILE"),
    (7, 0, 3, 25, "AMX-INT8"),
    (0xD, 0, 0, 17, "XTILECFG"),
    (0xD, 0, 0, 18, "XTILEDATA"),
    (0x8000_0001, 0, 2, 2, "SVM"),
    (0x8000_0001, 0, 2, 3, "EXTAPIC"),
    (0x8000_0001, 0, 2, 9, "OSVW"),
    (0x8000_0001, 0, 2, 10, "IBS"),
    (0x8000_0001, 0, 2, 12, "SKINIT"),
    (0x8000_0001, 0, 2, 13, "WDT"),
    (0x8000_0001, 0, 2, 15, "LWP"),
    (0x8000_0001, 0, 2, 23, "PERFCTR_CORE"),
    (0x8000_0001, 0, 2, 26, "DBEXT"),
    (0x8000_0001, 0, 2, 29, "MONITORX"),
    (0x8000_0008, 0, 1, 4, "RDPRU"),
    (0x8000_0008, 0, 1, 25, "VIRT_SSBD"),
];

fn hidden() -> Verdict {
    need_hypervisor()?;
    for &(leaf, subleaf, register, bit, name) in HIDDEN {
        check!(
            register_of(cpuid(leaf, subleaf), register) & 1 << bit == 0,
            "{name} is shown"
        );
    }
    Ok(())
}

/// As [`HIDDEN`].
const SHOWN: &[(u32, u32, usize, u32, &str)] = &[
    (1, 0, 2, 21, "X2APIC"),
    (1, 0, 2, 24, "TSC_DEADLINE"),
    (1, 0, 2, 31, "HYPERVISOR"),
    (1, 0, 3, 0, "FPU"),
    (1, 0, 3, 4, "TSC"),
    (1, 0, 3, 5, "MSR"),
    (1, 0, 3, 6, "PAE"),
    (1, 0, 3, 9, "APIC"),
    (1, 0, 3, 12, "MTRR"),
    (1, 0, 3, 13, "PGE"),
    (1, 0, 3, 16, "PAT"),
    (1, 0, 3, 24, "FXSR"),
    (1, 0, 3, 26, "SSE2"),
    (6, 0, 0, 2, "ARAT"),
    (0x8000_0001, 0, 3, 11, "SYSCALL"),
    (0x8000_0001, 0, 3, 20, "NX"),
    (0x8000_0001, 0, 3, 29, "LM"),
];

fn shown() -> Verdict {
    need_hypervisor()?;
    for &(leaf, subleaf, register, bit, name) in SHOWN {
        check!(
            register_of(cpuid(leaf, subleaf), register) & 1 << bit != 0,
            "{name} is hidden"
        );
    }
    Ok(())
}

fn zeroes() -> Verdict {
    need_hypervisor()?;
    let zero = Cpuid::default();
    for leaf in [
        5,
        0xA,
        0x12,
        0x14,
        0x19,
        0x1A,
        0x8000_000A,
        0x8000_001B,
        0x8000_001F,
        0x8000_0022,
        XEN_CPUID_FIRST_LEAF + 6,
        XEN_CPUID_FIRST_LEAF + 0xFF,
    ] {
        check_eq!(cpuid(leaf, 0), zero, "leaf {leaf:#x}");
    }
    let power = cpuid(6, 0);
    check_eq!(
        [power.eax, power.ebx, power.ecx, power.edx],
        [1 << 2, 0, 0, 0],
        "leaf 6, all but ARAT"
    );
    Ok(())
}

/// Two sweeps with exits of other kinds between them give the same.
fn stable() -> Verdict {
    let (first, leaves) = digest();
    let _ = insn::rdmsr_safe(0x1B);
    let _ = insn::inb(0x20);
    insn::flush_tlb();
    check_eq!(digest().0, first, "digest of {leaves} leaves");
    Ok(())
}

fn digest() -> (u64, u32) {
    let mut digest = 0xCBF2_9CE4_8422_2325u64;
    let mut leaves = 0;
    for base in [0, XEN_CPUID_FIRST_LEAF, 0x8000_0000] {
        let last = cpuid(base, 0).eax.clamp(base, base + 0x40);
        for leaf in base..=last {
            for subleaf in 0..4 {
                leaves += 1;
                for register in 0..4 {
                    let value = u64::from(register_of(cpuid(leaf, subleaf), register));
                    digest = (digest ^ value).wrapping_mul(0x100_0000_01B3);
                }
            }
        }
    }
    (digest, leaves)
}

fn apic_ids() -> Verdict {
    let initial = cpuid(1, 0).ebx >> 24;
    let is_x2apic = insn::rdmsr_safe(0x1B).is_ok_and(|base| base & 0x400 != 0);
    let id = if is_x2apic {
        insn::rdmsr_safe(0x802)
    } else {
        insn::read_mmio32(0xFEE0_0020).map(|id| u64::from(id >> 24))
    };
    check_eq!(id, Ok(u64::from(initial)), "APIC id against leaf 1");
    if cpuid(0, 0).eax >= 0xB && cpuid(0xB, 0).ebx != 0 {
        check_eq!(cpuid(0xB, 0).edx, initial, "leaf 0xB against leaf 1");
    }
    let has_topology = cpuid(0x8000_0001, 0).ecx & 1 << 22 != 0;
    if has_topology {
        let place = cpuid(0x8000_001E, 0);
        check_eq!(place.eax, initial, "leaf 0x8000001E against leaf 1");
        check_eq!(place.ebx >> 8 & 0xFF, 0, "threads of a core");
    }
    Ok(())
}

fn xsave_sizes() -> Verdict {
    if !xsave::is_available() {
        skip!("no XSAVE");
    }
    check!(
        xsave::enable().is_ok(),
        "XCR0 cannot be set to all of CPUID.0xD: {:x?}",
        xsave::enable()
    );
    let all = cpuid(0xD, 0);
    check_eq!(
        all.ebx,
        all.ecx,
        "size with everything enabled against the maximum"
    );
    let offered = xsave::offered();
    let end = (2..63)
        .filter(|c| offered & 1 << c != 0)
        .map(|c| cpuid(0xD, c))
        .map(|c| c.eax + c.ebx)
        .max();
    check_eq!(
        all.ecx,
        end.unwrap_or(576),
        "maximum against the components' ends"
    );
    check!(
        insn::xsetbv_safe(0, 1).is_ok(),
        "XCR0 cannot be set to x87 alone"
    );
    check_eq!(cpuid(0xD, 0).ebx, 576, "size with x87 alone");
    Ok(())
}

fn osxsave() -> Verdict {
    if !xsave::is_available() {
        skip!("no XSAVE");
    }
    check!(xsave::enable().is_ok(), "XSAVE cannot be enabled");
    check!(
        cpuid(1, 0).ecx & 1 << 27 != 0,
        "OSXSAVE is clear though CR4 has it"
    );
    Ok(())
}

fn widths() -> Verdict {
    let widths = cpuid(0x8000_0008, 0).eax;
    let (physical, linear) = (widths & 0xFF, widths >> 8 & 0xFF);
    check!((32..=52).contains(&physical), "{physical} physical bits");
    check!(linear == 48 || linear == 57, "{linear} linear bits");
    Ok(())
}

fn register_of(leaf: Cpuid, register: usize) -> u32 {
    [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx][register % 4]
}
