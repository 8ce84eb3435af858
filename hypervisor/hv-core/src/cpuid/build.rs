//! Shapes the native leaves of one domain from the host's: each function below is one leaf or one group of them. Leaves
//! that only one vendor's CPUs have are in amd.rs, or empty here for the other.

use super::amd;
use super::features::{
    Features, LEAF7_1_EAX_AVX, LEAF7_1_EAX_AVX512, LEAF7_1_EAX_FAST_STRINGS, LEAF7_1_EAX_PLAIN,
    LEAF7_1_EDX_AVX, LEAF7_1_EDX_PLAIN, LEAF7_2_EDX_PLAIN, LEAF7_2_EDX_SPECULATION, extended1_edx,
    leaf1_ecx, leaf1_edx, leaf7_ebx, leaf7_ecx, leaf7_edx,
};
use super::policy::{FEATURE_WORDS, Wanted};
use super::xsave::{self, Xsave};
use super::{
    CpuidOptions, CpuidRegs, EXTENDED, EXTENDED_LEAVES, HostCpuid, Provides, Vendor, features,
};

/// The highest basic leaf of all: 0x16 spares Linux its calibration loop over the PIT's ports (100000 exits), and what
/// lies above describes things that guests do not get.
pub(super) const LAST_BASIC: u32 = 0x16;
/// The highest extended leaf of an Intel CPU.
const LAST_EXTENDED_INTEL: u32 = 0x8000_0008;

/// The highest basic leaf, whatever the host's is. AMD's CPUs have no frequencies in leaf 0x16, and no software looks
/// for them there: it ends with the last that means the same for both.
fn last_basic(vendor: Vendor) -> u32 {
    match vendor {
        Vendor::Intel => LAST_BASIC,
        Vendor::Amd => 0xd,
    }
}

/// Leaf 6, EAX: the APIC timer runs in every sleep state.
const ARAT: u32 = 1 << 2;
/// Leaf 0x80000007, EDX.
pub(super) const INVARIANT_TSC: u32 = 1 << 8;
/// Leaf 0x80000008, EBX.
const WBNOINVD: u32 = 1 << 9;
/// Bits of a linear address: LA57 is hidden.
const LINEAR_BITS: u32 = 48;

/// The feature words, dependent bits settled, and leaf 0xD.
///
/// `wanted` are the feature words of which nothing else is to be shown.
pub(super) fn features(
    host: &HostCpuid,
    options: &CpuidOptions,
    wanted: &[u32; FEATURE_WORDS],
) -> (Features, Xsave) {
    let mut f = allowed(host, wanted);
    if host.vendor() == Vendor::Amd {
        amd::add_features(&mut f, host, options, wanted);
    }
    if !options.provides.contains(Provides::RDTSCP) {
        f.leaf7[0].ecx &= !leaf7_ecx::RDPID;
        f.extended1.edx &= !extended1_edx::RDTSCP;
    }
    if !options.provides.contains(Provides::INVPCID) {
        f.leaf7[0].ebx &= !leaf7_ebx::INVPCID;
    }
    if !options.provides.contains(Provides::FAST_STRINGS) {
        // Linux of its own drops ERMS only, and its memmove runs wild with FSRM alone.
        f.leaf7[0].ebx &= !leaf7_ebx::ERMS;
        f.leaf7[0].edx &= !leaf7_edx::FSRM;
        f.leaf7[1].eax &= !LEAF7_1_EAX_FAST_STRINGS;
    }
    if !options.provides.contains(Provides::SPEC_CTRL) {
        f.drop_speculation_control();
    }
    let xsave = if f.leaf1.ecx & leaf1_ecx::XSAVE != 0 {
        let with_xsaves = options.provides.contains(Provides::XSAVES);
        let [_, _, _, _, extensions, ..] = *wanted;
        let states = options.xcr0_switched & states_of(&f);
        Xsave::build(host, states, with_xsaves, extensions)
    } else {
        Xsave::NONE
    };
    if xsave.allowed() == 0 {
        f.leaf1.ecx &= !leaf1_ecx::XSAVE;
    }
    if xsave.allowed() & xsave::AVX == 0 {
        f.drop_avx();
    }
    if xsave.allowed() & xsave::AVX512 == 0 {
        f.drop_avx512();
    }
    if xsave.allowed() & xsave::PKRU == 0 {
        f.leaf7[0].ecx &= !leaf7_ecx::PKU;
    }
    f.leaf7[0].eax = 2;
    (f, xsave)
}

