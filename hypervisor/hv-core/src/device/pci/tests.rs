//! A network card with MSI, MSI-X and virtual functions, and what dom0 may do to it.

mod model;

use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::addr::PAGE_SIZE;
use crate::device::message::{InterruptMessage, Target};

const NIC: Bdf = Bdf(3 << 3);
const OWNED: Bdf = Bdf(4 << 3);
const BRIDGE: Bdf = Bdf(5 << 3);
/// Behind the bridge.
const DISK: Bdf = Bdf(7 << 8);

/// Addresses of devices' memory.
const DEVICES: core::ops::Range<u64> = 0x8000_0000..0x9000_0000;
/// Where firmware put BAR 0 of [`NIC`].
const BAR: u32 = 0x8010_0000;
/// The table and the pending bits in it: they share their page with other registers.
const TABLE: u32 = 0x1800;
const PENDING: u32 = 0x1c00;
const ENTRIES: usize = 3;

const MSI: u16 = 0x70;
const MSIX: u16 = 0x60;

/// Plain configuration space of [`NIC`] (also behind the other names), and memory of devices.
struct Machine {
    space: Vec<u8>,
    disk: Vec<u8>,
    memory: Vec<u8>,
    /// The low bits of the BAR.
    bar_type: u8,
    /// The bus behind the bridge.
    behind: u8,
    writes: usize,
    refused: Vec<u8>,
}

impl Machine {
    fn new(msi_control: u16) -> Self {
        let mut space = vec![0; 4096];
        space[..8].copy_from_slice(&[0x86, 0x80, 0x0e, 0x10, 2, 0, 0x10, 0]);
        space[0x10..0x14].copy_from_slice(&(BAR | 4).to_le_bytes());
        space[0x34] = 0x50;
        space[0x50..0x52].copy_from_slice(&[1, 0x60]);
        space[0x60..0x64].copy_from_slice(&[0x11, 0x70, 2, 0]);
        space[0x64..0x68].copy_from_slice(&TABLE.to_le_bytes());
        space[0x68..0x6c].copy_from_slice(&PENDING.to_le_bytes());
        space[0x70..0x72].copy_from_slice(&[5, 0x90]);
        space[0x72..0x74].copy_from_slice(&msi_control.to_le_bytes());
        space[0x90] = 0x10;
        for (at, id, next) in [(0x100, 1, 0x140), (0x140, 0x10, 0x180), (0x180, 3, 0)] {
            space[at..at + 4].copy_from_slice(&header(id, next).to_le_bytes());
        }
        let mut disk = space.clone();
        disk[0x12] = 0x40;
        Self {
            disk,
            space,
            memory: vec![0; 4096],
            bar_type: 4,
            behind: 7,
            writes: 0,
            refused: Vec::new(),
        }
    }

    fn space_of(&mut self, function: Bdf) -> Option<&mut Vec<u8>> {
        match function {
            NIC | OWNED => Some(&mut self.space),
            _ if function.0 == u16::from(self.behind) << 8 => Some(&mut self.disk),
            _ => None,
        }
    }

    /// The place of device memory in the page with the table, wherever that page is.
    fn place(at: Hpa) -> usize {
        at.page_offset()
    }

    fn word(&self, at: u64) -> u32 {
        let at = Self::place(Hpa::new(at));
        u32::from_le_bytes(self.memory[at..at + 4].try_into().unwrap())
    }

    fn entry(&self, index: usize) -> [u32; 4] {
        core::array::from_fn(|i| self.word(u64::from(TABLE) + (index * 16 + i * 4) as u64))
    }

    fn control(&self, at: u16) -> u16 {
        let at = usize::from(at);
        u16::from_le_bytes([self.space[at], self.space[at + 1]])
    }
}

const fn header(id: u32, next: u32) -> u32 {
    next << 20 | 1 << 16 | id
}

