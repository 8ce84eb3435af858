//! Tables as small machines have them, malformed ones, arbitrary bytes.

use super::*;
use proptest::prelude::*;

/// Physical memory from address 0.
pub(in crate::firmware) struct Bytes(pub(in super::super) Vec<u8>);

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

pub(in crate::firmware) fn table(signature: &Signature, body: &[u8]) -> Vec<u8> {
    let mut bytes = signature.to_vec();
    bytes.extend(u32::try_from(body.len() + HEADER).unwrap().to_le_bytes());
    bytes.extend([1, 0]);
    bytes.extend(b"BOCHS BXPCTEST");
    bytes.resize(HEADER, 0);
    bytes.extend(body);
    fix(&mut bytes, 9);
    bytes
}

pub(in crate::firmware) fn fix(bytes: &mut [u8], at: usize) {
    bytes[at] = 0;
    bytes[at] = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_sub(byte));
}

pub(in crate::firmware) fn old_rsdp(rsdt: u32) -> Vec<u8> {
    let mut rsdp = b"RSD PTR \0BOCHS \0".to_vec();
    rsdp.extend(rsdt.to_le_bytes());
    fix(&mut rsdp, 8);
    rsdp
}

/// A machine's memory with the tables at 0x1000, 0x2000 and so on, and an RSDT at 0.
pub(in crate::firmware) fn machine(tables: &[Vec<u8>]) -> (Bytes, Rsdp) {
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
pub(in crate::firmware) fn old_fadt() -> Vec<u8> {
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
fn address_in_memory_mapped_configuration_space_names_function_and_offset() {
    let range = McfgRange {
        address: Hpa::new(0xE000_0000),
        segment: 0,
        first_bus: 1,
        last_bus: 3,
    };
    assert_eq!(
        range.locate(Hpa::new(0xE012_3456)),
        Some((Bdf(0x123), 0x456))
    );
    assert_eq!(
        range.locate(Hpa::new(0xE03F_FFFF)),
        Some((Bdf(0x3FF), 0xFFF))
    );
    assert_eq!(range.locate(Hpa::new(0xE00F_FFFF)), None);
    assert_eq!(range.locate(Hpa::new(0xE040_0000)), None);
    let nonsense = McfgRange {
        address: Hpa::new(u64::MAX - 0xFFF),
        ..range
    };
    assert_eq!(nonsense.locate(Hpa::new(0x123)), None);
}

#[test]
fn century_of_the_clock_is_where_the_fadt_names_it() {
    let mut fadt = old_fadt();
    assert_eq!(Fadt::parse(&fadt).unwrap().century, None);
    fadt[108] = 0x32;
    assert_eq!(Fadt::parse(&fadt).unwrap().century, Some(0x32));
    // bit 7 of the index port masks NMIs: no register
    fadt[108] = 0xB2;
    assert_eq!(Fadt::parse(&fadt).unwrap().century, None);
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
