//! Why a guest stopped.

use bitflags::bitflags;
use hv_core::addr::{Gpa, Gva};
use hv_core::vcpu::task::TaskSource;

/// Why the guest stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmExit {
    /// A host interrupt, already acknowledged.
    ExternalInterrupt(u8),
    /// A host NMI; the host's handler has run.
    Nmi,
    /// An exception that is intercepted.
    Exception {
        vector: u8,
        error: Option<u32>,
        /// DR6 bits of a debug exception, else the faulting address.
        qualification: u64,
    },
    /// External interrupts have become deliverable.
    InterruptWindow,
    /// NMIs have become deliverable.
    NmiWindow,
    Cpuid,
    Hlt,
    /// RDTSC, or RDTSCP, which reads TSC_AUX as well.
    ReadTsc {
        with_aux: bool,
    },
    /// The instruction that calls the hypervisor.
    Hypercall,
    /// RDMSR, number in ECX.
    Rdmsr,
    /// WRMSR, number in ECX.
    Wrmsr,
    /// XSETBV, number in ECX.
    Xsetbv,
    /// A hardware task switch, which the CPU leaves to us.
    TaskSwitch(TaskSwitch),
    CacheFlush,
    Io(IoExit),
    /// MOV to a control register, CLTS or LMSW, that touches what the hypervisor owns.
    ControlWrite {
        register: ControlRegister,
        /// The value that the guest wants in it, where the CPU says so; else the instruction has to be decoded.
        value: Option<u64>,
    },
    /// MOV from CR8 where the hardware does not serve it.
    Cr8Read {
        /// The register that takes it, where the CPU says so; else the instruction has to be decoded.
        destination: Option<u8>,
    },
    /// An access that the second-stage tables do not allow.
    Stage2Fault(Stage2Fault),
    /// EOI of a vector that was marked.
    Eoi(u8),
    /// A write to the APIC page at this offset in bytes, done and now to be acted upon.
    ApicWrite(u16),
    /// The TPR fell below the threshold.
    TprBelowThreshold,
    /// PAUSE, in a loop that has taken long: the vCPU waits for another.
    PauseLoop,
    /// A lock on the whole bus, taken and given back: a locked access over two cache lines, or to uncached memory.
    BusLock,
    /// An instruction took longer than any may; the guest can go on.
    InstructionTimeout,
    /// The machine is to be reset, and the CPU, which is not to be reset under us, says so.
    HostReset,
    /// Something that is no business of the vCPU's.
    Nothing,
    /// The guest used an instruction that it is not offered: #UD is due.
    Undefined(u32),
    TripleFault,
    /// Guest state that the hardware refuses, or an exit that must not happen: the domain dies.
    Broken {
        /// The hardware's reason number.
        reason: u32,
        qualification: u64,
    },
}

/// Control registers whose writes can exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlRegister {
    Cr0,
    Cr3,
    Cr4,
    /// CR8, the task priority.
    Cr8,
}

/// A hardware task switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskSwitch {
    /// Of the new task's TSS.
    pub selector: u16,
    /// What brought it about; the error code of an event is the interrupted one's.
    pub source: TaskSource,
    /// Bytes of the instruction, where one brought it about and the CPU says so.
    pub length: Option<u8>,
}

/// A port access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoExit {
    pub port: u16,
    /// 1, 2 or 4 bytes.
    pub size: u8,
    /// IN rather than OUT.
    pub is_in: bool,
    /// INS or OUTS, whose operand in memory has to be decoded.
    pub is_string: bool,
}

/// An access that the second-stage tables do not allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2Fault {
    pub gpa: Gpa,
    /// The linear address, where the hardware knows one.
    pub linear: Option<Gva>,
    /// What was tried and how far it came.
    pub access: Stage2Access,
}

bitflags! {
    /// What an access tried.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Stage2Access: u8 {
        /// A data read.
        const READ = 1;
        /// A data write.
        const WRITE = 2;
        /// An instruction fetch.
        const FETCH = 4;
        /// The entry exists, with other rights.
        const PRESENT = 8;
        /// The access was the guest's own walk of its page tables.
        const WALK = 16;
    }
}
