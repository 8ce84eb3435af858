//! What a guest may do with model-specific registers. An MSR that no list names raises #GP, whoever asks.
//!
//! Three kinds of MSR never reach the hardware: constants, the MTRRs (stored here; the real memory types come from
//! stage 2) and the refused. The others are *backed*: [`MsrPolicy::read`] and [`MsrPolicy::write`] name who holds the
//! value (a register of the vCPU, the local APIC, the timer) and the core applies it, after the checks were made here.
//! Those that a guest may use without an exit are in [`MsrPolicy::passthrough`]; they fault here, because they never
//! come here. What only AMD's CPUs have is in amd.rs; what only Intel's have faults on the others.

mod amd;
mod host;
mod mtrr;
pub mod number;
#[cfg(test)]
mod tests;

use arrayvec::ArrayVec;
use guest_abi::hvm::save::HvmHwMtrr;

use crate::cpuid::{CpuidPolicy, HYPERCALL_PAGE_MSR, Vendor};
use crate::x86::{CR0_PG, EFER_LMA, EFER_LME};
use amd::AmdMsrs;
pub use host::HostMsrs;
use mtrr::Mtrrs;

/// Who holds the value of an MSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackedMsr {
    /// IA32_EFER: a guest-state field. Checked: reserved bits, LME while paging; LMA is kept as it was.
    Efer,
    /// IA32_PAT: a guest-state field. Checked: every entry is a memory type.
    Pat,
    /// IA32_DEBUGCTL: a guest-state field. Checked: nothing but BTF.
    DebugCtl,
    /// IA32_TIME_STAMP_COUNTER: the TSC offset.
    Tsc,
    /// IA32_TSC_DEADLINE: the local APIC's timer.
    TscDeadline,
    /// IA32_APIC_BASE: the local APIC. Checked: reserved bits, EXTD where CPUID has no x2APIC mode; which mode may
    /// follow which, and that it cannot be moved, is for the local APIC to judge.
    ApicBase,
    /// An x2APIC register: its offset in the xAPIC page shifted right by 4 (the MSR less 0x800), at most 0x3F.
    X2Apic(u8),
    /// IA32_SPEC_CTRL: switched with the vCPU; may pass through after the first write. Checked: only bits that CPUID
    /// shows.
    SpecCtrl,
    /// Xen's MSR 0x40000000: fill the guest's page at this guest physical address with hypercall stubs. Written only.
    /// Checked: the address is page-aligned (the low 12 bits number the page, of which there is one).
    HypercallPage,
}

/// The answer to RDMSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsrRead {
    Value(u64),
    Backed(BackedMsr),
    Fault,
}

/// The answer to WRMSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum MsrWrite {
    /// Done, or ignored as the policy has it.
    Done,
    /// Give this value to the holder; it passed the checks that the variant names.
    Backed(BackedMsr, u64),
    Fault,
}

/// Control registers that decide whether a write is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MsrContext {
    /// CR0 as the guest sees it.
    pub cr0: u64,
    /// IA32_EFER as the guest sees it.
    pub efer: u64,
}

/// The MSRs of one vCPU whose values live here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MsrState {
    mtrrs: Mtrrs,
    faults_cpuid: bool,
}

impl MsrState {
    /// The values after reset.
    pub const RESET: Self = Self {
        mtrrs: Mtrrs::RESET,
        faults_cpuid: false,
    };

    /// True where CPUID of an application is to raise #GP, as MSR_MISC_FEATURES_ENABLES asks.
    #[inline]
    #[must_use]
    pub const fn faults_cpuid(&self) -> bool {
        self.faults_cpuid
    }

    /// The record of a vCPU with these values and `pat` in IA32_PAT (`public/arch-x86/hvm/save.h, hvm_hw_mtrr`).
    #[must_use]
    pub fn mtrr_record(&self, pat: u64) -> HvmHwMtrr {
        self.mtrrs.record(pat)
    }

    /// The state with the MTRRs of `record`, for a domain whose physical addresses have `physical_bits`; `None` where
    /// WRMSR would refuse one of its values, PAT's too.
    #[must_use]
    pub fn with_mtrrs(&self, record: &HvmHwMtrr, physical_bits: u8) -> Option<Self> {
        let mtrrs = Mtrrs::from_record(record, physical_bits)?;
        pat_is_valid(record.msr_pat_cr).then_some(Self {
            mtrrs,
            faults_cpuid: self.faults_cpuid,
        })
    }

