//! What a guest sees of CPUID: computed once per domain from a snapshot of the host, denied by default.
//!
//! A bit reaches a guest only where a list of this module names it (features.rs) *and* the host has it, or where we
//! emulate it ourselves. Leaves that are not listed read as zeros, as on Xen: on the CPU an unknown basic leaf repeats
//! the highest one's data, which no software can use and which would leak what was hidden.
//!
//! [`CpuidPolicy::query`] runs in the VM exit of every CPUID: look-ups in fixed arrays and a few patched bits. The rest
//! runs once a domain. Continue with build.rs (how each native leaf is shaped), amd.rs (leaves that only AMD's CPUs
//! have), xen.rs (leaves 0x40000000 …), xsave.rs (XCR0 and the sizes of leaf 0xD).
//!
//! The vendor that guests see is the host's: kernels choose by it the instruction of a hypercall.

mod amd;
mod build;
mod features;
mod host;
mod policy;
#[cfg(test)]
pub(crate) mod tests;
mod vendor;
mod xen;
mod xsave;

use bitflags::bitflags;

use crate::x86::{CR4_OSXSAVE, CR4_PKE};
#[cfg(test)]
pub(crate) use amd::tests::zen_3 as amd_host;
use build::LAST_BASIC;
use features::{
    Features, extended1_edx, extended8_ebx, leaf1_ecx, leaf1_edx, leaf7_ebx, leaf7_ecx, leaf7_edx,
};
pub use host::HostCpuid;
use policy::Wanted;
pub use policy::{FEATURE_WORDS, LeafRefused, MAX_POLICY_LEAVES, PolicyLeaves};
pub(crate) use vendor::family_and_model;
pub use vendor::{Vendor, VendorName};
use xen::XenLeaves;
pub use xen::{HYPERCALL_PAGE_MSR, XEN_VERSION};
use xsave::Xsave;

/// The first extended leaf.
const EXTENDED: u32 = 0x8000_0000;
/// The highest that any domain has.
const LAST_EXTENDED: u32 = 0x8000_0021;
const EXTENDED_LEAVES: usize = (LAST_EXTENDED - EXTENDED) as usize + 1;

/// The registers that CPUID returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuidRegs {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// One leaf with its name: the record that the toolstack exchanges.
///
/// Source: `public/arch-x86/xen.h, struct xen_cpuid_leaf`: 24 bytes in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuidLeaf {
    /// EAX of the question.
    pub leaf: u32,
    /// ECX of the question; [`CpuidLeaf::NO_SUBLEAF`] where the leaf has none.
    pub subleaf: u32,
    pub regs: CpuidRegs,
}

impl CpuidLeaf {
    /// The subleaf of a leaf that does not look at ECX: `XEN_CPUID_NO_SUBLEAF`.
    pub const NO_SUBLEAF: u32 = 0xffff_ffff;
}

bitflags! {
    /// What the hypervisor can do for a guest beside plain execution; each unlocks CPUID bits that the host must have
    /// too.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Provides: u32 {
        /// VM-execution control "enable RDTSCP" is on: RDTSCP and RDPID.
        const RDTSCP = 1 << 0;
        /// VM-execution control "enable INVPCID" is on.
        const INVPCID = 1 << 1;
        /// VM-execution control "enable XSAVES/XRSTORS" is on.
        const XSAVES = 1 << 2;
        /// IA32_SPEC_CTRL is switched with the vCPU; IA32_PRED_CMD and IA32_FLUSH_CMD may be written by it.
        const SPEC_CTRL = 1 << 3;
        /// IA32_PRED_CMD may be written by it, be there IA32_SPEC_CTRL or not: an AMD CPU may have the one alone.
        const IBPB = 1 << 8;
        /// APIC accesses are virtualised by the CPU (APIC-register virtualisation): Xen leaf 4, bit 0.
        const APIC_ACCESS_VIRT = 1 << 4;
        /// x2APIC MSRs are virtualised by the CPU: Xen leaf 4, bit 1.
        const X2APIC_VIRT = 1 << 5;
        /// The host's TSC is invariant and in step on all CPUs.
        const INVARIANT_TSC = 1 << 6;
        /// IA32_MISC_ENABLE has fast strings on: ERMS, FSRM and their like.
        const FAST_STRINGS = 1 << 7;
    }
}

