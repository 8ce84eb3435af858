//! The host's ACPI tables, as far as a hypervisor without an AML interpreter reads them.
//!
//! Own parsers over byte slices: the acpi crate reads through pointers that an `unsafe` trait maps, and trusts the
//! tables' lengths; here each table is copied once through [`PhysicalMemory`], its checksum is checked, and what is
//! wrong with it is reported as a [`Problem`] while the rest is used.
//!
//! Source: ACPI specification, "ACPI Software Programming Model"; HPET: "IA-PC HPET Specification"; MCFG: "PCI Firmware
//! Specification".

pub use super::fadt::{Block, Fadt, Register};
use super::madt::Madt;
use crate::addr::{Hpa, Mfn, MfnRange};
use crate::device::pci::Bdf;
use crate::le::{array_at, u8_at, u16_at, u32_at, u64_at};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

/// Reads physical memory of the host.
pub trait PhysicalMemory {
    /// Fills `to` from `at`, or returns false where that is no memory that can be read.
    fn read(&self, at: Hpa, to: &mut [u8]) -> bool;
}

/// A table's four letters.
pub type Signature = [u8; 4];

/// What the host's tables say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostAcpi {
    /// Each table of the root table whose checksum holds, in its order.
    pub tables: Vec<TableRef>,
    pub madt: Option<Madt>,
    /// The OEM's identification of the MADT: id, table id, revision.
    pub madt_oem: ([u8; 6], [u8; 8], u32),
    pub fadt: Option<Fadt>,
    /// The first high-precision event timer.
    pub hpet: Option<Hpet>,
    /// PCI configuration space in memory.
    pub mcfg: Vec<McfgRange>,
    /// The table of the DMA-remapping hardware, where there is any.
    pub dmar: Option<TableRef>,
    /// What was wrong and left out.
    pub problems: Vec<Problem>,
}

/// A table in the host's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableRef {
    pub signature: Signature,
    pub at: Hpa,
    /// Its length in bytes, header included.
    pub length: u32,
}

/// Something wrong with a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// It cannot be read, or its length is out of bounds.
    Unreadable(Hpa),
    /// Its bytes do not add up to 0.
    BadChecksum(Signature, Hpa),
    /// It is too short for its kind.
    TooShort(Signature, Hpa),
}

/// Why there are no tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcpiError {
    /// The root pointer is malformed.
    BadRsdp,
    /// The root table is missing or malformed.
    BadRoot(Problem),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(at) => write!(f, "the ACPI table at {at} cannot be read"),
            Self::BadChecksum(name, at) => write!(
                f,
                "ACPI table {} at {at} has a wrong checksum",
                name.escape_ascii()
            ),
            Self::TooShort(name, at) => {
                write!(f, "ACPI table {} at {at} is too short", name.escape_ascii())
            }
        }
    }
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRsdp => f.write_str("the ACPI root pointer is malformed"),
            Self::BadRoot(problem) => write!(f, "no ACPI root table: {problem}"),
        }
    }
}

/// The root pointer: where the table of tables is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rsdp {
    /// The table of 64-bit addresses, preferred.
    pub xsdt: Option<Hpa>,
    /// The table of 32-bit addresses.
    pub rsdt: Option<Hpa>,
}

impl Rsdp {
    /// Reads a root pointer, 20 bytes in ACPI 1.0 and 36 later, and checks its checksums.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let first = bytes.first_chunk::<20>()?;
        if !first.starts_with(b"RSD PTR ") || !adds_up(first) {
            return None;
        }
        let some = |address: u64| (address != 0).then(|| Hpa::new(address));
        let rsdt = some(u32_at(bytes, 16)?.into());
        let xsdt = match bytes.first_chunk::<36>() {
            Some(all) if u8_at(bytes, 15)? >= 2 && adds_up(all) => some(u64_at(all, 24)?),
            _ => None,
        };
        (xsdt.is_some() || rsdt.is_some()).then_some(Self { xsdt, rsdt })
    }

    /// Looks for a root pointer at each multiple of 16 in the bytes of the BIOS area (0xE0000 to 0xFFFFF) or of the
    /// first KiB of the EBDA, and returns its offset.
    #[must_use]
    pub fn scan(area: &[u8]) -> Option<(usize, Self)> {
        (0..area.len())
            .step_by(16)
            .find_map(|at| Some((at, Self::parse(area.get(at..)?)?)))
    }
}