impl PciMachine for Machine {
    fn read(&mut self, function: Bdf, offset: u16, size: u8) -> u32 {
        assert!((offset & 3) as u8 + size <= 4);
        if function == BRIDGE {
            let header: [(u16, u8); 4] = [(0, 0x86), (1, 0x80), (0xe, 1), (0x19, self.behind)];
            let byte = |at: u16| {
                let found = header.iter().find(|(offset, _)| *offset == at);
                found.map_or(if at == 0x1a { self.behind } else { 0 }, |(_, byte)| *byte)
            };
            let bytes = core::array::from_fn(|i| {
                let i = u16::try_from(i).unwrap();
                if i < u16::from(size) {
                    byte(offset + i)
                } else {
                    0
                }
            });
            return u32::from_le_bytes(bytes);
        }
        let Some(space) = self.space_of(function) else {
            return all_ones(size);
        };
        let mut bytes = [0; 4];
        let at = usize::from(offset);
        bytes[..usize::from(size)].copy_from_slice(&space[at..at + usize::from(size)]);
        u32::from_le_bytes(bytes)
    }
    fn write(&mut self, function: Bdf, offset: u16, size: u8, value: u32) {
        assert!((offset & 3) as u8 + size <= 4 && function != OWNED);
        self.writes += 1;
        if function == BRIDGE {
            assert_eq!((offset, size), (0x18, 4));
            self.behind = value.to_le_bytes()[1];
            return;
        }
        let (at, bar_type) = (usize::from(offset), self.bar_type);
        if let Some(space) = self.space_of(function) {
            let bytes = value.to_le_bytes();
            space[at..at + usize::from(size)].copy_from_slice(&bytes[..usize::from(size)]);
            // read-only bits: those of a BAR of 8 KiB, and the number of entries
            space[0x10] = bar_type;
            space[0x11] &= 0xe0;
            let control = usize::from(MSIX) + 2;
            space[control] = 2;
            space[control + 1] &= 0xc0;
        }
    }
    fn load(&mut self, at: Hpa, size: u8) -> u64 {
        assert!(at.as_u64().is_multiple_of(size.into()));
        let mut bytes = [0; 8];
        let at = Self::place(at);
        bytes[..usize::from(size)].copy_from_slice(&self.memory[at..at + usize::from(size)]);
        u64::from_le_bytes(bytes)
    }
    fn store(&mut self, at: Hpa, size: u8, value: u64) {
        assert!(at.as_u64().is_multiple_of(size.into()));
        assert!(DEVICES.contains(&at.as_u64()));
        let at = Self::place(at);
        let bytes = value.to_le_bytes();
        self.memory[at..at + usize::from(size)].copy_from_slice(&bytes[..usize::from(size)]);
    }
    fn is_device_memory(&self, frames: MfnRange) -> bool {
        DEVICES.start <= frames.start.base().as_u64() && frames.end.base().as_u64() <= DEVICES.end
    }
    fn message(&self, vector: u8) -> MsiMessage {
        MsiMessage {
            address: 0xfee0_3000,
            data: vector.into(),
        }
    }
    fn out_of_vectors(&mut self, function: Bdf, wanted: u8) {
        assert_eq!(function, NIC);
        self.refused.push(wanted);
    }
}

/// dom0 and the machine under it.
struct Dom0 {
    pci: PciConfig,
    machine: Machine,
    routes: Routes,
    /// Frames that dom0 does not reach.
    kept: Vec<MfnRange>,
}

