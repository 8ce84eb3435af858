//! PCI as dom0 sees it: the real configuration space, by ports CF8 and CFC or in memory (MCFG), behind a filter, and
//! the pages of devices' memory in which MSI-X tables lie.
//!
//! Everything passes, except: functions that the hypervisor owns are absent, as is SR-IOV, and messages are virtual.
//! dom0 writes vectors and CPUs *of its own* into the capabilities (`msi`) and tables (`msix`), which on the real
//! device would hit the host's interrupt table: they are kept here, the device gets vectors of the host's
//! ([`Routes`]), and what comes there is delivered as dom0 asked for it. So dom0 must not reach the tables: it is kept
//! from the pages that they lie in, and what else is there is read and written for it.
//!
//! A table lies where its function's BAR says, if the function answers to memory accesses at all. Both change only by
//! writes that come through here; a page that is new among those that dom0 is to be kept from is handed out by
//! [`PciConfig::next_moved`], and until the caller has said that it is kept from it ([`PciConfig::moved`]) the device's
//! MSI-X stays off.
//!
//! A device that is reset forgets what it was told. Nobody says so here, but its capabilities then say that messages
//! are off where they were on; that is looked at before each access to them, and they are as after reset for dom0 too.
//!
//! Source: PCI Local Bus specification 3.0, "Configuration Mechanism #1", "MSI and MSI-X"; PCI Express Base
//! Specification, "PCI Express Enhanced Configuration Access Mechanism (ECAM)".

mod function;
mod msi;
mod msix;
#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::vec::Vec;
use core::fmt;

use super::ports::all_ones;
use super::routes::Routes;
use crate::addr::{Hpa, Mfn, MfnRange};
use function::Function;

/// A PCI function of segment 0: bus in bits 15:8, device in 7:3, function in 2:0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Bdf(pub u16);

impl Bdf {
    #[must_use]
    pub const fn new(bus: u8, devfn: u8) -> Self {
        Self(u16::from_le_bytes([devfn, bus]))
    }

    const fn bus(self) -> u8 {
        self.0.to_le_bytes()[1]
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [devfn, bus] = self.0.to_le_bytes();
        write!(f, "{bus:02x}:{:02x}.{}", devfn >> 3, devfn & 7)
    }
}

/// The real machine: its configuration space, and its devices' memory.
pub trait PciMachine {
    /// Reads `size` (1, 2 or 4) bytes at `offset`; the access lies within one aligned double word. All ones where
    /// nobody answers, or where the machine has no such space.
    fn read(&mut self, function: Bdf, offset: u16, size: u8) -> u32;
    fn write(&mut self, function: Bdf, offset: u16, size: u8, value: u32);
    /// Reads `size` (1, 2, 4 or 8) bytes of a device's memory, at a multiple of it.
    fn load(&mut self, at: Hpa, size: u8) -> u64;
    fn store(&mut self, at: Hpa, size: u8, value: u64);
    /// True where the machine has, in all these frames, neither RAM nor anything that the hypervisor keeps.
    fn is_device_memory(&self, frames: MfnRange) -> bool;
    /// What a device is told to write where for `vector` to come.
    fn message(&self, vector: u8) -> MsiMessage;
    /// Hears that no `wanted` vectors in a row are left for `function`, whose message stays off.
    fn out_of_vectors(&mut self, function: Bdf, wanted: u8);
}

/// The host's side of a message-signalled interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsiMessage {
    /// 0xFEE00000 with destination and mode.
    pub address: u64,
    /// Vector, delivery mode, trigger.
    pub data: u16,
}

/// What an access is carried out on: the machine, and the table of its vectors.
pub struct Host<'a, M> {
    pub machine: &'a mut M,
    pub routes: &'a mut Routes,
}

/// The two ports, and the functions found so far.
#[derive(Clone, Debug)]
pub struct PciConfig {
    latch: u32,
    hidden: Vec<Bdf>,
    functions: BTreeMap<Bdf, Function>,
    /// Pages that a table has moved to since the caller asked last.
    moved: Vec<(Bdf, MfnRange)>,
}

impl PciConfig {
    /// A front end in which the functions `hidden` do not exist.
    #[must_use]
    pub fn new(hidden: &[Bdf]) -> Self {
        Self {
            latch: 0,
            hidden: hidden.to_vec(),
            functions: BTreeMap::new(),
            moved: Vec::new(),
        }
    }