/// What host and lists have in common.
fn allowed(host: &HostCpuid, wanted: &[u32; FEATURE_WORDS]) -> Features {
    let [
        w1d,
        w1c,
        we1d,
        we1c,
        _,
        w7b,
        w7c,
        _,
        _,
        w7d,
        w7_1a,
        _,
        _,
        w7_2d,
        _,
        w7_1d,
        ..,
    ] = *wanted;
    let mut f = Features::default();
    let leaf1 = host.get(1, 0);
    f.leaf1.eax = leaf1.eax;
    f.leaf1.ebx = leaf1.ebx & 0x0000_ff00; // CLFLUSH line; the rest is per domain and vCPU
    f.leaf1.ecx =
        leaf1.ecx & leaf1_ecx::ALLOWED & w1c | leaf1_ecx::EMULATED & (w1c | leaf1_ecx::X2APIC);
    f.leaf1.edx = leaf1.edx & leaf1_edx::ALLOWED & w1d | leaf1_edx::EMULATED;
    let leaf7 = host.get(7, 0);
    f.leaf7[0].ebx = leaf7.ebx & leaf7_ebx::ALLOWED & w7b;
    f.leaf7[0].ecx = leaf7.ecx & leaf7_ecx::ALLOWED & w7c;
    f.leaf7[0].edx = leaf7.edx & leaf7_edx::ALLOWED & w7d;
    let leaf7_1 = host.get(7, 1);
    f.leaf7[1].eax =
        leaf7_1.eax & (LEAF7_1_EAX_AVX | LEAF7_1_EAX_AVX512 | LEAF7_1_EAX_PLAIN) & w7_1a;
    f.leaf7[1].edx = leaf7_1.edx & (LEAF7_1_EDX_AVX | LEAF7_1_EDX_PLAIN) & w7_1d;
    let leaf7_2 = host.get(7, 2);
    f.leaf7[2].edx = leaf7_2.edx & (LEAF7_2_EDX_SPECULATION | LEAF7_2_EDX_PLAIN) & w7_2d;
    let extended1 = host.get(EXTENDED + 1, 0);
    f.extended1.eax = extended1.eax;
    f.extended1.ecx = extended1.ecx & features::extended1_ecx::ALLOWED & we1c;
    f.extended1.edx = extended1.edx & extended1_edx::ALLOWED & we1d;
    f
}

/// The components of extended state that the features use.
fn states_of(f: &Features) -> u64 {
    let mut states = xsave::X87 | xsave::SSE;
    let mut add = |is_used: bool, more: u64| {
        if is_used {
            states |= more;
        }
    };
    add(f.leaf1.ecx & leaf1_ecx::AVX != 0, xsave::AVX);
    add(f.leaf7[0].ebx & leaf7_ebx::AVX512F != 0, xsave::AVX512);
    add(f.leaf7[0].ecx & leaf7_ecx::PKU != 0, xsave::PKRU);
    states
}

/// Basic leaves that look at nothing but EAX. The others (4, 7, 0xB, 0xD) stay zero here.
///
/// Zero by decision: 3 (serial number), 5 (MONITOR), 9, 0xA (PMU), 0xF and 0x10 (RDT), 0x12 (SGX), 0x14 (PT), 0x15.
pub(super) fn basic(
    host: &HostCpuid,
    options: &CpuidOptions,
    f: &Features,
) -> [CpuidRegs; LAST_BASIC as usize + 1] {
    let mut leaves = [CpuidRegs::default(); LAST_BASIC as usize + 1];
    leaves[0] = CpuidRegs {
        eax: last_basic(host.vendor()),
        ..host.get(0, 0)
    };
    leaves[1] = leaf1(options.vcpus, f.leaf1);
    leaves[6].eax = ARAT;
    if host.vendor() == Vendor::Amd {
        return leaves;
    }
    leaves[2] = host.get(2, 0);
    let mhz = options.tsc.guest_khz / 1000;
    leaves[0x16] = CpuidRegs {
        eax: mhz,
        ebx: mhz,
        ..CpuidRegs::default()
    };
    leaves
}

