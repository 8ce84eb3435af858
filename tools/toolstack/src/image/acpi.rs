//! The ACPI tables of a guest: as few as Linux takes.
//!
//! RSDP, XSDT, FADT, MADT and an empty DSDT. The FADT says "hardware-reduced", so that Linux looks for no PM timer, PIC
//! or SCI, and has revision 5, because from 6.3 on disabled processors no longer count as possible ones. Power-off
//! needs no table: the last vCPU halts.
//!
//! Source: "Advanced Configuration and Power Interface Specification" 5.0.

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use hv_core::cpuid::apic_id;

const OEM: [u8; 6] = *b"HEMATE";
const TABLE: [u8; 8] = *b"HEMATITE";
/// Header, local APIC address, flags.
const MADT_HEADER: u32 = 44;
const LOCAL_APIC: u32 = 0xFEE0_0000;
/// The FADT's boot flags: neither VGA nor RTC; no legacy devices, no 8042.
const NO_VGA_NO_RTC: u16 = 1 << 2 | 1 << 5;

/// The tables in one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// What goes to the address that they were built for.
    pub bytes: Vec<u8>,
    /// Where the root pointer lies in the guest's memory.
    pub rsdp: u64,
    /// The root pointer, which leads to the tables from wherever it lies.
    pub root: Vec<u8>,
}

impl Tables {
    /// Builds the tables of a domain with `vcpus` vCPUs, to lie at `start`.
    #[must_use]
    pub fn build(start: u64, vcpus: u32) -> Self {
        let mut block = Block {
            start,
            bytes: Vec::new(),
        };
        // the root pointer first, with room for itself
        block.bytes.resize(Rsdp::len().next_multiple_of(16), 0);
        let dsdt = block.add(&Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, 1));
        let fadt = block.add(&fadt(dsdt));
        let madt = block.add(&madt(vcpus));
        let mut xsdt = XSDT::new(OEM, TABLE, 1);
        xsdt.add_entry(fadt);
        xsdt.add_entry(madt);
        let xsdt = block.add(&xsdt);
        let mut root = Vec::new();
        Rsdp::new(OEM, xsdt).to_aml_bytes(&mut root);
        block
            .bytes
            .iter_mut()
            .zip(&root)
            .for_each(|(to, from)| *to = *from);
        Self {
            bytes: block.bytes,
            rsdp: start,
            root,
        }
    }
}

struct Block {
    start: u64,
    bytes: Vec<u8>,
}

impl Block {
    /// Appends a table; returns where it lies.
    fn add(&mut self, table: &dyn Aml) -> u64 {
        let at = self.bytes.len().next_multiple_of(16);
        self.bytes.resize(at, 0);
        table.to_aml_bytes(&mut self.bytes);
        self.start + at as u64
    }
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let mut fadt = FADTBuilder::new(OEM, TABLE, 1)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi);
    fadt.major_version = 5;
    fadt.fadt_minor_version = 1;
    fadt.iapc_boot_arch = NO_VGA_NO_RTC.into();
    fadt.finalize()
}

/// One entry a vCPU: short ones as far as their fields reach, then those with 32-bit numbers.
fn madt(vcpus: u32) -> Sdt {
    const ENABLED: u32 = 1;
    let mut madt = Sdt::new(*b"APIC", MADT_HEADER, 3, OEM, TABLE, 1);
    madt.write_u32(36, LOCAL_APIC);
    for vcpu in 0..vcpus {
        match (u8::try_from(vcpu), u8::try_from(apic_id(vcpu))) {
            (Ok(uid), Ok(id)) if id < u8::MAX => {
                madt.append_slice(&[0, 8, uid, id]);
                madt.append_slice(&ENABLED.to_le_bytes());
            }
            _ => {
                madt.append_slice(&[9, 16, 0, 0]);
                for word in [apic_id(vcpu), ENABLED, vcpu] {
                    madt.append_slice(&word.to_le_bytes());
                }
            }
        }
    }
    madt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(*bytes[at..].first_chunk().unwrap())
    }

    fn table(tables: &Tables, address: u64) -> &[u8] {
        let at = usize::try_from(address - 0xFC00_0000).unwrap();
        let size = word(&tables.bytes, at + 4) as usize;
        &tables.bytes[at..at + size]
    }

    fn address(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(*bytes[at..].first_chunk().unwrap())
    }

    #[test]
    fn the_root_leads_to_every_table_and_all_sums_are_right() {
        let tables = Tables::build(0xFC00_0000, 3);
        assert_eq!(&tables.bytes[..8], b"RSD PTR ");
        assert_eq!(tables.bytes[15], 2);
        assert_eq!(tables.root, tables.bytes[..36]);
        let xsdt = table(&tables, address(&tables.bytes, 24));
        let fadt = table(&tables, address(xsdt, 36));
        let madt = table(&tables, address(xsdt, 44));
        let dsdt = table(&tables, address(fadt, 140));
        for (table, name) in [
            (xsdt, b"XSDT"),
            (fadt, b"FACP"),
            (madt, b"APIC"),
            (dsdt, b"DSDT"),
        ] {
            assert_eq!(&table[..4], name);
            assert_eq!(
                table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)),
                0,
                "{name:?}"
            );
        }
        assert_eq!(
            (fadt[8], word(fadt, 112) >> 20 & 1, fadt[109]),
            (5, 1, 0x24)
        );
        assert_eq!(madt.len(), 44 + 3 * 8);
        assert_eq!(&madt[52..60], [0, 8, 1, 2, 1, 0, 0, 0]);
    }

    #[test]
    fn many_vcpus_are_told_by_x2apic_entries() {
        let tables = Tables::build(0xFC00_0000, 130);
        let xsdt = table(&tables, address(&tables.bytes, 24));
        let madt = table(&tables, address(xsdt, 44));
        assert_eq!(madt.len(), 44 + 128 * 8 + 2 * 16);
    }
}
