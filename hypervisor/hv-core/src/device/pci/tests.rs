//! A network card with MSI-X and MSI, and what dom0 may do to it.

use proptest::prelude::*;

use super::*;
use crate::device::message::Target;

const NIC: Bdf = Bdf(3 << 3);
const OWNED: Bdf = Bdf(4 << 3);

/// Plain configuration space of [`NIC`] and [`OWNED`]; others do not answer.
struct Machine {
    space: [u8; 256],
    writes: usize,
}

impl ConfigSpace for Machine {
    fn read(&mut self, function: Bdf, offset: u8, size: u8) -> u32 {
        assert!(offset % 4 + size <= 4);
        let mut bytes = [0; 4];
        for (i, byte) in bytes.iter_mut().take(usize::from(size)).enumerate() {
            *byte = match function {
                NIC | OWNED => self.space[usize::from(offset) + i],
                _ => 0xff,
            };
        }
        u32::from_le_bytes(bytes)
    }
    fn write(&mut self, function: Bdf, offset: u8, size: u8, value: u32) {
        assert!(offset % 4 + size <= 4 && function != OWNED);
        self.writes += 1;
        for (i, byte) in value
            .to_le_bytes()
            .iter()
            .take(usize::from(size))
            .enumerate()
        {
            self.space[usize::from(offset) + i] = *byte;
        }
    }
}

/// List: power management at 0x50, MSI-X at 0x60, MSI at 0x70 with this control word.
fn machine(msi_control: u16) -> Machine {
    let mut space = [0; 256];
    space[..8].copy_from_slice(&[0x86, 0x80, 0x0e, 0x10, 0, 0, 0x10, 0]);
    space[0x34] = 0x50;
    space[0x50..0x52].copy_from_slice(&[1, 0x60]);
    space[0x60..0x64].copy_from_slice(&[0x11, 0x70, 3, 0]);
    space[0x70..0x72].copy_from_slice(&[5, 0]);
    space[0x72..0x74].copy_from_slice(&msi_control.to_le_bytes());
    Machine { space, writes: 0 }
}

struct Dom0(PciConfig, Machine);

impl Dom0 {
    fn new(msi_control: u16) -> Self {
        Self(PciConfig::new(&[OWNED]), machine(msi_control))
    }
    fn select(&mut self, function: Bdf, offset: u8) -> u16 {
        let address = 0x8000_0000 | u32::from(function.0) << 8 | u32::from(offset);
        let effect = self.0.write_port(0xcf8, 4, address, &mut self.1);
        assert_eq!(effect, PciEffect::None);
        0xcfc + u16::from(offset & 3)
    }
    fn read(&mut self, function: Bdf, offset: u8, size: u8) -> u32 {
        let port = self.select(function, offset);
        self.0.read_port(port, size, &mut self.1)
    }
    fn write(&mut self, offset: u8, size: u8, value: u32) -> PciEffect {
        let port = self.select(NIC, offset);
        self.0.write_port(port, size, value, &mut self.1)
    }
}

#[test]
fn ordinary_registers_pass_at_every_width() {
    let mut dom0 = Dom0::new(0x80);
    assert_eq!(dom0.read(NIC, 0, 4), 0x100e_8086);
    assert_eq!(dom0.read(NIC, 2, 2), 0x100e);
    assert_eq!(dom0.read(NIC, 1, 1), 0x80);
    assert_eq!(dom0.write(0x10, 4, 0xfebc_0000), PciEffect::None);
    assert_eq!(dom0.read(NIC, 0x10, 4), 0xfebc_0000);
    assert_eq!(dom0.0.read_port(0xcf8, 4, &mut dom0.1), 0x8000_1810);
}

