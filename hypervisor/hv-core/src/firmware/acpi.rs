//! The host's ACPI tables, as far as a hypervisor without an AML interpreter reads them.
//!
//! Own parsers over byte slices: the acpi crate reads through pointers that an `unsafe` trait maps, and trusts the
//! tables' lengths; here each table is copied once through [`PhysicalMemory`], its checksum is checked, and what is
//! wrong with it is reported as a [`Problem`] while the rest is used.
//!
//! Source: ACPI specification, "ACPI Software Programming Model"; HPET: "IA-PC HPET Specification"; MCFG: "PCI Firmware
//! Specification".

use super::madt::Madt;
use crate::addr::Hpa;
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
    /// APICs.
    pub madt: Option<Madt>,
    /// The OEM's identification of the MADT: id, table id, revision.
    pub madt_oem: ([u8; 6], [u8; 8], u32),
    /// Fixed hardware.
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
    /// Its letters.
    pub signature: Signature,
    /// Where it is.
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

/// A register's place, ACPI's "Generic Address Structure".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// In physical memory.
    Memory(Hpa),
    /// An I/O port.
    Port(u16),
    /// In the configuration space of a device on PCI bus 0.
    Pci {
        /// The device, below 32.
        device: u8,
        /// The function, below 8.
        function: u8,
        /// The offset, below 256.
        offset: u8,
    },
}

impl Register {
    /// Reads the 12 bytes at `offset`; an address of 0 is no register.
    fn parse(table: &[u8], offset: usize) -> Option<Self> {
        let address = u64_at(table, offset.checked_add(4)?).filter(|&address| address != 0)?;
        match u8_at(table, offset)? {
            0 => Some(Self::Memory(Hpa::new(address))),
            1 => u16::try_from(address).ok().map(Self::Port),
            2 => {
                let [
                    low,
                    high,
                    function_low,
                    function_high,
                    device_low,
                    device_high,
                    ..,
                ] = address.to_le_bytes();
                let is_sound = high == 0 && function_high == 0 && device_high == 0;
                (is_sound && function_low < 8 && device_low < 32).then_some(Self::Pci {
                    device: device_low,
                    function: function_low,
                    offset: low,
                })
            }
            _ => None,
        }
    }
}

/// A block of fixed-hardware registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// Where it starts.
    pub register: Register,
    /// Its length in bytes.
    pub length: u8,
}

impl Block {
    /// The I/O ports it takes, first and count, where it is in I/O space.
    #[must_use]
    pub fn ports(self) -> Option<(u16, u8)> {
        match self.register {
            Register::Port(port) => Some((port, self.length)),
            _ => None,
        }
    }
}

/// Fixed hardware: what the hypervisor needs to reboot, to power off, and to leave alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fadt {
    /// The system control interrupt's number, as a global system interrupt.
    pub sci: u16,
    /// The port that hands power management to the operating system, 0 for none.
    pub smi_command: u16,
    /// What to write there.
    pub acpi_enable: u8,
    /// PM1a event registers.
    pub pm1a_event: Option<Block>,
    /// PM1b event registers.
    pub pm1b_event: Option<Block>,
    /// PM1a control register: sleep type and enable.
    pub pm1a_control: Option<Block>,
    /// PM1b control register.
    pub pm1b_control: Option<Block>,
    /// The power-management timer.
    pub pm_timer: Option<Block>,
    /// True where the timer counts 32 bits, not 24.
    pub has_wide_pm_timer: bool,
    /// The reset register and what to write there.
    pub reset: Option<(Register, u8)>,
    /// Where the DSDT is.
    pub dsdt: Hpa,
    /// Where the FACS is, 0 for none.
    pub facs: Hpa,
    /// True where there is no fixed hardware.
    pub is_hardware_reduced: bool,
}

impl Fadt {
    /// Reads a whole table, header included, of any revision.
    #[must_use]
    pub fn parse(table: &[u8]) -> Option<Self> {
        let flags = u32_at(table, 112)?;
        let block = |old: usize, length: usize, new: usize| {
            let length = u8_at(table, length)?;
            let register = Register::parse(table, new).or_else(|| {
                let port = u16::try_from(u32_at(table, old)?).ok()?;
                (port != 0).then_some(Register::Port(port))
            })?;
            (length != 0).then_some(Block { register, length })
        };
        let reset = || {
            (flags & (1 << 10) != 0).then(|| Register::parse(table, 116).zip(u8_at(table, 128)))?
        };
        let pointer = |old: usize, new: usize| {
            let long = u64_at(table, new).filter(|&address| address != 0);
            Hpa::new(long.or(u32_at(table, old).map(u64::from)).unwrap_or(0))
        };
        Some(Self {
            sci: u16_at(table, 46)?,
            smi_command: u16::try_from(u32_at(table, 48)?).unwrap_or(0),
            acpi_enable: u8_at(table, 52)?,
            pm1a_event: block(56, 88, 148),
            pm1b_event: block(60, 88, 160),
            pm1a_control: block(64, 89, 172),
            pm1b_control: block(68, 89, 184),
            pm_timer: block(76, 91, 208),
            has_wide_pm_timer: flags & (1 << 8) != 0,
            reset: reset(),
            dsdt: pointer(40, 140),
            facs: pointer(36, 132),
            is_hardware_reduced: flags & (1 << 20) != 0,
        })
    }
}

