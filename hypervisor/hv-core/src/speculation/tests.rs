//! The decision over recorded CPUs, and what holds for every CPU.

use alloc::string::ToString;

use proptest::prelude::*;

use super::intel::arch;
use super::*;
use crate::cpuid::CpuidRegs;
use crate::msr::number::IA32_BIOS_SIGN_ID;

struct Recorded {
    name: &'static str,
    facts: CpuFacts,
    /// The line of the boot log.
    line: &'static str,
}

const OLD: Means = Means::IBRS_IBPB.union(Means::L1D_FLUSH).union(Means::SSBD);
const MDS_ERA: Means = OLD.union(Means::MD_CLEAR);

const fn cpu(signature: u32, arch_capabilities: u64, means: Means) -> CpuFacts {
    CpuFacts {
        vendor: Vendor::Intel,
        signature,
        arch_capabilities,
        means,
        has_rtm: false,
        has_gathers: true,
        has_random: true,
        immune: Weakness::empty(),
    }
}

const fn amd(signature: u32, means: Means, immune: Weakness) -> CpuFacts {
    CpuFacts {
        vendor: Vendor::Amd,
        immune,
        ..cpu(signature, 0, means)
    }
}

const AMD_OLD: Means = Means::IBPB.union(Means::IBPB_BRTYPE);
const AMD_ZEN_2: Means = AMD_OLD
    .union(Means::IBRS_IBPB)
    .union(Means::SSBD)
    .union(Means::FP_BACKUP_FIX);
const AMD_ZEN_3: Means = AMD_ZEN_2
    .difference(Means::FP_BACKUP_FIX)
    .union(Means::IBRS_ALWAYS)
    .union(Means::MD_CLEAR);

const CASCADE_LAKE: u64 =
    arch::RDCL_NO | arch::IBRS_ALL | arch::SKIP_L1DFL_VMENTRY | arch::MDS_NO | arch::TSX_CTRL;
const ICE_LAKE: u64 = CASCADE_LAKE ^ arch::TSX_CTRL | arch::TAA_NO | arch::GDS_CTRL;
const ALDER_LAKE: u64 =
    CASCADE_LAKE ^ arch::TSX_CTRL | arch::TAA_NO | arch::GDS_NO | arch::RFDS_CLEAR;
const SAPPHIRE_RAPIDS: u64 =
    CASCADE_LAKE | arch::TAA_NO | arch::GDS_NO | arch::RFDS_NO | arch::PBRSB_NO;

