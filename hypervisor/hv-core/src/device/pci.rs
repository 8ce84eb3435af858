//! PCI configuration mechanism #1 in front of the real configuration space: what dom0's accesses to CF8 and CFC do.
//!
//! Everything passes, except: functions that the hypervisor owns are absent, MSI-X capabilities are cut out of the
//! capability list (their tables in device memory are not watched), and MSI capabilities are virtual. dom0 writes a
//! vector and a CPU *of its own* there, which on the real device would hit the host's interrupt table: so address, data
//! and the enable bit are kept here, and [`PciEffect::MsiRouted`] asks the caller for a host vector, which
//! [`PciConfig::program_msi`] then writes to the device. One vector a function is offered. Masks pass through.
//!
//! Configuration space in memory (MCFG) leads here too, to the first 256 bytes of each function:
//! [`PciConfig::read_memory`].
//! Source: PCI Local Bus specification 3.0, "Configuration Mechanism #1", "MSI Capability Structure".

#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::vec::Vec;
use core::fmt;

use super::message::InterruptMessage;
use super::ports::all_ones;

/// A PCI function of segment 0: bus in bits 15:8, device in 7:3, function in 2:0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Bdf(pub u16);

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [devfn, bus] = self.0.to_le_bytes();
        write!(f, "{bus:02x}:{:02x}.{}", devfn >> 3, devfn & 7)
    }
}

/// Access to the real configuration space.
pub trait ConfigSpace {
    /// Reads `size` (1, 2 or 4) bytes at `offset`; the access lies within one aligned double word.
    fn read(&mut self, function: Bdf, offset: u8, size: u8) -> u32;
    fn write(&mut self, function: Bdf, offset: u8, size: u8, value: u32);
}

/// What a device is told to write where: the host's side of a message-signalled interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsiMessage {
    /// 0xFEE00000 with destination and mode.
    pub address: u64,
    /// Vector, delivery mode, trigger.
    pub data: u16,
}

/// What a write asks the caller to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum PciEffect {
    None,
    /// Deliver the function's interrupt as this message from now on. Where the function has no vector of the host yet,
    /// allocate one and call [`PciConfig::program_msi`]; where it has, only the route changes.
    MsiRouted(Bdf, InterruptMessage),
    /// The function's MSI is off, at the device too: release the host's vector.
    MsiOff(Bdf),
}

/// The two ports, and the capabilities found so far.
#[derive(Clone, Debug)]
pub struct PciConfig {
    latch: u32,
    hidden: Vec<Bdf>,
    functions: BTreeMap<Bdf, Capabilities>,
}

impl PciConfig {
    /// A front end in which the functions `hidden` do not exist.
    #[must_use]
    pub fn new(hidden: &[Bdf]) -> Self {
        Self {
            latch: 0,
            hidden: hidden.to_vec(),
            functions: BTreeMap::new(),
        }
    }

    /// Answers an IN of `size` (1, 2 or 4) bytes from `port` (0xCF8–0xCFF).
    pub fn read_port(&mut self, port: u16, size: u8, hw: &mut impl ConfigSpace) -> u32 {
        if (port, size) == (ADDRESS_PORT, 4) {
            return self.latch;
        }
        match self.target(port, size) {
            Some((function, offset)) => self.read(function, offset, size, hw),
            None => all_ones(size),
        }
    }

    /// Performs an OUT of `size` (1, 2 or 4) bytes to `port` (0xCF8–0xCFF).
    pub fn write_port(
        &mut self,
        port: u16,
        size: u8,
        value: u32,
        hw: &mut impl ConfigSpace,
    ) -> PciEffect {
        if (port, size) == (ADDRESS_PORT, 4) {
            self.latch = value & LATCH_BITS;
            return PciEffect::None;
        }
        match self.target(port, size) {
            Some((function, offset)) => self.write((function, offset, size), value, hw),
            None => PciEffect::None,
        }
    }

