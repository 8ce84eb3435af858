//! One function: which bytes of its configuration space are not the device's own to say, and where its memory is.

use alloc::vec::Vec;

use super::msi::Msi;
use super::msix::Msix;
use super::{ABSENT, Bdf, Host, PciMachine};
use crate::addr::{Hpa, MfnRange};

const VENDOR: u16 = 0;
const COMMAND: u16 = 4;
pub(super) const COMMAND_MEMORY: u8 = 1 << 1;
const STATUS: u16 = 6;
const STATUS_HAS_CAPABILITIES: u32 = 1 << 4;
const HEADER_TYPE: u16 = 0xe;
const HEADER_BRIDGE: u32 = 1;
const FIRST_BAR: u16 = 0x10;
const SECONDARY_BUS: u16 = 0x19;
const SUBORDINATE_BUS: u16 = 0x1a;
const CAPABILITY_POINTER: u16 = 0x34;
/// The list lies after the header, in double words: this many fit.
const MAX_CAPABILITIES: usize = 48;
const FIRST_CAPABILITY: u16 = 0x40;
const ID_MSI: u32 = 5;
const ID_EXPRESS: u32 = 0x10;
const ID_MSIX: u32 = 0x11;
const FIRST_EXTENDED: u16 = 0x100;
const MAX_EXTENDED: usize = 480;
const ID_SR_IOV: u32 = 0x10;
const SR_IOV_BYTES: u16 = 0x40;

/// A function that answers.
#[derive(Clone, Debug)]
pub(super) struct Function {
    msi: Option<Msi>,
    msix: Option<Msix>,
    /// Its header has the numbers of the buses behind it: those, as they are in the device.
    bridge: Option<(u8, u8)>,
    hidden: Vec<Hidden>,
}

/// A capability that the lists lead around, and what reads otherwise for it.
#[derive(Clone, Copy, Debug)]
struct Hidden {
    /// Its bytes, which take no writes.
    start: u16,
    bytes: u16,
    /// Where the pointer that leads to it, or the double word that does, is in the device …
    pointer: u16,
    /// … and what it reads as instead, that many bytes of it.
    reads: [u8; 4],
    pointer_bytes: u16,
}

/// An access to configuration space: function, offset, bytes.
type Place = (Bdf, u16, u8);

impl Function {
    /// Looks a function up in the device. `None` where no device answers.
    pub(super) fn find(function: Bdf, host: &mut Host<'_, impl PciMachine>) -> Option<Self> {
        let machine = &mut *host.machine;
        if machine.read(function, VENDOR, 2) == ABSENT {
            return None;
        }
        let header = machine.read(function, HEADER_TYPE, 1) & 0x7f;
        let mut found = Self {
            msi: None,
            msix: None,
            bridge: (header == HEADER_BRIDGE).then(|| {
                let [first, ..] = machine.read(function, SECONDARY_BUS, 1).to_le_bytes();
                let [last, ..] = machine.read(function, SUBORDINATE_BUS, 1).to_le_bytes();
                (first, last)
            }),
            hidden: Vec::new(),
        };
        if machine.read(function, STATUS, 2) & STATUS_HAS_CAPABILITIES != 0
            && found.find_capabilities(function, machine)
        {
            found.find_extended(function, machine);
        }
        Some(found)
    }

    /// Walks the list in the first 256 bytes; true where the device is one of PCI Express.
    fn find_capabilities(&mut self, function: Bdf, machine: &mut impl PciMachine) -> bool {
        let mut is_express = false;
        let bars = bars(self.bridge);
        let mut pointer = CAPABILITY_POINTER;
        for _ in 0..MAX_CAPABILITIES {
            let offset = next(function, pointer, machine);
            if offset < FIRST_CAPABILITY {
                break;
            }
            match machine.read(function, offset, 1) {
                ID_MSI if self.msi.is_none() => self.msi = Msi::new(function, offset, machine),
                ID_MSIX if self.msix.is_none() => {
                    self.msix = Msix::new((function, offset), bars, machine);
                    if self.msix.is_none() {
                        let next = next(function, offset + 1, machine);
                        self.hidden.push(Hidden::listed(offset, pointer, next));
                    }
                }
                ID_EXPRESS => is_express = true,
                _ => {}
            }
            pointer = offset + 1;
        }
        is_express
    }