#[test]
fn owned_and_missing_functions_read_all_ones() {
    let mut dom0 = Dom0::new(0x80);
    assert_eq!(dom0.read(OWNED, 0, 4), 0xffff_ffff);
    assert_eq!(dom0.read(Bdf(5 << 3), 0, 2), 0xffff);
    let port = dom0.select(OWNED, 4);
    let effect = dom0.0.write_port(port, 4, 7, &mut dom0.1);
    assert_eq!((effect, dom0.1.writes), (PciEffect::None, 0));
}

#[test]
fn a_disabled_latch_and_crossing_accesses_reach_nothing() {
    let mut dom0 = Dom0::new(0x80);
    let _ = dom0
        .0
        .write_port(0xcf8, 4, u32::from(NIC.0) << 8, &mut dom0.1);
    assert_eq!(dom0.0.read_port(0xcfc, 4, &mut dom0.1), 0xffff_ffff);
    dom0.select(NIC, 0);
    assert_eq!(dom0.0.read_port(0xcff, 2, &mut dom0.1), 0xffff);
    assert_eq!(dom0.0.read_port(0xcfd, 2, &mut dom0.1), 0x0e80);
    assert_eq!(dom0.0.read_port(0xcf8, 1, &mut dom0.1), 0xff);
}

#[test]
fn the_list_leads_around_msix_and_its_control_cannot_be_written() {
    let mut dom0 = Dom0::new(0x80);
    assert_eq!(dom0.read(NIC, 0x34, 1), 0x50);
    assert_eq!(dom0.read(NIC, 0x50, 2), 0x7001);
    assert_eq!(dom0.write(0x62, 2, 0x8000), PciEffect::None);
    assert_eq!(dom0.1.space[0x63], 0);
}

#[test]
fn enabling_msi_asks_for_a_host_vector_and_the_guests_stays_ours() {
    for (control, data) in [(0x18au16, 0x7c), (0x0a, 0x78)] {
        let mut dom0 = Dom0::new(control);
        let visible = u32::from(control) & 0x180;
        assert_eq!(dom0.read(NIC, 0x72, 2), visible); // one vector
        assert_eq!(dom0.write(0x74, 4, 0xfee0_2000), PciEffect::None);
        assert_eq!(dom0.write(data, 2, 0x0031), PciEffect::None);
        let PciEffect::MsiRouted(NIC, message) = dom0.write(0x72, 2, 1) else {
            panic!("not routed");
        };
        assert_eq!(
            (message.vector, message.target),
            (0x31, Target::Physical(2))
        );
        assert_eq!(dom0.1.space[0x74..0x80], [0; 12]);
        let host = MsiMessage {
            address: 0xfee0_0000,
            data: 0xb7,
        };
        dom0.0.program_msi(NIC, host, &mut dom0.1);
        assert_eq!(dom0.1.space[0x72] & 1, 1);
        assert_eq!(dom0.1.space[0x74..0x78], [0, 0, 0xe0, 0xfe]);
        assert_eq!(dom0.1.space[usize::from(data)], 0xb7);
        assert_eq!(dom0.read(NIC, 0x74, 4), 0xfee0_2000);
        assert_eq!(dom0.read(NIC, data, 2), 0x31);
        assert_eq!(dom0.read(NIC, 0x72, 2), visible | 1);
        assert_eq!(dom0.write(0x72, 2, 0), PciEffect::MsiOff(NIC));
        assert_eq!(dom0.1.space[0x72] & 1, 0);
    }
}

#[test]
fn a_new_affinity_changes_the_route_only() {
    let mut dom0 = Dom0::new(0x80);
    let _ = dom0.write(0x74, 4, 0xfee0_0000);
    let _ = dom0.write(0x7c, 2, 0x41);
    assert!(matches!(dom0.write(0x72, 2, 1), PciEffect::MsiRouted(..)));
    let writes = dom0.1.writes;
    assert!(matches!(
        dom0.write(0x74, 4, 0xfee0_4000),
        PciEffect::MsiRouted(NIC, m) if m.target == Target::Physical(4)
    ));
    assert_eq!(dom0.write(0x74, 4, 0xfee0_4000), PciEffect::None);
    assert_eq!(dom0.1.writes, writes);
}