impl Dom0 {
    fn new(msi_control: u16) -> Self {
        Self::with_vectors(msi_control, 0x48..=0xdf)
    }
    fn with_vectors(msi_control: u16, vectors: core::ops::RangeInclusive<u8>) -> Self {
        let mut dom0 = Self {
            pci: PciConfig::new(&[OWNED]),
            machine: Machine::new(msi_control),
            routes: Routes::new(vectors),
            kept: Vec::new(),
        };
        dom0.on(PciConfig::scan);
        dom0.keep();
        dom0
    }
    /// dom0 touches everything that it may reach.
    fn touch(&mut self) {
        self.kept.retain(|frames| self.pci.has_table_in(*frames));
    }
    fn on<R>(&mut self, access: impl FnOnce(&mut PciConfig, &mut Host<'_, Machine>) -> R) -> R {
        let mut host = Host {
            machine: &mut self.machine,
            routes: &mut self.routes,
        };
        access(&mut self.pci, &mut host)
    }
    /// Takes dom0 away from where tables have moved to.
    fn keep(&mut self) {
        while let Some((function, frames)) = self.pci.next_moved() {
            self.kept.push(frames);
            self.on(|pci, host| pci.moved((function, frames), host));
        }
    }
    fn select(&mut self, function: Bdf, offset: u16) -> u16 {
        let address = 0x8000_0000 | u32::from(function.0) << 8 | u32::from(offset);
        self.on(|pci, host| pci.write_port(0xcf8, 4, address, host));
        0xcfc + (offset & 3)
    }
    fn read(&mut self, function: Bdf, offset: u16, size: u8) -> u32 {
        let port = self.select(function, offset);
        self.on(|pci, host| pci.read_port(port, size, host))
    }
    fn write(&mut self, offset: u16, size: u8, value: u32) {
        let port = self.select(NIC, offset);
        self.on(|pci, host| pci.write_port(port, size, value, host));
    }
    fn load(&mut self, at: u32, size: u8) -> Option<u64> {
        self.on(|pci, host| pci.load(Hpa::new(at.into()), size, host))
    }
    fn store(&mut self, at: u32, size: u8, value: u64) -> bool {
        self.on(|pci, host| pci.store(Hpa::new(at.into()), (size, value), host))
    }
    /// Sets an entry of the table as a driver does: message, then mask.
    fn set_entry(&mut self, index: u32, vector: u32, control: u32) {
        let entry = BAR + TABLE + index * 16;
        for (at, word) in [(0, 0xfee0_2000), (4, 0), (8, vector), (12, control)] {
            assert!(self.store(entry + at, 4, word.into()));
        }
    }
    fn message(&self, vector: u32) -> Option<InterruptMessage> {
        self.routes.message(u8::try_from(vector).unwrap())
    }
    /// The device forgets all that it was told.
    fn reset_device(&mut self) {
        let space = Machine::new(self.machine.control(MSI + 2) & !0x71).space;
        self.machine.space = space;
        self.machine.space[4] = 0;
        self.machine.space[0x10..0x18].copy_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0]);
        self.machine.memory.fill(0);
    }
}

fn message(destination: u64, vector: u32) -> Option<InterruptMessage> {
    InterruptMessage::from_msi(0xfee0_0000 | destination << 12, vector)
}

#[test]
fn ordinary_registers_pass_at_every_width() {
    let mut dom0 = Dom0::new(0x80);
    assert_eq!(dom0.read(NIC, 0, 4), 0x100e_8086);
    assert_eq!(dom0.read(NIC, 2, 2), 0x100e);
    assert_eq!(dom0.read(NIC, 1, 1), 0x80);
    dom0.write(0x18, 4, 0xfebc_0000);
    assert_eq!(dom0.read(NIC, 0x18, 4), 0xfebc_0000);
    assert_eq!(
        dom0.on(|pci, host| pci.read_port(0xcf8, 4, host)),
        0x8000_1818
    );
}

#[test]
fn owned_and_missing_functions_read_all_ones() {
    let mut dom0 = Dom0::new(0x80);
    assert_eq!(dom0.read(OWNED, 0, 4), 0xffff_ffff);
    assert_eq!(dom0.read(Bdf(9 << 3), 0, 2), 0xffff);
    let port = dom0.select(OWNED, 4);
    let writes = dom0.machine.writes;
    dom0.on(|pci, host| pci.write_port(port, 4, 7, host));
    assert_eq!(dom0.machine.writes, writes);
    assert!(!dom0.on(|pci, host| pci.is_there(OWNED, host)));
    assert!(dom0.on(|pci, host| pci.is_there(NIC, host)));
}

#[test]
fn a_disabled_latch_and_crossing_accesses_reach_nothing() {
    let mut dom0 = Dom0::new(0x80);
    let address = u32::from(NIC.0) << 8;
    dom0.on(|pci, host| pci.write_port(0xcf8, 4, address, host));
    let mut read = |port, size| dom0.on(|pci, host| pci.read_port(port, size, host));
    assert_eq!(read(0xcfc, 4), 0xffff_ffff);
    dom0.select(NIC, 0);
    let mut read = |port, size| dom0.on(|pci, host| pci.read_port(port, size, host));
    assert_eq!(read(0xcff, 2), 0xffff);
    assert_eq!(read(0xcfd, 2), 0x0e80);
    assert_eq!(read(0xcf8, 1), 0xff);
}

