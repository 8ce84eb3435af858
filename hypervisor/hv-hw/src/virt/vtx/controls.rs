//! Every VMX control that the SDM defines, one row a bit: used, or why not. What [`super::caps`] asks for is what is
//! said here.
//!
//! Source: Intel SDM vol. 3C, "VM-Execution Control Fields", "VM-Exit Control Fields", "VM-Entry Control Fields".

use super::super::Switches;

/// A word of controls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Word {
    Pin,
    Primary,
    Secondary,
    /// Tertiary processor-based, 64 bits.
    Tertiary,
    Exit,
    Entry,
}

/// What becomes of a control.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use {
    /// On: nothing works without it.
    Needed,
    /// On where the CPU has it and the switches allow it.
    Wished(fn(&Switches) -> bool),
    /// On at times: while a window is awaited, in 64-bit mode, or in place of another that the CPU lacks.
    AtTimes,
    /// Off wherever the CPU lets it be off.
    Off,
}

/// A control: what becomes of it, and why.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// The word that it is in.
    pub(super) word: Word,
    pub(super) bit: u8,
    /// Its name in the SDM.
    pub(super) name: &'static str,
    /// What becomes of it.
    pub(super) usage: Use,
    pub(super) why: &'static str,
}

const fn row(word: Word, bit: u8, name: &'static str, usage: Use, why: &'static str) -> Row {
    Row {
        word,
        bit,
        name,
        usage,
        why,
    }
}

/// Whatever the switches say.
const ALWAYS: Use = Use::Wished(|_| true);

use Use::{AtTimes, Needed, Off, Wished};
use Word::{Entry, Exit, Pin, Primary, Secondary, Tertiary};

