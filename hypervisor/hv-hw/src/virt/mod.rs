//! The seam between the core and a CPU vendor: what a virtual CPU can be asked to do.
//!
//! Everything that names a VMCS field lives below this line, in `vtx`, and no vendor's word above it. A type
//! that implements [`VcpuHw`] owns the guest's registers while the vCPU is not running: entering the guest is a
//! function call that returns the reason for which it came back. `fake` plays back scripted exits for host tests.

mod backend;
pub mod fake;
mod io_bitmap;
mod vtx;

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use bitflags::bitflags;
use hv_core::addr::{Gpa, Gva, Mfn, PAGE_BYTES};
use hv_core::msr::Passthrough;
pub use hv_core::vcpu::event::{Event, SoftwareEvent};
pub use hv_core::vcpu::task::TaskSource;
use hv_core::walk::PagingMode;
use hv_core::x86::gpr;

use crate::percpu::IrqsOff;

pub use backend::{Backend, Features, VcpuConfig};
pub use io_bitmap::IoBitmap;
pub use vtx::{ExtendedState, Refusal, Switches, VmxonFailed, defend, means_that_work};

/// What the CPUs offer that this binary runs on.
pub type HostProbe = vtx::VtxProbe;

/// A virtual CPU as the hardware sees it.
///
/// Reads that cost a hardware access are methods, so that an exit pays for those that it needs.
pub trait VcpuHw: 'static {
    /// Runs the guest until its next exit.
    fn enter(&mut self, irqs_off: &mut IrqsOff) -> VmExit;
    /// The general-purpose registers.
    fn regs(&mut self) -> &mut GuestRegs;
    /// The same, to read only.
    fn read_regs(&self) -> &GuestRegs;
    /// What a walk of the guest's page tables needs to know.
    fn paging(&self) -> PagingMode;
    /// The instruction pointer.
    fn rip(&self) -> u64;
    /// The stack pointer.
    fn rsp(&self) -> u64;
    /// Sets the stack pointer.
    fn set_rsp(&mut self, rsp: u64);
    /// RFLAGS.
    fn rflags(&self) -> u64;
    /// Sets RFLAGS.
    fn set_rflags(&mut self, rflags: u64);
    /// The current privilege level, 0 to 3.
    fn cpl(&self) -> u8;
    /// True in 64-bit code of privilege level 0 as kernels have it, by one look. False in other code of that level, such as a
    /// conforming segment's. Outside long mode it is false for whoever leaves the bit for 64-bit code 0, as they must.
    fn is_64_bit_kernel(&self) -> bool;
    /// True in 64-bit code; false in all other, of compatibility mode too.
    fn is_64_bit(&self) -> bool;
    /// Control registers, EFER, segments and tables: all of them, for creation and dumps.
    fn system(&self) -> SystemRegs;
    /// Sets all of them.
    fn set_system(&mut self, system: &SystemRegs);
    /// Steps over the instruction that caused the exit and ends its interrupt shadow.
    fn skip_instruction(&mut self);
    /// The same for an instruction whose length the hardware does not know, as it was emulated.
    fn skip_bytes(&mut self, length: u8);
    /// Ends the interrupt shadow of the instruction that caused the exit, which is executed again: a part of it is done.
    fn run_again(&mut self);
    /// Delivers `event` at the next entry. One at a time: a second call before an entry replaces the first.
    fn inject(&mut self, event: Event);
    /// An event whose delivery the last exit interrupted, to be injected again unless the exit's cause replaces it.
    fn take_interrupted_event(&mut self) -> Option<Event>;
    /// True where an external interrupt can be delivered now: IF is set and no shadow or pending event is in the way.
    fn interrupts_open(&self) -> bool;
    /// True where an NMI can be delivered now.
    fn nmi_open(&self) -> bool;
    /// Asks for an exit as soon as `window` opens, or no longer.
    fn want_window(&mut self, window: Window, wanted: bool);
    /// Drops the translations that this CPU has cached of `root`.
    fn flush_stage2(&mut self, root: Stage2Root);
    /// Sets how the guest's TSC follows the host's.
    fn set_tsc(&mut self, view: TscView);
    /// Has reads of the TSC exit, or not.
    fn intercept_tsc(&mut self, wanted: bool);
    /// The value of a register that the hardware keeps for the guest.
    fn msr(&self, msr: VcpuMsr) -> u64;
    /// Sets it; the value has been checked.
    fn set_msr(&mut self, msr: VcpuMsr, value: u64);
    /// Writes CR0 or CR4 as the guest asked, the rules having been checked.
    fn set_control(&mut self, register: ControlRegister, value: u64);
    /// Sets the four PDPTEs, after a write of CR0 or CR4 that exited and that turned PAE paging on.
    fn set_pdptes(&mut self, entries: [u64; 4]);
    /// What moves into and out of the CPU with the vCPU.
    fn switched(&mut self) -> SwitchedRegs;
    /// Sets it; the values have been checked.
    fn set_switched(&mut self, regs: &SwitchedRegs);
    /// Sets CR2.
    fn set_cr2(&mut self, value: u64);
    /// Sets bits of DR6, for a debug exception that the story raises.
    fn add_dr6(&mut self, bits: u64);
    /// XCR0 as the guest set it.
    fn set_xcr0(&mut self, value: u64);
    /// The parts of the local APIC that the hardware takes over.
    fn apic(&self) -> ApicAssist;
    /// Lets the hardware serve the registers of the local APIC's x2APIC mode where it can, or has every access to them exit,
    /// as it is with a new vCPU: in other modes they do not exist.
    fn set_x2apic(&mut self, is_on: bool);
    /// Changes what the guest may do without an exit: bits of CR4 that it is not offered, and MSRs.
    fn set_rights(&mut self, cr4_owned: u64, passthrough: &[Passthrough]);
    /// The two vectors of virtual-interrupt delivery: requested in bits 7:0, in service in bits 15:8.
    fn interrupt_status(&self) -> u16;
    /// Sets them.
    fn set_interrupt_status(&mut self, status: u16);
    /// Asks for an exit when the guest's TPR falls below `class` (0 to 15).
    fn set_tpr_threshold(&mut self, class: u8);
    /// Asks for an exit on EOI of each vector whose bit is set.
    fn set_eoi_exits(&mut self, vectors: &[u64; 4]);
    /// Switches all that the CPU holds of this vCPU in, in place of another's.
    fn load(&mut self, irqs_off: &IrqsOff);
    /// Forgets what this CPU has learnt of branches: a vCPU of another domain than the last one's is about to run.
    fn forget_branches(&mut self);
    /// Takes all state out of the CPU: before another vCPU runs here, or this one elsewhere.
    fn unload(&mut self, irqs_off: &IrqsOff);
    /// Writes the guest's whole state, for a domain that dies or a debug key.
    ///
    /// # Errors
    /// Those of `out`.
    fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result;
}