#[test]
fn enabling_msi_takes_a_vector_of_the_host_and_the_guests_stays_ours() {
    for (control, data) in [(0x18au16, 0x7c), (0x0a, 0x78)] {
        let mut dom0 = Dom0::new(control);
        let visible = u32::from(control);
        assert_eq!(dom0.read(NIC, 0x72, 2), visible);
        dom0.write(0x74, 4, 0xfee0_2000);
        dom0.write(data, 2, 0x0031);
        assert_eq!(dom0.machine.space[0x74..0x80], [0; 12]);
        dom0.write(0x72, 2, 1);
        assert_eq!(dom0.message(0x48), message(2, 0x31));
        assert_eq!(dom0.machine.space[0x72] & 0x71, 1);
        assert_eq!(dom0.machine.space[0x74..0x78], [0, 0x30, 0xe0, 0xfe]);
        assert_eq!(dom0.machine.space[usize::from(data)], 0x48);
        assert_eq!(dom0.read(NIC, 0x74, 4), 0xfee0_2000);
        assert_eq!(dom0.read(NIC, data, 2), 0x31);
        assert_eq!(dom0.read(NIC, 0x72, 2), visible | 1);
        // another CPU changes where it is delivered only
        let writes = dom0.machine.writes;
        dom0.write(0x74, 4, 0xfee0_4000);
        assert_eq!(dom0.message(0x48).unwrap().target, Target::Physical(4));
        assert_eq!(dom0.machine.writes, writes);
        dom0.write(0x72, 2, 0);
        assert_eq!(dom0.machine.space[0x72] & 1, 0);
        assert_eq!((dom0.message(0x48), dom0.routes.held()), (None, 0));
    }
}

#[test]
fn several_messages_take_as_many_vectors_in_a_row() {
    // eight are offered; dom0 enables four, then more than there are
    let mut dom0 = Dom0::with_vectors(0x86, 0x4d..=0xdf);
    dom0.write(0x74, 4, 0xfee0_0000);
    dom0.write(0x7c, 2, 0x63);
    dom0.write(0x72, 2, 0x21);
    assert_eq!(dom0.machine.space[0x72] & 0x71, 0x21);
    assert_eq!(dom0.machine.space[0x7c], 0x50);
    let vectors: Vec<u8> = (0x50..0x54)
        .map(|v| dom0.message(v).unwrap().vector)
        .collect();
    assert_eq!(vectors, [0x60, 0x61, 0x62, 0x63]);
    dom0.write(0x72, 2, 0x51);
    assert_eq!(dom0.machine.space[0x72] & 0x71, 0x31);
    assert_eq!(dom0.routes.held(), 8);
    assert_eq!(dom0.read(NIC, 0x72, 2), 0xd7);
}

#[test]
fn without_a_run_of_vectors_messages_stay_off_until_there_is_one() {
    let mut dom0 = Dom0::with_vectors(0x86, 0x48..=0x4b);
    let other = dom0.routes.allocate(1).unwrap();
    dom0.write(0x74, 4, 0xfee0_0000);
    dom0.write(0x72, 2, 0x21);
    assert_eq!(dom0.machine.space[0x72] & 1, 0);
    assert_eq!(dom0.machine.refused, [4]);
    dom0.routes.free(other, 1);
    dom0.write(0x72, 2, 0x21);
    assert_eq!(dom0.machine.space[0x72] & 0x71, 0x21);
}

#[test]
fn an_address_that_is_no_interrupt_is_never_programmed() {
    let mut dom0 = Dom0::new(0x80);
    let writes = dom0.machine.writes;
    dom0.write(0x74, 4, 0x1000);
    dom0.write(0x72, 2, 1);
    assert_eq!(dom0.machine.writes, writes);
    dom0.write(0x62, 2, 0x8000);
    assert!(dom0.store(BAR + TABLE + 12, 4, 0));
    assert_eq!(dom0.machine.entry(0), [0, 0, 0, 1]);
}

#[test]
fn what_firmware_left_enabled_is_switched_off() {
    let mut machine = Machine::new(0x81);
    machine.space[0x63] = 0x80;
    let mut dom0 = Dom0::new(0);
    dom0.machine = machine;
    dom0.pci = PciConfig::new(&[]);
    assert_eq!(dom0.read(NIC, 0x72, 2), 0x80);
    assert_eq!(dom0.read(NIC, 0x62, 2), 2);
    assert_eq!(dom0.machine.space[0x72] & 1, 0);
    assert_eq!(dom0.machine.space[0x63], 0);
}

