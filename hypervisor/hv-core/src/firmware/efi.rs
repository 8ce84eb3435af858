//! EFI as it is once boot services are ended: its memory map, its tables, and what runtime services need.
//!
//! Runtime services stay at their physical addresses, which is what they are made for until somebody tells them
//! otherwise (nobody does: `SetVirtualAddressMap` is never called). So they run on page tables that map the memory that
//! the map names for them to itself, and nothing else of the lower half: see [`plan`].
//!
//! Source: UEFI specification, "EFI System Table", "Runtime Services Rules and Restrictions", "GetMemoryMap()".

use crate::addr::{Hpa, Mfn, MfnRange, PAGE_SIZE};
use crate::image::e820::E820Map;
use crate::le::{u32_at, u64_at};
use alloc::vec::Vec;
use core::fmt;

/// A range of the memory map, as EFI says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryDescriptor {
    /// By the specification's numbers, EFI_MEMORY_TYPE.
    pub kind: u32,
    pub start: Hpa,
    pub pages: u64,
    /// How it may be cached, and whether runtime services need it: bits EFI_MEMORY_*.
    pub attributes: u64,
}

/// EFI_MEMORY_WB.
pub const WRITE_BACK: u64 = 1 << 3;
/// EFI_MEMORY_RUNTIME.
const RUNTIME: u64 = 1 << 63;
const RUNTIME_SERVICES_CODE: u32 = 5;

impl MemoryDescriptor {
    /// Bytes of a descriptor that are defined; firmware may have more.
    pub const BYTES: usize = 40;

    /// Reads one; `None` where it is cut short.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            kind: u32_at(bytes, 0)?,
            start: Hpa::new(u64_at(bytes, 8)?),
            pages: u64_at(bytes, 24)?,
            attributes: u64_at(bytes, 32)?,
        })
    }

    /// The address after its last byte, cut at the end of the address space.
    #[must_use]
    pub const fn end(&self) -> u64 {
        let bytes = self.pages.saturating_mul(PAGE_SIZE);
        self.start.as_u64().saturating_add(bytes)
    }

    /// True where `at` is in it.
    #[must_use]
    pub const fn contains(&self, at: u64) -> bool {
        self.start.as_u64() <= at && at < self.end()
    }
}

/// What the system table says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SystemTable {
    /// EFI's version, major number in the upper half.
    pub revision: u32,
    /// The firmware vendor's name, UCS-2 with an end.
    pub vendor: Hpa,
    pub firmware_revision: u32,
    pub runtime_services: Hpa,
    /// Configuration tables: a GUID and a pointer each.
    pub tables: Hpa,
    pub table_count: u32,
}

impl SystemTable {
    pub const BYTES: usize = 120;
    const SIGNATURE: u64 = u64::from_le_bytes(*b"IBI SYST");

    /// Reads one; `None` where it is none.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let address = |at| u64_at(bytes, at).filter(|&address| address != 0);
        if u64_at(bytes, 0)? != Self::SIGNATURE {
            return None;
        }
        Some(Self {
            revision: u32_at(bytes, 8)?,
            vendor: Hpa::new(address(24)?),
            firmware_revision: u32_at(bytes, 32)?,
            runtime_services: Hpa::new(address(88)?),
            table_count: u32::try_from(u64_at(bytes, 104)?).ok()?,
            tables: Hpa::new(u64_at(bytes, 112)?),
        })
    }
}

/// A runtime service, by its place in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Service {
    GetTime = 0,
    SetTime = 1,
    GetWakeupTime = 2,
    SetWakeupTime = 3,
    GetVariable = 6,
    GetNextVariableName = 7,
    SetVariable = 8,
    GetNextHighMonotonicCount = 9,
    QueryVariableInfo = 13,
}

/// The table of runtime services.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RuntimeServices {
    pub revision: u32,
    entries: [u64; Self::SERVICES],
}

impl RuntimeServices {
    pub const BYTES: usize = Self::HEADER + Self::SERVICES * 8;
    const HEADER: usize = 24;
    const SERVICES: usize = 14;
    /// The services of EFI 1.x.
    const OLD: usize = 11;
    const SIGNATURE: u64 = u64::from_le_bytes(*b"RUNTSERV");
    const REVISION_2: u32 = 2 << 16;

    /// Reads one; `None` where it is none.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        if u64_at(bytes, 0)? != Self::SIGNATURE {
            return None;
        }
        let revision = u32_at(bytes, 8)?;
        let known = if revision < Self::REVISION_2 {
            Self::OLD
        } else {
            Self::SERVICES
        };
        let mut entries = [0; Self::SERVICES];
        for (index, entry) in entries.iter_mut().enumerate().take(known) {
            *entry = u64_at(bytes, Self::HEADER + index * 8)?;
        }
        Some(Self { revision, entries })
    }

    /// Where a service is; `None` where the firmware has not got it.
    #[must_use]
    pub fn entry(&self, service: Service) -> Option<u64> {
        let entry = self.entries.get(service as usize)?;
        Some(*entry).filter(|&entry| entry != 0)
    }
}