/// The guest's general-purpose registers in the order of their encoding; RSP is kept by the hardware.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct GuestRegs {
    /// RAX, RCX, RDX, RBX, (unused), RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
}

macro_rules! named_registers {
    ($($name:ident, $set:ident, $index:expr, $doc:expr;)*) => {
        impl GuestRegs {
            $(
                #[doc = $doc]
                #[inline]
                #[must_use]
                pub fn $name(&self) -> u64 {
                    self.gpr[$index]
                }
                #[doc = concat!("Sets ", $doc)]
                #[inline]
                pub fn $set(&mut self, value: u64) {
                    self.gpr[$index] = value;
                }
            )*
        }
    };
}

named_registers! {
    rax, set_rax, gpr::RAX, "RAX.";
    rcx, set_rcx, gpr::RCX, "RCX.";
    rdx, set_rdx, gpr::RDX, "RDX.";
    rbx, set_rbx, gpr::RBX, "RBX.";
    rsi, set_rsi, gpr::RSI, "RSI.";
    rdi, set_rdi, gpr::RDI, "RDI.";
    r8, set_r8, 8, "R8.";
    r10, set_r10, 10, "R10.";
}

impl GuestRegs {
    /// EDX:EAX as one number: the operand of WRMSR and XSETBV.
    #[inline]
    #[must_use]
    pub fn edx_eax(&self) -> u64 {
        (self.rdx() << 32) | (self.rax() & 0xFFFF_FFFF)
    }
    /// Sets EDX:EAX, clearing the upper halves as RDMSR does.
    #[inline]
    pub fn set_edx_eax(&mut self, value: u64) {
        self.set_rax(value & 0xFFFF_FFFF);
        self.set_rdx(value >> 32);
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// The selector.
    pub selector: u16,
    /// The base address.
    pub base: u64,
    /// The limit in bytes.
    pub limit: u32,
    /// Access rights: type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15, unusable 16.
    pub access: u32,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DescriptorTable {
    /// The linear base address.
    pub base: u64,
    /// The limit in bytes.
    pub limit: u16,
}

/// Everything of a vCPU that is neither a general-purpose register nor extended state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SystemRegs {
    /// CR0 as the guest sees it.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4 as the guest sees it.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// DR7.
    pub dr7: u64,
    /// ES, CS, SS, DS, FS, GS, LDTR, TR.
    pub segments: [Segment; 8],
    /// GDTR.
    pub gdtr: DescriptorTable,
    /// IDTR.
    pub idtr: DescriptorTable,
}

/// What the hardware keeps in the CPU itself while the vCPU has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SwitchedRegs {
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub fmask: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_TSC_AUX; without effect where the CPU has none.
    pub tsc_aux: u64,
    /// CR2.
    pub cr2: u64,
    /// DR0 to DR3, DR6.
    pub debug: [u64; 5],
    /// Extended state as XSAVE writes it, in 4096 bytes: the legacy area, the header, and components at their places. Where
    /// the CPU has no XSAVE, the legacy area only.
    pub extended: Vec<u8>,
}