#[test]
fn entries_of_the_table_get_vectors_of_the_host() {
    let mut dom0 = Dom0::new(0);
    assert_eq!(dom0.read(NIC, 0x60, 4), 0x0002_7011);
    // the driver's order: on with all masked, entries, on
    dom0.write(0x62, 2, 0xc000);
    assert_eq!(dom0.machine.control(0x62), 0xc002);
    assert_eq!(dom0.machine.entry(2), [0, 0, 0, 1]);
    dom0.set_entry(0, 0x31, 0);
    dom0.set_entry(2, 0x32, 0);
    dom0.set_entry(1, 0x33, 1);
    dom0.write(0x62, 2, 0x8000);
    assert_eq!(dom0.machine.control(0x62), 0x8002);
    assert_eq!(dom0.machine.entry(0), [0xfee0_3000, 0, 0x48, 0]);
    assert_eq!(dom0.machine.entry(1), [0, 0, 0, 1]);
    assert_eq!(dom0.machine.entry(2), [0xfee0_3000, 0, 0x49, 0]);
    assert_eq!(dom0.message(0x48), message(2, 0x31));
    assert_eq!(dom0.message(0x49), message(2, 0x32));
    // dom0 reads what it wrote
    assert_eq!(dom0.load(BAR + TABLE, 8), Some(0xfee0_2000));
    assert_eq!(dom0.load(BAR + TABLE + 16 + 8, 8), Some(1 << 32 | 0x33));
    // moved to another CPU: masked, message, unmasked; the vector stays
    dom0.store(BAR + TABLE + 12, 4, 1);
    assert_eq!(dom0.machine.entry(0)[3], 1);
    dom0.store(BAR + TABLE, 8, 0xfee0_5000);
    dom0.store(BAR + TABLE + 8, 8, 0x41);
    assert_eq!(dom0.machine.entry(0), [0xfee0_3000, 0, 0x48, 0]);
    assert_eq!(dom0.message(0x48), message(5, 0x41));
    dom0.write(0x62, 2, 0);
    assert_eq!((dom0.machine.control(0x62), dom0.routes.held()), (2, 0));
}

#[test]
fn running_device_keeps_its_messages_while_other_bits_of_its_command_change() {
    let mut dom0 = Dom0::new(0);
    dom0.set_entry(0, 0x31, 0);
    dom0.write(0x62, 2, 0x8000);
    let entry = dom0.machine.entry(0);
    // bus master; the BAR as it is
    for (offset, size, value) in [(4, 2, 6), (0x10, 4, BAR | 4)] {
        let writes = dom0.machine.writes;
        dom0.write(offset, size, value);
        assert_eq!(
            dom0.machine.writes - writes,
            1,
            "the write itself, and no other"
        );
        assert_eq!(dom0.machine.control(0x62), 0x8002);
        assert_eq!(dom0.machine.entry(0), entry);
    }
}

#[test]
fn the_rest_of_the_tables_page_is_the_devices() {
    let mut dom0 = Dom0::new(0);
    let page = BAR + 0x1000;
    for (size, value) in [(1, 0x11), (2, 0x2222), (4, 0x3333_3333), (8, 0x44)] {
        assert!(dom0.store(page + 0x20, size, value));
        assert_eq!(dom0.load(page + 0x20, size), Some(value));
        assert_eq!(dom0.machine.load(Hpa::new(0x20), size), value);
    }
    // what waits is the device's to say, and nobody's to write
    dom0.machine.memory[0xc00] = 5;
    assert!(dom0.store(BAR + PENDING, 8, 0));
    assert_eq!(dom0.load(BAR + PENDING, 8), Some(5));
    // behind both
    assert!(dom0.store(BAR + PENDING + 8, 4, 9));
    assert_eq!(dom0.machine.word(0xc08), 9);
    // other widths are no access to the table
    for (at, size) in [(0, 1), (0, 2), (4, 8), (12, 8), (2, 4)] {
        assert!(dom0.store(BAR + TABLE + at, size, 0xff));
        assert_eq!(dom0.load(BAR + TABLE + at, size), Some(u64::MAX));
    }
    assert_eq!(dom0.load(BAR + TABLE, 8), Some(0));
    // other pages are dom0's own
    assert_eq!(dom0.load(BAR, 4), None);
    assert!(!dom0.store(BAR + 0x2000, 4, 0));
    let of = |at: u32| {
        let frame = Mfn::containing(Hpa::new(at.into()));
        MfnRange::new(frame, frame + 1)
    };
    assert!(dom0.pci.has_table_in(of(page)));
    assert!(!dom0.pci.has_table_in(of(BAR)) && !dom0.pci.has_table_in(of(BAR + 0x2000)));
}