/// Where the EBDA starts, from the first 0x410 bytes of memory, the segment being at 0x40E.
#[must_use]
pub fn ebda_start(low_memory: &[u8]) -> Option<Hpa> {
    let start = u64::from(u16_at(low_memory, 0x40e)?) << 4;
    (0x400..0xa_0000).contains(&start).then(|| Hpa::new(start))
}

impl HostAcpi {
    /// Reads the tables that the root pointer leads to.
    ///
    /// # Errors
    /// Where there is no usable root table. A table that is malformed only goes to [`HostAcpi::problems`].
    pub fn discover(memory: &impl PhysicalMemory, rsdp: Rsdp) -> Result<Self, AcpiError> {
        let mut acpi = Self::default();
        for at in root_entries(memory, rsdp)? {
            match read_table(memory, at) {
                Ok((table, bytes)) => acpi.take(table, &bytes),
                Err(problem) => acpi.problems.push(problem),
            }
        }
        Ok(acpi)
    }

    /// The first table with these letters.
    #[must_use]
    pub fn table(&self, signature: Signature) -> Option<TableRef> {
        self.tables
            .iter()
            .find(|table| table.signature == signature)
            .copied()
    }

    fn take(&mut self, table: TableRef, bytes: &[u8]) {
        let is_read = match &table.signature {
            b"APIC" if self.madt.is_none() => {
                self.madt = Madt::parse(bytes);
                self.madt_oem = super::madt::oem(bytes).unwrap_or_default();
                self.madt.is_some()
            }
            b"FACP" => {
                self.fadt = Fadt::parse(bytes);
                self.fadt.is_some()
            }
            b"HPET" if self.hpet.is_none() => {
                self.hpet = Hpet::parse(bytes);
                self.hpet.is_some()
            }
            b"MCFG" => {
                self.mcfg = McfgRange::parse(bytes);
                true
            }
            b"DMAR" => {
                self.dmar = Some(table);
                true
            }
            _ => true,
        };
        if !is_read {
            self.problems
                .push(Problem::TooShort(table.signature, table.at));
        }
        self.tables.push(table);
    }
}

/// No table is larger; DSDTs come to some hundred KiB.
const MAX_TABLE: u32 = 4 << 20;
const HEADER: usize = 36;

/// The addresses in the root table, the one with 64-bit addresses where it is sound.
fn root_entries(memory: &impl PhysicalMemory, rsdp: Rsdp) -> Result<Vec<Hpa>, AcpiError> {
    let mut error = AcpiError::BadRsdp;
    for (at, signature, width) in [(rsdp.xsdt, *b"XSDT", 8), (rsdp.rsdt, *b"RSDT", 4)] {
        let Some(at) = at else { continue };
        match read_table(memory, at) {
            Ok((table, bytes)) if table.signature == signature => {
                let entries = bytes.get(HEADER..).unwrap_or_default().chunks_exact(width);
                return Ok(entries.map(address).filter(|at| at.as_u64() != 0).collect());
            }
            Ok(_) => error = AcpiError::BadRoot(Problem::Unreadable(at)),
            Err(problem) => error = AcpiError::BadRoot(problem),
        }
    }
    Err(error)
}

fn address(entry: &[u8]) -> Hpa {
    Hpa::new(
        entry
            .iter()
            .rev()
            .fold(0, |sum, &byte| (sum << 8) | u64::from(byte)),
    )
}

