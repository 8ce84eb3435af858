//! What the hardware does of a guest's local APIC, and what it is told for that.

use hv_core::device::lapic::InterruptStatus;

/// How much of the local APIC the hardware takes over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApicAssist {
    /// Nothing: every access exits.
    None,
    /// The task priority, with a threshold.
    TaskPriority,
    /// Register reads, EOI, self-IPI and delivery of interrupts.
    Delivery,
}

/// A change of the local APIC that the hardware has to know of, where it serves a part. The APIC's registers, in its
/// page, are as they are to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApicUpdate {
    /// Interrupts have been requested, this vector the highest of them. With [`ApicAssist::Delivery`] only, as the next
    /// two.
    Requested(u8),
    /// The highest vectors requested and in service are others.
    Status(InterruptStatus),
    /// EOI of each vector whose bit is set exits, and of no other.
    EoiExits([u64; 4]),
    /// Whether the APIC is in x2APIC mode, whose registers the hardware serves where it can. A new vCPU's is not: every
    /// access to those registers exits then, as in other modes they do not exist.
    X2apic(bool),
}

/// What a vCPU waits for: an exit is due as soon as it comes about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Waits {
    /// External interrupts become deliverable.
    pub interrupt: bool,
    pub nmi: bool,
    /// The task priority falls below this class, of 0 to 15. With [`ApicAssist::TaskPriority`] only.
    pub task_priority: u8,
}