/// CPUs by signature, with what Intel's table of affected processors has them say of themselves.
const RECORDED: [Recorded; 21] = [
    Recorded {
        name: "Nehalem without microcode of 2018",
        facts: CpuFacts {
            has_gathers: false,
            has_random: false,
            ..cpu(0x0001_06A5, 0, Means::empty())
        },
        line: "nothing; unprotected: L1TF, MDS, branch targets, return stack",
    },
    Recorded {
        name: "Westmere, last microcode",
        facts: CpuFacts {
            has_gathers: false,
            has_random: false,
            ..cpu(0x0002_06C2, 0, OLD)
        },
        line: "IBRS, IBPB-domain, L1D-flush, RSB, guests' SPEC_CTRL; unprotected: MDS",
    },
    Recorded {
        name: "Ivy Bridge",
        facts: cpu(0x0003_06A9, 0, MDS_ERA.union(Means::SRBDS_MITIGATED)),
        line: "IBRS, IBPB-domain, L1D-flush, RSB, guests' SPEC_CTRL; unprotected: nothing",
    },
    Recorded {
        name: "Haswell with TSX",
        facts: CpuFacts {
            has_rtm: true,
            ..cpu(0x0003_06C3, 0, MDS_ERA)
        },
        line: "IBRS, IBPB-domain, L1D-flush, RSB, guests' SPEC_CTRL; unprotected: SRBDS",
    },
    Recorded {
        name: "Skylake server",
        facts: CpuFacts {
            has_rtm: true,
            ..cpu(
                0x0005_0654,
                arch::GDS_CTRL,
                MDS_ERA.union(Means::GDS_MITIGATED),
            )
        },
        line: "IBRS, IBPB-domain, L1D-flush, RSB, guests' SPEC_CTRL; unprotected: nothing",
    },
    Recorded {
        name: "Cascade Lake",
        facts: CpuFacts {
            has_rtm: true,
            ..cpu(0x0005_0657, CASCADE_LAKE, MDS_ERA)
        },
        line: "enhanced IBRS, IBPB-domain, VERW, RSB-one, BHB-short, guests' SPEC_CTRL; unprotected: GDS, ITS",
    },
    Recorded {
        name: "Comet Lake",
        facts: cpu(
            0x000A_0652,
            CASCADE_LAKE ^ arch::TSX_CTRL,
            MDS_ERA.union(Means::SRBDS_MITIGATED),
        ),
        line: "enhanced IBRS, IBPB-domain, RSB-one, BHB-short, guests' SPEC_CTRL; unprotected: GDS, ITS",
    },
    Recorded {
        name: "Goldmont",
        facts: cpu(0x0005_06C9, 0, OLD),
        line: "IBRS, IBPB-domain, RSB, guests' SPEC_CTRL; unprotected: RFDS",
    },
    Recorded {
        name: "Ice Lake server",
        facts: cpu(0x0006_06A6, ICE_LAKE, MDS_ERA.union(Means::GDS_MITIGATED)),
        line: "enhanced IBRS, IBPB-domain, RSB-one, BHB-short, guests' SPEC_CTRL; unprotected: nothing",
    },
    Recorded {
        name: "Tiger Lake",
        facts: cpu(0x0008_06C1, ICE_LAKE, MDS_ERA.union(Means::GDS_MITIGATED)),
        line: "enhanced IBRS, IBPB-domain, RSB-one, BHB-short, guests' SPEC_CTRL; unprotected: nothing",
    },
    Recorded {
        name: "Alder Lake, microcode of 2024",
        facts: cpu(0x0009_0672, ALDER_LAKE, MDS_ERA.union(Means::BHI_CTRL)),
        line: "enhanced IBRS, BHI_DIS_S, IBPB-domain, VERW, RSB-one, guests' SPEC_CTRL; unprotected: nothing",
    },
    Recorded {
        name: "Sapphire Rapids",
        facts: cpu(0x0008_06F8, SAPPHIRE_RAPIDS, MDS_ERA.union(Means::BHI_CTRL)),
        line: "enhanced IBRS, BHI_DIS_S, IBPB-domain, guests' SPEC_CTRL; unprotected: nothing",
    },
    Recorded {
        name: "a CPU of the future",
        facts: cpu(0x0010_0F00, u64::MAX ^ arch::RFDS_CLEAR, MDS_ERA),
        line: "enhanced IBRS, IBPB-domain, guests' SPEC_CTRL; unprotected: nothing",
    },
    Recorded {
        name: "Phenom",
        facts: amd(0x0010_0F23, Means::empty(), Weakness::empty()),
        line: "nothing; unprotected: branch targets, return stack",
    },
    Recorded {
        name: "Bulldozer with IBPB",
        facts: amd(0x0060_0F12, AMD_OLD, Weakness::empty()),
        line: "IBPB-domain, IBPB-entry, RSB, guests' IBPB; unprotected: nothing",
    },
    Recorded {
        name: "Zen 1",
        facts: amd(0x0080_0F11, AMD_OLD, Weakness::empty()),
        line: "IBPB-domain, IBPB-entry, RSB, guests' IBPB; unprotected: divider",
    },
    Recorded {
        name: "Zen 2 before its microcode of 2023",
        facts: amd(0x0083_0F10, AMD_ZEN_2, Weakness::empty()),
        line: "IBRS, IBPB-domain, IBPB-entry, RSB, FP_BACKUP_FIX, guests' SPEC_CTRL, guests' IBPB; unprotected: nothing",
    },
    Recorded {
        name: "Zen 3, microcode of 2025",
        facts: amd(0x00A0_0F11, AMD_ZEN_3, Weakness::BTC),
        line: "enhanced IBRS, IBPB-domain, IBPB-entry, VERW, RSB, guests' SPEC_CTRL, guests' IBPB; unprotected: nothing",
    },
    Recorded {
        name: "Zen 4, microcode of 2025",
        facts: amd(
            0x00A1_0F11,
            AMD_ZEN_3.union(Means::AUTO_IBRS).union(Means::IBPB_BRTYPE),
            Weakness::BTC,
        ),
        line: "IBPB-domain, IBPB-entry, VERW, automatic IBRS, guests' SPEC_CTRL, guests' IBPB; unprotected: nothing",
    },
    Recorded {
        name: "Zen 4 without microcode against SRSO",
        facts: amd(
            0x00A1_0F11,
            AMD_ZEN_3
                .union(Means::AUTO_IBRS)
                .difference(Means::IBPB_BRTYPE),
            Weakness::BTC,
        ),
        line: "IBPB-domain, VERW, automatic IBRS, guests' SPEC_CTRL, guests' IBPB; unprotected: SRSO",
    },
    Recorded {
        name: "Zen 5",
        facts: amd(
            0x00B0_0F20,
            AMD_ZEN_3.union(Means::AUTO_IBRS).union(Means::SPEC_REDUCE),
            Weakness::BTC,
        ),
        line: "IBPB-domain, automatic IBRS, BP_SPEC_REDUCE, guests' SPEC_CTRL, guests' IBPB; unprotected: nothing",
    },
];