/// The guest's view of time, as Xen leaf 3 and native leaf 0x16 state it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TscInfo {
    /// Measured frequency of the host's TSC.
    pub host_khz: u32,
    /// Frequency that the guest sees; the host's unless it is scaled.
    pub guest_khz: u32,
    /// Xen's tsc_mode: 0 default, 1 always emulated, 2 never emulated.
    pub mode: u32,
    /// How many times the domain was restored.
    pub incarnation: u32,
    /// Guest TSC minus host TSC.
    pub offset: u64,
    /// Ticks → ns: multiplier, as in `vcpu_time_info.tsc_to_system_mul`.
    pub mul: u32,
    /// Ticks → ns: shift, as in `vcpu_time_info.tsc_shift`.
    pub shift: i8,
}

/// What makes one domain's policy differ from another's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuidOptions {
    /// The domain's number, for Xen leaf 4.
    pub domid: u16,
    /// How many vCPUs the domain may have, from 1 to 128.
    pub vcpus: u32,
    /// What we do for it.
    pub provides: Provides,
    /// XCR0 bits that the hypervisor saves and restores.
    pub xcr0_switched: u64,
    /// Widest guest physical address that stage 2 can translate, in bits (48 with four levels).
    pub stage2_bits: u8,
    pub tsc: TscInfo,
}

/// What CPUID reports differently from moment to moment and from vCPU to vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VcpuView {
    /// Number in the domain.
    pub vcpu_id: u32,
    /// Initial (x2)APIC id; see [`apic_id`].
    pub apic_id: u32,
    /// CR4 as the guest sees it.
    pub cr4: u64,
    /// XCR0 of the guest.
    pub xcr0: u64,
    /// IA32_XSS of the guest.
    pub xss: u64,
}

/// The APIC id of vCPU `vcpu_id`: twice its number, as libxl writes it into the MADTs it builds.
#[must_use]
pub const fn apic_id(vcpu_id: u32) -> u32 {
    vcpu_id.wrapping_mul(2)
}

/// A domain's CPUID.
#[derive(Clone, Debug)]
pub struct CpuidPolicy {
    basic: [CpuidRegs; LAST_BASIC as usize + 1],
    extended: [CpuidRegs; EXTENDED_LEAVES],
    /// Leaf 4, or AMD's 0x8000001D.
    caches: [CpuidRegs; 8],
    vendor: Vendor,
    features: Features,
    topology: [CpuidRegs; 2],
    xsave: Xsave,
    xen: XenLeaves,
    physical_bits: u8,
}

impl CpuidPolicy {
    /// Shapes the host's CPUID for one domain.
    #[must_use]
    pub fn build(host: &HostCpuid, options: &CpuidOptions) -> Self {
        Self::build_within(host, options, &Wanted::ALL)
    }

    /// The same, with no more than is wanted.
    fn build_within(host: &HostCpuid, options: &CpuidOptions, wanted: &Wanted) -> Self {
        let (features, xsave) = build::features(host, options, &wanted.words);
        let extended = build::extended(host, options, &features, wanted);
        let has_rdtscp = features.extended1.edx & extended1_edx::RDTSCP != 0;
        let mut policy = Self {
            basic: build::basic(host, options, &features),
            extended,
            caches: build::caches(host, options.vcpus, &features),
            vendor: host.vendor(),
            features,
            topology: build::topology(options.vcpus),
            xsave,
            xen: XenLeaves::build(options, has_rdtscp),
            physical_bits: extended[8].eax.to_le_bytes()[0],
        };
        policy::cut(&mut policy, wanted);
        policy
    }

    /// The same with another TSC in the hypervisor's leaves.
    #[must_use]
    pub fn with_tsc(&self, tsc: &TscInfo) -> Self {
        let mut policy = self.clone();
        policy.xen.set_time(tsc);
        policy
    }