    /// Answers a load of `size` bytes from a function's configuration space in memory. Extended space is absent.
    pub fn read_memory(
        &mut self,
        function: Bdf,
        offset: u16,
        size: u8,
        hw: &mut impl ConfigSpace,
    ) -> u32 {
        match offset_in_memory(offset, size) {
            Some(offset) => self.read(function, offset, size, hw),
            None => all_ones(size),
        }
    }

    /// Performs a store of `size` bytes there.
    pub fn write_memory(
        &mut self,
        (function, offset, size): (Bdf, u16, u8),
        value: u32,
        hw: &mut impl ConfigSpace,
    ) -> PciEffect {
        match offset_in_memory(offset, size) {
            Some(offset) => self.write((function, offset, size), value, hw),
            None => PciEffect::None,
        }
    }

    fn read(&mut self, function: Bdf, offset: u8, size: u8, hw: &mut impl ConfigSpace) -> u32 {
        if self.hidden.contains(&function) {
            return all_ones(size);
        }
        let value = hw.read(function, offset, size);
        match self.capabilities(function, hw) {
            Some(capabilities) => capabilities.patch(offset, size, value),
            None => value,
        }
    }

    fn write(
        &mut self,
        (function, offset, size): (Bdf, u8, u8),
        value: u32,
        hw: &mut impl ConfigSpace,
    ) -> PciEffect {
        if self.hidden.contains(&function) {
            return PciEffect::None;
        }
        let Some(capabilities) = self.capabilities(function, hw) else {
            return PciEffect::None;
        };
        if !capabilities.keep(offset, size, value) {
            hw.write(function, offset, size, value);
        }
        match &mut capabilities.msi {
            Some(msi) => msi.settle(function, hw),
            None => PciEffect::None,
        }
    }

    /// Gives the function `message` of the host and switches its MSI on. Nothing happens where dom0 has none enabled.
    pub fn program_msi(&mut self, function: Bdf, message: MsiMessage, hw: &mut impl ConfigSpace) {
        let msi = self
            .functions
            .get(&function)
            .and_then(|c| c.msi.as_ref())
            .filter(|msi| msi.routed.is_some());
        if let Some(msi) = msi {
            msi.program(function, message, hw);
        }
    }

    /// The function and offset that an access to a data port goes to; `None` where nobody answers.
    fn target(&self, port: u16, size: u8) -> Option<(Bdf, u8)> {
        let lane = u8::try_from(port.checked_sub(DATA_PORT)?).ok()?;
        let fits = lane.checked_add(size)? <= 4;
        let [register, devfn, bus, flags] = self.latch.to_le_bytes();
        let function = Bdf(u16::from_le_bytes([devfn, bus]));
        let answers = fits && flags & 0x80 != 0;
        answers.then_some((function, register | lane))
    }

    /// The capabilities of `function`, looked up in the device the first time; `None` where there is no device.
    fn capabilities(
        &mut self,
        function: Bdf,
        hw: &mut impl ConfigSpace,
    ) -> Option<&mut Capabilities> {
        match self.functions.entry(function) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(new) => Some(new.insert(Capabilities::find(function, hw)?)),
        }
    }
}

/// The offset of an access in memory, where it is to one double word of the first 256 bytes.
fn offset_in_memory(offset: u16, size: u8) -> Option<u8> {
    let offset = u8::try_from(offset).ok()?;
    let fits = matches!(size, 1 | 2 | 4) && (offset & 3) + size <= 4;
    fits.then_some(offset)
}

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
/// Enable, bus, device, function, double word.
const LATCH_BITS: u32 = 0x80ff_fffc;

const VENDOR: u8 = 0;
const STATUS: u8 = 6;
const STATUS_HAS_CAPABILITIES: u32 = 1 << 4;
const CAPABILITY_POINTER: u8 = 0x34;
/// The list lies after the header, in double words: this many fit.
const MAX_CAPABILITIES: usize = 48;
const FIRST_CAPABILITY: u8 = 0x40;
const ID_MSI: u32 = 5;
const ID_MSIX: u32 = 0x11;
const MSIX_BYTES: u8 = 12;