/// A high-precision event timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hpet {
    /// Its registers.
    pub address: Hpa,
    /// Its number.
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

/// PCI configuration space in memory, for a range of buses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct McfgRange {
    /// Where bus 0 of the segment would be.
    pub address: Hpa,
    /// The PCI segment.
    pub segment: u16,
    /// The first bus.
    pub first_bus: u8,
    /// The last bus.
    pub last_bus: u8,
}

impl McfgRange {
    /// Reads a whole table, header included.
    #[must_use]
    pub fn parse(table: &[u8]) -> Vec<Self> {
        let entries = table.get(44..).unwrap_or_default().chunks_exact(16);
        entries.filter_map(Self::parse_entry).collect()
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
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Physical memory from address 0.
    pub(in super::super) struct Bytes(pub(in super::super) Vec<u8>);

    impl PhysicalMemory for Bytes {
        fn read(&self, at: Hpa, to: &mut [u8]) -> bool {
            let Ok(at) = usize::try_from(at.as_u64()) else {
                return false;
            };
            let Some(from) = at.checked_add(to.len()).and_then(|end| self.0.get(at..end)) else {
                return false;
            };
            to.copy_from_slice(from);
            true
        }
    }

    pub(in super::super) fn table(signature: &Signature, body: &[u8]) -> Vec<u8> {
        let mut bytes = signature.to_vec();
        bytes.extend(u32::try_from(body.len() + HEADER).unwrap().to_le_bytes());
        bytes.extend([1, 0]);
        bytes.extend(b"BOCHS BXPCTEST");
        bytes.resize(HEADER, 0);
        bytes.extend(body);
        fix(&mut bytes, 9);
        bytes
    }

    pub(in super::super) fn fix(bytes: &mut [u8], at: usize) {
        bytes[at] = 0;
        bytes[at] = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_sub(byte));
    }

    pub(in super::super) fn old_rsdp(rsdt: u32) -> Vec<u8> {
        let mut rsdp = b"RSD PTR \0BOCHS \0".to_vec();
        rsdp.extend(rsdt.to_le_bytes());
        fix(&mut rsdp, 8);
        rsdp
    }

    /// A machine's memory with the tables at 0x1000, 0x2000 and so on, and an RSDT at 0.
    pub(in super::super) fn machine(tables: &[Vec<u8>]) -> (Bytes, Rsdp) {
        let mut memory = vec![0; 0x1000 * (tables.len() + 1)];
        let mut root = Vec::new();
        for (i, table) in tables.iter().enumerate() {
            let at = 0x1000 * (i + 1);
            memory[at..at + table.len()].copy_from_slice(table);
            root.extend(u32::try_from(at).unwrap().to_le_bytes());
        }
        let root = table(b"RSDT", &root);
        memory[0x10..0x10 + root.len()].copy_from_slice(&root);
        (
            Bytes(memory),
            Rsdp {
                xsdt: None,
                rsdt: Some(Hpa::new(0x10)),
            },
        )
    }

    /// A FADT of ACPI 1.0 as small machines have it.
    pub(in super::super) fn old_fadt() -> Vec<u8> {
        let mut body = vec![0; 116 - HEADER];
        body[46 - HEADER] = 9;
        body[48 - HEADER] = 0xb2;
        body[52 - HEADER] = 0xf1;
        body[56 - HEADER..58 - HEADER].copy_from_slice(&[0x00, 0xb0]);
        body[64 - HEADER..66 - HEADER].copy_from_slice(&[0x04, 0xb0]);
        body[76 - HEADER..78 - HEADER].copy_from_slice(&[0x08, 0xb0]);
        body[88 - HEADER..92 - HEADER].copy_from_slice(&[4, 2, 0, 4]);
        table(b"FACP", &body)
    }

