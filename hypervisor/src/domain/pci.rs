//! PCI of dom0 on the real machine: configuration space by ports and in memory, devices' memory, and the pages that
//! dom0 is kept from.
//!
//! What an access does is `hv_core::device::pci`; here are the machine under it and the locks around it. A page is kept
//! from dom0 in two steps, since the lock of its p2m comes before that of its devices: once it is among those of
//! [`is_kept`], nobody maps it any longer; then what is mapped is taken out; then the device may use its table.

use hv_core::addr::{Hpa, MfnRange};
use hv_core::device::pci::{Bdf, Host, MsiMessage, PciConfig, PciMachine};
use hv_core::firmware::acpi::McfgRange;
use hv_hw::console::log::GuestLog;
use hv_hw::virt::VcpuHw;
use hv_hw::{guest_log, mmio, pci};

use super::{Domain, interrupts, space};
use crate::domain::devices::Devices;
use crate::machine::host;
use crate::machine::memory;

const ADDRESS_BASE: u64 = 0xFEE0_0000;
const DESTINATION_SHIFT: u32 = 12;
/// Where configuration space ends that the ports reach.
const PORTS_END: u16 = 0x100;

/// The machine's own devices.
pub(crate) struct Machine<'a> {
    mcfg: &'a [McfgRange],
    log: &'a GuestLog,
}

impl PciMachine for Machine<'_> {
    fn read(&mut self, function: Bdf, offset: u16, size: u8) -> u32 {
        match u8::try_from(offset) {
            Ok(offset) => pci::read(function.0, offset, size),
            Err(_) => self
                .extended(function, offset)
                .map_or(u32::MAX, |at| low_half(mmio::load(at, size))),
        }
    }
    fn write(&mut self, function: Bdf, offset: u16, size: u8, value: u32) {
        if let Ok(offset) = u8::try_from(offset) {
            pci::write(function.0, offset, size, value);
        } else if let Some(at) = self.extended(function, offset) {
            mmio::store(at, size, value.into());
        }
    }
    fn load(&mut self, at: Hpa, size: u8) -> u64 {
        mmio::load(at, size)
    }
    fn store(&mut self, at: Hpa, size: u8, value: u64) {
        mmio::store(at, size, value);
    }
    fn is_device_memory(&self, frames: MfnRange) -> bool {
        is_device_memory(frames)
    }
    fn message(&self, vector: u8) -> MsiMessage {
        let destination = u64::from(interrupts::boot_apic_id());
        MsiMessage {
            address: ADDRESS_BASE | destination << DESTINATION_SHIFT,
            data: u16::from(vector),
        }
    }
    fn out_of_vectors(&mut self, function: Bdf, wanted: u8) {
        guest_log!(
            self.log,
            Warning,
            "{function}: no {wanted} interrupt vectors left for its messages, which stay off"
        );
    }
}

impl Machine<'_> {
    fn extended(&self, function: Bdf, offset: u16) -> Option<Hpa> {
        debug_assert!(offset >= PORTS_END, "the ports reach {offset:#x}");
        let mut ranges = self.mcfg.iter();
        ranges.find_map(|range| range.address_of(function, offset))
    }
}

/// True where the machine has, in all these frames, neither RAM nor anything that the hypervisor keeps.
pub(crate) fn is_device_memory(frames: MfnRange) -> bool {
    let is_addressed = frames.end.as_u64() <= host::host().frames_end();
    let is_kept = |kept: &MfnRange| kept.overlaps(frames);
    is_addressed && !host::host().kept.iter().any(is_kept) && !memory::table().has_ram(frames)
}

/// True where dom0 is kept from one of these frames, as a device's table of messages is there.
pub(crate) fn is_kept(domain: &Domain, frames: MfnRange) -> bool {
    let devices = domain.devices.lock();
    devices
        .pci
        .as_ref()
        .is_some_and(|pci| pci.has_table_in(frames))
}

/// Calls `access` with the front end and what it works on; `None` for a domain without PCI.
pub(crate) fn with<R>(
    (devices, log): (&mut Devices, &GuestLog),
    access: impl FnOnce(&mut PciConfig, &mut Host<'_, Machine<'_>>) -> R,
) -> Option<R> {
    let Devices {
        pci, mcfg, routes, ..
    } = devices;
    let mut machine = Machine { mcfg, log };
    let mut host = Host {
        machine: &mut machine,
        routes,
    };
    pci.as_mut().map(|pci| access(pci, &mut host))
}

/// The same for an access of the domain's that may move a table: then the domain is kept from where it is now.
pub(crate) fn change<H: VcpuHw, R>(
    hw: &mut H,
    domain: &Domain,
    access: impl FnOnce(&mut PciConfig, &mut Host<'_, Machine<'_>>) -> R,
) -> Option<R> {
    let result = with((&mut domain.devices.lock(), &domain.log), access);
    loop {
        let mut devices = domain.devices.lock();
        let next = devices.pci.as_mut().and_then(PciConfig::next_moved);
        drop(devices);
        let Some((function, frames)) = next else {
            return result;
        };
        if space::keep_from(hw, domain, frames).is_err() {
            guest_log!(
                domain.log,
                Warning,
                "{function}: no memory left to watch its table of messages, which stay off"
            );
            continue;
        }
        let devices = &mut domain.devices.lock();
        with((devices, &domain.log), |pci, host| {
            pci.moved((function, frames), host)
        });
    }
}

/// Finds the machine's functions, before dom0 has mapped anything of theirs.
pub(crate) fn scan(devices: &mut Devices, log: &GuestLog) {
    with((devices, log), |pci, host| {
        pci.scan(host);
        while let Some(moved) = pci.next_moved() {
            pci.moved(moved, host);
        }
    });
}

const fn low_half(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