#[test]
fn a_table_that_moves_is_off_until_dom0_is_kept_from_it() {
    let mut dom0 = Dom0::new(0);
    dom0.write(0x62, 2, 0x8000);
    dom0.set_entry(1, 0x31, 0);
    assert_eq!(dom0.machine.entry(1), [0xfee0_3000, 0, 0x48, 0]);
    // another place for the BAR
    dom0.write(0x10, 4, 0x8800_0000);
    assert_eq!(dom0.machine.control(0x62), 2);
    assert_eq!(dom0.load(BAR + TABLE, 4), None);
    assert_eq!(dom0.load(0x8800_0000 + TABLE, 4), Some(0));
    dom0.machine.memory.fill(0);
    dom0.keep();
    assert_eq!(dom0.machine.control(0x62), 0x8002);
    assert_eq!(dom0.machine.entry(1), [0xfee0_3000, 0, 0x48, 0]);
    assert_eq!(dom0.machine.entry(2), [0, 0, 0, 1]);
    // nobody's memory, then RAM, then no memory accesses at all
    for (offset, size, value) in [(0x10, 4, 0xa000_0000), (0x10, 4, 0x10_0000), (4, 2, 0)] {
        dom0.write(offset, size, value);
        dom0.keep();
        assert_eq!(dom0.machine.control(0x62), 2);
        assert_eq!(dom0.load(value + TABLE, 4), None);
    }
    dom0.write(0x10, 4, BAR);
    dom0.write(4, 2, 2);
    dom0.keep();
    assert_eq!(dom0.machine.control(0x62), 0x8002);
    // the upper half of its address counts
    dom0.write(0x14, 4, 0xffff_ffff);
    dom0.keep();
    assert_eq!(dom0.machine.control(0x62), 2);
    // an I/O BAR holds no table
    dom0.write(0x14, 4, 0);
    dom0.keep();
    assert_eq!(dom0.machine.control(0x62), 0x8002);
    dom0.machine.bar_type = 1;
    dom0.write(0x10, 4, BAR);
    assert_eq!(dom0.machine.control(0x62), 2);
    assert_eq!(dom0.pci.next_moved(), None);
}

#[test]
fn a_device_that_was_reset_has_forgotten_its_messages() {
    let mut dom0 = Dom0::new(0x86);
    dom0.write(0x74, 4, 0xfee0_0000);
    dom0.write(0x72, 2, 1);
    dom0.write(0x62, 2, 0x8000);
    dom0.set_entry(0, 0x31, 0);
    assert_eq!(dom0.routes.held(), 2);
    dom0.reset_device();
    assert_eq!(dom0.read(NIC, 0x72, 2), 0x86);
    assert_eq!(dom0.read(NIC, 0x74, 4), 0);
    // restored as drivers do
    dom0.write(0x10, 4, BAR);
    dom0.write(4, 2, 2);
    dom0.keep();
    assert_eq!((dom0.read(NIC, 0x62, 2), dom0.routes.held()), (2, 0));
    dom0.write(0x62, 2, 0xc000);
    dom0.set_entry(0, 0x31, 0);
    dom0.write(0x62, 2, 0x8000);
    assert_eq!(dom0.machine.control(0x62), 0x8002);
    assert_eq!(dom0.machine.entry(0), [0xfee0_3000, 0, 0x48, 0]);
    dom0.write(0x74, 4, 0xfee0_0000);
    dom0.write(0x72, 2, 1);
    assert_eq!(dom0.machine.space[0x72] & 1, 1);
}

#[test]
fn a_capability_that_makes_no_sense_is_led_around() {
    let mut machine = Machine::new(0);
    machine.space[0x64] = 7;
    let mut dom0 = Dom0::new(0);
    dom0.machine = machine;
    dom0.pci = PciConfig::new(&[]);
    assert_eq!(dom0.read(NIC, 0x50, 2), 0x7001);
    dom0.write(0x62, 2, 0x8000);
    assert_eq!(dom0.machine.space[0x63], 0);
    assert_eq!(dom0.pci.next_moved(), None);
}

