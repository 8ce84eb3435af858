//! The leaves that say "this is Xen 4.17": 0x40000000 to 0x40000005.
//!
//! Source: `public/arch-x86/cpuid.h`.

use super::{CpuidOptions, CpuidRegs, Provides, TscInfo, VcpuView};

/// The first leaf.
pub(super) const BASE: u32 = 0x4000_0000;
/// The last: Xen 4.17 has five beside the first.
pub(super) const LAST: u32 = BASE + 5;
/// The version that leaf 1 and XENVER_version report: major in the upper half, minor in the lower.
pub const XEN_VERSION: u32 = 4 << 16 | 17;
/// The MSR that takes the address of a hypercall page.
pub const HYPERCALL_PAGE_MSR: u32 = 0x4000_0000;

const VCPU_ID_PRESENT: u32 = 1 << 3;
const DOMID_PRESENT: u32 = 1 << 4;
const UPCALL_VECTOR: u32 = 1 << 6;

/// The Xen leaves of one domain, by number; leaf 3 has subleaves.
#[derive(Clone, Debug)]
pub(super) struct XenLeaves {
    leaves: [CpuidRegs; 6],
    time: [CpuidRegs; 3],
}

impl XenLeaves {
    pub(super) fn build(options: &CpuidOptions, has_rdtscp: bool) -> Self {
        let mut leaves = [CpuidRegs::default(); 6];
        leaves[0] = CpuidRegs {
            eax: LAST,
            ebx: u32::from_le_bytes(*b"XenV"),
            ecx: u32::from_le_bytes(*b"MMXe"),
            edx: u32::from_le_bytes(*b"nVMM"),
        };
        leaves[1].eax = XEN_VERSION;
        leaves[2] = CpuidRegs {
            eax: 1, // one hypercall page
            ebx: HYPERCALL_PAGE_MSR,
            ecx: 0,
            edx: 0,
        };
        let apic = options.provides & (Provides::APIC_ACCESS_VIRT | Provides::X2APIC_VIRT);
        leaves[4] = CpuidRegs {
            eax: VCPU_ID_PRESENT
                | DOMID_PRESENT
                | UPCALL_VECTOR
                | u32::from(apic.contains(Provides::APIC_ACCESS_VIRT))
                | u32::from(apic.contains(Provides::X2APIC_VIRT)) << 1,
            ebx: 0,
            ecx: u32::from(options.domid),
            edx: 0,
        };
        let reliable = options.provides.contains(Provides::INVARIANT_TSC);
        Self {
            leaves,
            time: time_leaves(&options.tsc, reliable, has_rdtscp),
        }
    }

    pub(super) fn set_time(&mut self, tsc: &TscInfo) {
        let [first, ..] = self.time;
        self.time = time_leaves(tsc, first.eax & RELIABLE != 0, first.eax & HAS_RDTSCP != 0);
    }

    /// Answers `leaf`, from [`BASE`] to [`LAST`].
    #[inline]
    pub(super) fn leaf(&self, leaf: u32, subleaf: u32, vcpu: &VcpuView) -> CpuidRegs {
        let table: &[CpuidRegs] = if leaf == BASE + 3 {
            &self.time
        } else {
            &self.leaves
        };
        let index = if leaf == BASE + 3 {
            subleaf
        } else {
            leaf.wrapping_sub(BASE)
        };
        let mut regs = usize::try_from(index)
            .ok()
            .and_then(|i| table.get(i))
            .copied()
            .unwrap_or_default();
        if leaf == BASE + 4 {
            regs.ebx = vcpu.vcpu_id;
        }
        regs
    }
}

/// Of the first time leaf: the TSC may be trusted; RDTSCP is there.
const RELIABLE: u32 = 1 << 1;
const HAS_RDTSCP: u32 = 1 << 2;

fn time_leaves(tsc: &TscInfo, reliable: bool, has_rdtscp: bool) -> [CpuidRegs; 3] {
    let is_emulated = tsc.mode == 1 || tsc.guest_khz != tsc.host_khz;
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
    let (offset_low, offset_high) = (tsc.offset as u32, (tsc.offset >> 32) as u32);
    [
        CpuidRegs {
            eax: u32::from(is_emulated) | u32::from(reliable) << 1 | u32::from(has_rdtscp) << 2,
            ebx: tsc.mode,
            ecx: tsc.guest_khz,
            edx: tsc.incarnation,
        },
        CpuidRegs {
            eax: offset_low,
            ebx: offset_high,
            ecx: tsc.mul,
            edx: u32::from_ne_bytes(i32::from(tsc.shift).to_ne_bytes()),
        },
        CpuidRegs {
            eax: tsc.host_khz,
            ..CpuidRegs::default()
        },
    ]
}