    /// Walks the list in extended space, for what is not offered: virtual functions would be devices that nobody here
    /// has looked at.
    fn find_extended(&mut self, function: Bdf, machine: &mut impl PciMachine) {
        let mut previous = None;
        let mut offset = FIRST_EXTENDED;
        for _ in 0..MAX_EXTENDED {
            let header = machine.read(function, offset, 4);
            if header == 0 || header == u32::MAX {
                break;
            }
            if header & 0xffff == ID_SR_IOV {
                self.hidden.push(Hidden::own_header(offset, header));
                if let Some((at, before)) = previous {
                    let around = before & 0x000f_ffff | header & 0xfff0_0000;
                    self.hidden.push(Hidden::header(at, around));
                }
            } else {
                previous = Some((offset, header));
            }
            offset = u16::try_from(header >> 20).unwrap_or(0) & !3;
            if offset < FIRST_EXTENDED {
                break;
            }
        }
    }

    /// What dom0 reads where the device said `value`.
    pub(super) fn read(
        &mut self,
        place: Place,
        value: u32,
        host: &mut Host<'_, impl PciMachine>,
    ) -> u32 {
        self.notice_reset(place, false, host);
        let (_, offset, size) = place;
        let mut bytes = value.to_le_bytes();
        for (at, byte) in (offset..).zip(bytes.iter_mut().take(usize::from(size))) {
            let hidden = self.hidden.iter().find_map(|hidden| hidden.byte(at));
            let msi = self.msi.as_ref().and_then(|msi| msi.byte(at));
            let msix = self.msix.as_ref().and_then(|msix| msix.byte(at));
            if let Some(ours) = hidden.or(msi).or(msix) {
                *byte = ours;
            }
        }
        u32::from_le_bytes(bytes)
    }

    /// Writes what is the device's to the device, and does what the rest asks for. Where that moved the table of
    /// MSI-X, returns the frames that it is in now.
    pub(super) fn write(
        &mut self,
        place: Place,
        value: u32,
        host: &mut Host<'_, impl PciMachine>,
    ) -> Option<MfnRange> {
        let (function, offset, size) = place;
        let may_move = self.may_move_table(offset, size);
        self.notice_reset(place, may_move, host);
        let moves = may_move && changes_place(place, value, host.machine);
        // one that has been reset is off already
        if moves && let Some(msix) = &mut self.msix {
            msix.quiesce(function, host.machine);
        }
        match self.keep(offset, size, value) {
            Keep::Pass => host.machine.write(function, offset, size, value),
            Keep::Drop => {}
            Keep::Settle => self.settle(function, host),
        }
        if !may_move {
            return None;
        }
        let moved = self.locate(function, host.machine);
        if moves || moved.is_some() {
            self.settle(function, host);
        }
        moved
    }

    /// The buses that a write to a bridge's header takes away, and those that it brings.
    pub(super) fn buses_behind(
        &mut self,
        (offset, size): (u16, u8),
        value: u32,
    ) -> Option<(u8, u8)> {
        let (first, last) = self.bridge?;
        let (mut new_first, mut new_last) = (first, last);
        for (at, byte) in (offset..).zip(value.to_le_bytes()).take(usize::from(size)) {
            match at {
                SECONDARY_BUS => new_first = byte,
                SUBORDINATE_BUS => new_last = byte,
                _ => {}
            }
        }
        if (new_first, new_last) == (first, last) {
            return None;
        }
        self.bridge = Some((new_first, new_last));
        let lowest = [first, new_first].into_iter().filter(|&bus| bus != 0).min();
        Some((lowest?, last.max(new_last)))
    }

