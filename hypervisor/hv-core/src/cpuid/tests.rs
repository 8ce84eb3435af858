//! The policy over a recorded Skylake-X, read back through raw-cpuid, which knows the bits by itself.

use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;
use raw_cpuid::{CpuId, CpuIdReader};

use super::*;

/// A Core i7-7800X with microcode of 2019; columns: leaf, subleaf, EAX, EBX, ECX, EDX.
const SKYLAKE_X: [[u32; 6]; 34] = [
    [0, 0, 0x16, 0x756e_6547, 0x6c65_746e, 0x4965_6e69],
    [1, 0, 0x0005_0654, 0x0310_0800, 0x7ffe_fbff, 0xbfeb_fbff],
    [2, 0, 0x7603_6301, 0x00f0_b5ff, 0, 0x00c3_0000],
    [4, 0, 0x1c00_4121, 0x01c0_003f, 0x3f, 0],
    [4, 1, 0x1c00_4122, 0x01c0_003f, 0x3f, 0],
    [4, 2, 0x1c00_4143, 0x03c0_003f, 0x3ff, 0],
    [4, 3, 0x1c03_c163, 0x0280_003f, 0x2fff, 4],
    [5, 0, 0x40, 0x40, 3, 0x2020],
    [6, 0, 0x75f7, 2, 9, 0],
    [7, 0, 0, 0xd39f_ffff, 0x18, 0xbc00_0400],
    [0xa, 0, 0x0730_0404, 0, 0, 0x603],
    [0xb, 0, 1, 2, 0x100, 3],
    [0xb, 1, 4, 0xc, 0x201, 3],
    [0xd, 0, 0x2ff, 0xa88, 0xa88, 0],
    [0xd, 1, 0xf, 0xa08, 0x100, 0],
    [0xd, 2, 0x100, 0x240, 0, 0],
    [0xd, 3, 0x40, 0x3c0, 0, 0],
    [0xd, 4, 0x40, 0x400, 0, 0],
    [0xd, 5, 0x40, 0x440, 0, 0],
    [0xd, 6, 0x200, 0x480, 0, 0],
    [0xd, 7, 0x400, 0x680, 0, 0],
    [0xd, 8, 0x80, 0, 1, 0],
    [0xd, 9, 8, 0xa80, 0, 0],
    [0x14, 0, 1, 0xf, 7, 0],
    [0x15, 0, 2, 0x124, 0x17d_7840, 0],
    [0x16, 0, 0xdac, 0xfa0, 0x64, 0],
    [0x8000_0000, 0, 0x8000_0008, 0, 0, 0],
    [0x8000_0001, 0, 0, 0, 0x121, 0x2c10_0800],
    [
        0x8000_0002,
        0,
        0x6574_6e49,
        0x2952_286c,
        0x726f_4320,
        0x4d54_2865,
    ],
    [
        0x8000_0003,
        0,
        0x3769_2029,
        0x3038_372d,
        0x4320_5830,
        0x4020_5550,
    ],
    [0x8000_0004, 0, 0x352e_3320, 0x7a48_4730, 0, 0],
    [0x8000_0006, 0, 0, 0, 0x0100_6040, 0],
    [0x8000_0007, 0, 0, 0, 0, 0x100],
    [0x8000_0008, 0, 0x302e, 0, 0, 0],
];

pub(crate) fn skylake_x() -> HostCpuid {
    HostCpuid::from_leaves(&SKYLAKE_X.map(leaf))
}

/// A row of such a table.
pub(super) fn leaf([leaf, subleaf, eax, ebx, ecx, edx]: [u32; 6]) -> CpuidLeaf {
    CpuidLeaf {
        leaf,
        subleaf,
        regs: CpuidRegs { eax, ebx, ecx, edx },
    }
}