    /// Finds the functions that there are on all buses, and where their tables lie.
    pub fn scan(&mut self, host: &mut Host<'_, impl PciMachine>) {
        const DEVICE: usize = 8;
        const HEADER_TYPE: u16 = 0xe;
        const HAS_MORE_FUNCTIONS: u32 = 0x80;
        for first in (0..=u16::MAX).step_by(DEVICE) {
            let first = Bdf(first);
            if !self.is_there(first, host) {
                continue;
            }
            if host.machine.read(first, HEADER_TYPE, 1) & HAS_MORE_FUNCTIONS != 0 {
                for number in 1..8 {
                    let _ = self.is_there(Bdf(first.0 | number), host);
                }
            }
        }
    }

    /// True where `function` answers.
    pub fn is_there(&mut self, function: Bdf, host: &mut Host<'_, impl PciMachine>) -> bool {
        !self.hidden.contains(&function) && self.function(function, host).is_some()
    }

    /// Forgets `function`, which is gone: its messages go nowhere, and its vectors are free. False where it was not
    /// known.
    pub fn forget(&mut self, function: Bdf, host: &mut Host<'_, impl PciMachine>) -> bool {
        let Some(mut known) = self.functions.remove(&function) else {
            return false;
        };
        known.release(function, host);
        true
    }

    /// Answers an IN of `size` (1, 2 or 4) bytes from `port` (0xCF8–0xCFF).
    pub fn read_port(&mut self, port: u16, size: u8, host: &mut Host<'_, impl PciMachine>) -> u32 {
        if (port, size) == (ADDRESS_PORT, 4) {
            return self.latch;
        }
        match self.target(port, size) {
            Some((function, offset)) => self.read(function, offset, size, host),
            None => all_ones(size),
        }
    }

    /// Performs an OUT of `size` (1, 2 or 4) bytes to `port` (0xCF8–0xCFF).
    pub fn write_port(
        &mut self,
        port: u16,
        size: u8,
        value: u32,
        host: &mut Host<'_, impl PciMachine>,
    ) {
        if (port, size) == (ADDRESS_PORT, 4) {
            self.latch = value & LATCH_BITS;
        } else if let Some((function, offset)) = self.target(port, size) {
            self.write((function, offset, size), value, host);
        }
    }

    /// Answers a load of `size` bytes from a function's configuration space in memory.
    pub fn read_memory(
        &mut self,
        (function, offset, size): (Bdf, u16, u8),
        host: &mut Host<'_, impl PciMachine>,
    ) -> u32 {
        if fits(offset, size) {
            self.read(function, offset, size, host)
        } else {
            all_ones(size)
        }
    }

    /// Performs a store of `size` bytes there.
    pub fn write_memory(
        &mut self,
        (function, offset, size): (Bdf, u16, u8),
        value: u32,
        host: &mut Host<'_, impl PciMachine>,
    ) {
        if fits(offset, size) {
            self.write((function, offset, size), value, host);
        }
    }

    fn read(
        &mut self,
        function: Bdf,
        offset: u16,
        size: u8,
        host: &mut Host<'_, impl PciMachine>,
    ) -> u32 {
        if self.hidden.contains(&function) {
            return all_ones(size);
        }
        let value = host.machine.read(function, offset, size);
        if offset == 0 && size >= 2 && value & ABSENT == ABSENT {
            self.forget(function, host);
            return value;
        }
        match self.function(function, host) {
            Some(known) => known.read((function, offset, size), value, host),
            None => value,
        }
    }

    fn write(
        &mut self,
        (function, offset, size): (Bdf, u16, u8),
        value: u32,
        host: &mut Host<'_, impl PciMachine>,
    ) {
        if self.hidden.contains(&function) {
            return;
        }
        let Some(known) = self.function(function, host) else {
            return;
        };
        let moved = known.write((function, offset, size), value, host);
        let buses = known.buses_behind((offset, size), value);
        self.moved.extend(moved.map(|frames| (function, frames)));
        if let Some(buses) = buses {
            self.renumber(function, buses, host);
        }
    }

