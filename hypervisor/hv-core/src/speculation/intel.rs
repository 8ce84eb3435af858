//! Intel's CPUs: their weaknesses, and what is done.

use super::{CpuFacts, Defences, Means, Weakness, models};
use crate::cpuid::HostCpuid;

/// Bits of IA32_ARCH_CAPABILITIES.
pub(super) mod arch {
    pub(in super::super) const RDCL_NO: u64 = 1 << 0;
    pub(in super::super) const IBRS_ALL: u64 = 1 << 1;
    pub(in super::super) const SKIP_L1DFL_VMENTRY: u64 = 1 << 3;
    pub(in super::super) const MDS_NO: u64 = 1 << 5;
    pub(in super::super) const TSX_CTRL: u64 = 1 << 7;
    pub(in super::super) const TAA_NO: u64 = 1 << 8;
    pub(in super::super) const BHI_NO: u64 = 1 << 20;
    pub(in super::super) const PBRSB_NO: u64 = 1 << 24;
    pub(in super::super) const GDS_CTRL: u64 = 1 << 25;
    pub(in super::super) const GDS_NO: u64 = 1 << 26;
    pub(in super::super) const RFDS_NO: u64 = 1 << 27;
    pub(in super::super) const RFDS_CLEAR: u64 = 1 << 28;
    pub(in super::super) const ITS_NO: u64 = 1 << 62;
}

impl CpuFacts {
    pub(super) fn says(&self, bit: u64) -> bool {
        self.arch_capabilities & bit != 0
    }

    /// True where IBRS, once set, protects whatever runs in the more privileged mode.
    fn has_enhanced_ibrs(&self) -> bool {
        self.says(arch::IBRS_ALL) && self.means.contains(Means::IBRS_IBPB)
    }
}

/// What the CPU has to defend itself with, by CPUID, IA32_ARCH_CAPABILITIES and IA32_MCU_OPT_CTRL.
pub(super) fn means(cpuid: &HostCpuid, arch_capabilities: u64, mcu_opt_ctrl: u64) -> Means {
    const RNGDS_MITG_DIS: u64 = 1 << 0;
    const GDS_MITG_DIS: u64 = 1 << 4;
    let leaf7 = cpuid.get(7, 0);
    let mut means = Means::empty();
    means.set(Means::IBRS_IBPB | Means::IBPB, leaf7.edx & 1 << 26 != 0);
    means.set(Means::L1D_FLUSH, leaf7.edx & 1 << 28 != 0);
    means.set(Means::MD_CLEAR, leaf7.edx & 1 << 10 != 0);
    means.set(Means::SSBD, leaf7.edx & 1 << 31 != 0);
    means.set(Means::BHI_CTRL, cpuid.get(7, 2).edx & 1 << 4 != 0);
    means.set(
        Means::SRBDS_MITIGATED,
        leaf7.edx & 1 << 9 != 0 && mcu_opt_ctrl & RNGDS_MITG_DIS == 0,
    );
    means.set(
        Means::GDS_MITIGATED,
        arch_capabilities & arch::GDS_CTRL != 0 && mcu_opt_ctrl & GDS_MITG_DIS == 0,
    );
    means
}

/// The weaknesses of the CPU.
pub(super) fn weaknesses(facts: &CpuFacts) -> Weakness {
    let model = models::find(facts.signature);
    let mut found = Weakness::BTI;
    let mut add = |weakness, is_there| found.set(weakness, is_there);
    let is_listed = |weakness| model.has.contains(weakness);
    let is_exempt = |weakness| model.has_not.contains(weakness);
    add(
        Weakness::L1TF,
        !facts.says(arch::RDCL_NO) && !is_exempt(Weakness::L1TF),
    );
    add(
        Weakness::MDS,
        !facts.says(arch::MDS_NO) && !is_exempt(Weakness::MDS),
    );
    add(
        Weakness::TAA,
        !facts.says(arch::TAA_NO) && (facts.has_rtm || facts.says(arch::TSX_CTRL)),
    );
    add(
        Weakness::RFDS,
        !facts.says(arch::RFDS_NO) && (facts.says(arch::RFDS_CLEAR) || is_listed(Weakness::RFDS)),
    );
    add(
        Weakness::SRBDS,
        facts.has_random && is_listed(Weakness::SRBDS),
    );
    add(
        Weakness::GDS,
        !facts.says(arch::GDS_NO) && facts.has_gathers && is_listed(Weakness::GDS),
    );
    let enhanced = facts.has_enhanced_ibrs();
    add(
        Weakness::RSB,
        !enhanced || !facts.says(arch::PBRSB_NO) && !is_exempt(Weakness::RSB),
    );
    add(Weakness::BHI, enhanced && !facts.says(arch::BHI_NO));
    add(
        Weakness::ITS,
        !facts.says(arch::ITS_NO) && is_listed(Weakness::ITS),
    );
    found
}