#[test]
fn an_address_that_is_no_interrupt_is_never_programmed() {
    let mut dom0 = Dom0::new(0x80);
    let _ = dom0.write(0x74, 4, 0x1000);
    assert_eq!(dom0.write(0x72, 2, 1), PciEffect::None);
    let host = MsiMessage {
        address: 0xfee0_0000,
        data: 1,
    };
    dom0.0.program_msi(NIC, host, &mut dom0.1);
    assert_eq!(dom0.1.writes, 0);
}

#[test]
fn what_firmware_left_enabled_is_switched_off() {
    let mut dom0 = Dom0::new(0x81);
    assert_eq!(dom0.read(NIC, 0x72, 2), 0x80);
    assert_eq!(dom0.1.space[0x72] & 1, 0);
}

proptest! {
    /// Whatever dom0 writes, the device's MSI registers hold only what `program_msi` gave them, and reads that are
    /// not of virtual registers show the device.
    #[test]
    fn the_guests_message_never_reaches_the_device(
        space in proptest::collection::vec(any::<u8>(), 256),
        control in any::<u16>(),
        accesses in proptest::collection::vec((any::<u8>(), 0usize..3, any::<u32>()), 0..80),
    ) {
        let mut dom0 = Dom0::new(control);
        dom0.1.space[0x80..].copy_from_slice(&space[0x80..]);
        dom0.read(NIC, 0, 4);
        let before = dom0.1.space;
        for (offset, size, value) in accesses {
            let size = [1, 2, 4][size];
            let offset = offset & !(size - 1);
            // Not the list itself, or it would be another device.
            if offset < 8 || matches!(offset, 0x34..=0x37 | 0x4c..=0x53) {
                continue;
            }
            let _ = dom0.write(offset, size, value);
            let _ = dom0.read(NIC, offset, size);
        }
        let end = if control & 0x80 != 0 { 0x7e } else { 0x7a };
        prop_assert_eq!(&dom0.1.space[0x74..end], &before[0x74..end]);
        prop_assert_eq!(dom0.1.space[0x72] & 1, 0);
        prop_assert_eq!(&dom0.1.space[0x60..0x6c], &before[0x60..0x6c]);
    }

    #[test]
    fn any_configuration_space_can_be_searched(space in proptest::collection::vec(any::<u8>(), 256), offset in any::<u8>()) {
        let mut dom0 = Dom0::new(0);
        dom0.1.space.copy_from_slice(&space);
        dom0.read(NIC, offset, 1);
        let _ = dom0.write(offset, 1, 0xff);
    }
}

#[test]
fn configuration_space_in_memory_is_filtered_as_through_the_ports() {
    let mut dom0 = Dom0::new(0);
    for offset in 0..0x80u8 {
        let by_port = dom0.read(NIC, offset, 1);
        let Dom0(config, machine) = &mut dom0;
        let offset = u16::from(offset);
        assert_eq!(config.read_memory(NIC, offset, 1, machine), by_port);
        assert_eq!(config.read_memory(OWNED, offset, 1, machine), 0xff);
        assert_eq!(config.read_memory(NIC, offset + 0x100, 1, machine), 0xff);
    }
    let Dom0(config, machine) = &mut dom0;
    // no double word holds these
    assert_eq!(config.read_memory(NIC, 2, 4, machine), u32::MAX);
    assert_eq!(config.read_memory(NIC, 0, 8, machine), u32::MAX);
    // the hidden capability's place takes nothing
    let writes = machine.writes;
    let _ = config.write_memory((NIC, 0x60, 4), 0, machine);
    let _ = config.write_memory((OWNED, 4, 2), 7, machine);
    assert_eq!(machine.writes, writes);
    let _ = config.write_memory((NIC, 4, 2), 7, machine);
    assert_eq!(machine.space[4], 7);
}
