//! The multiple APIC description table: which local and I/O APICs there are, and how ISA interrupts are wired.
//!
//! Source: ACPI specification, "Multiple APIC Description Table (MADT)".

use crate::addr::Hpa;
use crate::device::ioapic::Polarity;
use crate::device::message::Trigger;
use crate::le::{array_at, u8_at, u16_at, u32_at, u64_at};
use alloc::vec::Vec;

/// What the table says, its entries of other kinds left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Madt {
    /// Where each CPU sees its local APIC.
    pub lapic_address: Hpa,
    /// True where the machine has two 8259s as well, which have to be masked.
    pub has_pics: bool,
    /// The CPUs that are there or can come.
    pub cpus: Vec<MadtCpu>,
    pub io_apics: Vec<MadtIoApic>,
    /// ISA interrupts that are wired otherwise than identically.
    pub overrides: Vec<InterruptOverride>,
}

/// A CPU's local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MadtCpu {
    /// The ACPI processor's number.
    pub uid: u32,
    /// The local APIC's ID.
    pub apic_id: u32,
    /// True where it can be started now.
    pub is_enabled: bool,
    /// True where the entry is the x2APIC's.
    pub is_x2apic: bool,
}

/// An I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MadtIoApic {
    pub id: u8,
    pub address: Hpa,
    /// The global system interrupt of its pin 0.
    pub gsi_base: u32,
}

/// How an ISA interrupt is wired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptOverride {
    /// The bus, 0 for ISA.
    pub bus: u8,
    pub irq: u8,
    /// The global system interrupt it arrives at.
    pub gsi: u32,
    /// MPS INTI flags: polarity in bits 1:0, trigger mode in bits 3:2; 0 is as the bus has it.
    pub flags: u16,
}

impl InterruptOverride {
    /// The wiring of an ISA interrupt that the table says nothing about.
    #[must_use]
    pub const fn identity(irq: u8) -> Self {
        Self {
            bus: 0,
            irq,
            gsi: irq as u32,
            flags: 0,
        }
    }
    /// The wiring of an ISA interrupt that PCI devices share: level-triggered, active low, as the interrupt links of
    /// such firmware (`IRQ (Level, ActiveLow, Shared)`) claim it. Linux without PICs refuses a device whose claim
    /// differs.
    #[must_use]
    pub const fn pci(irq: u8) -> Self {
        const ACTIVE_LOW: u16 = 3;
        const LEVEL: u16 = 3 << 2;
        Self {
            flags: ACTIVE_LOW | LEVEL,
            ..Self::identity(irq)
        }
    }

    /// The line's active level; as ISA has it, high.
    #[must_use]
    pub const fn polarity(self) -> Polarity {
        match self.flags & 3 {
            3 => Polarity::Low,
            _ => Polarity::High,
        }
    }

    /// How the line signals; as ISA has it, by edges.
    #[must_use]
    pub const fn trigger(self) -> Trigger {
        match (self.flags >> 2) & 3 {
            3 => Trigger::Level,
            _ => Trigger::Edge,
        }
    }
}

impl Madt {
    /// Reads a whole table, header included; an entry that is cut off ends it.
    #[must_use]
    pub fn parse(table: &[u8]) -> Option<Self> {
        let mut madt = Self {
            lapic_address: Hpa::new(u32_at(table, 36)?.into()),
            has_pics: u32_at(table, 40)? & 1 != 0,
            ..Self::default()
        };
        let mut rest = table.get(44..)?;
        while let [kind, length, ..] = *rest {
            let Some((entry, next)) = rest.split_at_checked(length.into()) else {
                break;
            };
            // an entry of size 0 would be there for ever
            if length < 2 {
                break;
            }
            madt.take(kind, entry);
            rest = next;
        }
        Some(madt)
    }

    /// How the ISA interrupt `irq` is wired.
    #[must_use]
    pub fn isa_interrupt(&self, irq: u8) -> InterruptOverride {
        let found = self.overrides.iter().find(|o| o.bus == 0 && o.irq == irq);
        found.copied().unwrap_or(InterruptOverride::identity(irq))
    }

    /// Takes an entry in; one that is too short for its kind says nothing.
    fn take(&mut self, kind: u8, entry: &[u8]) -> Option<()> {
        match kind {
            0 => self.cpus.push(MadtCpu {
                uid: u8_at(entry, 2)?.into(),
                apic_id: u8_at(entry, 3)?.into(),
                is_enabled: u32_at(entry, 4)? & 1 != 0,
                is_x2apic: false,
            }),
            1 => self.io_apics.push(MadtIoApic {
                id: u8_at(entry, 2)?,
                address: Hpa::new(u32_at(entry, 4)?.into()),
                gsi_base: u32_at(entry, 8)?,
            }),
            2 => self.overrides.push(InterruptOverride {
                bus: u8_at(entry, 2)?,
                irq: u8_at(entry, 3)?,
                gsi: u32_at(entry, 4)?,
                flags: u16_at(entry, 8)?,
            }),
            5 => self.lapic_address = Hpa::new(u64_at(entry, 4)?),
            9 => self.cpus.push(MadtCpu {
                uid: u32_at(entry, 12)?,
                apic_id: u32_at(entry, 4)?,
                is_enabled: u32_at(entry, 8)? & 1 != 0,
                is_x2apic: true,
            }),
            _ => {}
        }
        Some(())
    }
}

