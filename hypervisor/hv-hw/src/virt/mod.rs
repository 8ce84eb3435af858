//! The seam between the core and a CPU vendor: what a virtual CPU can be asked to do.
//!
//! Everything that names a VMCS field lives below this line, in `vtx`, and no vendor's word above it. A type
//! that implements [`VcpuHw`] owns the guest's registers while the vCPU is not running: entering the guest is a
//! function call that returns the reason for which it came back. `fake` plays back scripted exits for host tests.

mod backend;
mod exit;
pub mod fake;
mod io_bitmap;
mod regs;
mod vtx;

use core::fmt;

use hv_core::addr::Mfn;
use hv_core::msr::Passthrough;
pub use hv_core::vcpu::event::{Event, SoftwareEvent};
pub use hv_core::vcpu::task::TaskSource;
use hv_core::walk::PagingMode;

use crate::percpu::IrqsOff;

pub use backend::{Backend, Features, VcpuConfig};
pub use exit::{ControlRegister, IoExit, Stage2Access, Stage2Fault, StringIo, TaskSwitch, VmExit};
pub use io_bitmap::IoBitmap;
pub use regs::{
    DescriptorTable, GuestRegs, SEGMENT_CS, SEGMENT_LDTR, SEGMENT_LONG, SEGMENT_SS, SEGMENT_TR,
    SEGMENT_UNUSABLE, Segment, SwitchedRegs, SystemRegs, VcpuMsr,
};
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