    /// The bridge `bridge` leads to other buses from now on: what was behind it is somewhere else, and what is there
    /// now is not known yet.
    fn renumber(
        &mut self,
        bridge: Bdf,
        (first, last): (u8, u8),
        host: &mut Host<'_, impl PciMachine>,
    ) {
        let behind = |bdf: &Bdf| (first..=last).contains(&bdf.bus()) && bdf.bus() != bridge.bus();
        let gone: Vec<Bdf> = self.functions.keys().copied().filter(behind).collect();
        for function in gone {
            self.forget(function, host);
        }
    }

    /// A table that has moved since the last call, and the frames that dom0 is to be kept from for it.
    pub fn next_moved(&mut self) -> Option<(Bdf, MfnRange)> {
        self.moved.pop()
    }

    /// Hears that dom0 is kept from `frames`, where the table of `function` lies: its messages may come.
    pub fn moved(
        &mut self,
        (function, frames): (Bdf, MfnRange),
        host: &mut Host<'_, impl PciMachine>,
    ) {
        if let Some(known) = self.functions.get_mut(&function) {
            known.moved(function, frames, host);
        }
    }

    /// True where dom0 is to be kept from a frame of `frames`.
    #[must_use]
    pub fn has_table_in(&self, frames: MfnRange) -> bool {
        let mut tables = self.functions.values().filter_map(Function::table_frames);
        tables.any(|table| table.overlaps(frames))
    }

    /// Answers a load of `size` bytes from a page that dom0 is kept from; `None` where `at` is in none.
    pub fn load(&mut self, at: Hpa, size: u8, host: &mut Host<'_, impl PciMachine>) -> Option<u64> {
        if !self.is_kept(at) {
            return None;
        }
        let tables = &mut self.functions.values_mut();
        if let Some(value) = tables.find_map(|known| known.load_table(at, size)) {
            return Some(value);
        }
        Some(if is_whole(at, size) {
            host.machine.load(at, size)
        } else {
            u64::MAX
        })
    }

    /// Performs a store of `size` bytes to such a page; false where `at` is in none.
    pub fn store(
        &mut self,
        at: Hpa,
        (size, value): (u8, u64),
        host: &mut Host<'_, impl PciMachine>,
    ) -> bool {
        if !self.is_kept(at) {
            return false;
        }
        for (function, known) in &mut self.functions {
            if known.store_table((*function, at), (size, value), host) {
                return true;
            }
        }
        if is_whole(at, size) {
            host.machine.store(at, size, value);
        }
        true
    }

    fn is_kept(&self, at: Hpa) -> bool {
        let frame = Mfn::containing(at);
        self.has_table_in(MfnRange::new(frame, frame + 1))
    }

    /// The function and offset that an access to a data port goes to; `None` where nobody answers.
    fn target(&self, port: u16, size: u8) -> Option<(Bdf, u16)> {
        let lane = u8::try_from(port.checked_sub(DATA_PORT)?).ok()?;
        let fits = lane.checked_add(size)? <= 4;
        let [register, devfn, bus, flags] = self.latch.to_le_bytes();
        let function = Bdf(u16::from_le_bytes([devfn, bus]));
        let answers = fits && flags & 0x80 != 0;
        answers.then_some((function, u16::from(register | lane)))
    }

    /// What is known of `function`, looked up in the device the first time; `None` where there is no device.
    fn function(
        &mut self,
        function: Bdf,
        host: &mut Host<'_, impl PciMachine>,
    ) -> Option<&mut Function> {
        match self.functions.entry(function) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(new) => {
                let mut found = Function::find(function, host)?;
                let moved = found.locate(function, host.machine);
                self.moved.extend(moved.map(|frames| (function, frames)));
                Some(new.insert(found))
            }
        }
    }
}

/// True where an access in memory is to one double word.
const fn fits(offset: u16, size: u8) -> bool {
    matches!(size, 1 | 2 | 4) && (offset & 3) as u8 + size <= 4
}

/// True where an access to a device's memory is one that a bus knows.
fn is_whole(at: Hpa, size: u8) -> bool {
    matches!(size, 1 | 2 | 4 | 8) && at.as_u64().is_multiple_of(u64::from(size))
}

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
/// Enable, bus, device, function, double word.
const LATCH_BITS: u32 = 0x80ff_fffc;
/// The vendor of a function that is not there.
const ABSENT: u32 = 0xffff;