    /// Looks where the table of MSI-X is now; where that is new, returns its frames.
    pub(super) fn locate(
        &mut self,
        function: Bdf,
        machine: &mut impl PciMachine,
    ) -> Option<MfnRange> {
        let msix = self.msix.as_mut()?;
        let [command, ..] = machine.read(function, COMMAND, 1).to_le_bytes();
        let bar = if command & COMMAND_MEMORY != 0 {
            bar_base((function, msix.table_bar()), bars(self.bridge), machine)
        } else {
            None
        };
        msix.locate(bar, machine)
    }

    /// Hears that dom0 does not reach `frames` any longer: the table may be used, if it is there still.
    pub(super) fn moved(
        &mut self,
        function: Bdf,
        frames: MfnRange,
        host: &mut Host<'_, impl PciMachine>,
    ) {
        if let Some(msix) = &mut self.msix {
            msix.moved(frames);
            msix.settle(function, host);
        }
    }

    /// Switches its messages off and gives its vectors back.
    pub(super) fn release(&mut self, function: Bdf, host: &mut Host<'_, impl PciMachine>) {
        if let Some(msi) = &mut self.msi {
            msi.release(function, host);
        }
        if let Some(msix) = &mut self.msix {
            msix.release(function, host);
        }
    }

    pub(super) fn table_frames(&self) -> Option<MfnRange> {
        self.msix.as_ref()?.frames()
    }

    /// What a load from the table of MSI-X gives; `None` where `at` is not in it.
    pub(super) fn load_table(&self, at: Hpa, size: u8) -> Option<u64> {
        self.msix.as_ref()?.load(at, size)
    }

    /// Performs a store to the table, or to what tells which of its entries wait, which takes none; false where `at`
    /// is in neither.
    pub(super) fn store_table(
        &mut self,
        (function, at): (Bdf, Hpa),
        access: (u8, u64),
        host: &mut Host<'_, impl PciMachine>,
    ) -> bool {
        let Some(msix) = &mut self.msix else {
            return false;
        };
        msix.store((function, at), access, host)
    }

    fn settle(&mut self, function: Bdf, host: &mut Host<'_, impl PciMachine>) {
        if let Some(msi) = &mut self.msi {
            msi.settle(function, host);
        }
        if let Some(msix) = &mut self.msix {
            msix.settle(function, host);
        }
    }

    /// Before an access that depends on it, or that moves the table: where the device has been reset, so are the
    /// capabilities.
    fn notice_reset(
        &mut self,
        (function, offset, size): Place,
        moves: bool,
        host: &mut Host<'_, impl PciMachine>,
    ) {
        if let Some(msi) = &mut self.msi
            && msi.overlaps(offset, size)
        {
            msi.notice_reset(function, host);
        }
        if let Some(msix) = &mut self.msix
            && (msix.overlaps(offset, size) || moves)
        {
            msix.notice_reset(function, host);
        }
    }

    /// True where a write there may switch memory accesses on or off, or move the table.
    fn may_move_table(&self, offset: u16, size: u8) -> bool {
        let Some(msix) = &self.msix else {
            return false;
        };
        let bar = FIRST_BAR + 4 * u16::from(msix.table_bar());
        let overlaps =
            |start: u16, bytes: u16| offset < start + bytes && start < offset + u16::from(size);
        overlaps(COMMAND, 1) || overlaps(bar, 8)
    }

    /// Takes over the bytes of a write that concern us.
    fn keep(&mut self, offset: u16, size: u8, value: u32) -> Keep {
        let mut keep = Keep::Pass;
        for (at, byte) in (offset..).zip(value.to_le_bytes()).take(usize::from(size)) {
            if self.hidden.iter().any(|hidden| hidden.takes(at)) && keep == Keep::Pass {
                keep = Keep::Drop;
            }
            let is_msi = self.msi.as_mut().is_some_and(|msi| msi.set_byte(at, byte));
            let is_msix = self
                .msix
                .as_mut()
                .is_some_and(|msix| msix.set_byte(at, byte));
            if is_msi || is_msix {
                keep = Keep::Settle;
            }
        }
        keep
    }
}

