//! The MSI-X capability and its table as dom0 sees them.
//!
//! The table that dom0 reads and writes is kept here. An entry of the device's is written in three cases: all are
//! masked when messages are switched on; one gets a message of the host's, and is unmasked, when dom0's is unmasked and
//! is an interrupt at all; it is masked when dom0 masks it. So a bit of the device's array of pending bits is that of
//! the entry that dom0 means, and passes.
//!
//! The device's MSI-X is on only while dom0 has it on, the table is reached, and dom0 is kept from it ([`Table`]).
//!
//! Source: PCI Local Bus Specification 3.0, "MSI-X Capability and Table Structure".

use alloc::vec;
use alloc::vec::Vec;

use super::{Bdf, Host, PciMachine};
use crate::addr::{Hpa, MfnRange};
use crate::device::message::InterruptMessage;
use crate::le::halves;

const CONTROL: u16 = 2;
const CONTROL_SIZE: u16 = 0x7ff;
const CONTROL_MASKED: u16 = 1 << 14;
const CONTROL_ENABLE: u16 = 1 << 15;
const TABLE: u16 = 4;
const PENDING: u16 = 8;
const CAPABILITY_BYTES: u16 = 12;
const BAR: u32 = 7;

const ENTRY_BYTES: u64 = 16;
const ENTRY_ADDRESS: u64 = 0;
const ENTRY_ADDRESS_HIGH: u64 = 4;
const ENTRY_DATA: u64 = 8;
const ENTRY_CONTROL: u64 = 12;
const MASKED: u32 = 1;
/// The end of what any CPU addresses.
const HIGHEST: Hpa = Hpa::new(1 << 52);

/// A function's capability and table, and what the device was given for them.
#[derive(Clone, Debug)]
pub(super) struct Msix {
    offset: u16,
    table: Place,
    pending: Place,
    entries: Vec<Entry>,
    /// As dom0 has set them.
    is_enabled: bool,
    is_masked: bool,
    at: Option<Table>,
    /// The device's MSI-X is on, with what the host gave it.
    is_active: bool,
}

/// Where one of the two structures is: in which BAR, and how far from its start.
#[derive(Clone, Copy, Debug)]
struct Place {
    bar: u8,
    offset: u32,
}

/// Where the table is in the machine's memory.
#[derive(Clone, Copy, Debug)]
struct Table {
    start: Hpa,
    /// The pending bits, where they are in the same BAR.
    pending: Option<Hpa>,
    frames: MfnRange,
    /// dom0 does not reach it.
    is_kept: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    address: u64,
    data: u32,
    is_masked: bool,
    /// Its vector on the host, from its first use until messages are switched off.
    vector: Option<u8>,
    /// The device's entry is not masked.
    is_live: bool,
}

impl Entry {
    /// After reset.
    const MASKED: Self = Self {
        address: 0,
        data: 0,
        is_masked: true,
        vector: None,
        is_live: false,
    };

    fn read(&self, register: u64) -> u32 {
        match register {
            ENTRY_ADDRESS => halves(self.address).0,
            ENTRY_ADDRESS_HIGH => halves(self.address).1,
            ENTRY_DATA => self.data,
            _ => u32::from(self.is_masked) * MASKED,
        }
    }

    fn write(&mut self, register: u64, value: u32) {
        const HIGH: u64 = 0xffff_ffff_0000_0000;
        match register {
            ENTRY_ADDRESS => self.address = self.address & HIGH | u64::from(value & !3),
            ENTRY_ADDRESS_HIGH => {
                self.address = self.address & !HIGH | u64::from(value) << 32;
            }
            ENTRY_DATA => self.data = value,
            _ => self.is_masked = value & MASKED != 0,
        }
    }

    /// What dom0 is to get by it.
    fn wanted(&self) -> Option<InterruptMessage> {
        if self.is_masked {
            return None;
        }
        InterruptMessage::from_msi(self.address, self.data)
    }
}

impl Msix {
    /// The capability at `offset` of a function with so many BARs, as after reset; firmware's setting is switched off.
    /// `None` where it makes no sense.
    pub(super) fn new(
        (function, offset): (Bdf, u16),
        bars: u8,
        machine: &mut impl PciMachine,
    ) -> Option<Self> {
        if offset + CAPABILITY_BYTES > 0x100 {
            return None;
        }
        let [low, high, ..] = machine.read(function, offset + CONTROL, 2).to_le_bytes();
        let control = u16::from_le_bytes([low, high]);
        let place = |word: u32| {
            let [bar, ..] = (word & BAR).to_le_bytes();
            (bar < bars).then_some(Place {
                bar,
                offset: word & !BAR,
            })
        };
        let table = place(machine.read(function, offset + TABLE, 4))?;
        let pending = place(machine.read(function, offset + PENDING, 4))?;
        if control & CONTROL_ENABLE != 0 {
            machine.write(function, offset + CONTROL, 2, 0);
        }
        let count = usize::from(control & CONTROL_SIZE) + 1;
        Some(Self {
            offset,
            table,
            pending,
            entries: vec![Entry::MASKED; count],
            is_enabled: false,
            is_masked: false,
            at: None,
            is_active: false,
        })
    }