/// What of a function's configuration space is not the device's own.
#[derive(Clone, Debug)]
struct Capabilities {
    msi: Option<Msi>,
    msix: Option<HiddenCapability>,
}

/// A capability that the list leads around.
#[derive(Clone, Copy, Debug)]
struct HiddenCapability {
    offset: u8,
    /// The pointer that leads to it, and where that one leads instead.
    pointer: u8,
    next: u8,
}

impl Capabilities {
    /// Walks the device's list. `None` where no device answers.
    fn find(function: Bdf, hw: &mut impl ConfigSpace) -> Option<Self> {
        if hw.read(function, VENDOR, 2) == 0xffff {
            return None;
        }
        let mut found = Self {
            msi: None,
            msix: None,
        };
        if hw.read(function, STATUS, 2) & STATUS_HAS_CAPABILITIES == 0 {
            return Some(found);
        }
        let mut pointer = CAPABILITY_POINTER;
        for _ in 0..MAX_CAPABILITIES {
            let offset = next(function, pointer, hw);
            if offset < FIRST_CAPABILITY {
                break;
            }
            match hw.read(function, offset, 1) {
                ID_MSI => found.msi = Msi::new(function, offset, hw),
                ID_MSIX => {
                    found.msix = Some(HiddenCapability {
                        offset,
                        pointer,
                        next: next(function, offset | 1, hw),
                    });
                }
                _ => {}
            }
            pointer = offset | 1;
        }
        Some(found)
    }

    /// Replaces the bytes of `value` that are not the device's to say.
    fn patch(&self, offset: u8, size: u8, value: u32) -> u32 {
        let mut bytes = value.to_le_bytes();
        for (at, byte) in (offset..=u8::MAX).zip(bytes.iter_mut().take(usize::from(size))) {
            if let Some(msix) = self.msix.filter(|m| m.pointer == at) {
                *byte = msix.next;
            }
            if let Some(ours) = self.msi.as_ref().and_then(|m| m.byte(at)) {
                *byte = ours;
            }
        }
        u32::from_le_bytes(bytes)
    }

    /// Takes over the bytes of a write that concern us; false where none does and the device shall have it.
    fn keep(&mut self, offset: u8, size: u8, value: u32) -> bool {
        let mut is_ours = false;
        let bytes = value.to_le_bytes();
        for (at, byte) in (offset..=u8::MAX).zip(bytes.iter().take(usize::from(size))) {
            is_ours |= self
                .msix
                .is_some_and(|m| at >= m.offset && at - m.offset < MSIX_BYTES);
            is_ours |= self.msi.as_mut().is_some_and(|m| m.set_byte(at, *byte));
        }
        is_ours
    }
}

/// Where the capability pointer at `pointer` leads; its low two bits are reserved.
fn next(function: Bdf, pointer: u8, hw: &mut impl ConfigSpace) -> u8 {
    let [next, ..] = hw.read(function, pointer, 1).to_le_bytes();
    next & !3
}

const CONTROL: u8 = 2;
const CONTROL_ENABLE: u8 = 1 << 0;
/// How many vectors are enabled: kept for the guest, who was offered one.
const CONTROL_ENABLED_VECTORS: u8 = 0b111 << 4;
const CONTROL_64_BIT: u8 = 1 << 7;
const ADDRESS: u8 = 4;
const ADDRESS_HIGH: u8 = 8;

/// The MSI capability as dom0 sees it.
#[derive(Clone, Debug)]
struct Msi {
    offset: u8,
    /// Where the data word is, from the start of the capability: 8, or 12 with a 64-bit address.
    data: u8,
    /// Control, address and data, by their place in the capability; the id and the pointer stay the device's.
    image: [u8; 14],
    /// What the caller was told last.
    routed: Option<InterruptMessage>,
}