/// Memory that runtime services need, mapped to itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RuntimeRange {
    pub frames: MfnRange,
    pub is_code: bool,
    /// RAM; else registers, not cached.
    pub is_cached: bool,
}

/// Why there are no runtime services.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoRuntime {
    NoMemoryMap,
    /// No memory for page tables.
    OutOfMemory,
    NoSystemTable,
    NoServiceTable,
    /// The memory map names no memory for them, or none that could be theirs.
    BadMemory(Hpa),
    /// A service is not in code that the map names.
    BadService(u64),
}

impl fmt::Display for NoRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemoryMap => f.write_str("the loader passed no EFI memory map"),
            Self::OutOfMemory => f.write_str("no memory is left for their page tables"),
            Self::NoSystemTable => f.write_str("the EFI system table is malformed"),
            Self::NoServiceTable => f.write_str("the EFI table of services is malformed"),
            Self::BadMemory(at) => write!(f, "the memory at {at} cannot be theirs"),
            Self::BadService(at) => write!(f, "a service at {at:#x} is in no memory for code"),
        }
    }
}

/// The end of what page tables of four levels map to itself.
const LOWER_HALF_END: u64 = 1 << 47;

/// The memory that runtime services need. None of it may be what `host` calls RAM: that is handed out.
///
/// # Errors
/// [`NoRuntime`] where the map cannot be right.
pub fn plan(
    map: &[MemoryDescriptor],
    services: &RuntimeServices,
    host: &E820Map,
) -> Result<Vec<RuntimeRange>, NoRuntime> {
    let needed = map.iter().filter(|d| d.attributes & RUNTIME != 0);
    let mut ranges: Vec<RuntimeRange> = Vec::new();
    for descriptor in needed {
        let range = runtime_range(descriptor, host)?;
        if ranges.iter().any(|r| r.frames.overlaps(range.frames)) {
            return Err(NoRuntime::BadMemory(descriptor.start));
        }
        ranges.push(range);
    }
    for &entry in services.entries.iter().filter(|&&entry| entry != 0) {
        let frame = Mfn::containing(Hpa::new(entry));
        if !ranges.iter().any(|r| r.is_code && r.frames.contains(frame)) {
            return Err(NoRuntime::BadService(entry));
        }
    }
    Ok(ranges)
}

