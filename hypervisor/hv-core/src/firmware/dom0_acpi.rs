//! The ACPI tables that dom0 sees: a new root pointer, a new list of tables and a new MADT, all else by reference.
//!
//! dom0's memory is identity-mapped, so a host table is passed by its host address. What is passed is a list of what is
//! known to be harmless; what the hypervisor owns or emulates (HPET, DMAR, NUMA and debug-port tables …) is hidden by
//! not being on it.
//!
//! Source: ACPI specification, "Multiple APIC Description Table"; the list is that of Xen's PVH dom0.

use super::acpi::{HostAcpi, Signature};
use super::madt::{InterruptOverride, Madt, MadtCpu};
use crate::addr::{Gpa, Hpa};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use zerocopy::IntoBytes;

/// Tables that dom0 gets by reference. The FADT leads it to the DSDT and the FACS.
const PASSED: [Signature; 8] = [
    *b"FACP", *b"SSDT", *b"PSDT", *b"SBST", *b"SLIC", *b"MSDM", *b"WDAT", *b"FPDT",
];

/// ISA interrupts of legacy IDE. Without a PIC, Linux takes them only where the table names them.
const IDE: [u8; 2] = [14, 15];

/// What dom0 is to see beyond the fixed rules.
#[derive(Clone, Copy, Debug)]
pub struct Dom0AcpiPlan<'a> {
    /// The local-APIC ID of each vCPU, in the order of vCPU numbers.
    pub vcpu_apic_ids: &'a [u32],
    /// ISA interrupts that the firmware set to level in the edge/level control registers, a bit each: PCI's.
    pub level_irqs: u16,
    /// True where dom0 may use PCI configuration space in memory (MCFG).
    pub passes_mcfg: bool,
}

/// dom0's tables as bytes for one place in its memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dom0Acpi {
    /// What to write at the place.
    pub bytes: Vec<u8>,
    /// The root pointer, which is the first thing there.
    pub rsdp: Gpa,
    /// Tables of the host that dom0 does not see, for the log.
    pub hidden: Vec<Signature>,
}

/// Why dom0's tables cannot be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dom0AcpiError {
    /// The host has no MADT, hence no I/O APIC to give dom0.
    NoMadt,
    /// The host has no FADT, hence dom0 no DSDT.
    NoFadt,
}

impl fmt::Display for Dom0AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, letters) = match self {
            Self::NoMadt => ("MADT", "APIC"),
            Self::NoFadt => ("FADT", "FACP"),
        };
        write!(
            f,
            "the firmware has no usable ACPI {name} (table {letters}), which dom0 needs"
        )
    }
}

/// Builds dom0's tables for the place `at`, a multiple of 16 in dom0's memory.
///
/// # Errors
/// Where the host has no MADT or FADT.
pub fn build(host: &HostAcpi, plan: Dom0AcpiPlan<'_>, at: Gpa) -> Result<Dom0Acpi, Dom0AcpiError> {
    let host_madt = host.madt.as_ref().ok_or(Dom0AcpiError::NoMadt)?;
    host.fadt.ok_or(Dom0AcpiError::NoFadt)?;
    let (oem_id, oem_table, oem_revision) = host.madt_oem;
    let is_passed =
        |name: &Signature| PASSED.contains(name) || (plan.passes_mcfg && name == b"MCFG");
    let passed: Vec<Hpa> = host
        .tables
        .iter()
        .filter(|t| is_passed(&t.signature))
        .map(|t| t.at)
        .collect();
    let hidden = host
        .tables
        .iter()
        .map(|t| t.signature)
        .filter(|name| !is_passed(name) && name != b"APIC")
        .collect();

    let xsdt_at = align(Rsdp::len());
    let madt_at = align(xsdt_at + 36 + 8 * (passed.len() + 1));
    let mut xsdt = Sdt::new(*b"XSDT", 36, 1, oem_id, oem_table, oem_revision);
    for table in passed
        .iter()
        .map(|at| at.as_u64())
        .chain([(at + madt_at as u64).as_u64()])
    {
        xsdt.append_slice(&table.to_le_bytes());
    }
    let mut madt = Sdt::new(*b"APIC", 36, 4, oem_id, oem_table, oem_revision);
    madt.append_slice(&madt_body(host_madt, &plan));
    let rsdp = Rsdp::new(oem_id, (at + xsdt_at as u64).as_u64());

    let mut bytes = vec![0; madt_at + madt.len()];
    put(&mut bytes, 0, rsdp.as_bytes());
    put(&mut bytes, xsdt_at, xsdt.as_slice());
    put(&mut bytes, madt_at, madt.as_slice());
    Ok(Dom0Acpi {
        bytes,
        rsdp: at,
        hidden,
    })
}

