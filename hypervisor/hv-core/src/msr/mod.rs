//! What a guest may do with model-specific registers. An MSR that no list names raises #GP, whoever asks.
//!
//! Three kinds of MSR never reach the mechanisms: constants, the MTRRs (stored here; the real memory types come from
//! stage 2) and the refused. The others are *backed*: [`MsrPolicy::read`] and [`MsrPolicy::write`] name who holds the
//! value (a VMCS field, the local APIC, the timer) and the story applies it, after the checks were made here. Those that
//! a guest may use without an exit are in [`MsrPolicy::passthrough`].

use alloc::vec::Vec;

use crate::cpuid::CpuidPolicy;

/// Values of the host's own MSRs that guests see, as read or changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostMsrs {
    /// IA32_PLATFORM_ID (0x17); 0 where reading it faults.
    pub platform_id: u64,
    /// IA32_BIOS_SIGN_ID (0x8B), the microcode's revision in the upper half.
    pub microcode_revision: u64,
    /// IA32_MISC_ENABLE (0x1A0).
    pub misc_enable: u64,
    /// IA32_ARCH_CAPABILITIES (0x10A); 0 where CPUID does not have it.
    pub arch_capabilities: u64,
}

/// Who holds the value of an MSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackedMsr {
    /// IA32_EFER: a guest-state field. Checked: reserved bits, LME while paging; LMA is kept as it was.
    Efer,
    /// IA32_PAT: a guest-state field. Checked: every entry is a memory type.
    Pat,
    /// IA32_SYSENTER_CS: a guest-state field.
    SysenterCs,
    /// IA32_SYSENTER_ESP: a guest-state field. Checked: canonical.
    SysenterEsp,
    /// IA32_SYSENTER_EIP: a guest-state field. Checked: canonical.
    SysenterEip,
    /// FS base: a guest-state field. Checked: canonical.
    FsBase,
    /// GS base: a guest-state field. Checked: canonical.
    GsBase,
    /// IA32_DEBUGCTL: a guest-state field. Checked: nothing but BTF and LBR, and LBR is dropped.
    DebugCtl,
    /// IA32_TIME_STAMP_COUNTER: the TSC offset.
    Tsc,
    /// IA32_TSC_DEADLINE: the local APIC's timer.
    TscDeadline,
    /// IA32_APIC_BASE: the local APIC. Checked: reserved bits and the address; the transition is the local APIC's to judge.
    ApicBase,
    /// An x2APIC register: the offset of the register in the xAPIC page, shifted right by 4 (the MSR less 0x800).
    X2Apic(u8),
    /// IA32_SPEC_CTRL: switched with the vCPU. Checked: only bits that CPUID shows.
    SpecCtrl,
    /// IA32_PRED_CMD: a command. Checked: IBPB only.
    PredCmd,
    /// IA32_FLUSH_CMD: a command. Checked: L1D_FLUSH only.
    FlushCmd,
    /// IA32_XSS: extended supervisor state. Checked: zero, the only value there is.
    Xss,
    /// Xen's MSR 0x40000000: fill the guest's page with this frame number with hypercall stubs.
    HypercallPage,
}

/// The answer to RDMSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsrRead {
    /// EDX:EAX.
    Value(u64),
    /// Ask the holder.
    Backed(BackedMsr),
    /// #GP(0).
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
    /// #GP(0).
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
#[derive(Clone, Debug)]
pub struct MsrState {
    _mtrr: u64,
}

/// An MSR that a guest uses without an exit, and which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passthrough {
    /// Its number.
    pub msr: u32,
    /// RDMSR does not exit.
    pub read: bool,
    /// WRMSR does not exit.
    pub write: bool,
}

/// A domain's MSRs.
#[derive(Clone, Debug)]
pub struct MsrPolicy {
    passthrough: Vec<Passthrough>,
}

impl MsrPolicy {
    /// Derives the policy from what CPUID shows the domain.
    #[must_use]
    pub fn build(cpuid: &CpuidPolicy, host: &HostMsrs) -> Self {
        let _ = (cpuid, host);
        Self {
            passthrough: Vec::new(),
        }
    }
    /// The values of a vCPU after reset.
    #[must_use]
    pub fn reset_state(&self) -> MsrState {
        MsrState { _mtrr: 0 }
    }
    /// Answers RDMSR of `msr`.
    #[must_use]
    pub fn read(&self, msr: u32, state: &MsrState) -> MsrRead {
        let _ = (msr, state);
        MsrRead::Fault
    }
    /// Checks and applies WRMSR of `value` to `msr`.
    pub fn write(
        &self,
        msr: u32,
        value: u64,
        state: &mut MsrState,
        context: &MsrContext,
    ) -> MsrWrite {
        let _ = (msr, value, state, context);
        MsrWrite::Fault
    }
    /// The MSRs for the bitmap; all others exit.
    #[must_use]
    pub fn passthrough(&self) -> &[Passthrough] {
        &self.passthrough
    }
}