fn runtime_range(descriptor: &MemoryDescriptor, host: &E820Map) -> Result<RuntimeRange, NoRuntime> {
    let (start, end) = (descriptor.start, descriptor.end());
    let frames = MfnRange::new(Mfn::containing(start), Mfn::containing(Hpa::new(end)));
    let is_ram = host.ram().any(|ram| ram.overlaps(frames));
    let is_whole = start.page_offset() == 0 && start.as_u64() < end && end <= LOWER_HALF_END;
    if !is_whole || is_ram {
        return Err(NoRuntime::BadMemory(start));
    }
    Ok(RuntimeRange {
        frames,
        is_code: descriptor.kind == RUNTIME_SERVICES_CODE,
        is_cached: descriptor.attributes & WRITE_BACK != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::e820::{E820Entry, E820Kind};
    use alloc::vec;
    use proptest::prelude::*;

    /// As OVMF says it: code, data, flash.
    fn map() -> Vec<MemoryDescriptor> {
        let entry = |kind, start, pages, attributes| MemoryDescriptor {
            kind,
            start: Hpa::new(start),
            pages,
            attributes,
        };
        vec![
            entry(7, 0x10_0000, 0x700, 0xf),
            entry(5, 0x7f00_0000, 0x100, RUNTIME | 0xf),
            entry(6, 0x7f10_0000, 0x80, RUNTIME | 0xf),
            entry(11, 0xffc0_0000, 0x84, RUNTIME | 1),
        ]
    }

    fn host() -> E820Map {
        E820Map::sanitise(&[
            E820Entry::new(0x10_0000, 0x7f00_0000, E820Kind::Ram),
            E820Entry::new(0x7f00_0000, 0x8000_0000, E820Kind::Reserved),
        ])
    }

    fn table(entries: impl Fn(usize) -> u64, revision: u32) -> [u8; RuntimeServices::BYTES] {
        let mut bytes = [0; RuntimeServices::BYTES];
        bytes[..8].copy_from_slice(b"RUNTSERV");
        bytes[8..12].copy_from_slice(&revision.to_le_bytes());
        for index in 0..14 {
            let at = 24 + index * 8;
            bytes[at..at + 8].copy_from_slice(&entries(index).to_le_bytes());
        }
        bytes
    }

    fn services() -> RuntimeServices {
        let entry = |index| 0x7f00_1000 + index as u64 * 0x40;
        RuntimeServices::parse(&table(entry, 2 << 16 | 70)).unwrap()
    }

    #[test]
    fn runtime_memory_is_mapped_as_the_map_says() {
        let ranges = plan(&map(), &services(), &host()).unwrap();
        let said: Vec<_> = ranges
            .iter()
            .map(|r| (r.frames.len(), r.is_code, r.is_cached))
            .collect();
        assert_eq!(
            said,
            [
                (0x100, true, true),
                (0x80, false, true),
                (0x84, false, false)
            ]
        );
    }

    #[test]
    fn memory_that_cannot_be_the_firmwares_means_no_services() {
        for (index, start, pages) in [
            (1, 0x7eff_f000, 1),
            (2, 0x7f00_0000, 1),
            (2, 0x7f10_0800, 1),
            (2, 0x7f10_0000, 0),
            (3, 1 << 47, 1),
            (3, 0xffc0_0000, u64::MAX),
        ] {
            let mut map = map();
            map[index].start = Hpa::new(start);
            map[index].pages = pages;
            let refused = plan(&map, &services(), &host());
            assert!(
                matches!(refused, Err(NoRuntime::BadMemory(_))),
                "{start:#x}"
            );
        }
    }

    #[test]
    fn a_service_outside_code_means_no_services() {
        for entry in [0x7f10_0000, 0x10_0000, 0x7eff_ffff] {
            let bytes = table(|index| if index == 8 { entry } else { 0 }, 2 << 16);
            let services = RuntimeServices::parse(&bytes).unwrap();
            assert_eq!(
                plan(&map(), &services, &host()),
                Err(NoRuntime::BadService(entry))
            );
        }
        assert_eq!(
            plan(&[], &services(), &host()),
            Err(NoRuntime::BadService(0x7f00_1000))
        );
    }

    #[test]
    fn old_firmware_has_no_service_to_ask_about_variables() {
        let bytes = table(|_| 0x7f00_1000, 1 << 16 | 10);
        let old = RuntimeServices::parse(&bytes).unwrap();
        assert_eq!(old.entry(Service::QueryVariableInfo), None);
        assert_eq!(old.entry(Service::SetVariable), Some(0x7f00_1000));
        assert!(services().entry(Service::QueryVariableInfo).is_some());
        let mut other = bytes;
        other[0] = 0;
        assert_eq!(RuntimeServices::parse(&other), None);
    }

    #[test]
    fn system_table_is_read() {
        let mut bytes = [0; SystemTable::BYTES];
        bytes[..8].copy_from_slice(b"IBI SYST");
        bytes[8..12].copy_from_slice(&(2u32 << 16 | 70).to_le_bytes());
        for (at, value) in [
            (24, 0x1000u64),
            (32, 7),
            (88, 0x2000),
            (104, 9),
            (112, 0x3000),
        ] {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let table = SystemTable::parse(&bytes).unwrap();
        assert_eq!(
            (table.revision, table.firmware_revision, table.table_count),
            (2 << 16 | 70, 7, 9)
        );
        assert_eq!(
            (table.vendor, table.runtime_services, table.tables),
            (Hpa::new(0x1000), Hpa::new(0x2000), Hpa::new(0x3000))
        );
        bytes[88..96].fill(0);
        assert_eq!(SystemTable::parse(&bytes), None);
    }

    proptest! {
        /// Whatever the firmware says: what is mapped is nobody's RAM, and disjoint.
        #[test]
        fn plans_leave_ram_alone(raw in proptest::collection::vec((0u32..16, any::<u32>(), 0u64..0x4000, any::<bool>()), 0..12)) {
            let map: Vec<_> = raw.into_iter().map(|(kind, frame, pages, is_runtime)| MemoryDescriptor {
                kind,
                start: Hpa::new(u64::from(frame) << 12),
                pages,
                attributes: if is_runtime { RUNTIME | 8 } else { 8 },
            }).collect();
            let none = RuntimeServices { revision: 2 << 16, entries: [0; 14] };
            if let Ok(ranges) = plan(&map, &none, &host()) {
                for (index, range) in ranges.iter().enumerate() {
                    prop_assert!(!host().ram().any(|ram| ram.overlaps(range.frames)));
                    prop_assert!(ranges[..index].iter().all(|r| !r.frames.overlaps(range.frames)));
                }
            }
        }
    }
}
