//! Which of the CPU's ways to leak by speculation matter here, what is done about each, and what cannot be helped.
//!
//! Decided once, by [`Plan::decide`], from what the CPU says of itself ([`CpuFacts`]) and a table of those that say
//! nothing (`models`). What a guest could read is the hypervisor's and other guests' memory; what it does inside of
//! itself is its own affair, for which it has IA32_SPEC_CTRL and the command MSRs. Carried out by
//! `hv-hw/src/virt/guard.rs`.
//!
//! | weakness | a guest … | defence |
//! |---|---|---|
//! | L1TF | reads what is in the L1 data cache | L1D flush at VM entry |
//! | MDS, TAA, RFDS | reads what passed through buffers and registers | VERW, the last instruction before VM entry; a flushed L1D has done it as well |
//! | branch-target injection | steers the hypervisor's indirect branches | IBRS while the hypervisor runs; IBPB between domains |
//! | return-stack injection | steers the hypervisor's returns | the return stack overwritten at VM exit, or by the CPU (enhanced IBRS) |
//! | branch-history injection | steers them in spite of enhanced IBRS | BHI_DIS_S, or the history overwritten at VM exit |
//! | bounds-check bypass | has a number out of bounds used | `nospec` |
//!
//! The hypervisor has no retpolines: stable Rust offers none. A CPU without IBRS is named as unprotected.
//!
//! Sources: Intel, "Affected Processors: Transient Execution Attacks"; SDM vol. 4, IA32_ARCH_CAPABILITIES; Xen,
//! `docs/misc/xen-command-line.pandoc, spec-ctrl`.

mod models;
mod settings;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use bitflags::bitflags;

use crate::cpuid::HostCpuid;

pub use settings::{RefusedSetting, Settings};

bitflags! {
    /// Ways to leak.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Weakness: u32 {
        /// L1 terminal fault.
        const L1TF = 1 << 0;
        /// Microarchitectural data sampling.
        const MDS = 1 << 1;
        /// TSX asynchronous abort.
        const TAA = 1 << 2;
        /// Register-file data sampling.
        const RFDS = 1 << 3;
        /// Special-register-buffer data sampling.
        const SRBDS = 1 << 4;
        /// Gather data sampling.
        const GDS = 1 << 5;
        /// Branch-target injection.
        const BTI = 1 << 6;
        /// Return-stack injection.
        const RSB = 1 << 7;
        /// Branch-history injection.
        const BHI = 1 << 8;
        /// Indirect-target selection: indirect branches in the lower half of a cache line, from guest to host as well.
        const ITS = 1 << 9;
    }

    /// What is done.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Defences: u32 {
        /// IBRS is set in IA32_SPEC_CTRL whenever the hypervisor runs.
        const IBRS = 1 << 0;
        /// That is enough once: it need not be written again at each VM exit (enhanced IBRS).
        const IBRS_ENHANCED = 1 << 1;
        /// BHI_DIS_S is set in IA32_SPEC_CTRL whenever the hypervisor runs.
        const BHI_DIS_S = 1 << 2;
        /// SSBD is set in IA32_SPEC_CTRL whenever the hypervisor runs.
        const SSBD = 1 << 3;
        /// IBPB before a vCPU of another domain than the last one's runs.
        const IBPB_DOMAIN = 1 << 4;
        /// L1 data cache flushed at VM entry.
        const L1D_FLUSH = 1 << 5;
        /// VERW before VM entry.
        const VERW = 1 << 6;
        /// The whole return stack overwritten at VM exit.
        const RSB_STUFF = 1 << 7;
        /// One entry of it: enough where only the first return may be mispredicted (post-barrier).
        const RSB_ONE = 1 << 8;
        /// The branch history overwritten at VM exit, as much as CPUs before Alder Lake have.
        const BHB_SHORT = 1 << 9;
        /// As much as any has.
        const BHB_LONG = 1 << 10;
        /// Guests are offered IA32_SPEC_CTRL and the command MSRs, which means that the MSR is switched.
        const GUEST_CONTROLS = 1 << 11;
    }
}

bitflags! {
    /// What a CPU has to defend itself with, beyond what it does of its own.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Means: u32 {
        /// IA32_SPEC_CTRL with IBRS, and IA32_PRED_CMD with IBPB.
        const IBRS_IBPB = 1 << 0;
        /// IA32_FLUSH_CMD.
        const L1D_FLUSH = 1 << 1;
        /// VERW overwrites buffers.
        const MD_CLEAR = 1 << 2;
        /// SSBD in IA32_SPEC_CTRL.
        const SSBD = 1 << 3;
        /// BHI_DIS_S in IA32_SPEC_CTRL.
        const BHI_CTRL = 1 << 4;
        /// Microcode keeps RDRAND and RDSEED apart, and has not been told otherwise.
        const SRBDS_MITIGATED = 1 << 5;
        /// Microcode keeps gathers apart, and has not been told otherwise.
        const GDS_MITIGATED = 1 << 6;
    }
}