/// What the CPU can be made to do, whether it needs it or not.
pub(super) fn possible(facts: &CpuFacts) -> Defences {
    // plain instructions
    let mut possible =
        Defences::VERW | Defences::RSB_STUFF | Defences::BHB_SHORT | Defences::BHB_LONG;
    let has_spec_ctrl = facts.means.contains(Means::IBRS_IBPB);
    possible.set(Defences::IBRS, has_spec_ctrl);
    possible.set(Defences::IBRS_ENHANCED, facts.has_enhanced_ibrs());
    possible.set(Defences::RSB_ONE, facts.has_enhanced_ibrs());
    possible.set(Defences::IBPB_DOMAIN, has_spec_ctrl);
    possible.set(Defences::GUEST_CONTROLS, has_spec_ctrl);
    possible.set(
        Defences::BHI_DIS_S,
        has_spec_ctrl && facts.means.contains(Means::BHI_CTRL),
    );
    possible.set(
        Defences::SSBD,
        has_spec_ctrl && facts.means.contains(Means::SSBD),
    );
    possible.set(Defences::L1D_FLUSH, facts.means.contains(Means::L1D_FLUSH));
    possible
}

/// What is done where `spec-ctrl` says nothing.
pub(super) fn default(facts: &CpuFacts, weaknesses: Weakness) -> Defences {
    let possible = possible(facts);
    let mut wanted = possible
        & (Defences::IBRS
            | Defences::IBRS_ENHANCED
            | Defences::IBPB_DOMAIN
            | Defences::GUEST_CONTROLS);
    let flushes = possible.contains(Defences::L1D_FLUSH)
        && weaknesses.contains(Weakness::L1TF)
        && !facts.says(arch::SKIP_L1DFL_VMENTRY);
    wanted.set(Defences::L1D_FLUSH, flushes);
    let sampled = Weakness::MDS | Weakness::TAA | Weakness::RFDS;
    let clears = facts.means.contains(Means::MD_CLEAR);
    // the flush overwrites the same buffers
    wanted.set(
        Defences::VERW,
        weaknesses.intersects(sampled) && clears && !flushes,
    );
    if wanted.contains(Defences::IBRS) {
        branch_defences(facts, weaknesses, &mut wanted);
    }
    wanted
}

/// What goes with IBRS. Without it a guest steers indirect branches anyway, and nothing that is paid at every VM exit
/// would change that.
fn branch_defences(facts: &CpuFacts, weaknesses: Weakness, wanted: &mut Defences) {
    let enhanced = facts.has_enhanced_ibrs();
    if weaknesses.contains(Weakness::RSB) {
        *wanted |= if enhanced {
            Defences::RSB_ONE
        } else {
            Defences::RSB_STUFF
        };
    }
    if weaknesses.contains(Weakness::BHI) {
        *wanted |= if facts.means.contains(Means::BHI_CTRL) {
            Defences::BHI_DIS_S
        } else if models::find(facts.signature).has_short_history {
            Defences::BHB_SHORT
        } else {
            Defences::BHB_LONG
        };
    }
}

/// The weaknesses against which nothing is done, or nothing can be.
pub(super) fn left_over(facts: &CpuFacts, weaknesses: Weakness, defences: Defences) -> Weakness {
    let mut left = weaknesses;
    let flushes = defences.contains(Defences::L1D_FLUSH);
    let clears = facts.means.contains(Means::MD_CLEAR);
    if flushes || facts.says(arch::SKIP_L1DFL_VMENTRY) {
        left -= Weakness::L1TF;
    }
    if clears && (defences.contains(Defences::VERW) || flushes) {
        left -= Weakness::MDS | Weakness::TAA | Weakness::RFDS;
    }
    if facts.means.contains(Means::SRBDS_MITIGATED) {
        left -= Weakness::SRBDS;
    }
    if facts.means.contains(Means::GDS_MITIGATED) {
        left -= Weakness::GDS;
    }
    if defences.contains(Defences::IBRS | Defences::IBPB_DOMAIN) {
        left -= Weakness::BTI;
    }
    let one_is_enough = defences.contains(Defences::RSB_ONE) && facts.has_enhanced_ibrs();
    if defences.contains(Defences::RSB_STUFF) || one_is_enough {
        left -= Weakness::RSB;
    }
    let history = Defences::BHI_DIS_S | Defences::BHB_LONG;
    let short = Defences::BHB_SHORT;
    if defences.intersects(history)
        || defences.contains(short) && models::find(facts.signature).has_short_history
    {
        left -= Weakness::BHI;
    }
    left
}