/// What becomes of a write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// The device gets it.
    Pass,
    Drop,
    /// The device gets what follows from it.
    Settle,
}

impl Hidden {
    /// A capability of the first 256 bytes: only its pointer leads elsewhere.
    fn listed(start: u16, pointer: u16, next: u16) -> Self {
        const BYTES: u16 = 12;
        let [next, _] = next.to_le_bytes();
        Self {
            start,
            bytes: BYTES,
            pointer,
            reads: [next, 0, 0, 0],
            pointer_bytes: 1,
        }
    }

    /// An extended capability, whose own header says that it is none, and leads on: the first one cannot be led
    /// around.
    fn own_header(start: u16, header: u32) -> Self {
        Self {
            start,
            bytes: SR_IOV_BYTES,
            ..Self::header(start, header & 0xfff0_0000)
        }
    }

    /// The header of the extended capability before it.
    fn header(at: u16, reads: u32) -> Self {
        Self {
            start: 0,
            bytes: 0,
            pointer: at,
            reads: reads.to_le_bytes(),
            pointer_bytes: 4,
        }
    }

    fn byte(&self, at: u16) -> Option<u8> {
        let index = at.checked_sub(self.pointer)?;
        if index >= self.pointer_bytes {
            return None;
        }
        self.reads.get(usize::from(index)).copied()
    }

    fn takes(&self, at: u16) -> bool {
        at.checked_sub(self.start)
            .is_some_and(|index| index < self.bytes)
    }
}

/// Where the capability pointer at `pointer` leads; its low two bits are reserved.
fn next(function: Bdf, pointer: u16, machine: &mut impl PciMachine) -> u16 {
    let [next, ..] = machine.read(function, pointer, 1).to_le_bytes();
    u16::from(next & !3)
}

/// How many base address registers the header has.
const fn bars(bridge: Option<(u8, u8)>) -> u8 {
    if bridge.is_some() { 2 } else { 6 }
}

/// The address in a base address register of `bars`; `None` where it is one of I/O ports or has none.
fn bar_base((function, bar): (Bdf, u8), bars: u8, machine: &mut impl PciMachine) -> Option<Hpa> {
    const IS_IO: u32 = 1;
    const TYPE: u32 = 3 << 1;
    const TYPE_64: u32 = 2 << 1;
    let at = FIRST_BAR + 4 * u16::from(bar);
    let low = machine.read(function, at, 4);
    let is_wide = low & TYPE == TYPE_64;
    if low & IS_IO != 0 || is_wide && bar + 1 >= bars {
        return None;
    }
    let high = if is_wide {
        machine.read(function, at + 4, 4)
    } else {
        0
    };
    let base = u64::from(high) << 32 | u64::from(low & !0xf);
    (base != 0).then_some(Hpa::new(base))
}

/// True where a write switches memory accesses on or off, or changes a BAR: of the command register most bits do not
/// concern a table, and a device that runs keeps its messages.
fn changes_place(
    (function, offset, size): Place,
    value: u32,
    machine: &mut impl PciMachine,
) -> bool {
    const BARS: core::ops::Range<u16> = FIRST_BAR..0x28;
    let old = machine.read(function, offset, size).to_le_bytes();
    let mut bytes = (offset..).zip(old.into_iter().zip(value.to_le_bytes()));
    bytes
        .by_ref()
        .take(usize::from(size))
        .any(|(at, (old, new))| match at {
            COMMAND => (old ^ new) & COMMAND_MEMORY != 0,
            _ => BARS.contains(&at) && old != new,
        })
}
