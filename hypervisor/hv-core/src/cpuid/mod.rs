//! What a guest sees of CPUID: computed once per domain from a snapshot of the host, denied by default.
//!
//! A bit reaches a guest only where a list of this module names it (features.rs) *and* the host has it, or where we
//! emulate it ourselves. Leaves that are not listed read as zeros, as on Xen: on the chip an unknown basic leaf repeats
//! the highest one's data, which no software can use and which would leak what was hidden.
//!
//! [`CpuidPolicy::query`] runs in the VM exit of every CPUID: look-ups in fixed arrays and a few patched bits. The rest
//! runs once a domain. Continue with build.rs (how each native leaf is shaped), xen.rs (leaves 0x40000000 …), xsave.rs
//! (XCR0 and the sizes of leaf 0xD).

use alloc::vec::Vec;
use bitflags::bitflags;

/// The registers that CPUID returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuidRegs {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
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
    /// The answer.
    pub regs: CpuidRegs,
}

impl CpuidLeaf {
    /// The subleaf of a leaf that does not look at ECX: `XEN_CPUID_NO_SUBLEAF`.
    pub const NO_SUBLEAF: u32 = 0xffff_ffff;
}

/// The host's CPUID, read once: each CPUID is a VM exit when the hypervisor is itself a guest.
#[derive(Clone, Debug)]
pub struct HostCpuid {
    leaves: Vec<CpuidLeaf>,
}

impl HostCpuid {
    /// Asks `cpuid(leaf, subleaf)` for every leaf that a policy may look at.
    pub fn read(cpuid: impl FnMut(u32, u32) -> CpuidRegs) -> Self {
        let _ = cpuid;
        Self { leaves: Vec::new() }
    }
    /// The registers of a leaf; zeros where the host has it not.
    #[must_use]
    pub fn get(&self, leaf: u32, subleaf: u32) -> CpuidRegs {
        self.leaves
            .iter()
            .find(|l| {
                l.leaf == leaf && (l.subleaf == subleaf || l.subleaf == CpuidLeaf::NO_SUBLEAF)
            })
            .map_or(CpuidRegs::default(), |l| l.regs)
    }
}

bitflags! {
    /// What the hypervisor can do for a guest beside plain execution; each unlocks CPUID bits that the host must have too.
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
        /// APIC accesses are virtualised by the CPU (APIC-register virtualisation): Xen leaf 4, bit 0.
        const APIC_ACCESS_VIRT = 1 << 4;
        /// x2APIC MSRs are virtualised by the CPU: Xen leaf 4, bit 1.
        const X2APIC_VIRT = 1 << 5;
        /// The host's TSC is invariant and in step on all CPUs.
        const INVARIANT_TSC = 1 << 6;
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
    /// Widest guest physical address that stage 2 can translate, in bits (48 with four-level EPT).
    pub stage2_bits: u8,
    /// Time.
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
    xcr0_allowed: u64,
}

impl CpuidPolicy {
    /// Shapes the host's CPUID for one domain.
    #[must_use]
    pub fn build(host: &HostCpuid, options: &CpuidOptions) -> Self {
        let _ = host;
        Self {
            xcr0_allowed: options.xcr0_switched,
        }
    }
    /// Answers CPUID with EAX = `leaf` and ECX = `subleaf`.
    #[must_use]
    pub fn query(&self, leaf: u32, subleaf: u32, vcpu: &VcpuView) -> CpuidRegs {
        let _ = (leaf, subleaf, vcpu);
        CpuidRegs::default()
    }
    /// True where the guest may load `value` into XCR0; false means #GP.
    #[must_use]
    pub fn xcr0_is_valid(&self, value: u64) -> bool {
        value & !self.xcr0_allowed == 0 && value & 1 != 0
    }
    /// The CR4 bits that the guest may set; setting another means #GP.
    #[must_use]
    pub fn cr4_allowed(&self) -> u64 {
        0
    }
    /// The IA32_EFER bits that the guest may set; setting another means #GP.
    #[must_use]
    pub fn efer_allowed(&self) -> u64 {
        0
    }
    /// Every leaf as the vCPU `vcpu` sees it, in ascending order of leaf and subleaf, without those that are all zeros.
    #[must_use]
    pub fn leaves(&self, vcpu: &VcpuView) -> Vec<CpuidLeaf> {
        let _ = vcpu;
        Vec::new()
    }
}
