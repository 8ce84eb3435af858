//! The snapshot of the host's CPUID that policies are shaped from.

use alloc::vec::Vec;

use raw_cpuid::{CpuIdReader, CpuIdResult};

use super::{CpuidLeaf, CpuidRegs, EXTENDED, LAST_EXTENDED, Vendor, amd};

/// Basic leaves beyond this are not of interest: nothing above is ever shown.
const LAST_BASIC: u32 = 0x1f;
/// Bound on the subleaves of a leaf whose number the host states itself.
const MAX_SUBLEAVES: u32 = 64;

/// The host's CPUID, read once: each CPUID is a VM exit when the hypervisor is itself a guest.
#[derive(Clone, Debug)]
pub struct HostCpuid {
    leaves: Vec<CpuidLeaf>,
}

impl HostCpuid {
    /// Asks `cpuid(leaf, subleaf)` for every leaf that a policy may look at, about 70.
    pub fn read(mut cpuid: impl FnMut(u32, u32) -> CpuidRegs) -> Self {
        let mut leaves = Vec::new();
        let mut take = |leaf, subleaf| {
            let regs = cpuid(leaf, subleaf);
            leaves.push(CpuidLeaf {
                leaf,
                subleaf,
                regs,
            });
            regs
        };
        let last_basic = take(0, 0).eax.min(LAST_BASIC);
        for leaf in 1..=last_basic {
            let first = take(leaf, 0);
            for subleaf in 1..MAX_SUBLEAVES {
                let more = match leaf {
                    4 => first.eax & 0x1f != 0 && subleaf < 8,
                    7 => subleaf <= first.eax,
                    0xb | 0x1f => subleaf < 4,
                    0xd => true,
                    _ => false,
                };
                if !more {
                    break;
                }
                take(leaf, subleaf);
            }
        }
        let last_extended = take(0x8000_0000, 0).eax.min(LAST_EXTENDED);
        for leaf in 0x8000_0001..=last_extended {
            let mut regs = take(leaf, 0);
            for subleaf in 1..8 {
                if leaf != amd::CACHES || regs.eax & 0x1f == 0 {
                    break;
                }
                regs = take(leaf, subleaf);
            }
        }
        Self { leaves }
    }

    /// Has the host show `regs` in `leaf`, which is an extended one without subleaves.
    pub(crate) fn set(&mut self, leaf: u32, regs: CpuidRegs) {
        let last = self.get(EXTENDED, 0);
        let first = CpuidRegs {
            eax: last.eax.max(leaf),
            ..last
        };
        self.leaves.retain(|l| ![EXTENDED, leaf].contains(&l.leaf));
        let changed = [(EXTENDED, first), (leaf, regs)];
        self.leaves.extend(changed.map(|(leaf, regs)| CpuidLeaf {
            leaf,
            subleaf: 0,
            regs,
        }));
    }

    /// Whose CPU it is.
    #[must_use]
    pub fn vendor(&self) -> Vendor {
        Vendor::of(self.get(0, 0))
    }

    /// True where LFENCE waits for what is before it, whatever DE_CFG says.
    #[must_use]
    pub fn has_lfence_dispatch(&self) -> bool {
        const LFENCE_DISPATCH: u32 = 1 << 2;
        self.vendor() == Vendor::Amd && self.get(0x8000_0021, 0).eax & LFENCE_DISPATCH != 0
    }

    /// True where FXRSTOR and XRSTOR load the x87 error pointers (FOP, FIP, FDP) only if an exception is pending, and
    /// leave those of whoever ran before otherwise: AMD's before Zen (CVE-2006-1056).
    #[must_use]
    pub fn leaks_x87_pointers(&self) -> bool {
        const RSTR_FP_ERR_PTRS: u32 = 1 << 2;
        self.vendor() == Vendor::Amd && self.get(0x8000_0008, 0).ebx & RSTR_FP_ERR_PTRS == 0
    }

    /// Takes leaves that were recorded before.
    #[must_use]
    pub fn from_leaves(leaves: &[CpuidLeaf]) -> Self {
        let mut replay = |leaf, subleaf| find(leaves, leaf, subleaf);
        Self::read(&mut replay)
    }

    /// The registers of a leaf; zeros where the host has it not.
    #[must_use]
    pub fn get(&self, leaf: u32, subleaf: u32) -> CpuidRegs {
        find(&self.leaves, leaf, subleaf)
    }

    /// The snapshot as `raw_cpuid::CpuId::with_cpuid_reader` takes it, for feature discovery without further CPUIDs.
    #[must_use]
    pub fn reader(&self) -> impl CpuIdReader + '_ {
        |leaf, subleaf| self.get(leaf, subleaf).into()
    }
}

fn find(leaves: &[CpuidLeaf], leaf: u32, subleaf: u32) -> CpuidRegs {
    leaves
        .iter()
        .find(|l| l.leaf == leaf && (l.subleaf == subleaf || l.subleaf == CpuidLeaf::NO_SUBLEAF))
        .map_or(CpuidRegs::default(), |l| l.regs)
}

impl From<CpuidRegs> for CpuIdResult {
    fn from(regs: CpuidRegs) -> Self {
        Self {
            eax: regs.eax,
            ebx: regs.ebx,
            ecx: regs.ecx,
            edx: regs.edx,
        }
    }
}