    /// MSR_MISC_FEATURES_ENABLES.
    #[must_use]
    pub const fn misc_features(&self) -> u64 {
        self.faults_cpuid as u64
    }

    /// Sets MSR_MISC_FEATURES_ENABLES; false, and nothing happens, where `value` has a bit that there is not.
    #[must_use]
    pub fn set_misc_features(&mut self, value: u64) -> bool {
        let is_valid = value & !CPUID_FAULTING == 0;
        if is_valid {
            self.faults_cpuid = value != 0;
        }
        is_valid
    }
}

/// An MSR that a guest uses without an exit, and which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passthrough {
    pub msr: u32,
    /// RDMSR does not exit.
    pub read: bool,
    /// WRMSR does not exit.
    pub write: bool,
}

/// As many of them as there can be.
pub type PassthroughList = ArrayVec<Passthrough, MAX_PASSTHROUGH>;

/// A domain's MSRs.
#[derive(Clone, Debug)]
pub struct MsrPolicy {
    platform_id: u64,
    microcode_revision: u64,
    misc_enable: u64,
    arch_capabilities: Option<u64>,
    spec_ctrl_allowed: u64,
    efer_allowed: u64,
    physical_bits: u8,
    has_xss: bool,
    has_x2apic: bool,
    /// MSRs that only AMD's CPUs have, where the host is one.
    amd: Option<AmdMsrs>,
    passthrough: PassthroughList,
}

impl MsrPolicy {
    /// Derives the policy from what CPUID shows the domain.
    #[must_use]
    pub fn build(cpuid: &CpuidPolicy, host: &HostMsrs) -> Self {
        Self {
            platform_id: host.platform_id,
            microcode_revision: host.microcode_revision,
            misc_enable: host.misc_enable & FAST_STRINGS | BTS_UNAVAILABLE | PEBS_UNAVAILABLE,
            arch_capabilities: cpuid
                .has_arch_capabilities()
                .then_some(host.arch_capabilities & ARCH_CAPABILITIES_SHOWN),
            spec_ctrl_allowed: cpuid.spec_ctrl_allowed(),
            efer_allowed: cpuid.efer_allowed(),
            physical_bits: cpuid.physical_bits(),
            has_xss: cpuid.has_xss(),
            has_x2apic: cpuid.has_x2apic(),
            amd: (cpuid.vendor() == Vendor::Amd)
                .then(|| AmdMsrs::new(host, cpuid.has_invariant_tsc())),
            passthrough: passthrough(cpuid),
        }
    }

    /// Answers RDMSR of `msr`.
    #[inline]
    #[must_use]
    pub fn read(&self, msr: u32, state: &MsrState) -> MsrRead {
        use MsrRead::{Backed, Value};
        match msr {
            number::IA32_TIME_STAMP_COUNTER => Backed(BackedMsr::Tsc),
            number::IA32_PLATFORM_ID if self.is_intel() => Value(self.platform_id),
            number::IA32_APIC_BASE => Backed(BackedMsr::ApicBase),
            number::IA32_FEATURE_CONTROL if self.is_intel() => Value(1), // locked, nothing enabled
            number::IA32_SPEC_CTRL if self.spec_ctrl_allowed != 0 => Backed(BackedMsr::SpecCtrl),
            number::IA32_BIOS_SIGN_ID => Value(self.microcode_revision),
            number::IA32_ARCH_CAPABILITIES => self.arch_capabilities.map_or(MsrRead::Fault, Value),
            number::IA32_MISC_ENABLE if self.is_intel() => Value(self.misc_enable),
            number::MSR_PLATFORM_INFO => Value(PLATFORM_INFO),
            number::MSR_MISC_FEATURES_ENABLES => Value(state.misc_features()),
            // no machine-check banks
            number::IA32_MCG_CAP | number::IA32_MCG_STATUS => Value(0),
            // no performance or thermal interface
            number::IA32_PERF_STATUS | number::IA32_PERF_CTL | number::IA32_THERM_STATUS
                if self.is_intel() =>
            {
                Value(0)
            }
            number::IA32_DEBUGCTL => Backed(BackedMsr::DebugCtl),
            number::IA32_PAT => Backed(BackedMsr::Pat),
            number::IA32_TSC_DEADLINE => Backed(BackedMsr::TscDeadline),
            number::X2APIC_FIRST..=number::X2APIC_LAST => Backed(x2apic(msr)),
            number::IA32_XSS if self.has_xss => Value(0),
            number::IA32_EFER => Backed(BackedMsr::Efer),
            HYPERCALL_PAGE_MSR => Value(0),
            _ => self.read_other(msr, state).map_or(MsrRead::Fault, Value),
        }
    }