    #[test]
    fn an_old_machine_is_read_through_its_rsdt() {
        let mut hpet = vec![0; 20];
        hpet[8..12].copy_from_slice(&0xfed0_0000u32.to_le_bytes());
        let (memory, rsdp) = machine(&[old_fadt(), table(b"SSDT", &[]), table(b"HPET", &hpet)]);
        let acpi = HostAcpi::discover(&memory, rsdp).unwrap();
        assert_eq!(acpi.problems, []);
        assert_eq!(acpi.tables.len(), 3);
        let fadt = acpi.fadt.unwrap();
        assert_eq!(
            (fadt.sci, fadt.smi_command, fadt.acpi_enable),
            (9, 0xb2, 0xf1)
        );
        assert_eq!(fadt.pm1a_event.and_then(Block::ports), Some((0xb000, 4)));
        assert_eq!(fadt.pm1a_control.and_then(Block::ports), Some((0xb004, 2)));
        assert_eq!(fadt.pm_timer.and_then(Block::ports), Some((0xb008, 4)));
        assert_eq!((fadt.pm1b_event, fadt.reset), (None, None));
        assert_eq!(acpi.hpet.unwrap().address, Hpa::new(0xfed0_0000));
    }

    #[test]
    fn a_newer_fadts_reset_register_is_read() {
        let mut body = vec![0; 244 - HEADER];
        body[112 - HEADER + 1] = 4;
        body[116 - HEADER] = 1;
        body[120 - HEADER..122 - HEADER].copy_from_slice(&0xcf9u16.to_le_bytes());
        body[128 - HEADER] = 0xf;
        body[140 - HEADER..144 - HEADER].copy_from_slice(&0x7fe_0000u32.to_le_bytes());
        let fadt = Fadt::parse(&table(b"FACP", &body)).unwrap();
        assert_eq!(fadt.reset, Some((Register::Port(0xcf9), 0xf)));
        assert_eq!(fadt.dsdt, Hpa::new(0x7fe_0000));
    }

    #[test]
    fn malformed_tables_are_reported_and_the_rest_is_used() {
        let mut broken = table(b"SSDT", &[1, 2, 3]);
        broken[38] ^= 1;
        let mut long = table(b"SSDT", &[]);
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        let (memory, rsdp) = machine(&[broken, long, table(b"FACP", &[]), table(b"PSDT", &[])]);
        let acpi = HostAcpi::discover(&memory, rsdp).unwrap();
        assert_eq!(
            acpi.problems,
            [
                Problem::BadChecksum(*b"SSDT", Hpa::new(0x1000)),
                Problem::Unreadable(Hpa::new(0x2000)),
                Problem::TooShort(*b"FACP", Hpa::new(0x3000)),
            ]
        );
        assert!(acpi.table(*b"PSDT").is_some() && acpi.table(*b"SSDT").is_none());
    }

    #[test]
    fn the_bios_area_is_scanned_for_the_root_pointer() {
        let mut area = vec![0; 0x100];
        area[0x40..0x48].copy_from_slice(b"RSD PTR ");
        area[0x90..0x90 + 20].copy_from_slice(&old_rsdp(0x7fe_0000));
        let (at, rsdp) = Rsdp::scan(&area).unwrap();
        assert_eq!((at, rsdp.rsdt), (0x90, Some(Hpa::new(0x7fe_0000))));
        assert_eq!(Rsdp::scan(&area[..0x90]), None);
    }

    #[test]
    fn a_new_root_pointer_with_a_wrong_checksum_falls_back_to_the_rsdt() {
        let mut rsdp = old_rsdp(0x1000);
        rsdp[15] = 2;
        fix(&mut rsdp, 8);
        rsdp.extend([36, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut sound = rsdp.clone();
        fix(&mut sound, 32);
        assert_eq!(Rsdp::parse(&sound).unwrap().xsdt, Some(Hpa::new(0x2000)));
        rsdp[32] = sound[32].wrapping_add(1);
        assert_eq!(
            Rsdp::parse(&rsdp),
            Some(Rsdp {
                xsdt: None,
                rsdt: Some(Hpa::new(0x1000))
            })
        );
    }

    #[test]
    fn the_ebda_is_found_only_in_low_memory() {
        let mut low = vec![0; 0x410];
        assert_eq!(ebda_start(&low), None);
        low[0x40e..].copy_from_slice(&0x9fc0u16.to_le_bytes());
        assert_eq!(ebda_start(&low), Some(Hpa::new(0x9_fc00)));
        assert_eq!(ebda_start(&[]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (Rsdp::parse(&bytes), Rsdp::scan(&bytes), Fadt::parse(&bytes), Hpet::parse(&bytes), McfgRange::parse(&bytes));
        }

        #[test]
        fn no_tables_panic(bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..260), 5)) {
            let names = [b"APIC", b"FACP", b"HPET", b"MCFG", b"DMAR"];
            let tables: Vec<_> = names.iter().zip(&bodies).map(|(name, body)| table(name, body)).collect();
            let (memory, rsdp) = machine(&tables);
            prop_assert_eq!(HostAcpi::discover(&memory, rsdp).unwrap().tables.len(), 5);
        }
    }
}
