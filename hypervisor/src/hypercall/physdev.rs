//! `physdev_op`, dom0 only. Source: `public/physdev.h`.
//!
//! dom0 drives lines through its I/O APIC and messages through configuration space, so this only tells.

use guest_abi::errno::Errno;
use guest_abi::physdev::{
    PhysdevManagePci, PhysdevPciDevice, PhysdevPciDeviceAdd, PhysdevPciMmcfgReserved,
    PhysdevSetupGsi, XEN_PCI_DEV_VIRTFN,
};
use hv_core::device::pci::Bdf;
use hv_core::firmware::acpi::McfgRange;
use hv_hw::virt::VcpuHw;

use crate::domain::pci;
use crate::hypercall::{Answer, Call};
use crate::runner::Runner;

/// A device that dom0 has found: one that nobody here knows is none.
pub(super) fn device_add<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let found = call
        .runner
        .copy_in::<PhysdevPciDeviceAdd>(call.pointer(1))?;
    if found.flags & XEN_PCI_DEV_VIRTFN != 0 {
        // no function is offered that would have any
        return Err(Errno::EOPNOTSUPP.into());
    }
    check_there(call.runner, found.seg, Bdf::new(found.bus, found.devfn))
}

pub(super) fn manage_pci_add<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let found = call.runner.copy_in::<PhysdevManagePci>(call.pointer(1))?;
    check_there(call.runner, 0, Bdf::new(found.bus, found.devfn))
}

/// A device that is gone: its vectors are free.
pub(super) fn device_remove<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let gone = call.runner.copy_in::<PhysdevPciDevice>(call.pointer(1))?;
    forget(call.runner, gone.seg, Bdf::new(gone.bus, gone.devfn))
}

pub(super) fn manage_pci_remove<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let gone = call.runner.copy_in::<PhysdevManagePci>(call.pointer(1))?;
    forget(call.runner, 0, Bdf::new(gone.bus, gone.devfn))
}

/// Whether firmware reserves configuration space in memory: what dom0 names must be what the ACPI table names, since
/// only there its accesses are looked at.
pub(super) fn mmcfg_reserved<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let named = call
        .runner
        .copy_in::<PhysdevPciMmcfgReserved>(call.pointer(1))?;
    let is_it = |known: &McfgRange| {
        known.address.as_u64() == named.address
            && known.segment == named.segment
            && known.first_bus == named.start_bus
            && known.last_bus >= named.end_bus
    };
    if call.runner.domain.devices.lock().mcfg.iter().any(is_it) {
        Ok(0)
    } else {
        Err(Errno::ENODEV.into())
    }
}

fn check_there<H: VcpuHw>(runner: &mut Runner<H>, segment: u16, function: Bdf) -> Answer {
    let Runner { domain, hw, .. } = runner;
    let is_there = pci::change(hw, domain, |pci, host| pci.is_there(function, host));
    if segment == 0 && is_there == Some(true) {
        Ok(0)
    } else {
        Err(Errno::ENODEV.into())
    }
}

fn forget<H: VcpuHw>(runner: &mut Runner<H>, segment: u16, function: Bdf) -> Answer {
    let Runner { domain, hw, .. } = runner;
    let was_there = pci::change(hw, domain, |pci, host| {
        segment == 0 && pci.forget(function, host)
    });
    if was_there == Some(true) {
        Ok(0)
    } else {
        Err(Errno::ENODEV.into())
    }
}

/// Takes note of something that needs no action: lines are bound by their I/O APIC entry.
pub(super) fn setup_gsi<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    call.runner.copy_in::<PhysdevSetupGsi>(call.pointer(1))?;
    Ok(0)
}

pub(super) fn not_supported<H: VcpuHw>(_: &mut Call<'_, H>) -> Answer {
    Err(Errno::EOPNOTSUPP.into())
}