    /// Answers CPUID with EAX = `leaf` and ECX = `subleaf`.
    #[inline(always)]
    #[must_use]
    pub fn query(&self, leaf: u32, subleaf: u32, vcpu: &VcpuView) -> CpuidRegs {
        match leaf {
            1 => self.leaf1(vcpu),
            4 if self.vendor == Vendor::Intel => at(&self.caches, subleaf),
            7 => self.leaf7(subleaf, vcpu),
            0xb => self.leaf_b(subleaf, vcpu),
            0xd => self.xsave.leaf(subleaf, vcpu.xcr0, vcpu.xss),
            0..=LAST_BASIC => at(&self.basic, leaf),
            xen::BASE..=xen::LAST => self.xen.leaf(leaf, subleaf, vcpu),
            EXTENDED..=LAST_EXTENDED => self.extended_leaf(leaf, subleaf, vcpu),
            _ => CpuidRegs::default(),
        }
    }

    /// True where the guest may load `value` into XCR0; false means #GP.
    #[must_use]
    pub fn xcr0_is_valid(&self, value: u64) -> bool {
        self.xsave.is_valid(value)
    }
    /// XCR0 bits that the guest may set; 0 where it has no XSAVE.
    #[must_use]
    pub fn xcr0_allowed(&self) -> u64 {
        self.xsave.allowed()
    }

    /// Bytes of an XSAVE area with all components that the guest may have, in standard format; 0 where it has no XSAVE.
    #[must_use]
    pub fn xsave_bytes(&self) -> usize {
        let regs = self.xsave.leaf(0, 0, 0);
        usize::try_from(regs.ecx).unwrap_or(0)
    }

    /// The CR4 bits that the guest may set; setting another means #GP.
    ///
    /// Source: Intel SDM vol. 3A, "Control Registers".
    #[must_use]
    pub fn cr4_allowed(&self) -> u64 {
        let f = &self.features;
        let mut cr4 = 0b111_1111_1100; // TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT
        let mut add = |word: u32, feature: u32, bits: u64| {
            if word & feature != 0 {
                cr4 |= bits;
            }
        };
        add(f.leaf1.edx, leaf1_edx::VME, 0b11);
        add(f.leaf7[0].ecx, leaf7_ecx::UMIP, 1 << 11);
        add(f.leaf7[0].ebx, leaf7_ebx::FSGSBASE, 1 << 16);
        add(f.leaf1.ecx, leaf1_ecx::PCID, 1 << 17);
        add(f.leaf1.ecx, leaf1_ecx::XSAVE, CR4_OSXSAVE);
        add(f.leaf7[0].ebx, leaf7_ebx::SMEP, 1 << 20);
        add(f.leaf7[0].ebx, leaf7_ebx::SMAP, 1 << 21);
        add(f.leaf7[0].ecx, leaf7_ecx::PKU, CR4_PKE);
        cr4
    }

    /// The IA32_EFER bits that the guest may set; setting another means #GP. LMA is not among them: it is read-only.
    #[must_use]
    pub fn efer_allowed(&self) -> u64 {
        let nx = self.features.extended1.edx & extended1_edx::NX != 0;
        let ffxsr = self.features.extended1.edx & extended1_edx::FFXSR != 0;
        1 << 0 | 1 << 8 | u64::from(nx) << 11 | u64::from(ffxsr) << 14
    }

    /// Whose leaves and MSRs the domain has.
    #[must_use]
    pub fn vendor(&self) -> Vendor {
        self.vendor
    }
    /// True where the TSC counts at one rate, whatever the CPU does.
    #[must_use]
    pub fn has_invariant_tsc(&self) -> bool {
        self.extended[7].edx & build::INVARIANT_TSC != 0
    }