impl SwitchedRegs {
    /// After reset.
    #[must_use]
    pub fn reset() -> Self {
        const FCW: [u8; 2] = 0x37Fu16.to_le_bytes();
        const MXCSR: [u8; 4] = 0x1F80u32.to_le_bytes();
        let mut extended = vec![0; PAGE_BYTES];
        extended[..2].copy_from_slice(&FCW);
        extended[24..28].copy_from_slice(&MXCSR);
        Self {
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            tsc_aux: 0,
            cr2: 0,
            debug: [0, 0, 0, 0, 0xFFFF_0FF0],
            extended,
        }
    }
}

/// Index of CS in [`SystemRegs::segments`].
pub const SEGMENT_CS: usize = 1;
/// Index of SS in [`SystemRegs::segments`].
pub const SEGMENT_SS: usize = 2;
/// Index of LDTR in [`SystemRegs::segments`].
pub const SEGMENT_LDTR: usize = 6;
/// Index of TR in [`SystemRegs::segments`].
pub const SEGMENT_TR: usize = 7;
/// [`Segment::access`] of CS: 64-bit code, in long mode.
pub const SEGMENT_LONG: u32 = 1 << 13;
/// [`Segment::access`]: the register holds no segment.
pub const SEGMENT_UNUSABLE: u32 = 1 << 16;

/// What [`VcpuHw::want_window`] waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Window {
    /// External interrupts become deliverable.
    Interrupt,
    /// NMIs become deliverable.
    Nmi,
}

/// Root of a second-stage page table, by which its translations are cached too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2Root {
    /// The frame of the top-level table.
    pub table: Mfn,
}

/// How the guest's TSC follows the host's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TscView {
    /// Added to the host's TSC, wrapping.
    pub offset: u64,
}

/// Registers that the hardware keeps for the guest, whose writes the story checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VcpuMsr {
    /// IA32_EFER.
    Efer,
    /// IA32_PAT.
    Pat,
    /// IA32_DEBUGCTL.
    DebugCtl,
    /// IA32_SYSENTER_CS.
    SysenterCs,
    /// IA32_SYSENTER_ESP.
    SysenterEsp,
    /// IA32_SYSENTER_EIP.
    SysenterEip,
    /// IA32_SPEC_CTRL.
    SpecCtrl,
}

/// Control registers whose writes can exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlRegister {
    /// CR0.
    Cr0,
    /// CR3.
    Cr3,
    /// CR4.
    Cr4,
    /// CR8, the task priority.
    Cr8,
}

/// How much of the local APIC the hardware takes over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApicAssist {
    /// Nothing: every access exits.
    None,
    /// The task-priority register, with a threshold.
    TprShadow,
    /// Register reads, EOI, self-IPI and delivery of virtual interrupts.
    Delivery,
}

/// Why the guest stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmExit {
    /// A host interrupt, already acknowledged.
    ExternalInterrupt(u8),
    /// A host NMI; the host's handler has run.
    Nmi,
    /// An exception that is intercepted.
    Exception {
        /// Vector.
        vector: u8,
        /// Error code.
        error: Option<u32>,
        /// DR6 bits of a debug exception, else the faulting address.
        qualification: u64,
    },
    /// External interrupts have become deliverable.
    InterruptWindow,
    /// NMIs have become deliverable.
    NmiWindow,
    /// CPUID.
    Cpuid,
    /// HLT.
    Hlt,
    /// RDTSC, or RDTSCP, which reads TSC_AUX as well.
    ReadTsc {
        /// It is RDTSCP.
        with_aux: bool,
    },
    /// VMCALL.
    Hypercall,
    /// RDMSR, number in ECX.
    Rdmsr,
    /// WRMSR, number in ECX.
    Wrmsr,
    /// XSETBV, number in ECX.
    Xsetbv,
    /// A hardware task switch, which the CPU leaves to us.
    TaskSwitch(TaskSwitch),
    /// INVD or WBINVD.
    CacheFlush,
    /// A port access.
    Io(IoExit),
    /// MOV to a control register, CLTS or LMSW, that touches what the hypervisor owns.
    ControlWrite {
        /// Which.
        register: ControlRegister,
        /// The value that the guest wants in it.
        value: u64,
    },
    /// MOV from CR8 where the hardware does not serve it: the register that takes it.
    Cr8Read {
        /// Index into [`GuestRegs::gpr`].
        destination: u8,
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
    /// A triple fault.
    TripleFault,
    /// Guest state that the hardware refuses, or an exit that must not happen: the domain dies.
    Broken {
        /// The hardware's reason number.
        reason: u32,
        /// Its qualification.
        qualification: u64,
    },
}

/// A hardware task switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskSwitch {
    /// Of the new task's TSS.
    pub selector: u16,
    /// What brought it about; the error code of an event is the interrupted one's.
    pub source: TaskSource,
    /// Bytes of the instruction, where one brought it about.
    pub length: u8,
}

/// A port access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoExit {
    /// The port.
    pub port: u16,
    /// 1, 2 or 4 bytes.
    pub size: u8,
    /// IN rather than OUT.
    pub is_in: bool,
    /// INS or OUTS.
    pub string: Option<StringIo>,
}

/// INS or OUTS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StringIo {
    /// Linear address of the operand.
    pub linear: Gva,
    /// It has a REP prefix.
    pub is_rep: bool,
}

/// An access that the second-stage tables do not allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2Fault {
    /// Where.
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