#[test]
fn recorded_cpus_get_what_they_need_and_no_more() {
    for cpu in RECORDED {
        let plan = Plan::decide(&cpu.facts, &Settings::DEFAULT);
        assert_eq!(plan.to_string(), cpu.line, "{}", cpu.name);
    }
}

#[test]
fn what_was_asked_for_in_vain_is_named() {
    let facts = cpu(0x0002_06C2, 0, Means::empty());
    let settings = Settings::DEFAULT.parse("ibrs,l1d-flush,verw,rsb").unwrap();
    let plan = Plan::decide(&facts, &settings);
    assert_eq!(plan.lacking, Defences::IBRS | Defences::L1D_FLUSH);
    assert_eq!(plan.lacking_names(), "IBRS, L1D-flush");
    assert_eq!(plan.defences, Defences::VERW | Defences::RSB_STUFF);
    assert_eq!(plan.host_spec_ctrl(), 0);
    assert!(
        plan.unprotected.contains(Weakness::MDS),
        "without MD_CLEAR, VERW is an old instruction"
    );
}

#[test]
fn host_has_the_bits_that_are_on() {
    let facts = cpu(0x0008_06F8, SAPPHIRE_RAPIDS, MDS_ERA.union(Means::BHI_CTRL));
    let settings = Settings::DEFAULT.parse("ssbd").unwrap();
    assert_eq!(Plan::decide(&facts, &settings).host_spec_ctrl(), 0x405);
}

/// An AMD host with these in CPUID: leaf 1 EAX, 0x80000008 EBX, 0x80000021 EAX and ECX.
fn amd_host(signature: u32, eight: u32, more: [u32; 2]) -> HostCpuid {
    HostCpuid::read(|leaf, _| {
        let mut regs = CpuidRegs::default();
        match leaf {
            0 => {
                (regs.eax, regs.ebx, regs.edx, regs.ecx) =
                    (1, 0x6874_7541, 0x6974_6e65, 0x444d_4163)
            }
            1 => regs.eax = signature,
            0x8000_0000 => regs.eax = 0x8000_0021,
            0x8000_0008 => regs.ebx = eight,
            0x8000_0021 => [regs.eax, regs.ecx] = more,
            _ => {}
        }
        regs
    })
}

