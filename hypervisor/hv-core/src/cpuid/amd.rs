//! What AMD's CPUs have of their own in CPUID, as one domain sees it.
//!
//! Source: AMD APM vol. 3, appendix "Obtaining Processor Information Via the CPUID Instruction"; what guests are shown
//! of it: Xen's `public/arch-x86/cpufeatureset.h`.

use super::build::id_span;
use super::features::{
    EXTENDED21_ECX, Features, extended1_ecx, extended1_edx, extended8_ebx, extended21_eax,
};
use super::policy::FEATURE_WORDS;
use super::{CpuidOptions, CpuidRegs, EXTENDED, EXTENDED_LEAVES, HostCpuid, Provides, VcpuView};

/// The leaf of caches, whose subleaves are those of Intel's leaf 4 without its number of cores.
pub(super) const CACHES: u32 = 0x8000_001d;
/// The leaf of a vCPU's place in the topology.
pub(super) const TOPOLOGY: u32 = 0x8000_001e;

/// Leaves that are the host's own: L1 caches and TLBs, L2 and L3, TLBs for 1 GiB, hints on speed.
const OF_HOST: [u32; 4] = [0x8000_0005, 0x8000_0006, 0x8000_0019, 0x8000_001a];

/// Adds to `f` what only AMD's CPUs have.
pub(super) fn add_features(
    f: &mut Features,
    host: &HostCpuid,
    options: &CpuidOptions,
    wanted: &[u32; FEATURE_WORDS],
) {
    let [_, _, w1d, w1c, _, _, _, _, w8b, _, _, w21a, ..] = *wanted;
    let one = host.get(EXTENDED + 1, 0);
    f.extended1.eax = f.leaf1.eax;
    f.extended1.ebx = one.ebx & 0xff00_ffff; // brand and package, without what is reserved
    f.extended1.ecx |= one.ecx & extended1_ecx::ALLOWED_AMD & w1c;
    if options.vcpus > 1 {
        f.extended1.ecx |= extended1_ecx::CMP_LEGACY & w1c; // a package of cores without threads
    }
    f.extended1.edx |= one.edx & extended1_edx::ALLOWED_AMD & w1d;
    f.extended1.edx |= f.leaf1.edx & extended1_edx::OF_LEAF1;
    let eight = host.get(EXTENDED + 8, 0);
    // of segments' limits in long mode there are none, whatever the host has
    f.extended8_ebx = (eight.ebx & extended8_ebx::ALLOWED | extended8_ebx::NO_LMSL) & w8b;
    f.extended21_eax = host.get(EXTENDED + 0x21, 0).eax & extended21_eax::ALLOWED & w21a;
    if !options.provides.contains(Provides::SPEC_CTRL) || f.extended8_ebx & extended8_ebx::IBRS == 0
    {
        f.drop_speculation_control();
    }
    if !options.provides.contains(Provides::IBPB) || f.extended8_ebx & extended8_ebx::IBPB == 0 {
        f.drop_ibpb();
    }
}

/// Adds to the extended leaves those that Intel's CPUs have not, or have empty.
pub(super) fn add_leaves(
    leaves: &mut [CpuidRegs; EXTENDED_LEAVES],
    host: &HostCpuid,
    options: &CpuidOptions,
    f: &Features,
) {
    let most = EXTENDED + u32::try_from(EXTENDED_LEAVES - 1).expect("a small table");
    leaves[0] = CpuidRegs {
        eax: host.get(EXTENDED, 0).eax.clamp(EXTENDED + 8, most),
        ..host.get(0, 0)
    };
    for (n, leaf) in (EXTENDED..).zip(leaves.iter_mut()) {
        if OF_HOST.contains(&n) {
            *leaf = host.get(n, 0);
        }
    }
    let id_bits = id_span(options.vcpus).trailing_zeros().min(0xf);
    leaves[8].ecx = id_bits << 12 | options.vcpus.saturating_sub(1).min(0xff);
    leaves[0x21].eax = f.extended21_eax;
    leaves[0x21].ecx = host.get(EXTENDED + 0x21, 0).ecx & EXTENDED21_ECX;
}

/// Leaf 0x8000001E of a vCPU: a core of one thread, on the only node.
#[inline]
pub(super) fn topology(vcpu: &VcpuView) -> CpuidRegs {
    CpuidRegs {
        eax: vcpu.apic_id,
        ebx: vcpu.vcpu_id & 0xff,
        ..CpuidRegs::default()
    }
}

#[cfg(test)]
pub(crate) mod tests;
