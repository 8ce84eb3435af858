//! Bodies of the commands that give a domain a part of the machine's: interrupts, device memory, ports.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Body of [`super::XEN_DOMCTL_irq_permission`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlIrqPermission {
    /// Interrupt.
    pub pirq: u32,
    /// Not 0: give.
    pub allow_access: u8,
    /// Padding.
    pub pad: [u8; 3],
}

/// Body of [`super::XEN_DOMCTL_iomem_permission`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlIomemPermission {
    /// First frame.
    pub first_mfn: u64,
    /// Frames.
    pub nr_mfns: u64,
    /// Not 0: give.
    pub allow_access: u8,
    /// Padding.
    pub _pad: [u8; 7],
}

/// Body of [`super::XEN_DOMCTL_ioport_permission`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlIoportPermission {
    /// First port.
    pub first_port: u32,
    /// Ports.
    pub nr_ports: u32,
    /// Not 0: give.
    pub allow_access: u8,
    /// Padding.
    pub _pad: [u8; 3],
}

/// Body of [`super::XEN_DOMCTL_set_virq_handler`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlSetVirqHandler {
    /// [`crate::xen::VIRQ_DOM_EXC`] and its like.
    pub virq: u32,
}