pub(crate) fn options() -> CpuidOptions {
    CpuidOptions {
        domid: 7,
        vcpus: 4,
        provides: Provides::all(),
        xcr0_switched: u64::MAX,
        stage2_bits: 48,
        tsc: TscInfo {
            host_khz: 3_504_000,
            guest_khz: 3_504_000,
            mode: 0,
            incarnation: 1,
            offset: 0x1_2345_6789,
            mul: 0x9249_2492,
            shift: -1,
        },
    }
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

#[test]
fn what_we_do_not_virtualise_is_hidden() {
    let policy = CpuidPolicy::build(&skylake_x(), &options());
    let vcpu = view(0);
    let f = seen(&policy, &vcpu).get_feature_info().unwrap();
    assert!(!f.has_vmx() && !f.has_smx() && !f.has_monitor_mwait() && !f.has_eist());
    assert!(!f.has_pdcm() && !f.has_ds_area() && !f.has_acpi() && !f.has_tm() && !f.has_tm2());
    assert!(!f.has_ds() && !f.has_psn() && !f.has_pbe());
    let e = seen(&policy, &vcpu).get_extended_feature_info().unwrap();
    assert!(!e.has_tsc_adjust_msr() && !e.has_sgx() && !e.has_rtm() && !e.has_hle());
    assert!(!e.has_mpx() && !e.has_processor_trace() && !e.has_rdtm() && !e.has_rdta());
    assert!(!e.has_waitpkg() && !e.has_cet_ss() && !e.has_la57() && !e.has_amx_tile());
    for leaf in [3, 5, 9, 0xa, 0xf, 0x10, 0x12, 0x14, 0x15, 0x19, 0x1a, 0x1f] {
        assert_eq!(policy.query(leaf, 0, &vcpu), CpuidRegs::default());
    }
}

#[test]
fn what_the_host_has_and_we_switch_is_shown() {
    let policy = CpuidPolicy::build(&skylake_x(), &options());
    let vcpu = view(0);
    let f = seen(&policy, &vcpu).get_feature_info().unwrap();
    assert!(f.has_x2apic() && f.has_hypervisor() && f.has_tsc_deadline() && f.has_apic());
    assert!(f.has_xsave() && f.has_avx() && f.has_fma() && f.has_pcid() && f.has_rdrand());
    assert!(f.has_mtrr() && f.has_pat() && f.has_mce() && f.has_mca() && f.has_htt());
    let e = seen(&policy, &vcpu).get_extended_feature_info().unwrap();
    assert!(e.has_avx2() && e.has_avx512f() && e.has_smep() && e.has_smap() && e.has_invpcid());
    assert!(e.has_pku() && e.has_fsgsbase() && e.has_rdseed());
    let x = seen(&policy, &vcpu).get_extended_processor_and_feature_identifiers();
    let x = x.unwrap();
    assert!(x.has_64bit_mode() && x.has_1gib_pages() && x.has_rdtscp() && x.has_execute_disable());
    let p = seen(&policy, &vcpu).get_advanced_power_mgmt_info().unwrap();
    assert!(p.has_invariant_tsc());
    let t = seen(&policy, &vcpu).get_thermal_power_info().unwrap();
    assert!(t.has_arat() && !t.has_turbo_boost() && !t.has_hwp());
    assert_eq!(policy.query(0x16, 0, &vcpu).eax, 3504);
}

#[test]
fn osxsave_and_ospke_follow_cr4() {
    let policy = CpuidPolicy::build(&skylake_x(), &options());
    for (cr4, osxsave, ospke) in [
        (0, false, false),
        (1 << 18, true, false),
        (1 << 22, false, true),
    ] {
        let vcpu = VcpuView { cr4, ..view(0) };
        let cpu = seen(&policy, &vcpu);
        assert_eq!(cpu.get_feature_info().unwrap().has_oxsave(), osxsave);
        assert_eq!(cpu.get_extended_feature_info().unwrap().has_ospke(), ospke);
    }
}

#[test]
fn every_way_to_ask_for_the_apic_id_gives_the_same() {
    let policy = CpuidPolicy::build(&skylake_x(), &options());
    for vcpu_id in 0..4 {
        let vcpu = view(vcpu_id);
        assert_eq!(policy.query(1, 0, &vcpu).ebx >> 24, 2 * vcpu_id);
        assert_eq!(policy.query(0xb, 0, &vcpu).edx, 2 * vcpu_id);
        assert_eq!(policy.query(0xb, 1, &vcpu).edx, 2 * vcpu_id);
        let levels: vec::Vec<_> = seen(&policy, &vcpu)
            .get_extended_topology_info()
            .unwrap()
            .collect();
        assert_eq!(levels[0].shift_right_for_next_apic_id(), 1);
        assert_eq!(levels[1].shift_right_for_next_apic_id(), 3);
        assert_eq!(levels[1].processors(), 4);
    }
}

#[test]
fn caches_state_who_shares_them() {
    let policy = CpuidPolicy::build(&skylake_x(), &options());
    let vcpu = view(0);
    let caches: vec::Vec<_> = seen(&policy, &vcpu)
        .get_cache_parameters()
        .unwrap()
        .collect();
    let sharing: vec::Vec<_> = caches.iter().map(|c| c.max_cores_for_cache()).collect();
    assert_eq!(sharing, [2, 2, 2, 8]);
    assert_eq!(caches[3].sets(), 0x3000);
    assert_eq!(caches[0].max_cores_for_package(), 4);
}

#[test]
fn xsave_sizes_follow_the_guests_xcr0() {
    let policy = CpuidPolicy::build(&skylake_x(), &options());
    let size = |xcr0| policy.query(0xd, 0, &VcpuView { xcr0, ..view(0) });
    assert_eq!(size(1).ebx, 576);
    assert_eq!(size(3).ebx, 576);
    assert_eq!(size(7).ebx, 0x340);
    assert_eq!(size(0xe7).ebx, 0xa80);
    assert_eq!(size(0x2e7).ebx, 0xa88);
    assert_eq!((size(1).eax, size(1).ecx), (0x2e7, 0xa88)); // no MPX
    let compact = |xcr0| policy.query(0xd, 1, &VcpuView { xcr0, ..view(0) }).ebx;
    assert_eq!(compact(0x2e7), 576 + 0x100 + 0x40 + 0x200 + 0x400 + 8);
    assert_eq!(policy.query(0xd, 3, &view(0)), CpuidRegs::default());
    assert_eq!(policy.query(0xd, 8, &view(0)), CpuidRegs::default());
    assert_eq!(policy.query(0xd, 9, &view(0)).ebx, 0xa80);
}

#[test]
fn xcr0_needs_whole_groups() {
    let policy = CpuidPolicy::build(&skylake_x(), &options());
    for valid in [1, 3, 7, 0xe7, 0x207, 0x2e7, 0x201] {
        assert!(policy.xcr0_is_valid(valid), "{valid:#x}");
    }
    for invalid in [0, 2, 5, 0x27, 0x67, 0xe3, 0x1f, 1 << 63 | 1, 0x106] {
        assert!(!policy.xcr0_is_valid(invalid), "{invalid:#x}");
    }
}

#[test]
fn a_host_with_fast_strings_off_shows_no_kind_of_them() {
    let mut leaves: Vec<CpuidLeaf> = Vec::new();
    for (leaf, subleaf, eax, ebx, edx) in [
        (0, 0, 7, 0, 0),
        (7, 0, 1, 1 << 9, 1 << 4),
        (7, 1, 7 << 10, 0, 0),
    ] {
        let regs = CpuidRegs {
            eax,
            ebx,
            ecx: 0,
            edx,
        };
        leaves.push(CpuidLeaf {
            leaf,
            subleaf,
            regs,
        });
    }
    let host = HostCpuid::from_leaves(&leaves);
    let strings = |provides| {
        let options = CpuidOptions {
            provides,
            ..options()
        };
        let policy = CpuidPolicy::build(&host, &options);
        let [plain, more] = [0, 1].map(|subleaf| policy.query(7, subleaf, &view(0)));
        (plain.ebx >> 9 & 1, plain.edx >> 4 & 1, more.eax >> 10 & 7)
    };
    assert_eq!(strings(Provides::all()), (1, 1, 7));
    assert_eq!(strings(Provides::all() - Provides::FAST_STRINGS), (0, 0, 0));
}

#[test]
fn without_avx_switching_nothing_that_needs_it_is_left() {
    let narrow = CpuidOptions {
        xcr0_switched: 3,
        provides: Provides::empty(),
        ..options()
    };
    let policy = CpuidPolicy::build(&skylake_x(), &narrow);
    let vcpu = view(0);
    let cpu = seen(&policy, &vcpu);
    let f = cpu.get_feature_info().unwrap();
    assert!(f.has_xsave() && !f.has_avx() && !f.has_f16c() && !f.has_fma());
    let e = cpu.get_extended_feature_info().unwrap();
    assert!(!e.has_avx2() && !e.has_avx512f() && !e.has_avx512vl() && !e.has_pku());
    assert!(!e.has_invpcid());
    assert!(!policy.has_tsc_aux() && !policy.has_xss() && !policy.has_pred_cmd());
    assert_eq!(policy.spec_ctrl_allowed(), 0);
    assert!(!policy.xcr0_is_valid(7));
}

#[test]
fn control_register_bits_follow_the_features() {
    let policy = CpuidPolicy::build(&skylake_x(), &options());
    let cr4 = policy.cr4_allowed();
    assert_eq!(cr4 & (1 << 13 | 1 << 14 | 1 << 12 | 1 << 23 | 1 << 24), 0);
    assert_eq!(cr4 & 0x7ff, 0x7ff);
    assert_eq!(cr4 >> 16 & 0x7f, 0b111_0111);
    assert_eq!(policy.efer_allowed(), 0x901);
    assert_eq!(policy.physical_bits(), 46);
    assert_eq!(policy.spec_ctrl_allowed(), 7);
}

#[test]
fn xen_is_found_as_linux_looks_for_it() {
    let policy = CpuidPolicy::build(&skylake_x(), &options());
    let vcpu = view(3);
    let base = (0..256)
        .map(|k| 0x4000_0000 + k * 0x100)
        .find(|&leaf| {
            let r = policy.query(leaf, 0, &vcpu);
            (r.ebx, r.ecx, r.edx) == (0x566e_6558, 0x6558_4d4d, 0x4d4d_566e)
        })
        .unwrap();
    let leaf = |n, sub| policy.query(base + n, sub, &vcpu);
    assert_eq!(leaf(0, 0).eax, base + 5);
    assert_eq!(leaf(1, 0).eax, 0x0004_0011);
    assert_eq!(
        (leaf(2, 0).eax, leaf(2, 0).ebx, leaf(2, 0).ecx),
        (1, 0x4000_0000, 0)
    );
    assert_eq!(leaf(3, 0).eax, 0b110);
    assert_eq!(leaf(3, 0).ecx, 3_504_000);
    assert_eq!((leaf(3, 1).eax, leaf(3, 1).ebx), (0x2345_6789, 1));
    assert_eq!(leaf(3, 1).edx, 0xffff_ffff);
    assert_eq!(leaf(3, 2).eax, 3_504_000);
    assert_eq!(
        (leaf(4, 0).eax, leaf(4, 0).ebx, leaf(4, 0).ecx),
        (0x5b, 3, 7)
    );
    assert_eq!(leaf(5, 0), CpuidRegs::default());
    assert_eq!(leaf(6, 0), CpuidRegs::default());
}

#[test]
fn an_old_host_still_gets_leaf_16_and_no_xsave() {
    let old = HostCpuid::read(|leaf, _| match leaf {
        0 => CpuidRegs {
            eax: 0xb,
            ebx: 0x756e_6547,
            ecx: 0x6c65_746e,
            edx: 0x4965_6e69,
        },
        1 => CpuidRegs {
            eax: 0x2_0655,
            ebx: 0x800,
            ecx: 0x029a_e3ff,
            edx: 0xbfeb_fbff,
        },
        _ => CpuidRegs::default(),
    });
    let policy = CpuidPolicy::build(&old, &options());
    assert_eq!(policy.query(0, 0, &view(0)).eax, 0x16);
    assert_eq!(policy.query(0x16, 0, &view(0)).eax, 3504);
    assert_eq!(policy.query(0xd, 0, &view(0)), CpuidRegs::default());
    assert_eq!(policy.cr4_allowed() & CR4_OSXSAVE, 0);
    assert!(!policy.xcr0_is_valid(1));
}

proptest! {
    /// Deny by default: on any host, no feature bit appears that the host has not and we do not emulate.
    #[test]
    fn no_bit_is_invented(words in proptest::collection::vec(any::<u32>(), 64), provides in any::<u32>(), vcpus in 1u32..=128) {
        let pick = |leaf: u32, sub: u32, n: u32| words[((leaf * 7 + sub * 13 + n) % 64) as usize];
        let answer = |leaf: u32, sub: u32| match (leaf, sub) {
            (0, _) => CpuidRegs { eax: 0x20, ..CpuidRegs::default() },
            (0x8000_0000, _) => CpuidRegs { eax: 0x8000_0008, ..CpuidRegs::default() },
            (7, 0) => CpuidRegs { eax: 2, ebx: pick(7, 0, 1), ecx: pick(7, 0, 2), edx: pick(7, 0, 3) },
            (l, s) => CpuidRegs { eax: pick(l & 0xff, s, 0), ebx: pick(l & 0xff, s, 1), ecx: pick(l & 0xff, s, 2), edx: pick(l & 0xff, s, 3) },
        };
        let host = HostCpuid::read(answer);
        let o = CpuidOptions { provides: Provides::from_bits_truncate(provides), vcpus, ..options() };
        let policy = CpuidPolicy::build(&host, &o);
        let v = view(vcpus - 1);
        let (g, h) = (policy.query(1, 0, &v), answer(1, 0));
        prop_assert_eq!(g.ecx & !h.ecx & !leaf1_ecx::EMULATED, 0);
        prop_assert_eq!(g.edx & !h.edx & !(leaf1_edx::EMULATED | leaf1_edx::HTT), 0);
        for sub in 0..3 {
            let (g, h) = (policy.query(7, sub, &v), answer(7, sub));
            prop_assert_eq!((g.ebx & !h.ebx, g.ecx & !h.ecx, g.edx & !h.edx), (0, 0, 0));
        }
        prop_assert_eq!(policy.query(7, 3, &v), CpuidRegs::default());
        for leaf in [0x17, 0x1d, 0x20, 0x4000_0006, 0x4000_0100, 0x8000_0009, u32::MAX] {
            prop_assert_eq!(policy.query(leaf, 0, &v), CpuidRegs::default());
        }
    }
}

#[test]
fn x87_pointers_leak_on_amds_cpus_that_do_not_deny_it() {
    let amd = |bits: u32| {
        HostCpuid::read(|leaf, subleaf| match leaf {
            0x8000_0008 => CpuidRegs {
                ebx: bits,
                ..CpuidRegs::default()
            },
            _ => amd_host().get(leaf, subleaf),
        })
    };
    assert!(amd(0).leaks_x87_pointers());
    assert!(amd(!(1 << 2)).leaks_x87_pointers());
    assert!(!amd(1 << 2).leaks_x87_pointers());
    assert!(!skylake_x().leaks_x87_pointers());
}