fn read_amd(host: &HostCpuid, microcode: u64) -> CpuFacts {
    let rdmsr = |msr| (msr == IA32_BIOS_SIGN_ID).then_some(microcode);
    let msrs = HostMsrs::read(host, rdmsr);
    let mut host = host.clone();
    complete(&mut host, &msrs);
    CpuFacts::read(&host, &msrs, 0)
}

#[test]
fn host_shows_what_it_stands_for_unless_it_is_a_virtual_one() {
    let shown = |signature: u32, is_virtual: bool| {
        let host = amd_host(signature, 1 << 12, [0, 0]);
        let mut host = HostCpuid::read(|leaf, _| {
            let mut regs = host.get(leaf, 0);
            regs.ecx |= u32::from(is_virtual && leaf == 1) << 31;
            regs
        });
        let msrs = HostMsrs::read(&host, |_| Some(0x0a00_11d7));
        complete(&mut host, &msrs);
        let [eight, more] = [0x8000_0008, 0x8000_0021].map(|leaf| host.get(leaf, 0));
        (eight.ebx, more.eax, more.ecx)
    };
    assert_eq!(shown(0x0080_0f11, false), (1 << 12, 1 << 28, 6));
    assert_eq!(shown(0x00a0_0f11, false), (1 << 12 | 1 << 29, 1 << 5, 0));
    assert_eq!(shown(0x0080_0f11, true), (1 << 12, 0, 0));
    assert_eq!(shown(0x00a0_0f11, true), (1 << 12, 0, 0));
}

#[test]
fn amds_means_are_read_where_cpuid_has_them() {
    let zen_4 = read_amd(&amd_host(0x00a1_0f11, 0x3101_5000, [0x8000_0120, 0]), 0);
    let means = Means::IBPB
        | Means::IBRS_IBPB
        | Means::IBRS_ALWAYS
        | Means::SSBD
        | Means::AUTO_IBRS
        | Means::MD_CLEAR
        | Means::SPEC_REDUCE;
    assert_eq!((zen_4.means, zen_4.immune), (means, Weakness::BTC));
    let sane = read_amd(&amd_host(0x00b0_0f20, 0x2000_0000, [0x2000_0000, 6]), 0);
    assert_eq!(sane.immune, Weakness::BTC | Weakness::SRSO | Weakness::TSA);
    let only_ibpb = read_amd(&amd_host(0x0080_0f11, 1 << 12, [0, 0]), 0);
    assert_eq!(only_ibpb.means, Means::IBPB | Means::IBPB_BRTYPE);
    assert_eq!(only_ibpb.immune, Weakness::TSA);
    let told = read_amd(&amd_host(0x00a0_0f11, 1 << 12, [1 << 28, 0]), 0);
    assert_eq!(told.means, Means::IBPB | Means::IBPB_BRTYPE);
}

#[test]
fn microcode_mends_what_its_revision_says() {
    let zen_2 = amd_host(0x0083_0f10, 0, [0, 0]);
    let mended = |microcode| {
        read_amd(&zen_2, microcode)
            .immune
            .contains(Weakness::ZENBLEED)
    };
    assert!(mended(0x0830_107a) && mended(0x0830_107b) && !mended(0x0830_1079));
    let zen_3 = amd_host(0x00a0_0f11, 0, [0, 0]);
    let clears = |microcode| read_amd(&zen_3, microcode).means.contains(Means::MD_CLEAR);
    assert!(clears(0x0a00_11d7) && clears(0x0a00_11ff));
    assert!(!clears(0x0a00_11d6) && !clears(0x0a00_0fff) && !clears(0x0a00_13ff));
}

