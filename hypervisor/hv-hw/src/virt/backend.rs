//! What the core asks of a CPU vendor's side beside its vCPUs: what the CPU offers guests, and a new vCPU.

use core::fmt;

use hv_core::addr::{Hpa, Mfn, MfnRange, PageOrder};
use hv_core::device::lapic::Delivery;
use hv_core::msr::PassthroughList;
use hv_core::paging::stage2::Stage2Format;
use hv_core::speculation::Plan;

use super::{ExtendedState, IoBitmap, VcpuHw};
use crate::percpu::IrqsOff;

/// A CPU vendor's side, once this CPU runs guests.
pub trait Backend: 'static {
    /// Its vCPUs.
    type Vcpu: VcpuHw;
    /// Makes a vCPU with all registers zero: [`VcpuHw::set_system`] follows, once it is loaded.
    fn vcpu(&self, config: VcpuConfig<'_>) -> Self::Vcpu;
}

/// What a CPU vendor's side offers on this CPU.
pub(super) trait VendorProbe: Copy + fmt::Display {
    /// Why this CPU cannot run guests.
    type Refusal;
    type Backend: Backend;
    /// Reads what this CPU offers, less what `switches` switches off.
    fn read(switches: &Switches) -> Result<Self, Self::Refusal>;
    /// Says what guests may have of it.
    fn features(&self) -> Features;
    /// Frames that each CPU needs for itself.
    fn own_frames(&self) -> PageOrder;
    /// Has guests run on this CPU from now on, by frames that belong to it from here on.
    fn enable(&self, frames: MfnRange, irqs_off: &IrqsOff) -> Result<(), EnableFailed>;
    /// Makes vCPUs by what was decided on extended state and against leaks by speculation.
    fn backend(self, extended: ExtendedState, speculation: Plan) -> Self::Backend;
}

/// Optional features of a CPU that may be used; each can be switched off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Switches {
    /// Delivery of virtual interrupts, and the registers of the local APIC.
    pub delivery: bool,
    /// Delivery of interrupts that others post, without an exit.
    pub posted_interrupts: bool,
    /// The task priority of the local APIC.
    pub task_priority: bool,
    /// Tags in the TLB, by which it is kept over exits.
    pub tlb_tags: bool,
    /// Second-stage leaves of 2 MiB.
    pub stage2_2m: bool,
    /// Second-stage leaves of 1 GiB, where there are those of 2 MiB.
    pub stage2_1g: bool,
    /// A TSC of another rate.
    pub tsc_scaling: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            delivery: true,
            posted_interrupts: true,
            task_priority: true,
            tlb_tags: true,
            stage2_2m: true,
            stage2_1g: true,
            tsc_scaling: true,
        }
    }
}

/// The CPU refused to run guests though it offers that: what happened, and why that may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EnableFailed(pub(super) &'static str);

impl fmt::Display for EnableFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What a CPU does for guests, whoever made it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// The format of second-stage tables.
    pub stage2: Stage2Format,
    /// Second-stage leaves of 2 MiB.
    pub stage2_2m: bool,
    /// Second-stage leaves of 1 GiB.
    pub stage2_1g: bool,
    pub rdtscp: bool,
    pub invpcid: bool,
    pub xsaves: bool,
    /// Who delivers interrupts to guests.
    pub delivery: Delivery,
    /// Frames of a map of ports.
    pub io_bitmap: PageOrder,
    /// Frames of a map of MSRs.
    pub msr_bitmap: PageOrder,
    /// The instruction by which guests call the hypervisor.
    pub hypercall: [u8; 3],
}

/// What a vCPU is made of. The frames are its own until it is gone.
#[derive(Clone, Copy, Debug)]
pub struct VcpuConfig<'a> {
    /// Frame of the structure that controls it (VMCS, VMCB).
    pub control_block: Mfn,
    /// Zeroed frame for extended state.
    pub xsave_area: Mfn,
    /// Zeroed frame of the local APIC's registers.
    pub apic_page: Mfn,
    /// Frames of the map of MSRs that need no exit, of [`Features::msr_bitmap`].
    pub msr_bitmap: MfnRange,
    /// Where interrupts for it are left (`hv_core::device::posted`): 64 bytes, aligned.
    pub posted_interrupts: Hpa,
    pub stage2: Stage2Root,
    /// What the guest may do without an exit.
    pub rights: Rights<'a>,
}

/// What a guest may do without an exit.
#[derive(Clone, Copy, Debug)]
pub struct Rights<'a> {
    pub io_bitmap: IoBitmap,
    pub passthrough: &'a PassthroughList,
    /// Bits of CR4 that it is not offered, so that setting one exits.
    pub cr4_owned: u64,
    pub tsc: TscView,
    /// Reads of the TSC exit.
    pub intercepts_tsc: bool,
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
