//! Which I/O ports of a domain exit, and who answers: one table, read by the bitmap's builder and by the exit handler.
//!
//! dom0 owns the machine's devices, so its ports pass, except the few that the hypervisor drives itself or must see. A
//! guest owns none: every port exits. An access of several bytes that touches a port of ours belongs to that port's
//! owner as a whole, so that nothing of it reaches the hardware.
//! Source: Intel SDM vol. 3C, "I/O-Bitmap Addresses".

use arrayvec::ArrayVec;

/// Who answers an access to a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortOwner {
    /// The hardware itself: the access does not exit.
    Hardware,
    /// Nobody: reads are [`all_ones`], writes are dropped. PIC, PIT, the hypervisor's UART.
    Absent,
    /// Ports 0xCF8–0xCFF less 0xCF9: [`super::pci`].
    PciConfig,
    /// Port 0xE9: debug output of the guest, a byte each; reads answer 0xE9.
    DebugConsole,
    /// A PM1 control register: [`sleep_type`] says whether a write ends the machine; the rest is for the hardware.
    Pm1Control,
    /// The reset register (0xCF9 or the FADT's): a write may reset the machine.
    Reset,
}

/// Bytes of the two I/O bitmaps: a bit per port, set where it exits.
pub const BITMAP_BYTES: usize = 8192;

/// Ports that depend on the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MachinePorts {
    /// First of the 8 ports of the UART that the hypervisor owns.
    pub uart: Option<u16>,
    pub pm1a_control: Option<u16>,
    pub pm1b_control: Option<u16>,
    /// The FADT's reset register, where it is a port.
    pub reset: Option<u16>,
}

/// Ports `first` to `last` and who answers them.
#[derive(Clone, Copy, Debug)]
struct Range {
    first: u16,
    last: u16,
    owner: PortOwner,
}

const fn range(first: u16, last: u16, owner: PortOwner) -> Range {
    Range { first, last, owner }
}

/// What dom0 never has to itself. The first range that fits counts: the reset register lies among the PCI ports.
const ALWAYS: [Range; 8] = [
    range(0xcf9, 0xcf9, PortOwner::Reset),
    range(0xcf8, 0xcff, PortOwner::PciConfig),
    range(0xe9, 0xe9, PortOwner::DebugConsole),
    range(0x20, 0x21, PortOwner::Absent),   // PIC
    range(0xa0, 0xa1, PortOwner::Absent),   // PIC
    range(0x4d0, 0x4d1, PortOwner::Absent), // trigger modes of the PIC
    range(0x40, 0x43, PortOwner::Absent),   // PIT
    range(0x61, 0x61, PortOwner::Absent),   // PIT gate, NMI status
];
/// Machine ports beside them.
const MACHINE: usize = 4;

/// Which ports exit and who answers them.
#[derive(Clone, Debug)]
pub struct PortMap {
    ranges: ArrayVec<Range, { ALWAYS.len() + MACHINE }>,
    others: PortOwner,
}

impl PortMap {
    /// dom0: everything is the hardware's except what the hypervisor owns.
    #[must_use]
    pub fn dom0(machine: &MachinePorts) -> Self {
        let mut ranges: ArrayVec<_, _> = ALWAYS.into_iter().collect();
        let mut add = |first: Option<u16>, ports: u16, owner| {
            if let Some(first) = first {
                ranges.push(range(first, first.saturating_add(ports - 1), owner));
            }
        };
        add(machine.uart, 8, PortOwner::Absent);
        add(machine.pm1a_control, 2, PortOwner::Pm1Control);
        add(machine.pm1b_control, 2, PortOwner::Pm1Control);
        add(machine.reset, 1, PortOwner::Reset);
        Self {
            ranges,
            others: PortOwner::Hardware,
        }
    }

    /// A guest without devices: every port exits and only the debug console answers.
    #[must_use]
    pub fn guest() -> Self {
        Self {
            ranges: [range(0xe9, 0xe9, PortOwner::DebugConsole)]
                .into_iter()
                .collect(),
            others: PortOwner::Absent,
        }
    }

    /// Who answers an access of `size` (1, 2 or 4) bytes at `port`.
    #[must_use]
    pub fn owner(&self, port: u16, size: u8) -> PortOwner {
        let last = port.saturating_add(u16::from(size).saturating_sub(1));
        let owned = |port: u16| {
            let range = self
                .ranges
                .iter()
                .find(|r| r.first <= port && port <= r.last);
            range.map_or(self.others, |r| r.owner)
        };
        match owned(port) {
            // It starts in the hardware's ports and reaches into ours.
            PortOwner::Hardware if self.touches(port, last) => PortOwner::Absent,
            owner => owner,
        }
    }