/// One package; APIC ids are even, so a package of n vCPUs spans 2n of them.
fn leaf1(vcpus: u32, mut regs: CpuidRegs) -> CpuidRegs {
    if vcpus > 1 {
        regs.edx |= leaf1_edx::HTT;
        regs.ebx |= id_span(vcpus).min(255) << 16;
    } else {
        regs.ebx |= 1 << 16;
    }
    regs
}

/// How many APIC ids the package reserves: a power of two.
pub(super) fn id_span(vcpus: u32) -> u32 {
    vcpus.saturating_mul(2).min(1 << 16).next_power_of_two()
}

/// The host's caches, which Intel's CPUs have in leaf 4 and AMD's in leaf 0x8000001D; the first two levels private to a
/// core, the third shared by the package.
pub(super) fn caches(host: &HostCpuid, vcpus: u32, f: &Features) -> [CpuidRegs; 8] {
    let mut leaves = [CpuidRegs::default(); 8];
    let span = id_span(vcpus);
    let (source, cores) = match host.vendor() {
        Vendor::Intel => (4, (span / 2).min(64)),
        Vendor::Amd if f.has_topology_extensions() => (amd::CACHES, 1),
        Vendor::Amd => return leaves,
    };
    for (n, leaf) in (0u32..).zip(&mut leaves) {
        let cache = host.get(source, n);
        if cache.eax & 0x1f == 0 {
            break;
        }
        let is_shared = (cache.eax >> 5) & 7 >= 3;
        let sharing = if is_shared { span.min(4096) } else { 2 };
        *leaf = CpuidRegs {
            eax: cache.eax & 0x3fff | (sharing - 1) << 14 | (cores - 1) << 26,
            ..cache
        };
    }
    leaves
}

/// Leaf 0xB without the vCPU's own id: threads (one of two ids used), then cores.
pub(super) fn topology(vcpus: u32) -> [CpuidRegs; 2] {
    let core_shift = id_span(vcpus).trailing_zeros();
    [
        CpuidRegs {
            eax: 1,
            ebx: 1,
            ecx: 1 << 8,
            edx: 0,
        },
        CpuidRegs {
            eax: core_shift,
            ebx: vcpus,
            ecx: 2 << 8 | 1,
            edx: 0,
        },
    ]
}

/// Leaves 0x80000000 and above.
pub(super) fn extended(
    host: &HostCpuid,
    options: &CpuidOptions,
    f: &Features,
    wanted: &Wanted,
) -> [CpuidRegs; EXTENDED_LEAVES] {
    let mut leaves = [CpuidRegs::default(); EXTENDED_LEAVES];
    leaves[0].eax = LAST_EXTENDED_INTEL;
    leaves[1] = f.extended1;
    for (n, leaf) in (0..).zip(&mut leaves).skip(2).take(3) {
        *leaf = host.get(EXTENDED + n, 0); // the brand string
    }
    leaves[6].ecx = host.get(EXTENDED + 6, 0).ecx;
    let [_, _, _, _, _, _, _, w7d, w8b, ..] = wanted.words;
    if options.provides.contains(Provides::INVARIANT_TSC) {
        leaves[7].edx = INVARIANT_TSC & w7d;
    }
    let sizes = host.get(EXTENDED + 8, 0);
    let narrowest = options.stage2_bits.min(wanted.physical_bits);
    let physical = (sizes.eax & 0xff).min(u32::from(narrowest));
    leaves[8].eax = physical | LINEAR_BITS << 8;
    leaves[8].ebx = sizes.ebx & WBNOINVD & w8b | f.extended8_ebx;
    if host.vendor() == Vendor::Amd {
        amd::add_leaves(&mut leaves, host, options, f);
    }
    leaves
}
