//! public/physdev.h: arguments of `physdev_op` (rdi = sub-operation, rsi = pointer).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Ends a physical interrupt.
pub const PHYSDEVOP_eoi: u32 = 12;
/// Maps an interrupt to a pirq.
pub const PHYSDEVOP_map_pirq: u32 = 13;
/// Unmaps it.
pub const PHYSDEVOP_unmap_pirq: u32 = 14;
/// Reports a PCI device, oldest form.
pub const PHYSDEVOP_manage_pci_add: u32 = 15;
/// Reports that it is gone.
pub const PHYSDEVOP_manage_pci_remove: u32 = 16;
/// Reports a PCI device, second form.
pub const PHYSDEVOP_manage_pci_add_ext: u32 = 20;
/// Tells trigger and polarity of a GSI.
pub const PHYSDEVOP_setup_gsi: u32 = 21;
/// Reports a memory-mapped configuration window.
pub const PHYSDEVOP_pci_mmcfg_reserved: u32 = 24;
/// Reports a PCI device.
pub const PHYSDEVOP_pci_device_add: u32 = 25;
/// Reports that it is gone.
pub const PHYSDEVOP_pci_device_remove: u32 = 26;
/// Restores MSI after suspend.
pub const PHYSDEVOP_restore_msi_ext: u32 = 27;
/// Surrounds a reset of a debug port's controller.
pub const PHYSDEVOP_dbgp_op: u32 = 29;
/// Prepares a device for MSI-X by another domain.
pub const PHYSDEVOP_prepare_msix: u32 = 30;
/// Undoes it.
pub const PHYSDEVOP_release_msix: u32 = 31;

/// Argument of [`PHYSDEVOP_manage_pci_add`] and remove.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct PhysdevManagePci {
    /// Bus.
    pub bus: u8,
    /// Device and function.
    pub devfn: u8,
}

/// Argument of [`PHYSDEVOP_setup_gsi`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct PhysdevSetupGsi {
    /// The GSI.
    pub gsi: i32,
    /// 0 edge, 1 level.
    pub triggering: u8,
    /// 0 high, 1 low.
    pub polarity: u8,
    /// Padding.
    pub _pad: [u8; 2],
}

/// Argument of [`PHYSDEVOP_pci_mmcfg_reserved`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct PhysdevPciMmcfgReserved {
    /// Physical address.
    pub address: u64,
    /// PCI segment.
    pub segment: u16,
    /// First bus.
    pub start_bus: u8,
    /// Last bus.
    pub end_bus: u8,
    /// Bit 0: firmware reserves it.
    pub flags: u32,
}

/// The device is a virtual function.
pub const XEN_PCI_DEV_VIRTFN: u32 = 1 << 1;

/// Argument of [`PHYSDEVOP_pci_device_add`], head of it: an optional array of `u32` follows.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct PhysdevPciDeviceAdd {
    /// PCI segment.
    pub seg: u16,
    /// Bus.
    pub bus: u8,
    /// Device and function.
    pub devfn: u8,
    /// Bit 0 extended function, 1 virtual function, 2 proximity domain follows.
    pub flags: u32,
    /// Bus of the physical function.
    pub physfn_bus: u8,
    /// Device and function of the physical function.
    pub physfn_devfn: u8,
    /// Padding.
    pub _pad: [u8; 2],
}

/// Argument of [`PHYSDEVOP_pci_device_remove`] and others.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct PhysdevPciDevice {
    /// PCI segment.
    pub seg: u16,
    /// Bus.
    pub bus: u8,
    /// Device and function.
    pub devfn: u8,
}

/// Argument of [`PHYSDEVOP_dbgp_op`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct PhysdevDbgpOp {
    /// 1 prepare, 2 done.
    pub op: u8,
    /// 0 unknown, 1 PCI.
    pub bus: u8,
    /// The controller.
    pub pci: PhysdevPciDevice,
}