#[test]
fn who_is_gone_has_no_vectors() {
    let mut dom0 = Dom0::new(0);
    dom0.write(0x62, 2, 0x8000);
    dom0.set_entry(0, 0x31, 0);
    assert!(dom0.on(|pci, host| pci.forget(NIC, host)));
    assert!(!dom0.on(|pci, host| pci.forget(NIC, host)));
    assert_eq!((dom0.machine.control(0x62), dom0.routes.held()), (2, 0));
    // it is found again; pulled out, its registers are all ones
    dom0.write(0x74, 4, 0xfee0_0000);
    dom0.write(0x72, 2, 1);
    assert_eq!(dom0.routes.held(), 1);
    dom0.machine.space.fill(0xff);
    assert_eq!(dom0.read(NIC, 0, 4), u32::MAX);
    assert_eq!(dom0.routes.held(), 0);
}

#[test]
fn a_bridge_that_gets_other_buses_has_other_devices_behind_it() {
    let mut dom0 = Dom0::new(0);
    assert!(dom0.on(|pci, host| pci.is_there(DISK, host)));
    let known = dom0.pci.functions.len();
    dom0.on(|pci, host| pci.write_memory((BRIDGE, 0x18, 4), 0x0009_0900, host));
    assert_eq!(dom0.pci.functions.len(), known - 1);
    assert!(!dom0.on(|pci, host| pci.is_there(DISK, host)));
    assert!(dom0.on(|pci, host| pci.is_there(Bdf(9 << 8), host)));
    // the same numbers again change nothing
    let known = dom0.pci.functions.len();
    dom0.on(|pci, host| pci.write_memory((BRIDGE, 0x18, 4), 0x0009_0900, host));
    assert_eq!(dom0.pci.functions.len(), known);
}

#[test]
fn configuration_space_in_memory_is_filtered_as_through_the_ports() {
    let mut dom0 = Dom0::new(0);
    for offset in 0..0x100 {
        let by_port = dom0.read(NIC, offset, 1);
        let mut read = |function| dom0.on(|pci, host| pci.read_memory((function, offset, 1), host));
        assert_eq!(read(NIC), by_port);
        assert_eq!(read(OWNED), 0xff);
    }
    let mut read = |place| dom0.on(|pci, host| pci.read_memory(place, host));
    // no double word holds these
    assert_eq!(read((NIC, 2, 4)), u32::MAX);
    assert_eq!(read((NIC, 0, 8)), u32::MAX);
    assert_eq!(read((NIC, 0xfff, 2)), 0xffff);
    let writes = dom0.machine.writes;
    dom0.on(|pci, host| pci.write_memory((OWNED, 4, 2), 7, host));
    dom0.on(|pci, host| pci.write_memory((NIC, 3, 2), 7, host));
    assert_eq!(dom0.machine.writes, writes);
    dom0.on(|pci, host| pci.write_memory((NIC, 0x200, 2), 7, host));
    assert_eq!(dom0.machine.space[0x200], 7);
}

#[test]
fn the_extended_list_leads_around_virtual_functions() {
    let mut dom0 = Dom0::new(0);
    let mut read = |offset| dom0.on(|pci, host| pci.read_memory((NIC, offset, 4), host));
    assert_eq!(read(0x100), header(1, 0x180));
    assert_eq!(read(0x140), 0x180 << 20);
    assert_eq!(read(0x180), header(3, 0));
    dom0.on(|pci, host| pci.write_memory((NIC, 0x148, 2), 1, host));
    assert_eq!(dom0.machine.space[0x148], 0);

    let mut machine = Machine::new(0);
    machine.space[0x100..0x104].copy_from_slice(&header(0x10, 0x180).to_le_bytes());
    dom0.machine = machine;
    dom0.pci = PciConfig::new(&[]);
    let mut read = |offset| dom0.on(|pci, host| pci.read_memory((NIC, offset, 4), host));
    assert_eq!(read(0x100), 0x180 << 20);
}

#[test]
fn a_table_may_reach_over_several_pages() {
    let mut machine = Machine::new(0);
    machine.space[0x62..0x64].copy_from_slice(&0x1ffu16.to_le_bytes());
    let mut dom0 = Dom0::new(0);
    dom0.machine = machine;
    dom0.pci = PciConfig::new(&[]);
    dom0.read(NIC, 0, 4);
    let (_, frames) = dom0.pci.next_moved().unwrap();
    let start = u64::from(BAR + TABLE);
    assert_eq!(frames.start.base().as_u64(), start & !(PAGE_SIZE - 1));
    assert_eq!(frames.len(), 3);
}