/// The table.
#[rustfmt::skip]
pub(super) const CONTROLS: &[Row] = &[
    row(Pin, 0, "external-interrupt exiting", Needed, "interrupts are the host's"),
    row(Pin, 3, "NMI exiting", Needed, "NMIs are the host's"),
    row(Pin, 5, "virtual NMIs", Needed, "guests get NMIs of their own"),
    row(Pin, 6, "activate VMX-preemption timer", Off, "the local APIC's deadline serves all timers; this one would cost a VMWRITE an entry"),
    row(Pin, 7, "process posted interrupts", Wished(|s| s.posted_interrupts && s.delivery), "interrupts reach a vCPU that runs without an exit"),

    row(Primary, 2, "interrupt-window exiting", AtTimes, "while an interrupt waits for the guest to take it"),
    row(Primary, 3, "use TSC offsetting", Needed, "each domain's TSC starts at its own 0"),
    row(Primary, 7, "HLT exiting", Needed, "a vCPU that waits gives the CPU to others"),
    row(Primary, 9, "INVLPG exiting", Off, "with EPT, guests keep their TLB themselves"),
    row(Primary, 10, "MWAIT exiting", Needed, "not offered: it would hold the CPU"),
    row(Primary, 11, "RDPMC exiting", Needed, "not offered: counters tell of others"),
    row(Primary, 12, "RDTSC exiting", AtTimes, "for a guest whose TSC is to be emulated; the offset serves the others"),
    row(Primary, 15, "CR3-load exiting", Off, "with EPT, CR3 is the guest's own; a CPU that cannot leave it off is refused"),
    row(Primary, 16, "CR3-store exiting", Off, "with EPT, CR3 is the guest's own; a CPU that cannot leave it off is refused"),
    row(Primary, 17, "activate tertiary controls", Off, "none of them is used"),
    row(Primary, 19, "CR8-load exiting", AtTimes, "where there is no TPR shadow"),
    row(Primary, 20, "CR8-store exiting", AtTimes, "where there is no TPR shadow"),
    row(Primary, 21, "use TPR shadow", Wished(|s| s.task_priority), "the task priority costs no exit"),
    row(Primary, 22, "NMI-window exiting", AtTimes, "while an NMI waits for the guest to take it"),
    row(Primary, 23, "MOV-DR exiting", Off, "debug registers are switched with the vCPU"),
    row(Primary, 24, "unconditional I/O exiting", Off, "the bitmaps say which ports exit"),
    row(Primary, 25, "use I/O bitmaps", Needed, "ports are denied by default"),
    row(Primary, 27, "monitor trap flag", Off, "nobody steps through a guest from outside"),
    row(Primary, 28, "use MSR bitmaps", Needed, "MSRs are denied by default, and some need no exit"),
    row(Primary, 29, "MONITOR exiting", Needed, "not offered, as MWAIT"),
    row(Primary, 30, "PAUSE exiting", Off, "PAUSE-loop exiting tells loops from single ones"),
    row(Primary, 31, "activate secondary controls", Needed, "EPT is one of them"),

    row(Secondary, 0, "virtualize APIC accesses", Off, "registers in memory are emulated: kernels leave xAPIC mode early, and this would take a page of each guest's memory"),
    row(Secondary, 1, "enable EPT", Needed, "guests' memory"),
    row(Secondary, 2, "descriptor-table exiting", Off, "nothing is to be learnt from a guest's tables; UMIP is the guest's to use"),
    row(Secondary, 3, "enable RDTSCP", ALWAYS, "RDTSCP and RDPID for guests"),
    row(Secondary, 4, "virtualize x2APIC mode", Wished(|s| s.task_priority), "accesses to the task priority cost no exit; off while the guest's APIC is in another mode"),
    row(Secondary, 5, "enable VPID", Wished(|s| s.tlb_tags), "the TLB is kept over exits"),
    row(Secondary, 6, "WBINVD exiting", ALWAYS, "it would empty everybody's caches, for milliseconds, whoever executes it"),
    row(Secondary, 7, "unrestricted guest", Needed, "guests without paging"),
    row(Secondary, 8, "APIC-register virtualization", Wished(|s| s.task_priority && s.delivery), "APIC reads cost no exit"),
    row(Secondary, 9, "virtual-interrupt delivery", Wished(|s| s.task_priority && s.delivery), "EOI and self-IPI cost no exit"),
    row(Secondary, 10, "PAUSE-loop exiting", ALWAYS, "a vCPU that spins for a lock lets its holder run"),
    row(Secondary, 11, "RDRAND exiting", Off, "nothing is to be hidden or emulated"),
    row(Secondary, 12, "enable INVPCID", ALWAYS, "INVPCID for guests"),
    row(Secondary, 13, "enable VM functions", Off, "guests have one address space each"),
    row(Secondary, 14, "VMCS shadowing", Off, "VMX is not offered to guests"),
    row(Secondary, 15, "enable ENCLS exiting", ALWAYS, "SGX is not offered: enclaves would take the host's EPC"),
    row(Secondary, 16, "RDSEED exiting", Off, "nothing is to be hidden or emulated"),
    row(Secondary, 17, "enable PML", Off, "no domain's writes are logged: there is no migration"),
    row(Secondary, 18, "EPT-violation #VE", Off, "guests learn nothing of the second stage"),
    row(Secondary, 19, "conceal VMX from PT", Off, "processor trace is nobody's"),
    row(Secondary, 20, "enable XSAVES/XRSTORS", ALWAYS, "XSAVES for guests; IA32_XSS is 0, so no supervisor state is behind it"),
    row(Secondary, 21, "PASID translation", Off, "ENQCMD is not offered"),
    row(Secondary, 22, "mode-based execute control for EPT", Off, "no page is code for one mode only"),
    row(Secondary, 23, "sub-page write permissions for EPT", Off, "permissions are a page's"),
    row(Secondary, 24, "Intel PT uses guest physical addresses", Off, "processor trace is nobody's"),
    row(Secondary, 25, "use TSC scaling", Wished(|s| s.tsc_scaling), "a domain's TSC may run at another rate"),
    row(Secondary, 26, "enable user wait and pause", Off, "TPAUSE and UMWAIT raise #UD: they would hold the CPU, and their MSR is not switched"),
    row(Secondary, 27, "enable PCONFIG", Off, "PCONFIG raises #UD: memory keys are the host's"),
    row(Secondary, 28, "enable ENCLV exiting", ALWAYS, "SGX is not offered"),
    row(Secondary, 30, "VMM bus-lock detection", ALWAYS, "a lock over two cache lines stops everybody's memory: an exit each bounds their rate"),
    row(Secondary, 31, "instruction timeout", ALWAYS, "an instruction that never ends would hold the CPU with interrupts shut out"),

    row(Tertiary, 0, "LOADIWKEY exiting", Off, "key locker is not offered: CR4.KL cannot be set, and it raises #UD"),
    row(Tertiary, 1, "enable HLAT", Off, "guests' tables are their own"),
    row(Tertiary, 2, "EPT paging-write control", Off, "guests' tables are their own"),
    row(Tertiary, 3, "guest-paging verification", Off, "guests' tables are their own"),
    row(Tertiary, 4, "IPI virtualization", Off, "vCPUs of a domain share a CPU"),
    row(Tertiary, 6, "enable MSR-list instructions", Off, "they raise #UD"),
    row(Tertiary, 7, "virtualize IA32_SPEC_CTRL", Off, "the MSR is switched, since the host's value must hold after every exit"),

    row(Exit, 2, "save debug controls", Needed, "DR7 and IA32_DEBUGCTL are the guest's"),
    row(Exit, 9, "host address-space size", Needed, "the host is 64-bit"),
    row(Exit, 12, "load IA32_PERF_GLOBAL_CTRL", Off, "guests have no performance counters"),
    row(Exit, 15, "acknowledge interrupt on exit", Needed, "the exit names the vector"),
    row(Exit, 18, "save IA32_PAT", Needed, "guests have their own"),
    row(Exit, 19, "load IA32_PAT", Needed, "the host has its own"),
    row(Exit, 20, "save IA32_EFER", Needed, "guests have their own"),
    row(Exit, 21, "load IA32_EFER", Needed, "the host has its own"),
    row(Exit, 22, "save VMX-preemption timer value", Off, "the timer is not used"),
    row(Exit, 23, "clear IA32_BNDCFGS", Off, "MPX is not offered"),
    row(Exit, 24, "conceal VMX from PT", Off, "processor trace is nobody's"),
    row(Exit, 25, "clear IA32_RTIT_CTL", Off, "processor trace is nobody's"),
    row(Exit, 26, "clear IA32_LBR_CTL", Off, "guests have no branch records"),
    row(Exit, 27, "clear UINV", Off, "user interrupts are not offered"),
    row(Exit, 28, "load CET state", Off, "CET is not offered, and the host does not use it"),
    row(Exit, 29, "load PKRS", Off, "supervisor keys are not offered, and the host does not use them"),
    row(Exit, 30, "save IA32_PERF_GLOBAL_CTL", Off, "guests have no performance counters"),
    row(Exit, 31, "activate secondary controls", Off, "none of them is used"),

    row(Entry, 2, "load debug controls", Needed, "DR7 and IA32_DEBUGCTL are the guest's"),
    row(Entry, 9, "IA-32e mode guest", AtTimes, "while the guest is in long mode"),
    row(Entry, 10, "entry to SMM", Off, "only SMM itself may ask for it"),
    row(Entry, 11, "deactivate dual-monitor treatment", Off, "only SMM itself may ask for it"),
    row(Entry, 13, "load IA32_PERF_GLOBAL_CTRL", Off, "guests have no performance counters"),
    row(Entry, 14, "load IA32_PAT", Needed, "guests have their own"),
    row(Entry, 15, "load IA32_EFER", Needed, "guests have their own"),
    row(Entry, 16, "load IA32_BNDCFGS", Off, "MPX is not offered"),
    row(Entry, 17, "conceal VMX from PT", Off, "processor trace is nobody's"),
    row(Entry, 18, "load IA32_RTIT_CTL", Off, "processor trace is nobody's"),
    row(Entry, 19, "load UINV", Off, "user interrupts are not offered"),
    row(Entry, 20, "load CET state", Off, "CET is not offered"),
    row(Entry, 21, "load guest IA32_LBR_CTL", Off, "guests have no branch records"),
    row(Entry, 22, "load PKRS", Off, "supervisor keys are not offered"),
    row(Entry, 23, "load FRED", Off, "FRED is not offered"),
];

/// The controls of `word` that nothing works without.
pub(super) fn needed(word: Word) -> u32 {
    select(word, |usage| matches!(usage, Needed))
}

/// The controls of `word` that are used where the CPU has them.
pub(super) fn wished(word: Word, switches: &Switches) -> u32 {
    select(
        word,
        |usage| matches!(usage, Wished(allowed) if allowed(switches)),
    )
}

fn select(word: Word, is_meant: impl Fn(Use) -> bool) -> u32 {
    CONTROLS
        .iter()
        .filter(|row| row.word == word && is_meant(row.usage))
        .fold(0, |bits, row| bits | 1 << row.bit)
}

/// The row of the first control of `word` among `bits`.
pub(super) fn first(word: Word, bits: u32) -> Option<&'static Row> {
    CONTROLS
        .iter()
        .find(|row| row.word == word && bits & (1 << row.bit) != 0)
}
