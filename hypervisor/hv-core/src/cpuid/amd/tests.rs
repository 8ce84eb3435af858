//! The policy over a Zen 3, read back through raw-cpuid.

use alloc::vec::Vec;
use proptest::prelude::*;
use raw_cpuid::{CpuId, CpuIdReader};

use super::super::tests::{leaf, options};
use super::super::{CpuidPolicy, LeafRefused, apic_id};
use super::*;

/// An EPYC of family 19h with eight cores and AVX2; columns: leaf, subleaf, EAX, EBX, ECX, EDX.
const ZEN_3: [[u32; 6]; 28] = [
    [0, 0, 0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
    [1, 0, 0x00a0_0f11, 0x0310_0800, 0x7efa_320b, 0x178b_fbff],
    [5, 0, 0x40, 0x40, 3, 0x11],
    [6, 0, 4, 0, 1, 0],
    [7, 0, 0, 0x219c_97a9, 0x0040_068c, 0x10],
    [0xb, 0, 1, 2, 0x100, 3],
    [0xb, 1, 7, 0x10, 0x201, 3],
    [0xd, 0, 0x207, 0x988, 0x988, 0],
    [0xd, 1, 0xf, 0x348, 0x1800, 0],
    [0xd, 2, 0x100, 0x240, 0, 0],
    [0xd, 9, 8, 0x980, 0, 0],
    [
        0x8000_0000,
        0,
        0x8000_0023,
        0x6874_7541,
        0x444d_4163,
        0x6974_6e65,
    ],
    [
        0x8000_0001,
        0,
        0x00a0_0f11,
        0x4000_0000,
        0x75c2_37ff,
        0x2fd3_fbff,
    ],
    [
        0x8000_0002,
        0,
        0x2044_4d41,
        0x4359_5045,
        0x3133_3720,
        0x3631_2033,
    ],
    [
        0x8000_0005,
        0,
        0xff40_ff40,
        0xff40_ff40,
        0x2008_0140,
        0x2008_0140,
    ],
    [
        0x8000_0006,
        0,
        0x4800_2200,
        0x6800_4200,
        0x0200_6140,
        0x0800_9140,
    ],
    [0x8000_0007, 0, 0, 0x3b, 0, 0x6799],
    [0x8000_0008, 0, 0x3030, 0x791e_f257, 0x700f, 0x1_0000],
    [0x8000_000a, 0, 1, 0x8000, 0, 0x119b_bcff],
    [0x8000_0019, 0, 0xf040_f040, 0xf040_0000, 0, 0],
    [0x8000_001a, 0, 6, 0, 0, 0],
    [0x8000_001b, 0, 0x3ff, 0, 0, 0],
    [0x8000_001d, 0, 0x4121, 0x1c0_003f, 0x3f, 0],
    [0x8000_001d, 1, 0x4122, 0x1c0_003f, 0x3f, 0],
    [0x8000_001d, 2, 0x4143, 0x1c0_003f, 0x3ff, 2],
    [0x8000_001d, 3, 0x3_c163, 0x3c0_003f, 0x7fff, 1],
    [0x8000_001e, 0, 3, 0x101, 0, 0],
    [0x8000_0021, 0, 0x7000_014d, 0, 6, 0],
];

pub(crate) fn zen_3() -> HostCpuid {
    HostCpuid::from_leaves(&ZEN_3.map(leaf))
}

fn policy() -> CpuidPolicy {
    CpuidPolicy::build(&zen_3(), &options())
}

fn view(vcpu_id: u32) -> VcpuView {
    VcpuView {
        vcpu_id,
        apic_id: apic_id(vcpu_id),
        xcr0: 7,
        ..VcpuView::default()
    }
}

fn seen<'a>(policy: &'a CpuidPolicy, vcpu: &'a VcpuView) -> CpuId<impl CpuIdReader + 'a> {
    CpuId::with_cpuid_reader(|leaf, subleaf| policy.query(leaf, subleaf, vcpu).into())
}

fn extended(policy: &CpuidPolicy, n: u32) -> CpuidRegs {
    policy.query(EXTENDED + n, 0, &view(0))
}

#[test]
fn vendor_leaves_and_features_are_amds() {
    let policy = policy();
    let vcpu = view(0);
    let cpu = seen(&policy, &vcpu);
    assert_eq!(cpu.get_vendor_info().unwrap().as_str(), "AuthenticAMD");
    assert_eq!(policy.query(0, 0, &vcpu).eax, 0xd);
    assert_eq!(extended(&policy, 0).eax, 0x8000_0021);
    assert_eq!(extended(&policy, 0).ebx, policy.query(0, 0, &vcpu).ebx);
    let x = cpu
        .get_extended_processor_and_feature_identifiers()
        .unwrap();
    assert_eq!(extended(&policy, 1).eax, 0x00a0_0f11);
    assert!(x.has_sse4a() && x.has_misaligned_sse_mode() && x.has_topology_extensions());
    assert!(x.has_cmp_legacy() && x.has_mmx_extensions() && x.has_fast_fxsave_fxstor());
    assert!(!x.has_svm() && !x.has_skinit() && !x.has_ext_apic_space() && !x.has_osvw());
    assert!(!x.has_ibs() && !x.has_wdt() && !x.has_data_access_bkpt_extension());
    assert!(!x.has_perf_cntr_extensions() && !x.has_perf_cntr_llc_extensions());
    assert!(!x.has_monitorx_mwaitx() && !x.has_alt_mov_cr8());
    assert_eq!(
        extended(&policy, 1).edx & 0x0183_f3ff,
        policy.query(1, 0, &vcpu).edx & 0x0183_f3ff
    );
    for leaf in [2, 3, 4, 9, 0xa, 0xe, 0x10, 0x16] {
        assert_eq!(
            policy.query(leaf, 0, &vcpu),
            CpuidRegs::default(),
            "{leaf:#x}"
        );
    }
    for n in [0x09, 0x0a, 0x0b, 0x18, 0x1b, 0x1c, 0x1f, 0x20, 0x22] {
        assert_eq!(extended(&policy, n), CpuidRegs::default(), "{n:#x}");
    }
}

#[test]
fn speculation_controls_are_those_that_work_here() {
    let with = |provides| {
        let options = CpuidOptions {
            provides,
            ..options()
        };
        let policy = CpuidPolicy::build(&zen_3(), &options);
        let [eight, more] = [8, 0x21].map(|n| extended(&policy, n));
        (
            eight.ebx & 0x5119_f000,
            more.eax,
            policy.spec_ctrl_allowed(),
            policy.has_pred_cmd(),
        )
    };
    // CLZERO and the like are there in any case; SRSO_MSR_FIX and AUTO_IBRS never
    let all = with(Provides::all());
    assert_eq!(all, (0x5118_d000, 0x7000_0044, 0x87, true));
    let no_msr = with(Provides::all() - Provides::SPEC_CTRL);
    assert_eq!(no_msr, (0x4010_1000, 0x7000_0044, 0, true));
    let none = with(Provides::all() - Provides::SPEC_CTRL - Provides::IBPB);
    assert_eq!(none, (0x0010_0000, 0x6000_0044, 0, false));
}

#[test]
fn caches_and_topology_are_those_of_the_domain() {
    let policy = policy();
    let caches = (0..).map(|n| policy.query(CACHES, n, &view(0)));
    let caches: Vec<_> = caches.take_while(|r| r.eax & 0x1f != 0).collect();
    let sharing: Vec<_> = caches.iter().map(|r| r.eax >> 14).collect();
    assert_eq!(
        sharing,
        [1, 1, 1, 7],
        "of eight ids, two to a vCPU, less one"
    );
    assert_eq!(caches[3].ecx, 0x7fff);
    for id in 0..4 {
        let place = policy.query(TOPOLOGY, 0, &view(id));
        assert_eq!((place.eax, place.ebx, place.ecx), (2 * id, id, 0));
        assert_eq!(policy.query(0xb, 1, &view(id)).edx, place.eax);
    }
    assert_eq!(
        extended(&policy, 8).ecx,
        3 << 12 | 3,
        "bits of an id, and cores less one"
    );
    assert_eq!(extended(&policy, 6).edx, 0x0800_9140);
}

#[test]
fn host_without_topology_extensions_has_no_such_leaves() {
    let mut leaves = ZEN_3.map(leaf);
    for one in leaves.iter_mut().filter(|l| l.leaf == EXTENDED + 1) {
        one.regs.ecx &= !extended1_ecx::TOPOEXT;
    }
    let policy = CpuidPolicy::build(&HostCpuid::from_leaves(&leaves), &options());
    assert_eq!(extended(&policy, 0x1d), CpuidRegs::default());
    assert_eq!(extended(&policy, 0x1e), CpuidRegs::default());
}

#[test]
fn efer_has_fast_fxsave_and_no_svm() {
    assert_eq!(policy().efer_allowed(), 0x4901);
    assert!(policy().has_invariant_tsc());
}

#[test]
fn without_avx_there_is_no_xop() {
    let mut leaves = ZEN_3.map(leaf);
    for one in leaves.iter_mut().filter(|l| l.leaf == EXTENDED + 1) {
        one.regs.ecx |= extended1_ecx::XOP | extended1_ecx::FMA4;
    }
    let host = HostCpuid::from_leaves(&leaves);
    let ecx = |xcr0_switched| {
        let options = CpuidOptions {
            xcr0_switched,
            ..options()
        };
        extended(&CpuidPolicy::build(&host, &options), 1).ecx
            & (extended1_ecx::XOP | extended1_ecx::FMA4)
    };
    assert_eq!(
        (ecx(7), ecx(3)),
        (extended1_ecx::XOP | extended1_ecx::FMA4, 0)
    );
}

#[test]
fn written_back_it_is_the_same_and_what_was_cut_stays_cut() {
    let most = policy();
    let again = most
        .replaced(&zen_3(), &options(), &most.policy_leaves())
        .unwrap();
    let all = |policy: &CpuidPolicy| -> Vec<CpuidRegs> {
        let leaves = (0..0x20).chain(EXTENDED..EXTENDED + 0x28);
        let leaves = leaves.flat_map(|leaf| (0..12).map(move |n| (leaf, n)));
        leaves
            .map(|(leaf, n)| policy.query(leaf, n, &view(1)))
            .collect()
    };
    assert_eq!(all(&again), all(&most));
    let mut fewer = most.policy_leaves();
    for last in fewer.iter_mut().filter(|l| l.leaf == EXTENDED) {
        last.regs.eax = EXTENDED + 8;
    }
    let cut = most.replaced(&zen_3(), &options(), &fewer).unwrap();
    for n in [0x19, 0x1d, 0x1e, 0x21] {
        assert_eq!(extended(&cut, n), CpuidRegs::default());
    }
    assert_eq!(extended(&cut, 1).ecx & extended1_ecx::TOPOEXT, 0);
}

#[test]
fn policy_of_the_other_vendor_is_refused_by_name() {
    let intel = CpuidPolicy::build(&super::super::tests::skylake_x(), &options());
    for (mine, host, other) in [
        (policy(), zen_3(), &intel),
        (intel.clone(), super::super::tests::skylake_x(), &policy()),
    ] {
        let refused = mine
            .replaced(&host, &options(), &other.policy_leaves())
            .unwrap_err();
        let LeafRefused::OtherVendor { theirs, ours } = refused else {
            panic!("{refused:?}");
        };
        let names = alloc::format!("{theirs} {ours}");
        assert!(names.contains("\"AuthenticAMD\"") && names.contains("\"GenuineIntel\""));
    }
}

proptest! {
    /// Deny by default, on any AMD host: no bit appears that the host has not and we do not answer for.
    #[test]
    fn no_bit_is_invented(words in proptest::collection::vec(any::<u32>(), 64), provides in any::<u32>(), vcpus in 1u32..=128) {
        let pick = |leaf: u32, n: u32| words[((leaf * 7 + n) % 64) as usize];
        let vendor = ZEN_3[0];
        let answer = |leaf: u32, sub: u32| match leaf {
            0 => CpuidRegs { eax: 0x20, ebx: vendor[3], ecx: vendor[4], edx: vendor[5] },
            EXTENDED => CpuidRegs { eax: 0x8000_0030, ..CpuidRegs::default() },
            l => CpuidRegs { eax: pick(l & 0xff, sub), ebx: pick(l & 0xff, 1), ecx: pick(l & 0xff, 2), edx: pick(l & 0xff, 3) },
        };
        let host = HostCpuid::read(answer);
        let o = CpuidOptions { provides: Provides::from_bits_truncate(provides), vcpus, ..options() };
        let policy = CpuidPolicy::build(&host, &o);
        let own = |n: u32| answer(EXTENDED + n, 0);
        let one = extended(&policy, 1);
        prop_assert_eq!(one.ecx & !own(1).ecx & !extended1_ecx::CMP_LEGACY, 0);
        prop_assert_eq!(one.edx & !own(1).edx & !extended1_edx::OF_LEAF1, 0);
        prop_assert_eq!(one.ecx & (1 << 2 | 1 << 9 | 1 << 10 | 1 << 12 | 1 << 26), 0);
        prop_assert_eq!(extended(&policy, 8).ebx & !own(8).ebx & !extended8_ebx::NO_LMSL, 0);
        prop_assert_eq!(extended(&policy, 0x21).eax & !own(0x21).eax, 0);
        prop_assert_eq!(policy.spec_ctrl_allowed() != 0, extended(&policy, 8).ebx & extended8_ebx::IBRS != 0);
        prop_assert!(policy.efer_allowed() & 1 << 12 == 0);
        for n in [0x0a, 0x1b, 0x1c, 0x1f, 0x20, 0x22] {
            prop_assert_eq!(extended(&policy, n), CpuidRegs::default());
        }
    }

    /// On any AMD host, a toolstack that writes back what it read changes nothing.
    #[test]
    fn any_policy_written_back_is_the_same(words in proptest::collection::vec(any::<u32>(), 64), last in 0x8000_0008u32..0x8000_0030) {
        let pick = |leaf: u32, n: u32| words[(((leaf & 0xff) * 7 + leaf / EXTENDED * 3 + n) % 64) as usize];
        let vendor = ZEN_3[0];
        let host = HostCpuid::read(|leaf, sub| match leaf {
            0 => CpuidRegs { eax: 0x20, ebx: vendor[3], ecx: vendor[4], edx: vendor[5] },
            EXTENDED => CpuidRegs { eax: last, ..CpuidRegs::default() },
            l => CpuidRegs { eax: pick(l, sub), ebx: pick(l, 1), ecx: pick(l, 2), edx: pick(l, 3) },
        });
        let most = CpuidPolicy::build(&host, &options());
        let again = most.replaced(&host, &options(), &most.policy_leaves()).unwrap();
        prop_assert_eq!(again.policy_leaves(), most.policy_leaves());
        for leaf in (0..0x20).chain(EXTENDED..EXTENDED + 0x28) {
            prop_assert_eq!(again.query(leaf, 0, &view(1)), most.query(leaf, 0, &view(1)), "{:#x}", leaf);
        }
    }
}
