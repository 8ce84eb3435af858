//! PCI configuration mechanism #1 in front of the real configuration space: what dom0's accesses to CF8 and CFC do.
//!
//! Everything passes, except: functions that the hypervisor owns are absent, MSI-X capabilities are cut out of the
//! capability list (their tables in device memory are not watched), and MSI capabilities are virtual. dom0 writes a vector
//! and a CPU *of its own* there, which on the real device would hit the host's interrupt table: so address, data and the
//! enable bit are kept here, and [`PciEffect::MsiRouted`] asks the caller for a host vector, which
//! [`PciConfig::program_msi`] then writes to the device. One vector a function is offered. Masks pass through.
//!
//! ECAM (MCFG) is not behind this: dom0's ACPI tables must not have it.
//! Source: PCI Local Bus specification 3.0, "Configuration Mechanism #1", "MSI Capability Structure".

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
    /// Writes them.
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
    /// Nothing.
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
        let Some((function, offset)) = self.target(port, size) else {
            return all_ones(size);
        };
        let value = hw.read(function, offset, size);
        match self.capabilities(function, hw) {
            Some(capabilities) => capabilities.patch(offset, size, value),
            None => value,
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
        let Some((function, offset)) = self.target(port, size) else {
            return PciEffect::None;
        };
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
        let answers = fits && flags & 0x80 != 0 && !self.hidden.contains(&function);
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

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
/// Enable, bus, device, function, double word.
const LATCH_BITS: u32 = 0x80ff_fffc;

const VENDOR: u8 = 0;
const STATUS: u8 = 6;
const STATUS_HAS_CAPABILITIES: u32 = 1 << 4;
const CAPABILITY_POINTER: u8 = 0x34;
/// The list lies behind the header, in double words: this many fit.
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

#[cfg(test)]
mod tests {
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
}
