//! Every VMX exit reason that the SDM defines: handled, answered with #UD, or why it cannot be.
//!
//! Source: Intel SDM vol. 3D, "VMX Basic Exit Reasons"; vol. 3C, "Exit Reason".

pub(super) use super::super::answers::Answer;
use super::super::answers::{self, answers};
use Answer::{Handled, Never, Undefined};

/// Bits of the exit-reason field that number the reason; those above tell more of it.
const BASIC: u32 = 0xFFFF;
/// Bit of the exit reason: the VM entry itself failed.
const ENTRY_FAILED: u32 = 1 << 31;

const CONTROL_OFF: &str = "the control that asks for it is off";
const SMM: &str = "it is for the monitor of SMM, which we are not";

answers! {
    const REASONS;
    EXCEPTION_OR_NMI = 0, "exception or NMI", Handled;
    EXTERNAL_INTERRUPT = 1, "external interrupt", Handled;
    TRIPLE_FAULT = 2, "triple fault", Handled;
    INIT = 3, "INIT signal", Handled;
    SIPI = 4, "start-up IPI", Handled;
    IO_SMI = 5, "I/O SMI", Never(SMM);
    OTHER_SMI = 6, "other SMI", Never(SMM);
    INTERRUPT_WINDOW = 7, "interrupt window", Handled;
    NMI_WINDOW = 8, "NMI window", Handled;
    TASK_SWITCH = 9, "task switch", Handled;
    CPUID = 10, "CPUID", Handled;
    GETSEC = 11, "GETSEC", Undefined;
    HLT = 12, "HLT", Handled;
    INVD = 13, "INVD", Handled;
    INVLPG = 14, "INVLPG", Never(CONTROL_OFF);
    RDPMC = 15, "RDPMC", Undefined;
    RDTSC = 16, "RDTSC", Handled;
    RSM = 17, "RSM", Never(SMM);
    VMCALL = 18, "VMCALL", Handled;
    VMCLEAR = 19, "VMCLEAR", Undefined;
    VMLAUNCH = 20, "VMLAUNCH", Undefined;
    VMPTRLD = 21, "VMPTRLD", Undefined;
    VMPTRST = 22, "VMPTRST", Undefined;
    VMREAD = 23, "VMREAD", Undefined;
    VMRESUME = 24, "VMRESUME", Undefined;
    VMWRITE = 25, "VMWRITE", Undefined;
    VMXOFF = 26, "VMXOFF", Undefined;
    VMXON = 27, "VMXON", Undefined;
    CONTROL_REGISTER = 28, "control-register access", Handled;
    MOV_DR = 29, "MOV DR", Never(CONTROL_OFF);
    IO = 30, "I/O instruction", Handled;
    RDMSR = 31, "RDMSR", Handled;
    WRMSR = 32, "WRMSR", Handled;
    GUEST_STATE = 33, "VM-entry failure: guest state", Never("what a guest or toolstack sets is checked first");
    MSR_LOADING = 34, "VM-entry failure: MSR loading", Never("no MSR is loaded by VM entry");
    MWAIT = 36, "MWAIT", Undefined;
    MONITOR_TRAP = 37, "monitor trap flag", Never(CONTROL_OFF);
    MONITOR = 39, "MONITOR", Undefined;
    PAUSE = 40, "PAUSE", Handled;
    MACHINE_CHECK = 41, "VM-entry failure: machine check", Handled;
    TPR_BELOW_THRESHOLD = 43, "TPR below threshold", Handled;
    APIC_ACCESS = 44, "APIC access", Never(CONTROL_OFF);
    EOI = 45, "virtualized EOI", Handled;
    GDTR_IDTR = 46, "access to GDTR or IDTR", Never(CONTROL_OFF);
    LDTR_TR = 47, "access to LDTR or TR", Never(CONTROL_OFF);
    EPT_VIOLATION = 48, "EPT violation", Handled;
    EPT_MISCONFIGURATION = 49, "EPT misconfiguration", Never("entries have only bits and types that the CPU has");
    INVEPT = 50, "INVEPT", Undefined;
    RDTSCP = 51, "RDTSCP", Handled;
    PREEMPTION_TIMER = 52, "VMX-preemption timer expired", Never(CONTROL_OFF);
    INVVPID = 53, "INVVPID", Undefined;
    WBINVD = 54, "WBINVD or WBNOINVD", Handled;
    XSETBV = 55, "XSETBV", Handled;
    APIC_WRITE = 56, "APIC write", Handled;
    RDRAND = 57, "RDRAND", Never(CONTROL_OFF);
    INVPCID = 58, "INVPCID", Undefined;
    VMFUNC = 59, "VMFUNC", Undefined;
    ENCLS = 60, "ENCLS", Undefined;
    RDSEED = 61, "RDSEED", Never(CONTROL_OFF);
    PML_FULL = 62, "page-modification log full", Never(CONTROL_OFF);
    XSAVES = 63, "XSAVES", Undefined;
    XRSTORS = 64, "XRSTORS", Undefined;
    PCONFIG = 65, "PCONFIG", Undefined;
    SPP = 66, "SPP-related event", Never(CONTROL_OFF);
    UMWAIT = 67, "UMWAIT", Undefined;
    TPAUSE = 68, "TPAUSE", Undefined;
    LOADIWKEY = 69, "LOADIWKEY", Undefined;
    ENCLV = 70, "ENCLV", Undefined;
    ENQCMD = 72, "ENQCMD PASID translation failure", Never(CONTROL_OFF);
    ENQCMDS = 73, "ENQCMDS PASID translation failure", Never(CONTROL_OFF);
    BUS_LOCK = 74, "bus lock", Handled;
    NOTIFY = 75, "instruction timeout", Handled;
    // both exit wherever they are executed on a CPU with TDX, at any privilege
    SEAMCALL = 76, "SEAMCALL", Undefined;
    TDCALL = 77, "TDCALL", Undefined;
    RDMSRLIST = 78, "RDMSRLIST", Undefined;
    WRMSRLIST = 79, "WRMSRLIST", Undefined;
    URDMSR = 80, "URDMSR", Undefined;
    UWRMSR = 81, "UWRMSR", Undefined;
}

/// A machine check while the guest's state was being loaded.
pub(super) const ENTRY_MACHINE_CHECK: u32 = MACHINE_CHECK | ENTRY_FAILED;

/// What becomes of an exit for `reason`, as [`number`] gives it.
pub(super) fn answer(reason: u32) -> Answer {
    answers::answer(REASONS, reason & BASIC)
}

/// The number of the reason in the exit-reason field, which may also say that a bus lock came with it; a failed VM
/// entry keeps its mark.
pub(super) fn number(field: u32) -> u32 {
    field & (BASIC | ENTRY_FAILED)
}

/// True where the exit says that the VM entry failed, before any guest instruction.
pub(super) fn is_entry_failure(reason: u32) -> bool {
    reason & ENTRY_FAILED != 0
}

/// What the exit-reason field says, for whoever reads the log: the reason's name, and why it should not have come.
pub(super) fn describe(field: u32) -> (&'static str, &'static str) {
    answers::describe(REASONS, field & BASIC)
}

#[cfg(test)]
mod tests;