impl Msi {
    /// The capability at `offset` as after reset; firmware's setting is switched off. `None` where it does not fit.
    fn new(function: Bdf, offset: u8, hw: &mut impl ConfigSpace) -> Option<Self> {
        let [control, control_high, ..] = hw
            .read(function, offset.checked_add(CONTROL)?, 2)
            .to_le_bytes();
        let data = if control & CONTROL_64_BIT != 0 { 12 } else { 8 };
        offset.checked_add(data + 1)?;
        let mut image = [0; 14];
        image[usize::from(CONTROL)] = control & CONTROL_64_BIT;
        image[usize::from(CONTROL) + 1] = control_high;
        let msi = Self {
            offset,
            data,
            image,
            routed: None,
        };
        if control & CONTROL_ENABLE != 0 {
            msi.switch_off(function, hw);
        }
        Some(msi)
    }

    /// The byte at `at` of the configuration space where it is ours.
    fn byte(&self, at: u8) -> Option<u8> {
        self.image.get(self.index(at)?).copied()
    }

    /// Stores the writable bits of the byte at `at`; false where it is not ours.
    fn set_byte(&mut self, at: u8, value: u8) -> bool {
        let Some(index) = self.index(at) else {
            return false;
        };
        let writable = match index {
            2 => CONTROL_ENABLE | CONTROL_ENABLED_VECTORS,
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
    fn index(&self, at: u8) -> Option<usize> {
        let index = at.checked_sub(self.offset)?;
        (CONTROL..self.data + 2)
            .contains(&index)
            .then_some(usize::from(index))
    }

    /// Compares what dom0 asks for with what it was given.
    fn settle(&mut self, function: Bdf, hw: &mut impl ConfigSpace) -> PciEffect {
        let wanted = self.wanted();
        if wanted == self.routed {
            return PciEffect::None;
        }
        self.routed = wanted;
        match wanted {
            Some(message) => PciEffect::MsiRouted(function, message),
            None => {
                self.switch_off(function, hw);
                PciEffect::MsiOff(function)
            }
        }
    }

    /// The message in the image, where it is enabled and is an interrupt at all.
    fn wanted(&self) -> Option<InterruptMessage> {
        let word = |at: u8| {
            let at = usize::from(at);
            let bytes = self.image.get(at..at + 4)?;
            Some(u64::from(u32::from_le_bytes(bytes.try_into().ok()?)))
        };
        if self.image[usize::from(CONTROL)] & CONTROL_ENABLE == 0 {
            return None;
        }
        let is_wide = self.data > ADDRESS_HIGH;
        let high = if is_wide { word(ADDRESS_HIGH)? } else { 0 };
        let data = usize::from(self.data);
        let data = u16::from_le_bytes([*self.image.get(data)?, *self.image.get(data + 1)?]);
        InterruptMessage::from_msi(high << 32 | word(ADDRESS)?, u32::from(data))
    }

    /// Writes `message` into the device and switches it on, one vector.
    fn program(&self, function: Bdf, message: MsiMessage, hw: &mut impl ConfigSpace) {
        // Never on with half a message: a device that signals then would write anywhere.
        self.switch_off(function, hw);
        let [a0, a1, a2, a3, a4, a5, a6, a7] = message.address.to_le_bytes();
        let low = u32::from_le_bytes([a0, a1, a2, a3]);
        let high = u32::from_le_bytes([a4, a5, a6, a7]);
        hw.write(function, self.offset + ADDRESS, 4, low);
        if self.data > ADDRESS_HIGH {
            hw.write(function, self.offset + ADDRESS_HIGH, 4, high);
        }
        hw.write(
            function,
            self.offset + self.data,
            2,
            u32::from(message.data),
        );
        self.write_control(function, CONTROL_ENABLE, hw);
    }

    fn switch_off(&self, function: Bdf, hw: &mut impl ConfigSpace) {
        self.write_control(function, 0, hw);
    }

    fn write_control(&self, function: Bdf, enable: u8, hw: &mut impl ConfigSpace) {
        // The other bits of the control word are read-only, and one vector is what zero in the rest says.
        hw.write(function, self.offset + CONTROL, 2, u32::from(enable));
    }
}
