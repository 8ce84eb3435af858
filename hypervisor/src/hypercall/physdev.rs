//! `physdev_op`, dom0 only. Source: `public/physdev.h`.
//!
//! dom0 drives lines through its I/O APIC and messages through configuration space, so most of this only tells.

use guest_abi::compat::Compat;
use guest_abi::errno::Errno;
use guest_abi::physdev::{
    PhysdevManagePci, PhysdevPciDevice, PhysdevPciDeviceAdd, PhysdevPciMmcfgReserved,
    PhysdevSetupGsi,
};
use hv_hw::virt::VcpuHw;

use crate::hypercall::{Answer, Call};

/// PHYSDEVOP_pci_device_add.
pub(super) fn device_add<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    acknowledge::<PhysdevPciDeviceAdd, H>(call)
}

/// PHYSDEVOP_pci_device_remove.
pub(super) fn device_remove<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    acknowledge::<PhysdevPciDevice, H>(call)
}

/// PHYSDEVOP_manage_pci_add and PHYSDEVOP_manage_pci_remove.
pub(super) fn manage_pci<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    acknowledge::<PhysdevManagePci, H>(call)
}

/// PHYSDEVOP_pci_mmcfg_reserved.
pub(super) fn mmcfg_reserved<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    acknowledge::<PhysdevPciMmcfgReserved, H>(call)
}

/// PHYSDEVOP_setup_gsi.
pub(super) fn setup_gsi<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    acknowledge::<PhysdevSetupGsi, H>(call)
}

/// PHYSDEVOP_manage_pci_add_ext.
pub(super) fn not_supported<H: VcpuHw>(_: &mut Call<'_, H>) -> Answer {
    Err(Errno::EOPNOTSUPP.into())
}

/// Takes note of something that needs no action: devices are dom0's already, lines are bound by their I/O APIC entry.
fn acknowledge<T: Compat, H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    call.runner.copy_in::<T>(call.pointer(1))?;
    Ok(0)
}
