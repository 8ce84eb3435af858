//! Which of the CPU's ways to leak by speculation matter here, what is done about each, and what cannot be helped.
//!
//! Decided once, by [`Plan::decide`], from what the CPU says of itself ([`CpuFacts`]) and what is known of those that
//! say nothing (`models`, `amd`). What a guest could read is the hypervisor's and other guests' memory; what it does
//! inside of itself is its own affair, for which it has IA32_SPEC_CTRL and the command MSRs. Carried out by
//! `hv-hw/src/virt/guard.rs`.
//!
//! | weakness | a guest … | defence |
//! |---|---|---|
//! | L1TF | reads what is in the L1 data cache | L1D flush at VM entry |
//! | MDS, TAA, RFDS | reads what passed through buffers and registers | VERW, the last instruction before VM entry; a flushed L1D has done it as well |
//! | branch-target injection | steers the hypervisor's indirect branches | IBRS while the hypervisor runs; IBPB between domains |
//! | return-stack injection | steers the hypervisor's returns | the return stack overwritten at VM exit, or by the CPU (enhanced IBRS) |
//! | branch-history injection | steers them in spite of enhanced IBRS | BHI_DIS_S, or the history overwritten at VM exit |
//! | branch-type confusion, SRSO | has AMD's CPUs speculate from the hypervisor's returns | IBPB at VM exit; against SRSO, BP_SPEC_REDUCE where there is it |
//! | TSA | reads what passed through AMD's store queue and L1 | VERW, as for MDS |
//! | Zenbleed | reads upper halves of vector registers | microcode, or FP_BACKUP_FIX |
//! | bounds-check bypass | has a number out of bounds used | `nospec` |
//!
//! The hypervisor has no retpolines: stable Rust offers none. A CPU without IBRS is named as unprotected.
//!
//! Sources: Intel, "Affected Processors: Transient Execution Attacks"; SDM vol. 4, IA32_ARCH_CAPABILITIES; AMD,
//! "Software Techniques for Managing Speculation", and its bulletins; Xen, `docs/misc/xen-command-line.pandoc,
//! spec-ctrl`, `arch/x86/spec_ctrl.c`.

mod amd;
mod intel;
mod models;
mod settings;
#[cfg(test)]
mod tests;
mod text;

use alloc::string::String;
use alloc::vec::Vec;

use bitflags::bitflags;

use crate::cpuid::{HostCpuid, Vendor};
use crate::msr::HostMsrs;
use text::DEFENCE_NAMES;

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
        /// Branch-type confusion.
        const BTC = 1 << 10;
        /// Speculative return-stack overflow.
        const SRSO = 1 << 11;
        /// Transient scheduler attacks.
        const TSA = 1 << 12;
        /// Cross-process information leak of Zen 2.
        const ZENBLEED = 1 << 13;
        /// What Zen 1 divided last.
        const DIV = 1 << 14;
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
        /// Guests are offered IA32_PRED_CMD, be IA32_SPEC_CTRL offered or not.
        const GUEST_IBPB = 1 << 12;
        /// EFER.AIBRSE is set: the CPU does of its own what IBRS does, and empties the return stack at VM exit.
        const AUTO_IBRS = 1 << 13;
        /// BP_SPEC_REDUCE is set in BP_CFG.
        const SPEC_REDUCE = 1 << 14;
        /// FP_BACKUP_FIX is set in DE_CFG.
        const FP_BACKUP_FIX = 1 << 15;
        /// IBPB at VM exit: AMD's.
        const IBPB_ENTRY = 1 << 16;
    }
}

impl Defences {
    /// What there is to do whenever a guest is entered or left; the rest is set once a CPU, or between domains.
    pub const AT_ENTRY_OR_EXIT: Self = Self::all()
        .difference(Self::IBPB_DOMAIN)
        .difference(Self::GUEST_IBPB)
        .difference(Self::AUTO_IBRS)
        .difference(Self::SPEC_REDUCE)
        .difference(Self::FP_BACKUP_FIX);
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
        /// IA32_PRED_CMD with IBPB, be there IBRS or not.
        const IBPB = 1 << 7;
        /// IBRS may stay set: AMD's IBRS_ALWAYS.
        const IBRS_ALWAYS = 1 << 8;
        /// EFER.AIBRSE.
        const AUTO_IBRS = 1 << 9;
        /// BP_SPEC_REDUCE in AMD's BP_CFG.
        const SPEC_REDUCE = 1 << 10;
        /// FP_BACKUP_FIX in AMD's DE_CFG.
        const FP_BACKUP_FIX = 1 << 11;
        /// IBPB forgets of what type a branch was, too.
        const IBPB_BRTYPE = 1 << 12;
    }
}

/// What the CPU says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuFacts {
    /// Whose CPU it is.
    pub vendor: Vendor,
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
    /// Weaknesses that it says it has not, or whose microcode mends them: AMD's.
    pub immune: Weakness,
}

/// Adds to the host's CPUID what it stands for without a word. Before anything else is read from it.
pub fn complete(cpuid: &mut HostCpuid, msrs: &HostMsrs) {
    match cpuid.vendor() {
        Vendor::Intel => {}
        Vendor::Amd => amd::complete(cpuid, msrs.microcode_revision),
    }
}

impl CpuFacts {
    /// Reads them from the host's CPUID and MSRs, and its IA32_MCU_OPT_CTRL (0 where there is none).
    #[must_use]
    pub fn read(cpuid: &HostCpuid, msrs: &HostMsrs, mcu_opt_ctrl: u64) -> Self {
        let leaf1 = cpuid.get(1, 0);
        let leaf7 = cpuid.get(7, 0);
        let vendor = cpuid.vendor();
        let (means, immune) = match vendor {
            Vendor::Intel => {
                let means = intel::means(cpuid, msrs.arch_capabilities, mcu_opt_ctrl);
                (means, Weakness::empty())
            }
            Vendor::Amd => amd::means_and_immunity(cpuid, msrs.microcode_revision),
        };
        Self {
            vendor,
            signature: leaf1.eax,
            arch_capabilities: msrs.arch_capabilities,
            means,
            has_rtm: leaf7.ebx & 1 << 11 != 0,
            has_gathers: leaf7.ebx & 1 << 5 != 0,
            has_random: leaf1.ecx & 1 << 30 != 0 || leaf7.ebx & 1 << 18 != 0,
            immune,
        }
    }

    /// The weaknesses of the CPU, from guest to hypervisor and to other guests. A CPU that neither says anything nor is
    /// in a table is taken to have those that CPUs without a word on it have.
    #[must_use]
    pub fn weaknesses(&self) -> Weakness {
        match self.vendor {
            Vendor::Intel => intel::weaknesses(self),
            Vendor::Amd => amd::weaknesses(self),
        }
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
        let (wanted, possible) = match facts.vendor {
            Vendor::Intel => (intel::default(facts, weaknesses), intel::possible(facts)),
            Vendor::Amd => (amd::default(facts, weaknesses), amd::possible(facts)),
        };
        let defences = settings.apply(wanted, possible);
        let unprotected = match facts.vendor {
            Vendor::Intel => intel::left_over(facts, weaknesses, defences),
            Vendor::Amd => amd::left_over(facts, weaknesses, defences),
        };
        Self {
            defences,
            unprotected,
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