    /// The BAR that the table is in.
    pub(super) fn table_bar(&self) -> u8 {
        self.table.bar
    }

    /// The frames that the table is in; `None` where it is not reached.
    pub(super) fn frames(&self) -> Option<MfnRange> {
        self.at.map(|table| table.frames)
    }

    /// True where the access is to one of its registers.
    pub(super) fn overlaps(&self, offset: u16, size: u8) -> bool {
        offset < self.offset + CAPABILITY_BYTES && self.offset < offset + u16::from(size)
    }

    /// The byte at `at` of the configuration space where it is ours.
    pub(super) fn byte(&self, at: u16) -> Option<u8> {
        let index = at.checked_sub(self.offset + CONTROL)?;
        self.control()
            .to_le_bytes()
            .get(usize::from(index))
            .copied()
    }

    fn control(&self) -> u16 {
        let size = u16::try_from(self.entries.len() - 1).unwrap_or(CONTROL_SIZE);
        let enable = if self.is_enabled { CONTROL_ENABLE } else { 0 };
        let masked = if self.is_masked { CONTROL_MASKED } else { 0 };
        size | enable | masked
    }

    /// Stores the writable bits of the byte at `at`; false where it is none of the capability's.
    pub(super) fn set_byte(&mut self, at: u16, value: u8) -> bool {
        let index = at.wrapping_sub(self.offset);
        if index == CONTROL + 1 {
            let control = u16::from_le_bytes([0, value]);
            self.is_enabled = control & CONTROL_ENABLE != 0;
            self.is_masked = control & CONTROL_MASKED != 0;
        }
        index < CAPABILITY_BYTES
    }

    /// Takes note that the table's BAR is at `bar`, or not reached. Returns the table's frames where they are new.
    pub(super) fn locate(
        &mut self,
        bar: Option<Hpa>,
        machine: &impl PciMachine,
    ) -> Option<MfnRange> {
        let found = bar.and_then(|bar| self.table_at(bar, machine));
        let is_same = |old: &Table| found.is_some_and(|new| new.start == old.start);
        if self.at.as_ref().is_some_and(is_same) {
            return None;
        }
        self.at = found;
        found.map(|table| table.frames)
    }

    fn table_at(&self, bar: Hpa, machine: &impl PciMachine) -> Option<Table> {
        let start = bar.checked_add(u64::from(self.table.offset))?;
        let end = start.checked_add(self.entries.len() as u64 * ENTRY_BYTES)?;
        if end > HIGHEST {
            return None;
        }
        let frames = MfnRange::covering(start, end);
        let pending = if self.pending.bar == self.table.bar {
            bar.checked_add(u64::from(self.pending.offset))
        } else {
            None
        };
        machine.is_device_memory(frames).then_some(Table {
            start,
            pending,
            frames,
            is_kept: false,
        })
    }

    /// dom0 is kept from `frames`.
    pub(super) fn moved(&mut self, frames: MfnRange) {
        if let Some(table) = &mut self.at
            && table.frames == frames
        {
            table.is_kept = true;
        }
    }

    /// Before a write that may move the table, or take memory accesses away: the device's MSI-X goes off until it is
    /// known where the table is then.
    pub(super) fn quiesce(&mut self, function: Bdf, machine: &mut impl PciMachine) {
        if !self.is_active {
            return;
        }
        machine.write(function, self.offset + CONTROL, 2, 0);
        self.is_active = false;
        for entry in &mut self.entries {
            entry.is_live = false;
        }
    }

    /// Where the device has been reset, everything is as after that.
    pub(super) fn notice_reset(&mut self, function: Bdf, host: &mut Host<'_, impl PciMachine>) {
        if !self.is_active {
            return;
        }
        let control = host.machine.read(function, self.offset + CONTROL, 2);
        if control & u32::from(CONTROL_ENABLE) != 0 {
            return;
        }
        self.is_active = false;
        self.is_enabled = false;
        self.is_masked = false;
        self.free_vectors(host);
        self.entries.fill(Entry::MASKED);
    }

    /// Switches it off, and gives its vectors back.
    pub(super) fn release(&mut self, function: Bdf, host: &mut Host<'_, impl PciMachine>) {
        self.quiesce(function, host.machine);
        self.free_vectors(host);
    }

    fn free_vectors(&mut self, host: &mut Host<'_, impl PciMachine>) {
        for entry in &mut self.entries {
            if let Some(vector) = entry.vector.take() {
                host.routes.free(vector, 1);
            }
        }
    }