    /// Writes the two I/O bitmaps, A (ports below 0x8000) before B.
    pub fn write_bitmap(&self, bitmap: &mut [u8; BITMAP_BYTES]) {
        let exits = self.others != PortOwner::Hardware;
        bitmap.fill(if exits { 0xff } else { 0 });
        for port in self.ranges.iter().flat_map(|r| r.first..=r.last) {
            if let Some(byte) = bitmap.get_mut(usize::from(port >> 3)) {
                *byte |= 1 << (port & 7);
            }
        }
    }

    fn touches(&self, first: u16, last: u16) -> bool {
        let overlaps = |r: &Range| r.first <= last && first <= r.last;
        self.ranges.iter().any(overlaps)
    }
}

/// What an absent port reads: all ones in `size` (1, 2 or 4) bytes.
#[must_use]
pub const fn all_ones(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => 0xffff_ffff,
    }
}

/// SLP_TYP of a write to a PM1 control register where it also sets SLP_EN, which puts the machine to sleep or off.
///
/// Source: ACPI specification, "PM1 Control Registers". Which type means "off" stands in the DSDT, for the writer to
/// know.
#[must_use]
pub fn sleep_type(value: u32) -> Option<u8> {
    const SLP_EN: u32 = 1 << 13;
    let [_, high, ..] = value.to_le_bytes();
    (value & SLP_EN != 0).then_some((high >> 2) & 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bochs() -> PortMap {
        PortMap::dom0(&MachinePorts {
            uart: Some(0x3f8),
            pm1a_control: Some(0xb004),
            pm1b_control: None,
            reset: Some(0xcf9),
        })
    }

    #[test]
    fn ports_that_the_hypervisor_drives_are_absent_and_devices_are_not() {
        let map = bochs();
        for port in [
            0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x43, 0x61, 0x3f8, 0x3ff,
        ] {
            assert_eq!(map.owner(port, 1), PortOwner::Absent, "{port:#x}");
        }
        for port in [
            0x22, 0x44, 0x60, 0x64, 0x70, 0x71, 0x80, 0x1f0, 0x3f6, 0x2f8, 0xb008, 0xffff,
        ] {
            assert_eq!(map.owner(port, 1), PortOwner::Hardware, "{port:#x}");
        }
        assert_eq!(map.owner(0xcf8, 4), PortOwner::PciConfig);
        assert_eq!(map.owner(0xcfe, 2), PortOwner::PciConfig);
        assert_eq!(map.owner(0xcf9, 1), PortOwner::Reset);
        assert_eq!(map.owner(0xe9, 1), PortOwner::DebugConsole);
        assert_eq!(map.owner(0xb004, 2), PortOwner::Pm1Control);
    }

    #[test]
    fn wide_accesses_do_not_slip_past_an_owned_port() {
        let map = bochs();
        assert_eq!(map.owner(0x1f, 2), PortOwner::Absent);
        assert_eq!(map.owner(0x3f5, 4), PortOwner::Absent);
        assert_eq!(map.owner(0x3f4, 4), PortOwner::Hardware);
        assert_eq!(map.owner(0xffff, 4), PortOwner::Hardware);
    }

    #[test]
    fn the_bitmap_is_set_exactly_where_a_port_is_not_the_hardwares() {
        for map in [bochs(), PortMap::guest()] {
            let mut bitmap = [0x55; BITMAP_BYTES];
            map.write_bitmap(&mut bitmap);
            for port in 0..=u16::MAX {
                let bit = bitmap[usize::from(port / 8)] >> (port % 8) & 1;
                let exits = map.owner(port, 1) != PortOwner::Hardware;
                assert_eq!(bit == 1, exits, "{port:#x}");
            }
        }
    }

    #[test]
    fn a_guest_reaches_no_hardware() {
        let map = PortMap::guest();
        assert!((0..=u16::MAX).all(|p| map.owner(p, 4) != PortOwner::Hardware));
        assert_eq!(map.owner(0xe9, 1), PortOwner::DebugConsole);
        assert_eq!(all_ones(2), 0xffff);
    }

    #[test]
    fn only_sleep_enable_ends_the_machine() {
        assert_eq!(sleep_type(0x1401), None);
        assert_eq!(sleep_type(0x3401), Some(5));
        assert_eq!(sleep_type(0x2000), Some(0));
    }
}
