//! The MSI capability as dom0 sees it, with as many messages as the device has.
//!
//! Control, address and data are kept here, and what follows from them is written into the device: enabled with the
//! same number of messages, or off. Masks and what waits behind them pass.

use super::{Bdf, Host, MsiMessage, PciMachine};
use crate::device::message::InterruptMessage;

const CONTROL: u16 = 2;
const CONTROL_ENABLE: u8 = 1 << 0;
/// How many messages the device has, as a power of two.
const CONTROL_CAPABLE_SHIFT: u32 = 1;
/// How many of them are enabled.
const CONTROL_ENABLED_SHIFT: u32 = 4;
const CONTROL_COUNT: u8 = 0b111;
const CONTROL_64_BIT: u8 = 1 << 7;
const ADDRESS: u16 = 4;
const ADDRESS_HIGH: u16 = 8;
/// 32 messages are the most.
const MAX_ORDER: u8 = 5;

/// A function's capability, and what the device was given for it.
#[derive(Clone, Debug)]
pub(super) struct Msi {
    offset: u16,
    /// Where the data word is, from the start of the capability: 8, or 12 with a 64-bit address.
    data: u16,
    /// Control, address and data, by their place in the capability; the id and the pointer stay the device's.
    image: [u8; 14],
    /// What the device is enabled with.
    routed: Option<Routed>,
}

/// Messages of a device and their vectors on the host, in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Routed {
    vector: u8,
    order: u8,
}

impl Msi {
    /// The capability at `offset` as after reset; firmware's setting is switched off. `None` where it does not fit.
    pub(super) fn new(function: Bdf, offset: u16, machine: &mut impl PciMachine) -> Option<Self> {
        const LAST_BYTE: u16 = 0xff;
        let word = machine.read(function, offset + CONTROL, 2);
        let [control, control_high, ..] = word.to_le_bytes();
        let data = if control & CONTROL_64_BIT != 0 { 12 } else { 8 };
        if offset + data + 1 > LAST_BYTE {
            return None;
        }
        let mut image = [0; 14];
        image[usize::from(CONTROL)] =
            control & (CONTROL_64_BIT | CONTROL_COUNT << CONTROL_CAPABLE_SHIFT);
        image[usize::from(CONTROL) + 1] = control_high;
        let msi = Self {
            offset,
            data,
            image,
            routed: None,
        };
        if control & CONTROL_ENABLE != 0 {
            msi.write_control(function, 0, machine);
        }
        Some(msi)
    }

    /// True where the access is to one of its registers that are kept here.
    pub(super) fn overlaps(&self, offset: u16, size: u8) -> bool {
        offset < self.offset + self.data + 2 && self.offset < offset + u16::from(size)
    }

    /// The byte at `at` of the configuration space where it is ours.
    pub(super) fn byte(&self, at: u16) -> Option<u8> {
        self.image.get(self.index(at)?).copied()
    }

    /// Stores the writable bits of the byte at `at`; false where it is not ours.
    pub(super) fn set_byte(&mut self, at: u16, value: u8) -> bool {
        let Some(index) = self.index(at) else {
            return false;
        };
        let writable = match index {
            2 => CONTROL_ENABLE | CONTROL_COUNT << CONTROL_ENABLED_SHIFT,
            3 => 0,
            4 => 0xfc,
            _ => 0xff,
        };
        if let Some(byte) = self.image.get_mut(index) {
            *byte = *byte & !writable | value & writable;
        }
        true
    }

    /// Place in the image of the byte at `at` of the configuration space.
    fn index(&self, at: u16) -> Option<usize> {
        let index = at.checked_sub(self.offset)?;
        (CONTROL..self.data + 2)
            .contains(&index)
            .then_some(usize::from(index))
    }

    /// Where the device has been reset, everything is as after that.
    pub(super) fn notice_reset(&mut self, function: Bdf, host: &mut Host<'_, impl PciMachine>) {
        let Some(routed) = self.routed else {
            return;
        };
        let control = host.machine.read(function, self.offset + CONTROL, 1);
        if control & u32::from(CONTROL_ENABLE) != 0 {
            return;
        }
        self.routed = None;
        host.routes.free(routed.vector, 1 << routed.order);
        let [_, _, control, rest @ ..] = &mut self.image;
        *control &= CONTROL_64_BIT | CONTROL_COUNT << CONTROL_CAPABLE_SHIFT;
        let [_, rest @ ..] = rest;
        rest.fill(0);
    }

