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

pub(super) fn device_add<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    acknowledge::<PhysdevPciDeviceAdd, H>(call)
}

pub(super) fn device_remove<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    acknowledge::<PhysdevPciDevice, H>(call)
}

pub(super) fn manage_pci<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    acknowledge::<PhysdevManagePci, H>(call)
}

pub(super) fn mmcfg_reserved<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    acknowledge::<PhysdevPciMmcfgReserved, H>(call)
}

pub(super) fn setup_gsi<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    acknowledge::<PhysdevSetupGsi, H>(call)
}

pub(super) fn not_supported<H: VcpuHw>(_: &mut Call<'_, H>) -> Answer {
    Err(Errno::EOPNOTSUPP.into())
}

/// Takes note of something that needs no action: devices are dom0's already, lines are bound by their I/O APIC entry.
fn acknowledge<T: Compat, H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    call.runner.copy_in::<T>(call.pointer(1))?;
    Ok(0)
}