fn any_facts() -> impl Strategy<Value = CpuFacts> {
    let models = prop::sample::select(RECORDED.map(|cpu| cpu.facts.signature).to_vec());
    (
        prop_oneof![models, any::<u32>()],
        any::<u64>(),
        any::<u32>(),
        any::<[bool; 4]>(),
    )
        .prop_map(
            |(signature, arch_capabilities, means, [has_rtm, has_gathers, has_random, is_amd])| {
                CpuFacts {
                    vendor: if is_amd { Vendor::Amd } else { Vendor::Intel },
                    immune: Weakness::empty(),
                    signature,
                    arch_capabilities,
                    means: Means::from_bits_truncate(means),
                    has_rtm,
                    has_gathers,
                    has_random,
                }
            },
        )
}

/// Weaknesses for which the microcode alone has a remedy.
const BY_MICROCODE: Weakness = Weakness::SRBDS.union(Weakness::GDS);

proptest! {
    #[test]
    fn nothing_is_done_that_the_cpu_cannot(facts in any_facts()) {
        let plan = Plan::decide(&facts, &Settings::DEFAULT);
        let has = |means| facts.means.contains(means);
        let needs = |defence, means| !plan.defences.contains(defence) || has(means);
        prop_assert!(needs(Defences::IBRS, Means::IBRS_IBPB));
        prop_assert!(needs(Defences::IBPB_DOMAIN, Means::IBRS_IBPB) || has(Means::IBPB));
        prop_assert!(needs(Defences::IBPB_ENTRY, Means::IBPB));
        prop_assert!(needs(Defences::GUEST_IBPB, Means::IBPB));
        prop_assert!(needs(Defences::GUEST_CONTROLS, Means::IBRS_IBPB));
        prop_assert!(needs(Defences::AUTO_IBRS, Means::AUTO_IBRS));
        prop_assert!(needs(Defences::SPEC_REDUCE, Means::SPEC_REDUCE));
        prop_assert!(needs(Defences::FP_BACKUP_FIX, Means::FP_BACKUP_FIX));
        prop_assert!(needs(Defences::L1D_FLUSH, Means::L1D_FLUSH));
        prop_assert!(needs(Defences::VERW, Means::MD_CLEAR));
        prop_assert!(needs(Defences::BHI_DIS_S, Means::BHI_CTRL));
        prop_assert_eq!(plan.lacking, Defences::empty());
        prop_assert!(facts.weaknesses().contains(plan.unprotected));
    }

    #[test]
    fn what_the_cpu_has_means_against_is_not_left(facts in any_facts()) {
        let facts = CpuFacts { means: Means::all(), ..facts };
        let plan = Plan::decide(&facts, &Settings::DEFAULT);
        // against that one there is none but another compiler, and against those nothing is done
        let hopeless = Weakness::ITS | Weakness::DIV;
        prop_assert_eq!(plan.unprotected - hopeless, Weakness::empty());
    }

    #[test]
    fn off_is_off_and_says_so(facts in any_facts()) {
        let plan = Plan::decide(&facts, &Settings::DEFAULT.parse("no").unwrap());
        prop_assert_eq!(plan.defences, Defences::empty());
        prop_assert_eq!(plan.host_spec_ctrl(), 0);
        let mut left = facts.weaknesses() - BY_MICROCODE;
        if facts.says(arch::SKIP_L1DFL_VMENTRY) {
            left -= Weakness::L1TF;
        }
        prop_assert_eq!(plan.unprotected - BY_MICROCODE, left);
    }

    #[test]
    fn cpu_that_says_it_lacks_a_weakness_is_believed(facts in any_facts(), bit in 0u32..64) {
        const NO: u64 = arch::RDCL_NO | arch::MDS_NO | arch::TAA_NO | arch::BHI_NO | arch::PBRSB_NO
            | arch::GDS_NO | arch::RFDS_NO | arch::ITS_NO;
        let better = CpuFacts {
            arch_capabilities: facts.arch_capabilities | (1 << bit & NO),
            ..facts
        };
        prop_assert!(facts.weaknesses().contains(better.weaknesses()));
    }
}
