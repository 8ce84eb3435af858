//! public/event_channel.h: arguments of `event_channel_op`, and the two ways pending bits are laid out.
//!
//! Two-level: bit maps in [`crate::xen::SharedInfo`]. FIFO: one word per port in pages the guest gives, queues in a
//! [`EvtchnFifoControlBlock`] per vCPU.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A port of a domain; 0 is never handed out.
pub type EvtchnPort = u32;

/// Binds a new local port to a remote unbound one.
pub const EVTCHNOP_bind_interdomain: u32 = 0;
/// Binds a virtual interrupt to a new port.
pub const EVTCHNOP_bind_virq: u32 = 1;
/// Binds a physical interrupt (PV and hvm_pirqs domains).
pub const EVTCHNOP_bind_pirq: u32 = 2;
/// Closes a port.
pub const EVTCHNOP_close: u32 = 3;
/// Sends an event to the far end.
pub const EVTCHNOP_send: u32 = 4;
/// Tells what a port is bound to.
pub const EVTCHNOP_status: u32 = 5;
/// Makes a port that one remote domain may bind to.
pub const EVTCHNOP_alloc_unbound: u32 = 6;
/// Makes an IPI port.
pub const EVTCHNOP_bind_ipi: u32 = 7;
/// Chooses the vCPU that a port notifies.
pub const EVTCHNOP_bind_vcpu: u32 = 8;
/// Unmasks a port, notifying if it is pending.
pub const EVTCHNOP_unmask: u32 = 9;
/// Closes all ports of a domain.
pub const EVTCHNOP_reset: u32 = 10;
/// Switches to FIFO, giving a vCPU's control block.
pub const EVTCHNOP_init_control: u32 = 11;
/// Adds a page to the FIFO event array.
pub const EVTCHNOP_expand_array: u32 = 12;
/// Sets a port's FIFO priority.
pub const EVTCHNOP_set_priority: u32 = 13;

/// Ports that two-level can name on a 64-bit guest.
pub const EVTCHN_2L_NR_CHANNELS: u32 = 4096;
/// Highest priority.
pub const EVTCHN_FIFO_PRIORITY_MAX: u32 = 0;
/// Priority of a port that never chose.
pub const EVTCHN_FIFO_PRIORITY_DEFAULT: u32 = 7;
/// Lowest priority.
pub const EVTCHN_FIFO_PRIORITY_MIN: u32 = 15;
/// Queues per vCPU.
pub const EVTCHN_FIFO_MAX_QUEUES: usize = 16;
/// Bit: the event is pending.
pub const EVTCHN_FIFO_PENDING: u32 = 31;
/// Bit: the guest wants no upcall for it.
pub const EVTCHN_FIFO_MASKED: u32 = 30;
/// Bit: the word is on a queue.
pub const EVTCHN_FIFO_LINKED: u32 = 29;
/// Bit: Xen is moving the word.
pub const EVTCHN_FIFO_BUSY: u32 = 28;
/// Width of the link to the next port.
pub const EVTCHN_FIFO_LINK_BITS: u32 = 17;
/// Mask of the link.
pub const EVTCHN_FIFO_LINK_MASK: u32 = (1 << EVTCHN_FIFO_LINK_BITS) - 1;
/// Ports that FIFO can name.
pub const EVTCHN_FIFO_NR_CHANNELS: u32 = 1 << EVTCHN_FIFO_LINK_BITS;
/// Event words in a page of the array.
pub const EVTCHN_FIFO_EVENT_WORDS_PER_PAGE: u32 = 1024;
/// Pages of the array at most.
pub const EVTCHN_FIFO_MAX_EVENT_ARRAY_PAGES: u32 =
    EVTCHN_FIFO_NR_CHANNELS / EVTCHN_FIFO_EVENT_WORDS_PER_PAGE;

/// Status: not in use.
pub const EVTCHNSTAT_closed: u32 = 0;
/// Status: waits for a remote domain.
pub const EVTCHNSTAT_unbound: u32 = 1;
/// Status: connected to a remote port.
pub const EVTCHNSTAT_interdomain: u32 = 2;
/// Status: a physical interrupt.
pub const EVTCHNSTAT_pirq: u32 = 3;
/// Status: a virtual interrupt.
pub const EVTCHNSTAT_virq: u32 = 4;
/// Status: an IPI.
pub const EVTCHNSTAT_ipi: u32 = 5;

