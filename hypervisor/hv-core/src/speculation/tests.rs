//! The decision over recorded CPUs, and what holds for every CPU.

use alloc::string::ToString;

use proptest::prelude::*;

use super::*;

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
        signature,
        arch_capabilities,
        means,
        has_rtm: false,
        has_gathers: true,
        has_random: true,
    }
}

const CASCADE_LAKE: u64 =
    arch::RDCL_NO | arch::IBRS_ALL | arch::SKIP_L1DFL_VMENTRY | arch::MDS_NO | arch::TSX_CTRL;
const ICE_LAKE: u64 = CASCADE_LAKE ^ arch::TSX_CTRL | arch::TAA_NO | arch::GDS_CTRL;
const ALDER_LAKE: u64 =
    CASCADE_LAKE ^ arch::TSX_CTRL | arch::TAA_NO | arch::GDS_NO | arch::RFDS_CLEAR;
const SAPPHIRE_RAPIDS: u64 =
    CASCADE_LAKE | arch::TAA_NO | arch::GDS_NO | arch::RFDS_NO | arch::PBRSB_NO;

/// CPUs by signature, with what Intel's table of affected processors has them say of themselves.
const RECORDED: [Recorded; 13] = [
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

fn any_facts() -> impl Strategy<Value = CpuFacts> {
    let models = prop::sample::select(RECORDED.map(|cpu| cpu.facts.signature).to_vec());
    (
        prop_oneof![models, any::<u32>()],
        any::<u64>(),
        any::<u32>(),
        any::<[bool; 3]>(),
    )
        .prop_map(
            |(signature, arch_capabilities, means, [has_rtm, has_gathers, has_random])| CpuFacts {
                signature,
                arch_capabilities,
                means: Means::from_bits_truncate(means),
                has_rtm,
                has_gathers,
                has_random,
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
        prop_assert!(needs(Defences::IBPB_DOMAIN, Means::IBRS_IBPB));
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
        // against that one there is none but another compiler
        prop_assert_eq!(plan.unprotected - Weakness::ITS, Weakness::empty());
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
