//! The seam between the core and a CPU vendor: what a virtual CPU can be asked to do.
//!
//! What is one vendor's lives below this line (`vtx`, `svm`), and no vendor's word above it; `vendors` chooses. A type
//! that implements [`VcpuHw`] owns the guest's registers while the vCPU is not running: entering the guest is a
//! function call that returns the reason for which it came back. `fake` plays back scripted exits for host tests.

mod answers;
mod apic;
mod backend;
mod debug_regs;
mod dump;
mod exit;
mod extended;
pub mod fake;
mod gprs;
mod guard;
mod guest_msrs;
mod io_bitmap;
mod regs;
mod svm;
mod vendors;
mod vtx;

use alloc::vec::Vec;
use core::fmt;

pub use hv_core::vcpu::event::{Event, SoftwareEvent};
pub use hv_core::vcpu::task::TaskSource;
use hv_core::walk::PagingMode;
use hv_core::x86::{EFER_LMA, RFLAGS_IF};

use crate::percpu::IrqsOff;

pub use apic::{ApicAssist, ApicUpdate, Waits};
pub use backend::{
    Backend, EnableFailed, Features, Rights, Stage2Root, Switches, TscView, VcpuConfig,
};
pub use exit::{ControlRegister, IoExit, Stage2Access, Stage2Fault, TaskSwitch, VmExit};
pub use extended::ExtendedState;
pub use guard::{defend, means_that_work};
pub use io_bitmap::IoBitmap;
pub use regs::{
    Blocking, DescriptorTable, GuestRegs, SEGMENT_CS, SEGMENT_LDTR, SEGMENT_LONG, SEGMENT_SS,
    SEGMENT_TR, SEGMENT_UNUSABLE, Segment, SystemRegs, SystemSet, merge_dr6, reset_extended,
};
pub use vendors::{HostProbe, Refusal, WithBackend};

/// A virtual CPU as the hardware sees it, while it is loaded: of the others only [`load`](Self::load) may be called
/// before.
///
/// Registers are asked for, and set, by groups ([`SystemSet`]): an exit pays for those that it needs. The last calls
/// have bodies here, in terms of the others.
pub trait VcpuHw: 'static {
    /// Runs the guest until its next exit.
    fn enter(&mut self, irqs_off: &mut IrqsOff) -> VmExit;
    /// The general-purpose registers, which may be changed.
    fn regs(&mut self) -> &mut GuestRegs;
    /// The same, to read only.
    fn read_regs(&self) -> &GuestRegs;
    /// Reads the other registers in `wanted`; what the rest of the answer holds means nothing.
    fn system(&self, wanted: SystemSet) -> SystemRegs;
    /// Sets the registers in `changed`, whose values have been checked.
    fn set_system(&mut self, regs: &SystemRegs, changed: SystemSet);
    /// What a walk of the guest's page tables needs to know. Bits of CR0 and CR4 that no walk looks at may be the
    /// hypervisor's.
    fn paging(&self) -> PagingMode;
    /// Extended state as XSAVE writes it, in 4096 bytes: the legacy area, the header, and components at their places.
    /// Where the CPU has no XSAVE, the legacy area only.
    fn extended(&self) -> Vec<u8>;
    /// Sets it. What the CPU would not take is made into what it takes; another size is left alone.
    fn set_extended(&mut self, extended: &[u8]);
    /// Bytes of the instruction that caused the exit, where the CPU says so; else it has to be decoded.
    fn instruction_length(&self) -> Option<u64>;
    /// True where [`instruction_length`](Self::instruction_length) has an answer, without the cost of one.
    fn knows_length(&self) -> bool;
    /// Steps over an instruction of `length` bytes and ends its interrupt shadow.
    fn skip(&mut self, length: u64);
    /// Has the next entry deliver `event`, if any, and an exit follow when something of `waits` comes about.
    fn deliver(&mut self, event: Option<Event>, waits: Waits);
    /// An event whose delivery the last exit interrupted, to be injected again unless the exit's cause replaces it.
    fn take_interrupted_event(&mut self) -> Option<Event>;
    /// Drops the translations that this CPU has cached of `root`.
    fn flush_stage2(&mut self, root: Stage2Root);
    /// The parts of the local APIC that the hardware takes over.
    fn apic(&self) -> ApicAssist;
    /// Tells the hardware what has changed of it.
    fn update_apic(&mut self, update: ApicUpdate);
    /// Changes what the guest may do without an exit, all at once.
    fn set_rights(&mut self, rights: &Rights<'_>);
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

    #[inline(always)]
    fn rip(&self) -> u64 {
        self.system(SystemSet::RIP).rip
    }
    #[inline(always)]
    fn rflags(&self) -> u64 {
        self.system(SystemSet::RFLAGS).rflags
    }
    /// The current privilege level, 0 to 3.
    #[inline(always)]
    fn cpl(&self) -> u8 {
        let stack = self.system(SystemSet::STACK).segments[SEGMENT_SS];
        ((stack.access >> 5) & 3).to_le_bytes()[0]
    }
    /// True in 64-bit code; false in all other, of compatibility mode too.
    #[inline(always)]
    fn is_64_bit(&self) -> bool {
        let regs = self.system(SystemSet::CODE.union(SystemSet::EFER));
        // outside long mode the bit means nothing
        regs.segments[SEGMENT_CS].access & SEGMENT_LONG != 0 && regs.efer & EFER_LMA != 0
    }
    /// True in 64-bit code of privilege level 0 as kernels have it, by one look. False in other code of that level,
    /// such as a conforming segment's. Outside long mode it is false for whoever leaves the bit for 64-bit code 0, as
    /// they must.
    #[inline(always)]
    fn is_64_bit_kernel(&self) -> bool {
        // a code segment that is not conforming has the level at which it runs
        const CONFORMING: u32 = 1 << 2;
        const LEVEL: u32 = 3 << 5;
        let code = self.system(SystemSet::CODE).segments[SEGMENT_CS];
        code.access & (SEGMENT_LONG | CONFORMING | LEVEL) == SEGMENT_LONG
    }
    /// True where an external interrupt can be delivered now: IF is set and no shadow is in the way.
    #[inline(always)]
    fn interrupts_open(&self) -> bool {
        let regs = self.system(SystemSet::RFLAGS.union(SystemSet::BLOCKING));
        regs.rflags & RFLAGS_IF != 0 && !regs.blocking.contains(Blocking::SHADOW)
    }
    /// True where an NMI can be delivered now.
    #[inline(always)]
    fn nmi_open(&self) -> bool {
        self.system(SystemSet::BLOCKING).blocking.is_empty()
    }
    /// Ends the interrupt shadow of the instruction that caused the exit, which is executed again: a part of it is
    /// done.
    fn run_again(&mut self) {
        let mut regs = self.system(SystemSet::BLOCKING);
        if regs.blocking.contains(Blocking::SHADOW) {
            regs.blocking.remove(Blocking::SHADOW);
            self.set_system(&regs, SystemSet::BLOCKING);
        }
    }
}