/// Argument of [`EVTCHNOP_alloc_unbound`]; `port` comes back.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct EvtchnAllocUnbound {
    /// The domain that gets the port.
    pub dom: u16,
    /// The domain that may bind to it.
    pub remote_dom: u16,
    /// Out: the port.
    pub port: u32,
}

/// Argument of [`EVTCHNOP_bind_interdomain`]; `local_port` comes back.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct EvtchnBindInterdomain {
    /// The domain to bind to.
    pub remote_dom: u16,
    /// Padding.
    pub _pad: u16,
    /// Its unbound port.
    pub remote_port: u32,
    /// Out: the new port of the caller.
    pub local_port: u32,
}

/// Argument of [`EVTCHNOP_bind_virq`]; `port` comes back.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct EvtchnBindVirq {
    /// The virtual interrupt, [`crate::xen::VIRQ_TIMER`] and its like.
    pub virq: u32,
    /// The vCPU to notify; 0 for global ones.
    pub vcpu: u32,
    /// Out: the port.
    pub port: u32,
}

/// Argument of [`EVTCHNOP_bind_pirq`]; `port` comes back.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct EvtchnBindPirq {
    /// The physical interrupt.
    pub pirq: u32,
    /// Bit 0: may be shared.
    pub flags: u32,
    /// Out: the port.
    pub port: u32,
}

/// Argument of [`EVTCHNOP_bind_ipi`]; `port` comes back.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct EvtchnBindIpi {
    /// The vCPU to notify.
    pub vcpu: u32,
    /// Out: the port.
    pub port: u32,
}

/// Argument of [`EVTCHNOP_close`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct EvtchnClose {
    /// The port.
    pub port: u32,
}

/// Argument of [`EVTCHNOP_send`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct EvtchnSend {
    /// The port.
    pub port: u32,
}

/// Argument of [`EVTCHNOP_unmask`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct EvtchnUnmask {
    /// The port.
    pub port: u32,
}

/// Argument of [`EVTCHNOP_bind_vcpu`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct EvtchnBindVcpu {
    /// The port.
    pub port: u32,
    /// The vCPU to notify from now on.
    pub vcpu: u32,
}

/// Argument of [`EVTCHNOP_status`]; everything from `status` on comes back.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct EvtchnStatus {
    /// The domain asked about.
    pub dom: u16,
    /// Padding.
    pub _pad: u16,
    /// Its port.
    pub port: u32,
    /// Out: [`EVTCHNSTAT_closed`] and its like.
    pub status: u32,
    /// Out: the vCPU notified.
    pub vcpu: u32,
    /// Out, by status: unbound, interdomain: the remote domid in the low half; pirq; virq.
    pub u: u32,
    /// Out: interdomain: the remote port.
    pub interdomain_port: u32,
}

/// Argument of [`EVTCHNOP_reset`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct EvtchnReset {
    /// The domain whose ports are closed.
    pub dom: u16,
}

/// Argument of [`EVTCHNOP_init_control`]; `link_bits` comes back.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct EvtchnInitControl {
    /// Frame of the control block.
    pub control_gfn: u64,
    /// Its offset in the frame: 8-aligned, at most 4096 − 72.
    pub offset: u32,
    /// Whose control block.
    pub vcpu: u32,
    /// Out: [`EVTCHN_FIFO_LINK_BITS`].
    pub link_bits: u8,
    /// Padding.
    pub _pad: [u8; 7],
}

/// Argument of [`EVTCHNOP_expand_array`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct EvtchnExpandArray {
    /// The next page of the event array.
    pub array_gfn: u64,
}

/// Argument of [`EVTCHNOP_set_priority`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct EvtchnSetPriority {
    /// The port.
    pub port: u32,
    /// 0 (first) to 15.
    pub priority: u32,
}

/// A vCPU's FIFO queues, in the guest's memory.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct EvtchnFifoControlBlock {
    /// Bit per priority: the queue was empty and no longer is.
    pub ready: u32,
    /// Padding.
    pub _rsvd: u32,
    /// First port of each queue.
    pub head: [u32; EVTCHN_FIFO_MAX_QUEUES],
}