/// How many bytes [`build`] comes to at most.
#[must_use]
pub fn size_bound(host: &HostAcpi, vcpus: usize) -> usize {
    let entries = host.madt.as_ref().map_or(0, |madt| {
        madt.io_apics.len() * 12 + (madt.overrides.len() + 16) * 10
    });
    let tables = align(Rsdp::len()) + align(36 + 8 * (host.tables.len() + 1));
    tables + 44 + vcpus * 16 + entries + IDE.len() * 10
}

/// What follows the MADT's header: flags are 0, so that Linux looks for no PIC.
fn madt_body(host: &Madt, plan: &Dom0AcpiPlan<'_>) -> Vec<u8> {
    let lapic = u32::try_from(host.lapic_address.as_u64()).unwrap_or(0xfee0_0000);
    let mut body = lapic.to_le_bytes().to_vec();
    body.extend([0; 4]);
    for (uid, &apic_id) in (0u32..).zip(plan.vcpu_apic_ids) {
        MadtCpu {
            uid,
            apic_id,
            is_enabled: true,
            is_x2apic: false,
        }
        .append_to(&mut body);
    }
    for io_apic in &host.io_apics {
        body.extend(io_apic.entry());
    }
    let ide = IDE
        .into_iter()
        .filter(|&irq| is_free(host, irq))
        .map(InterruptOverride::identity);
    // without PICs Linux asks nobody whether such a line is level-triggered, and refuses PCI's claim that it is
    let is_level = |irq: &u8| plan.level_irqs & (1 << irq) != 0;
    let level = (0..16)
        .filter(is_level)
        .filter(|&irq| is_free(host, irq) && !IDE.contains(&irq))
        .map(InterruptOverride::pci);
    for wire in host.overrides.iter().copied().chain(ide).chain(level) {
        body.extend(wire.entry());
    }
    body
}

/// True where no override moves `irq` or takes its global system interrupt.
fn is_free(host: &Madt, irq: u8) -> bool {
    !host
        .overrides
        .iter()
        .any(|o| o.bus == 0 && (o.irq == irq || o.gsi == u32::from(irq)))
}

const fn align(offset: usize) -> usize {
    offset.next_multiple_of(16)
}

fn put(bytes: &mut [u8], at: usize, from: &[u8]) {
    bytes[at..at + from.len()].copy_from_slice(from);
}

#[cfg(test)]
mod tests {
    use super::super::acpi::tests::{Bytes, machine, old_fadt, table};
    use super::super::acpi::{self, PhysicalMemory};
    use super::*;
    use proptest::prelude::*;

    const AT: u64 = 0x8000;

    fn madt(entries: &[u8]) -> Vec<u8> {
        let mut body = 0xfee0_0000u32.to_le_bytes().to_vec();
        body.extend(1u32.to_le_bytes());
        body.extend(entries);
        table(b"APIC", &body)
    }

    fn qemu_madt() -> Vec<u8> {
        let mut entries = vec![0, 8, 0, 0, 1, 0, 0, 0, 0, 8, 1, 1, 1, 0, 0, 0];
        entries.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        for (irq, gsi, flags) in [
            (0u8, 2u8, 0u8),
            (5, 5, 0xd),
            (9, 9, 0xd),
            (10, 10, 0xd),
            (11, 11, 0xd),
        ] {
            entries.extend([2, 10, 0, irq, gsi, 0, 0, 0, flags, 0]);
        }
        entries.extend([4, 6, 0xff, 0, 0, 1]);
        madt(&entries)
    }

    fn host(tables: &[Vec<u8>]) -> HostAcpi {
        let (memory, rsdp) = machine(tables);
        HostAcpi::discover(&memory, rsdp).unwrap()
    }

    fn read_back(dom0: &Dom0Acpi, tables: &[Vec<u8>]) -> HostAcpi {
        let (Bytes(mut memory), _) = machine(tables);
        let at = usize::try_from(AT).unwrap();
        memory.resize(at, 0);
        memory.extend(&dom0.bytes);
        let memory = Bytes(memory);
        let mut rsdp = [0; 36];
        assert!(memory.read(Hpa::new(dom0.rsdp.as_u64()), &mut rsdp));
        let rsdp = acpi::Rsdp::parse(&rsdp).unwrap();
        assert_eq!(rsdp.rsdt, None);
        HostAcpi::discover(&memory, rsdp).unwrap()
    }