/// What the CPU says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuFacts {
    /// Family, model and stepping, as CPUID leaf 1 has them in EAX.
    pub signature: u32,
    /// IA32_ARCH_CAPABILITIES; 0 where there is none.
    pub arch_capabilities: u64,
    /// What it has to defend itself with.
    pub means: Means,
    /// It has restricted transactional memory.
    pub has_rtm: bool,
    /// It has AVX2, and with it gathers.
    pub has_gathers: bool,
    /// It has RDRAND or RDSEED.
    pub has_random: bool,
}

/// Bits of IA32_ARCH_CAPABILITIES.
mod arch {
    pub(super) const RDCL_NO: u64 = 1 << 0;
    pub(super) const IBRS_ALL: u64 = 1 << 1;
    pub(super) const SKIP_L1DFL_VMENTRY: u64 = 1 << 3;
    pub(super) const MDS_NO: u64 = 1 << 5;
    pub(super) const TSX_CTRL: u64 = 1 << 7;
    pub(super) const TAA_NO: u64 = 1 << 8;
    pub(super) const BHI_NO: u64 = 1 << 20;
    pub(super) const PBRSB_NO: u64 = 1 << 24;
    pub(super) const GDS_CTRL: u64 = 1 << 25;
    pub(super) const GDS_NO: u64 = 1 << 26;
    pub(super) const RFDS_NO: u64 = 1 << 27;
    pub(super) const RFDS_CLEAR: u64 = 1 << 28;
    pub(super) const ITS_NO: u64 = 1 << 62;
}

impl CpuFacts {
    /// Reads them from the host's CPUID, its IA32_ARCH_CAPABILITIES and its IA32_MCU_OPT_CTRL (0 where there is none).
    #[must_use]
    pub fn read(cpuid: &HostCpuid, arch_capabilities: u64, mcu_opt_ctrl: u64) -> Self {
        const RNGDS_MITG_DIS: u64 = 1 << 0;
        const GDS_MITG_DIS: u64 = 1 << 4;
        let leaf1 = cpuid.get(1, 0);
        let leaf7 = cpuid.get(7, 0);
        let mut means = Means::empty();
        means.set(Means::IBRS_IBPB, leaf7.edx & 1 << 26 != 0);
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
        Self {
            signature: leaf1.eax,
            arch_capabilities,
            means,
            has_rtm: leaf7.ebx & 1 << 11 != 0,
            has_gathers: leaf7.ebx & 1 << 5 != 0,
            has_random: leaf1.ecx & 1 << 30 != 0 || leaf7.ebx & 1 << 18 != 0,
        }
    }

    fn says(&self, bit: u64) -> bool {
        self.arch_capabilities & bit != 0
    }

    /// True where IBRS, once set, protects whatever runs in the more privileged mode.
    fn has_enhanced_ibrs(&self) -> bool {
        self.says(arch::IBRS_ALL) && self.means.contains(Means::IBRS_IBPB)
    }

    /// The weaknesses of the CPU, from guest to hypervisor and to other guests. A CPU that neither says anything nor is
    /// in the table is taken to have those that CPUs without a word on it have.
    #[must_use]
    pub fn weaknesses(&self) -> Weakness {
        let model = models::find(self.signature);
        let mut found = Weakness::BTI;
        let mut add = |weakness, is_there| found.set(weakness, is_there);
        let is_listed = |weakness| model.has.contains(weakness);
        let is_exempt = |weakness| model.has_not.contains(weakness);
        add(
            Weakness::L1TF,
            !self.says(arch::RDCL_NO) && !is_exempt(Weakness::L1TF),
        );
        add(
            Weakness::MDS,
            !self.says(arch::MDS_NO) && !is_exempt(Weakness::MDS),
        );
        add(
            Weakness::TAA,
            !self.says(arch::TAA_NO) && (self.has_rtm || self.says(arch::TSX_CTRL)),
        );
        add(
            Weakness::RFDS,
            !self.says(arch::RFDS_NO) && (self.says(arch::RFDS_CLEAR) || is_listed(Weakness::RFDS)),
        );
        add(
            Weakness::SRBDS,
            self.has_random && is_listed(Weakness::SRBDS),
        );
        add(
            Weakness::GDS,
            !self.says(arch::GDS_NO) && self.has_gathers && is_listed(Weakness::GDS),
        );
        let enhanced = self.has_enhanced_ibrs();
        add(
            Weakness::RSB,
            !enhanced || !self.says(arch::PBRSB_NO) && !is_exempt(Weakness::RSB),
        );
        add(Weakness::BHI, enhanced && !self.says(arch::BHI_NO));
        add(
            Weakness::ITS,
            !self.says(arch::ITS_NO) && is_listed(Weakness::ITS),
        );
        found
    }
}

