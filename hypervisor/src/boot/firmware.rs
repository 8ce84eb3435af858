//! What EFI leaves behind: its tables for dom0, and the services that go on running.

use alloc::vec::Vec;

use hv_core::addr::Hpa;
use hv_core::firmware::efi::{self, NoRuntime, RuntimeRange, RuntimeServices, SystemTable};
use hv_core::firmware::multiboot2::Efi;
use hv_core::image::e820::E820Map;
use hv_hw::{direct_map, info, warn};

use crate::machine::host::Firmware;
use crate::machine::memory::Tables;

/// The most letters of a vendor's name, as Linux has room for.
const MOST_LETTERS: usize = 100;

/// Reads the firmware's tables and, where `wants_runtime` says so, makes its services ready. `None` on a machine that
/// was not booted through EFI, or whose tables make no sense.
pub(super) fn init(loaded: &Efi, host: &E820Map, wants_runtime: bool) -> Option<Firmware> {
    let at = loaded.system_table?;
    let Some(system) = system_table(loaded, at) else {
        warn!("EFI: {}; dom0 sees none", NoRuntime::NoSystemTable);
        return None;
    };
    let mut firmware = Firmware {
        system,
        vendor: vendor(system.vendor),
        memory: loaded.memory.clone(),
        runtime_revision: None,
        runtime_memory: Vec::new(),
    };
    if !wants_runtime {
        info!("EFI: no runtime services for dom0, as efi= asks for");
        return Some(firmware);
    }
    match runtime(&firmware, host) {
        Ok((revision, memory)) => {
            let pages: u64 = memory.iter().map(|range| range.frames.len()).sum();
            info!(
                "EFI {}.{}: runtime services in {} ranges, {} KiB",
                system.revision >> 16,
                (system.revision & 0xFFFF) / 10,
                memory.len(),
                pages * 4
            );
            firmware.runtime_revision = Some(revision);
            firmware.runtime_memory = memory;
        }
        Err(problem) => warn!("EFI: no runtime services for dom0: {problem}"),
    }
    Some(firmware)
}

fn system_table(loaded: &Efi, at: Hpa) -> Option<SystemTable> {
    let mut bytes = [0; SystemTable::BYTES];
    direct_map::read(at, &mut bytes).ok()?;
    SystemTable::parse(&bytes).filter(|_| !loaded.is_32_bit)
}

fn runtime(firmware: &Firmware, host: &E820Map) -> Result<(u32, Vec<RuntimeRange>), NoRuntime> {
    if firmware.memory.is_empty() {
        return Err(NoRuntime::NoMemoryMap);
    }
    let mut bytes = [0; RuntimeServices::BYTES];
    direct_map::read(firmware.system.runtime_services, &mut bytes)
        .map_err(|_| NoRuntime::NoServiceTable)?;
    let services = RuntimeServices::parse(&bytes).ok_or(NoRuntime::NoServiceTable)?;
    let ranges = efi::plan(&firmware.memory, &services, host)?;
    hv_hw::efi::init(&mut Tables, &ranges, services).map_err(|_| NoRuntime::OutOfMemory)?;
    Ok((services.revision, ranges))
}

/// The vendor's name, ended.
fn vendor(at: Hpa) -> Vec<u16> {
    let mut name = Vec::new();
    for index in 0..MOST_LETTERS - 1 {
        let mut letter = [0; 2];
        let Some(at) = at.checked_add(index as u64 * 2) else {
            break;
        };
        if direct_map::read(at, &mut letter).is_err() || letter == [0; 2] {
            break;
        }
        name.push(u16::from_le_bytes(letter));
    }
    name.push(0);
    name
}