    fn read_other(&self, msr: u32, state: &MsrState) -> Option<u64> {
        let of_amd = || self.amd.as_ref()?.read(msr);
        state.mtrrs.read(msr).or_else(of_amd)
    }

    fn is_intel(&self) -> bool {
        self.amd.is_none()
    }

    /// Checks WRMSR of `value` to `msr`, and performs it where the value lives here.
    #[inline]
    pub fn write(
        &self,
        msr: u32,
        value: u64,
        state: &mut MsrState,
        context: &MsrContext,
    ) -> MsrWrite {
        match msr {
            number::IA32_TIME_STAMP_COUNTER => MsrWrite::Backed(BackedMsr::Tsc, value),
            number::IA32_APIC_BASE => {
                backed_if(BackedMsr::ApicBase, value, self.apic_base_is_valid(value))
            }
            number::IA32_SPEC_CTRL if self.spec_ctrl_allowed != 0 => {
                let valid = value & !self.spec_ctrl_allowed == 0;
                backed_if(BackedMsr::SpecCtrl, value, valid)
            }
            // Linux writes 0 here before it asks for the revision, and clears bits of the other on some models.
            number::IA32_BIOS_SIGN_ID | number::IA32_MISC_ENABLE => done_if(self.is_intel()),
            number::MSR_MISC_FEATURES_ENABLES => done_if(state.set_misc_features(value)),
            number::IA32_MCG_STATUS => done_if(value == 0),
            number::IA32_DEBUGCTL => backed_if(BackedMsr::DebugCtl, value, value & !BTF == 0),
            number::IA32_PAT => backed_if(BackedMsr::Pat, value, pat_is_valid(value)),
            number::IA32_TSC_DEADLINE => MsrWrite::Backed(BackedMsr::TscDeadline, value),
            number::X2APIC_FIRST..=number::X2APIC_LAST => MsrWrite::Backed(x2apic(msr), value),
            number::IA32_XSS if self.has_xss => done_if(value == 0),
            number::IA32_EFER => self.write_efer(value, context),
            HYPERCALL_PAGE_MSR => backed_if(BackedMsr::HypercallPage, value, value & 0xfff == 0),
            _ => done_if(self.write_other(msr, value, state)),
        }
    }

    /// True where the value was taken, or is ignored.
    fn write_other(&self, msr: u32, value: u64, state: &mut MsrState) -> bool {
        let is_mtrr = state.mtrrs.write(msr, value, self.physical_bits).is_some();
        is_mtrr || self.amd.as_ref().is_some_and(|amd| amd.ignores_write(msr))
    }

    /// The bits of IA32_SPEC_CTRL that the guest may set; 0 where the MSR does not exist.
    #[must_use]
    pub fn spec_ctrl_allowed(&self) -> u64 {
        self.spec_ctrl_allowed
    }

    fn apic_base_is_valid(&self, value: u64) -> bool {
        let extended = if self.has_x2apic { APIC_BASE_EXTD } else { 0 };
        let flags = APIC_BASE_BSP | APIC_BASE_EN | extended;
        let beyond = u64::MAX << self.physical_bits.clamp(32, 52);
        value & (0xfff & !flags | beyond) == 0
    }

    /// IA32_ARCH_CAPABILITIES; 0 where there is none.
    #[must_use]
    pub fn arch_capabilities(&self) -> u64 {
        self.arch_capabilities.unwrap_or(0)
    }

    /// The MSRs for the bitmap; all others exit.
    #[must_use]
    pub fn passthrough(&self) -> &PassthroughList {
        &self.passthrough
    }

    /// Source: Intel SDM vol. 3A, "IA-32e Mode Operation"; vol. 4, IA32_EFER.
    fn write_efer(&self, value: u64, context: &MsrContext) -> MsrWrite {
        let is_paging = context.cr0 & CR0_PG != 0;
        let changes_lme = (value ^ context.efer) & EFER_LME != 0;
        let valid = value & !(self.efer_allowed | EFER_LMA) == 0 && !(is_paging && changes_lme);
        let kept = value & !EFER_LMA | context.efer & EFER_LMA;
        backed_if(BackedMsr::Efer, kept, valid)
    }
}