    /// Family, model and stepping, as leaf 1 has them in EAX.
    #[must_use]
    pub fn signature(&self) -> u32 {
        self.basic[1].eax
    }
    /// Bits of a guest physical address.
    #[must_use]
    pub fn physical_bits(&self) -> u8 {
        self.physical_bits
    }
    /// True where RDTSCP or RDPID exist, and with them IA32_TSC_AUX.
    #[must_use]
    pub fn has_tsc_aux(&self) -> bool {
        self.features.extended1.edx & extended1_edx::RDTSCP != 0
            || self.features.leaf7[0].ecx & leaf7_ecx::RDPID != 0
    }
    /// True where the local APIC has x2APIC mode.
    #[must_use]
    pub fn has_x2apic(&self) -> bool {
        self.features.leaf1.ecx & leaf1_ecx::X2APIC != 0
    }
    /// True where IA32_XSS exists.
    #[must_use]
    pub fn has_xss(&self) -> bool {
        self.xsave.has_xsaves()
    }
    /// True where IA32_ARCH_CAPABILITIES exists.
    #[must_use]
    pub fn has_arch_capabilities(&self) -> bool {
        self.features.leaf7[0].edx & leaf7_edx::ARCH_CAPABILITIES != 0
    }
    /// True where IA32_FLUSH_CMD exists.
    #[must_use]
    pub fn has_flush_cmd(&self) -> bool {
        self.features.leaf7[0].edx & leaf7_edx::L1D_FLUSH != 0
    }
    /// True where IA32_PRED_CMD exists.
    #[must_use]
    pub fn has_pred_cmd(&self) -> bool {
        self.features.leaf7[0].edx & leaf7_edx::IBRS != 0
            || self.features.extended8_ebx & extended8_ebx::IBPB != 0
    }
    /// The bits of IA32_SPEC_CTRL that the guest may set; 0 where the MSR does not exist.
    #[must_use]
    pub fn spec_ctrl_allowed(&self) -> u64 {
        let edx = self.features.leaf7[0].edx;
        let more = self.features.leaf7[2].edx;
        let amd = self.features.extended8_ebx;
        let mut allowed = 0;
        let mut add = |word: u32, bit: u32, bits: u64| {
            if word & bit != 0 {
                allowed |= bits;
            }
        };
        add(edx, leaf7_edx::IBRS, 1 << 0);
        add(edx, leaf7_edx::STIBP, 1 << 1);
        add(edx, leaf7_edx::SSBD, 1 << 2);
        add(more, 1 << 0, 1 << 7); // PSFD
        add(more, 1 << 1, 0b11 << 3); // IPRED_DIS_U and _S
        add(more, 1 << 2, 0b11 << 5); // RRSBA_DIS_U and _S
        add(more, 1 << 3, 1 << 8); // DDPD_U
        add(more, 1 << 4, 1 << 10); // BHI_DIS_S
        add(amd, extended8_ebx::IBRS, 1 << 0);
        add(amd, extended8_ebx::STIBP, 1 << 1);
        add(amd, extended8_ebx::SSBD, 1 << 2);
        add(amd, extended8_ebx::PSFD, 1 << 7);
        allowed
    }

    #[inline]
    fn leaf1(&self, vcpu: &VcpuView) -> CpuidRegs {
        let mut regs = self.basic[1];
        regs.ebx |= vcpu.apic_id << 24;
        if vcpu.cr4 & CR4_OSXSAVE != 0 {
            regs.ecx |= leaf1_ecx::OSXSAVE;
        }
        regs
    }

    #[inline]
    fn leaf7(&self, subleaf: u32, vcpu: &VcpuView) -> CpuidRegs {
        let mut regs = at(&self.features.leaf7, subleaf);
        if subleaf == 0 && vcpu.cr4 & CR4_PKE != 0 {
            regs.ecx |= leaf7_ecx::OSPKE;
        }
        regs
    }

    #[inline]
    fn extended_leaf(&self, leaf: u32, subleaf: u32, vcpu: &VcpuView) -> CpuidRegs {
        match leaf {
            amd::CACHES if self.vendor == Vendor::Amd => at(&self.caches, subleaf),
            amd::TOPOLOGY if self.features.has_topology_extensions() => amd::topology(vcpu),
            _ => at(&self.extended, leaf & 0xff),
        }
    }

    #[inline]
    fn leaf_b(&self, subleaf: u32, vcpu: &VcpuView) -> CpuidRegs {
        if self.topology[0] == CpuidRegs::default() {
            return CpuidRegs::default();
        }
        let mut regs = at(&self.topology, subleaf);
        regs.ecx |= subleaf & 0xff;
        regs.edx = vcpu.apic_id;
        regs
    }
}

/// The entry `index`; zeros after the end.
#[inline]
fn at(table: &[CpuidRegs], index: u32) -> CpuidRegs {
    usize::try_from(index)
        .ok()
        .and_then(|i| table.get(i))
        .copied()
        .unwrap_or_default()
}