    /// Gives the device what dom0 asks for.
    pub(super) fn settle(&mut self, function: Bdf, host: &mut Host<'_, impl PciMachine>) {
        let wanted = self.wanted();
        if self.routed.map(|routed| routed.order) != wanted.map(|(_, order)| order) {
            self.release(function, host);
        }
        let Some((message, order)) = wanted else {
            return;
        };
        let count = 1 << order;
        let (vector, is_new) = match self.routed {
            Some(routed) => (routed.vector, false),
            None => match host.routes.allocate(count) {
                Some(vector) => (vector, true),
                None => return host.machine.out_of_vectors(function, count),
            },
        };
        self.routed = Some(Routed { vector, order });
        for index in 0..count {
            // the device puts the number of its message into the low bits
            let own = message.vector & !(count - 1) | index;
            let message = InterruptMessage {
                vector: own,
                ..message
            };
            host.routes.set(vector + index, message);
        }
        if is_new {
            let message = host.machine.message(vector);
            self.program((function, order), message, host.machine);
        }
    }

    /// Switches it off, and gives its vectors back.
    pub(super) fn release(&mut self, function: Bdf, host: &mut Host<'_, impl PciMachine>) {
        if let Some(routed) = self.routed.take() {
            self.write_control(function, 0, host.machine);
            host.routes.free(routed.vector, 1 << routed.order);
        }
    }

    /// The message in the image and the number of them, as a power of two, where it is enabled and is an interrupt at
    /// all.
    fn wanted(&self) -> Option<(InterruptMessage, u8)> {
        let word = |at: u16| {
            let at = usize::from(at);
            let bytes = self.image.get(at..at + 4)?;
            Some(u64::from(u32::from_le_bytes(bytes.try_into().ok()?)))
        };
        let control = self.image[usize::from(CONTROL)];
        if control & CONTROL_ENABLE == 0 {
            return None;
        }
        let high = if self.is_wide() {
            word(ADDRESS_HIGH)?
        } else {
            0
        };
        let data = usize::from(self.data);
        let data = u16::from_le_bytes([*self.image.get(data)?, *self.image.get(data + 1)?]);
        let message = InterruptMessage::from_msi(high << 32 | word(ADDRESS)?, u32::from(data))?;
        let order = |shift: u32| (control >> shift & CONTROL_COUNT).min(MAX_ORDER);
        let order = order(CONTROL_ENABLED_SHIFT).min(order(CONTROL_CAPABLE_SHIFT));
        Some((message, order))
    }

    fn is_wide(&self) -> bool {
        self.data > ADDRESS_HIGH
    }

    /// Writes `message` into the device and switches it on.
    fn program(
        &self,
        (function, order): (Bdf, u8),
        message: MsiMessage,
        machine: &mut impl PciMachine,
    ) {
        // never on with half a message: a device that signals then would write anywhere
        self.write_control(function, 0, machine);
        let [a0, a1, a2, a3, a4, a5, a6, a7] = message.address.to_le_bytes();
        let low = u32::from_le_bytes([a0, a1, a2, a3]);
        let high = u32::from_le_bytes([a4, a5, a6, a7]);
        machine.write(function, self.offset + ADDRESS, 4, low);
        if self.is_wide() {
            machine.write(function, self.offset + ADDRESS_HIGH, 4, high);
        }
        let data = u32::from(message.data);
        machine.write(function, self.offset + self.data, 2, data);
        let control = CONTROL_ENABLE | order << CONTROL_ENABLED_SHIFT;
        self.write_control(function, control, machine);
    }

    fn write_control(&self, function: Bdf, control: u8, machine: &mut impl PciMachine) {
        // the other bits of the control word are read-only
        machine.write(function, self.offset + CONTROL, 2, u32::from(control));
    }
}