impl MadtIoApic {
    /// Its entry in a table.
    pub(super) fn entry(self) -> [u8; 12] {
        let mut entry = [0; 12];
        entry[..3].copy_from_slice(&[1, 12, self.id]);
        let address = u32::try_from(self.address.as_u64()).unwrap_or(u32::MAX);
        entry[4..8].copy_from_slice(&address.to_le_bytes());
        entry[8..].copy_from_slice(&self.gsi_base.to_le_bytes());
        entry
    }
}

impl InterruptOverride {
    /// Its entry in a table.
    pub(super) fn entry(self) -> [u8; 10] {
        let mut entry = [0; 10];
        entry[..4].copy_from_slice(&[2, 10, self.bus, self.irq]);
        entry[4..8].copy_from_slice(&self.gsi.to_le_bytes());
        entry[8..].copy_from_slice(&self.flags.to_le_bytes());
        entry
    }
}

impl MadtCpu {
    /// Appends its entry to a table's bytes: the local APIC's where the numbers fit, else the x2APIC's.
    ///
    /// The specification reserves the x2APIC's entry for IDs from 255 on.
    pub(super) fn append_to(self, bytes: &mut Vec<u8>) {
        let flags = u32::from(self.is_enabled).to_le_bytes();
        match (u8::try_from(self.uid), u8::try_from(self.apic_id)) {
            (Ok(uid), Ok(id)) if id != 0xff => {
                bytes.extend([0, 8, uid, id]);
                bytes.extend(flags);
            }
            _ => {
                bytes.extend([9, 16, 0, 0]);
                bytes.extend(self.apic_id.to_le_bytes());
                bytes.extend(flags);
                bytes.extend(self.uid.to_le_bytes());
            }
        }
    }
}

/// The OEM's identification in a table's header, which dom0's own tables repeat.
pub(super) fn oem(table: &[u8]) -> Option<([u8; 6], [u8; 8], u32)> {
    Some((
        array_at(table, 10)?,
        array_at(table, 16)?,
        u32_at(table, 24)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    #[test]
    fn entries_of_all_known_kinds_are_read() {
        let mut table = vec![0; 36];
        table.extend(0xfee0_0000u32.to_le_bytes());
        table.extend(1u32.to_le_bytes());
        let cpu = MadtCpu {
            uid: 0,
            apic_id: 4,
            is_enabled: true,
            is_x2apic: false,
        };
        let far = MadtCpu {
            uid: 300,
            apic_id: 0x1234,
            is_enabled: false,
            is_x2apic: true,
        };
        let io_apic = MadtIoApic {
            id: 1,
            address: Hpa::new(0xfec0_0000),
            gsi_base: 0,
        };
        let timer = InterruptOverride {
            bus: 0,
            irq: 0,
            gsi: 2,
            flags: 0,
        };
        let sci = InterruptOverride {
            bus: 0,
            irq: 9,
            gsi: 9,
            flags: 0xf,
        };
        cpu.append_to(&mut table);
        far.append_to(&mut table);
        table.extend(io_apic.entry());
        table.extend(timer.entry());
        table.extend(sci.entry());
        table.extend([4, 6, 0xff, 0, 0, 1]);
        let madt = Madt::parse(&table).unwrap();
        assert_eq!(madt.lapic_address, Hpa::new(0xfee0_0000));
        assert!(madt.has_pics);
        assert_eq!(madt.cpus, [cpu, far]);
        assert_eq!(madt.io_apics, [io_apic]);
        assert_eq!(madt.overrides, [timer, sci]);
        assert_eq!(madt.isa_interrupt(9).trigger(), Trigger::Level);
        assert_eq!(madt.isa_interrupt(9).polarity(), Polarity::Low);
        assert_eq!(madt.isa_interrupt(0).gsi, 2);
        assert_eq!(madt.isa_interrupt(14), InterruptOverride::identity(14));
    }

    #[test]
    fn entry_without_size_ends_the_table() {
        let mut table = vec![0; 44];
        table.extend([0, 0, 1, 1, 1, 1, 1, 1]);
        assert_eq!(Madt::parse(&table).unwrap().cpus, []);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Madt::parse(&bytes);
        }
    }
}