/// Copies a table and checks its length and checksum.
fn read_table(memory: &impl PhysicalMemory, at: Hpa) -> Result<(TableRef, Vec<u8>), Problem> {
    let unreadable = Problem::Unreadable(at);
    let mut header = [0; HEADER];
    if !memory.read(at, &mut header) {
        return Err(unreadable);
    }
    let signature = array_at(&header, 0).ok_or(unreadable)?;
    let length = u32_at(&header, 4)
        .filter(|length| (36..=MAX_TABLE).contains(length))
        .ok_or(unreadable)?;
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| unreadable)?];
    if !memory.read(at, &mut bytes) {
        return Err(unreadable);
    }
    if !adds_up(&bytes) {
        return Err(Problem::BadChecksum(signature, at));
    }
    Ok((
        TableRef {
            signature,
            at,
            length,
        },
        bytes,
    ))
}

fn adds_up(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)) == 0
}

/// A high-precision event timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hpet {
    pub address: Hpa,
    pub number: u8,
}

impl Hpet {
    /// Reads a whole table, header included; one whose registers are not in memory is none.
    #[must_use]
    pub fn parse(table: &[u8]) -> Option<Self> {
        match Register::parse(table, 40)? {
            Register::Memory(address) => Some(Self {
                address,
                number: u8_at(table, 52)?,
            }),
            _ => None,
        }
    }
}

/// Each function has 4 KiB, each bus 256 functions.
const FUNCTION_SHIFT: u32 = 12;
const FUNCTION_END: u16 = (1 << FUNCTION_SHIFT) - 1;
const BUS_SHIFT: u32 = 20;

/// PCI configuration space in memory, for a range of buses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct McfgRange {
    /// Where bus 0 of the segment would be.
    pub address: Hpa,
    pub segment: u16,
    pub first_bus: u8,
    pub last_bus: u8,
}

impl McfgRange {
    /// Reads a whole table, header included.
    #[must_use]
    pub fn parse(table: &[u8]) -> Vec<Self> {
        let entries = table.get(44..).unwrap_or_default().chunks_exact(16);
        entries.filter_map(Self::parse_entry).collect()
    }

    /// The frames that it takes; `None` where it makes no sense.
    #[must_use]
    pub fn frames(&self) -> Option<MfnRange> {
        let bus = |number: u64| self.address.checked_add(number << BUS_SHIFT);
        let start = bus(u64::from(self.first_bus))?;
        let end = bus(u64::from(self.last_bus) + 1)?;
        (start < end).then(|| MfnRange::new(Mfn::containing(start), Mfn::containing(end)))
    }

    /// The function whose configuration space has the byte at `at`, and its offset there.
    #[must_use]
    pub fn locate(&self, at: Hpa) -> Option<(Bdf, u16)> {
        if !self.frames()?.contains(Mfn::containing(at)) {
            return None;
        }
        let place = at.as_u64().checked_sub(self.address.as_u64())?;
        let function = u16::try_from(place >> FUNCTION_SHIFT).ok()?;
        let offset = u16::try_from(place & ((1 << FUNCTION_SHIFT) - 1)).ok()?;
        Some((Bdf(function), offset))
    }

    /// Where the byte at `offset` of a function's configuration space is; `None` where its bus is not in the range.
    #[must_use]
    pub fn address_of(&self, function: Bdf, offset: u16) -> Option<Hpa> {
        let [_, bus] = function.0.to_le_bytes();
        if self.segment != 0 || !(self.first_bus..=self.last_bus).contains(&bus) {
            return None;
        }
        let place = u64::from(function.0) << FUNCTION_SHIFT | u64::from(offset & FUNCTION_END);
        self.address.checked_add(place)
    }

    fn parse_entry(entry: &[u8]) -> Option<Self> {
        Some(Self {
            address: Hpa::new(u64_at(entry, 0)?),
            segment: u16_at(entry, 8)?,
            first_bus: u8_at(entry, 10)?,
            last_bus: u8_at(entry, 11)?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