    /// Gives the device what dom0 asks for by the control word.
    pub(super) fn settle(&mut self, function: Bdf, host: &mut Host<'_, impl PciMachine>) {
        if !self.is_enabled {
            return self.release(function, host);
        }
        let Some(table) = self.at.filter(|table| table.is_kept) else {
            return;
        };
        if !self.is_active {
            self.is_active = true;
            // with the whole function masked, as some devices show their table only while it is on
            let control = CONTROL_ENABLE | CONTROL_MASKED;
            self.write_control(function, control, host.machine);
            for entry in (table.start.as_u64()..)
                .step_by(16)
                .take(self.entries.len())
            {
                let control = Hpa::new(entry + ENTRY_CONTROL);
                host.machine.store(control, 4, u64::from(MASKED));
            }
            for index in 0..self.entries.len() {
                self.settle_entry((function, index), table.start, host);
            }
        }
        let masked = if self.is_masked { CONTROL_MASKED } else { 0 };
        self.write_control(function, CONTROL_ENABLE | masked, host.machine);
    }

    /// Gives an entry of the device what dom0 asks for by its own.
    fn settle_entry(
        &mut self,
        (function, index): (Bdf, usize),
        table: Hpa,
        host: &mut Host<'_, impl PciMachine>,
    ) {
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        let at = table + index as u64 * ENTRY_BYTES;
        let control = at + ENTRY_CONTROL;
        let Some(message) = entry.wanted() else {
            if core::mem::take(&mut entry.is_live) {
                host.machine.store(control, 4, u64::from(MASKED));
                // no message comes after dom0 has been told that none will
                let _ = host.machine.load(control, 4);
            }
            return;
        };
        if entry.vector.is_none() {
            entry.vector = host.routes.allocate(1);
        }
        let Some(vector) = entry.vector else {
            return host.machine.out_of_vectors(function, 1);
        };
        host.routes.set(vector, message);
        if core::mem::replace(&mut entry.is_live, true) {
            return;
        }
        let message = host.machine.message(vector);
        let (low, high) = halves(message.address);
        host.machine.store(at + ENTRY_ADDRESS, 4, low.into());
        host.machine.store(at + ENTRY_ADDRESS_HIGH, 4, high.into());
        let data = u64::from(message.data);
        host.machine.store(at + ENTRY_DATA, 4, data);
        host.machine.store(control, 4, 0);
    }

    fn write_control(&self, function: Bdf, control: u16, machine: &mut impl PciMachine) {
        machine.write(function, self.offset + CONTROL, 2, u32::from(control));
    }

    /// What a load gives from the table; `None` where `at` is not in it. Only 4 and 8 bytes are an access.
    pub(super) fn load(&self, at: Hpa, size: u8) -> Option<u64> {
        let offset = self.offset_in_table(at)?;
        if !is_access(offset, size) {
            return Some(u64::MAX);
        }
        let register = |offset: u64| {
            let entry = self.entries.get(index(offset))?;
            Some(u64::from(entry.read(offset % ENTRY_BYTES)))
        };
        let low = register(offset)?;
        let high = if size == 8 { register(offset + 4)? } else { 0 };
        Some(high << 32 | low)
    }

    /// Performs a store to the table, or to the pending bits, which take none; false where `at` is in neither.
    pub(super) fn store(
        &mut self,
        (function, at): (Bdf, Hpa),
        (size, value): (u8, u64),
        host: &mut Host<'_, impl PciMachine>,
    ) -> bool {
        let Some(offset) = self.offset_in_table(at) else {
            return self.is_pending_bit(at);
        };
        if !is_access(offset, size) {
            return true;
        }
        self.notice_reset(function, host);
        if let Some(entry) = self.entries.get_mut(index(offset)) {
            let register = offset % ENTRY_BYTES;
            let (low, high) = halves(value);
            entry.write(register, low);
            if size == 8 {
                entry.write(register + 4, high);
            }
        }
        if self.is_active
            && let Some(table) = self.at
        {
            self.settle_entry((function, index(offset)), table.start, host);
        }
        true
    }

    fn offset_in_table(&self, at: Hpa) -> Option<u64> {
        let offset = at.as_u64().checked_sub(self.at?.start.as_u64())?;
        (offset < self.entries.len() as u64 * ENTRY_BYTES).then_some(offset)
    }

    fn is_pending_bit(&self, at: Hpa) -> bool {
        const BITS: usize = 64;
        let bytes = self.entries.len().div_ceil(BITS) as u64 * 8;
        let offset = self
            .at
            .and_then(|table| at.as_u64().checked_sub(table.pending?.as_u64()));
        offset.is_some_and(|offset| offset < bytes)
    }
}

/// True for what the specification allows: 4 or 8 bytes, aligned.
const fn is_access(offset: u64, size: u8) -> bool {
    matches!(size, 4 | 8) && offset.is_multiple_of(size as u64)
}

/// Which entry has the register at `offset` of the table.
fn index(offset: u64) -> usize {
    usize::try_from(offset / ENTRY_BYTES).unwrap_or(usize::MAX)
}