    #[test]
    fn dom0_sees_its_own_madt_and_the_tables_of_the_list() {
        let tables = [
            old_fadt(),
            qemu_madt(),
            table(b"HPET", &[0; 20]),
            table(b"SSDT", &[]),
            table(b"DMAR", &[]),
            table(b"WAET", &[]),
        ];
        let host = host(&tables);
        let plan = Dom0AcpiPlan {
            vcpu_apic_ids: &[0, 2, 300],
            level_irqs: 0,
            passes_mcfg: false,
        };
        let dom0 = build(&host, plan, Gpa::new(AT)).unwrap();
        assert_eq!(dom0.hidden, [*b"HPET", *b"DMAR", *b"WAET"]);
        let seen = read_back(&dom0, &tables);
        assert_eq!(seen.problems, []);
        let names: Vec<_> = seen.tables.iter().map(|t| t.signature).collect();
        assert_eq!(names, [*b"FACP", *b"SSDT", *b"APIC"]);
        let madt = seen.madt.unwrap();
        assert!(!madt.has_pics);
        let ids: Vec<_> = madt
            .cpus
            .iter()
            .map(|c| (c.uid, c.apic_id, c.is_enabled, c.is_x2apic))
            .collect();
        assert_eq!(
            ids,
            [
                (0, 0, true, false),
                (1, 2, true, false),
                (2, 300, true, true)
            ]
        );
        let host_madt = host.madt.unwrap();
        assert_eq!(madt.io_apics, host_madt.io_apics);
        assert_eq!(madt.overrides[..5], host_madt.overrides[..]);
        assert_eq!(
            madt.overrides[5..],
            [
                InterruptOverride::identity(14),
                InterruptOverride::identity(15)
            ]
        );
    }

    #[test]
    fn an_override_of_14_is_kept_and_not_doubled() {
        let host = host(&[
            old_fadt(),
            madt(&[
                2, 10, 0, 14, 20, 0, 0, 0, 0, 0, 2, 10, 0, 3, 15, 0, 0, 0, 0, 0,
            ]),
        ]);
        let body = madt_body(host.madt.as_ref().unwrap(), &level(0));
        assert_eq!(body.len(), 8 + 20);
    }

    /// A plan without vCPUs, with these lines level-triggered.
    fn level(level_irqs: u16) -> Dom0AcpiPlan<'static> {
        Dom0AcpiPlan {
            vcpu_apic_ids: &[],
            level_irqs,
            passes_mcfg: false,
        }
    }

    #[test]
    fn level_lines_are_named_where_the_host_names_them_not() {
        let host = host(&[old_fadt(), madt(&[2, 10, 0, 9, 9, 0, 0, 0, 0xf, 0])]);
        let body = madt_body(
            host.madt.as_ref().unwrap(),
            &level(1 << 9 | 1 << 11 | 1 << 14),
        );
        // the host's own 9, both of IDE, and 11: active low, level
        assert_eq!(body.len(), 8 + 4 * 10);
        assert_eq!(body[body.len() - 10..], [2, 10, 0, 11, 11, 0, 0, 0, 0xf, 0]);
    }

    #[test]
    fn mcfg_is_passed_only_where_asked() {
        let tables = [old_fadt(), qemu_madt(), table(b"MCFG", &[0; 24])];
        for passes_mcfg in [false, true] {
            let dom0 = build(
                &host(&tables),
                Dom0AcpiPlan {
                    vcpu_apic_ids: &[0],
                    level_irqs: 0,
                    passes_mcfg,
                },
                Gpa::new(AT),
            )
            .unwrap();
            assert_eq!(
                read_back(&dom0, &tables).mcfg.len(),
                usize::from(passes_mcfg)
            );
        }
    }

    #[test]
    fn a_host_without_madt_or_fadt_is_refused() {
        let plan = Dom0AcpiPlan {
            vcpu_apic_ids: &[0],
            level_irqs: 0,
            passes_mcfg: false,
        };
        assert_eq!(
            build(&host(&[old_fadt()]), plan, Gpa::new(AT)),
            Err(Dom0AcpiError::NoMadt)
        );
        assert_eq!(
            build(&host(&[qemu_madt()]), plan, Gpa::new(AT)),
            Err(Dom0AcpiError::NoFadt)
        );
    }

    proptest! {
        #[test]
        fn any_madt_gives_sound_tables_within_the_bound(entries in proptest::collection::vec(any::<u8>(), 0..200), vcpus in 1usize..129) {
            let tables = [old_fadt(), madt(&entries)];
            let host = host(&tables);
            let ids: Vec<u32> = (0..).step_by(7).take(vcpus).collect();
            let dom0 = build(&host, Dom0AcpiPlan { vcpu_apic_ids: &ids, level_irqs: 0xffff, passes_mcfg: true }, Gpa::new(AT)).unwrap();
            prop_assert!(dom0.bytes.len() <= size_bound(&host, vcpus));
            let seen = read_back(&dom0, &tables);
            prop_assert_eq!(seen.problems, []);
            prop_assert_eq!(seen.madt.unwrap().cpus.len(), vcpus);
        }
    }
}
