//! A domain's devices: for dom0 the virtual I/O APICs, one for each real one, and PCI configuration.

use alloc::vec::Vec;

use hv_core::addr::{Gpa, Hpa, PAGE_SIZE};
use hv_core::device::ioapic::{IoApic, PinEffect, Raised};
use hv_core::device::pci::{Bdf, PciConfig};
use hv_core::device::routes::Routes;
use hv_core::firmware::acpi::McfgRange;

/// What a domain's accesses to devices go through.
#[derive(Debug)]
pub(crate) struct Devices {
    /// I/O APICs, by first GSI.
    pub ioapics: Vec<VirtualIoApic>,
    /// PCI configuration space; `None` for domains without PCI.
    pub pci: Option<PciConfig>,
    /// Where configuration space is in memory: accesses exit, and go through `pci`.
    pub mcfg: Vec<McfgRange>,
    /// What comes of the messages that devices send.
    pub routes: Routes,
}

/// A virtual I/O APIC and where it is.
#[derive(Debug)]
pub(crate) struct VirtualIoApic {
    pub base: Gpa,
    /// Its first global system interrupt.
    pub first_gsi: u32,
    pub chip: IoApic,
}

impl Devices {
    /// A domain without devices.
    #[must_use]
    pub(crate) fn none() -> Self {
        Self {
            ioapics: Vec::new(),
            pci: None,
            mcfg: Vec::new(),
            routes: Routes::none(),
        }
    }

    /// The I/O APIC whose page holds `gpa`, with the offset into it.
    pub(crate) fn ioapic_at(&mut self, gpa: Gpa) -> Option<(&mut VirtualIoApic, u64)> {
        let page = gpa.align_down(PAGE_SIZE);
        let ioapic = self
            .ioapics
            .iter_mut()
            .find(|ioapic| ioapic.base.align_down(PAGE_SIZE) == page)?;
        let offset = gpa.as_u64().wrapping_sub(ioapic.base.as_u64());
        Some((ioapic, offset))
    }

    /// The function and offset of an address in configuration space.
    #[must_use]
    pub(crate) fn config_at(&self, gpa: Gpa) -> Option<(Bdf, u16)> {
        let at = Hpa::new(gpa.as_u64());
        self.mcfg.iter().find_map(|range| range.locate(at))
    }

    /// Takes an interrupt of the real line `gsi`.
    pub(crate) fn raise(&mut self, gsi: u32) -> Option<Raised> {
        let ioapic = self.ioapics.iter_mut().find(|ioapic| ioapic.has(gsi))?;
        let pin = u8::try_from(gsi - ioapic.first_gsi).ok()?;
        Some(ioapic.chip.raise(pin))
    }

    /// Notes that no vCPU took the interrupt of line `gsi`.
    pub(crate) fn undelivered(&mut self, gsi: u32) {
        if let Some(ioapic) = self.ioapics.iter_mut().find(|ioapic| ioapic.has(gsi))
            && let Ok(pin) = u8::try_from(gsi - ioapic.first_gsi)
        {
            ioapic.chip.undelivered(pin);
        }
    }

    /// Takes the EOI of `vector`: calls `apply` with the first GSI of the I/O APIC and what becomes of its pins.
    pub(crate) fn eoi(&mut self, vector: u8, mut apply: impl FnMut(u32, PinEffect)) {
        for ioapic in &mut self.ioapics {
            let first = ioapic.first_gsi;
            ioapic.chip.eoi(vector, |effect| apply(first, effect));
        }
    }
}

impl VirtualIoApic {
    fn has(&self, gsi: u32) -> bool {
        gsi.checked_sub(self.first_gsi)
            .is_some_and(|pin| pin < u32::from(self.chip.pins()))
    }
}