/// What is done on this machine, and what is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    pub defences: Defences,
    /// What a guest may still use, be it that the CPU has nothing against it or that `spec-ctrl` says so.
    pub unprotected: Weakness,
    /// What `spec-ctrl` asks for and the CPU cannot do.
    pub lacking: Defences,
}

impl Plan {
    /// Decides, for a CPU of which `facts` are known.
    #[must_use]
    pub fn decide(facts: &CpuFacts, settings: &Settings) -> Self {
        let weaknesses = facts.weaknesses();
        let (wanted, possible) = (default(facts, weaknesses), possible(facts));
        let defences = settings.apply(wanted, possible);
        Self {
            defences,
            unprotected: left_over(facts, weaknesses, defences),
            lacking: settings.asked_for() - possible,
        }
    }

    /// The names of what `spec-ctrl` asks for and the CPU cannot do.
    #[must_use]
    pub fn lacking_names(&self) -> String {
        let lacking = DEFENCE_NAMES
            .iter()
            .filter(|(flag, _)| self.lacking.contains(*flag));
        let names: Vec<&str> = lacking.map(|(_, name)| *name).collect();
        names.join(", ")
    }

    /// IA32_SPEC_CTRL while the hypervisor runs.
    #[must_use]
    pub fn host_spec_ctrl(&self) -> u64 {
        let mut value = 0;
        let mut add = |defence, bit: u32| {
            if self.defences.contains(defence) {
                value |= 1 << bit;
            }
        };
        add(Defences::IBRS, 0);
        add(Defences::SSBD, 2);
        add(Defences::BHI_DIS_S, 10);
        value
    }
}

/// What the CPU can be made to do, whether it needs it or not.
fn possible(facts: &CpuFacts) -> Defences {
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
fn default(facts: &CpuFacts, weaknesses: Weakness) -> Defences {
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
fn left_over(facts: &CpuFacts, weaknesses: Weakness, defences: Defences) -> Weakness {
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

/// Their names in the log.
const DEFENCE_NAMES: [(Defences, &str); 11] = [
    (Defences::IBRS, "IBRS"),
    (Defences::BHI_DIS_S, "BHI_DIS_S"),
    (Defences::SSBD, "SSBD"),
    (Defences::IBPB_DOMAIN, "IBPB-domain"),
    (Defences::L1D_FLUSH, "L1D-flush"),
    (Defences::VERW, "VERW"),
    (Defences::RSB_STUFF, "RSB"),
    (Defences::RSB_ONE, "RSB-one"),
    (Defences::BHB_SHORT, "BHB-short"),
    (Defences::BHB_LONG, "BHB-long"),
    (Defences::GUEST_CONTROLS, "guests' SPEC_CTRL"),
];

impl fmt::Display for Plan {
    /// One line of the boot log: what is on; what a guest may still use.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LEFT: [(Weakness, &str); 10] = [
            (Weakness::L1TF, "L1TF"),
            (Weakness::MDS, "MDS"),
            (Weakness::TAA, "TAA"),
            (Weakness::RFDS, "RFDS"),
            (Weakness::SRBDS, "SRBDS"),
            (Weakness::GDS, "GDS"),
            (Weakness::BTI, "branch targets"),
            (Weakness::RSB, "return stack"),
            (Weakness::BHI, "branch history"),
            (Weakness::ITS, "ITS"),
        ];
        let on = DEFENCE_NAMES
            .iter()
            .filter(|(flag, _)| self.defences.contains(*flag));
        list(
            f,
            on.map(|(flag, name)| match *flag {
                Defences::IBRS if self.defences.contains(Defences::IBRS_ENHANCED) => {
                    "enhanced IBRS"
                }
                _ => name,
            }),
        )?;
        f.write_str("; unprotected: ")?;
        let left = LEFT
            .iter()
            .filter(|(flag, _)| self.unprotected.contains(*flag));
        list(f, left.map(|(_, name)| *name))
    }
}

fn list<'a>(f: &mut fmt::Formatter<'_>, names: impl Iterator<Item = &'a str>) -> fmt::Result {
    let mut is_empty = true;
    for name in names {
        if !is_empty {
            f.write_str(", ")?;
        }
        f.write_str(name)?;
        is_empty = false;
    }
    if is_empty {
        f.write_str("nothing")
    } else {
        Ok(())
    }
}
