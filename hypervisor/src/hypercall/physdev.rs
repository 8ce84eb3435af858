//! `physdev_op`, dom0 only. Source: `public/physdev.h`.
//!
//! dom0 drives lines through its I/O APIC and messages through configuration space, so most of this only tells.

use guest_abi::compat::Compat;
use guest_abi::errno::Errno;
use guest_abi::physdev::{
    PHYSDEVOP_manage_pci_add, PHYSDEVOP_manage_pci_add_ext, PHYSDEVOP_manage_pci_remove,
    PHYSDEVOP_pci_device_add, PHYSDEVOP_pci_device_remove, PHYSDEVOP_pci_mmcfg_reserved,
    PHYSDEVOP_setup_gsi, PhysdevManagePci, PhysdevPciDevice, PhysdevPciDeviceAdd,
    PhysdevPciMmcfgReserved, PhysdevSetupGsi,
};
use hv_hw::virt::VcpuHw;

use super::{Answer, Call};

/// Serves it.
#[inline(never)]
pub(super) fn handle<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    match call.sub_op() {
        PHYSDEVOP_pci_device_add => told::<PhysdevPciDeviceAdd, H>(call),
        PHYSDEVOP_pci_device_remove => told::<PhysdevPciDevice, H>(call),
        PHYSDEVOP_manage_pci_add | PHYSDEVOP_manage_pci_remove => told::<PhysdevManagePci, H>(call),
        PHYSDEVOP_pci_mmcfg_reserved => told::<PhysdevPciMmcfgReserved, H>(call),
        PHYSDEVOP_setup_gsi => told::<PhysdevSetupGsi, H>(call),
        PHYSDEVOP_manage_pci_add_ext => Err(Errno::EOPNOTSUPP.into()),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// Takes note of something that needs no action: devices are dom0's already, lines are bound by their I/O APIC entry.
fn told<T: Compat, H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    call.runner.copy_in::<T>(call.pointer(1))?;
    Ok(0)
}