/// MSR_MISC_FEATURES_ENABLES: CPUID of an application raises #GP.
const CPUID_FAULTING: u64 = 1 << 0;
/// MSR_PLATFORM_INFO of every domain: CPUID can be made to fault. It exits in any case, so that no CPU needs to be able
/// to.
pub const PLATFORM_INFO: u64 = 1 << 31;
/// IA32_DEBUGCTL: single-step on branches. There are no branch records: LBR faults as on a CPU without them.
const BTF: u64 = 1 << 1;

/// IA32_MISC_ENABLE: the only bit of the host's that guests see; the others enable what CPUID hides.
const FAST_STRINGS: u64 = 1 << 0;
const BTS_UNAVAILABLE: u64 = 1 << 11;
const PEBS_UNAVAILABLE: u64 = 1 << 12;

/// Bits that say what the CPU is, or how VERW acts; those that announce a control MSR are not among them:
/// RDCL_NO IBRS_ALL RSBA, SSB_NO MDS_NO IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO FBSDP_NO PSDP_NO, FB_CLEAR, RRSBA
/// BHI_NO, PBRSB_NO, GDS_NO RFDS_NO RFDS_CLEAR, ITS_NO.
const ARCH_CAPABILITIES_SHOWN: u64 = 0b111
    | 0b111 << 4
    | 1 << 8
    | 0b111 << 13
    | 1 << 17
    | 0b11 << 19
    | 1 << 24
    | 0b111 << 26
    | 1 << 62;

const APIC_BASE_BSP: u64 = 1 << 8;
const APIC_BASE_EXTD: u64 = 1 << 10;
const APIC_BASE_EN: u64 = 1 << 11;

const MAX_PASSTHROUGH: usize = 14;

/// Registers that only the guest's own execution looks at: the vCPU's fields or switched with it.
fn passthrough(cpuid: &CpuidPolicy) -> PassthroughList {
    let both = |msr| Passthrough {
        msr,
        read: true,
        write: true,
    };
    let command = |msr| Passthrough {
        msr,
        read: false,
        write: true,
    };
    let mut list: PassthroughList = [
        number::IA32_SYSENTER_CS,
        number::IA32_SYSENTER_ESP,
        number::IA32_SYSENTER_EIP,
        number::IA32_STAR,
        number::IA32_LSTAR,
        number::IA32_CSTAR,
        number::IA32_FMASK,
        number::IA32_FS_BASE,
        number::IA32_GS_BASE,
        number::IA32_KERNEL_GS_BASE,
    ]
    .into_iter()
    .map(both)
    .collect();
    // AMD's CPUs add the offset as well, but QEMU's reads 0, and nobody's fast path needs it
    if cpuid.vendor() == Vendor::Intel {
        list.push(Passthrough {
            msr: number::IA32_TIME_STAMP_COUNTER,
            read: true, // the CPU adds the offset
            write: false,
        });
    }
    if cpuid.has_tsc_aux() {
        list.push(both(number::IA32_TSC_AUX));
    }
    if cpuid.has_pred_cmd() {
        list.push(command(number::IA32_PRED_CMD));
    }
    if cpuid.has_flush_cmd() {
        list.push(command(number::IA32_FLUSH_CMD));
    }
    list
}

fn done_if(valid: bool) -> MsrWrite {
    if valid {
        MsrWrite::Done
    } else {
        MsrWrite::Fault
    }
}

fn backed_if(msr: BackedMsr, value: u64, valid: bool) -> MsrWrite {
    if valid {
        MsrWrite::Backed(msr, value)
    } else {
        MsrWrite::Fault
    }
}

/// The register of an MSR from [`number::X2APIC_FIRST`] to [`number::X2APIC_LAST`].
fn x2apic(msr: u32) -> BackedMsr {
    BackedMsr::X2Apic(msr.to_le_bytes()[0])
}

/// True where every byte is UC, WC, WT, WP, WB or UC-.
fn pat_is_valid(value: u64) -> bool {
    value
        .to_le_bytes()
        .iter()
        .all(|entry| matches!(entry, 0 | 1 | 4..=7))
}
