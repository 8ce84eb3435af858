//! A virtual I/O APIC whose pins are bound one to one to the pins of a real one.
//!
//! Writing a redirection entry is the only way in which Linux as PVH dom0 says which lines it wants, so a write yields
//! what to do with the real pin. The host's own vector and the CPU that takes the real interrupt are the story's.
//!
//! A level line goes: the real pin fires → the story calls [`IoApic::raise`], which masks the real pin and makes a
//! message → the guest's EOI reaches [`IoApic::eoi`] → the real pin opens again, and fires at once where the line is still
//! held. An edge is acknowledged at once and nothing waits. Version 0x11 has no EOI register: Linux frees a stuck entry by
//! making it an edge for a moment, which must clear remote IRR.
//! Intel 82093AA I/O Advanced Programmable Interrupt Controller (I/O APIC), "Register Description".

use super::message::{DeliveryMode, InterruptMessage, Target, Trigger};
use alloc::vec::Vec;

/// What an I/O APIC of this version can have at most.
pub const MAX_PINS: u8 = 240;
/// Byte offset of the register that selects.
pub const IOREGSEL: u64 = 0x00;
/// Byte offset of the window to the selected register.
pub const IOWIN: u64 = 0x10;

const VERSION: u32 = 0x11;
const REG_ID: u8 = 0;
const REG_VERSION: u8 = 1;
const REG_ARBITRATION: u8 = 2;
const REG_TABLE: u8 = 0x10;
const ID_SHIFT: u32 = 24;
const ID_MASK: u32 = 0xF;

/// Bits of a redirection entry.
mod rte {
    pub(super) const VECTOR: u64 = 0xFF;
    pub(super) const MODE_SHIFT: u32 = 8;
    pub(super) const LOGICAL: u64 = 1 << 11;
    pub(super) const ACTIVE_LOW: u64 = 1 << 13;
    pub(super) const REMOTE_IRR: u64 = 1 << 14;
    pub(super) const LEVEL: u64 = 1 << 15;
    pub(super) const MASKED: u64 = 1 << 16;
    /// What software may write; delivery status (always 0 here) and remote IRR it may not.
    pub(super) const WRITABLE: u64 =
        0xFF << 56 | MASKED | LEVEL | ACTIVE_LOW | LOGICAL | 7 << MODE_SHIFT | VECTOR;
}

/// Which level of a line is its active one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Polarity {
    /// Active high.
    High,
    /// Active low.
    Low,
}

/// What to do with a real pin.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PinEffect {
    /// Program it so and open it.
    Unmask(PinRoute),
    /// Mask it.
    Mask {
        /// Its number.
        pin: u8,
    },
}

/// How the guest wants a pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinRoute {
    /// Its number.
    pub pin: u8,
    /// Edge or level.
    pub trigger: Trigger,
    /// The line's active level.
    pub polarity: Polarity,
    /// Which vCPUs its interrupts go to: a hint for the choice of the physical CPU.
    pub target: Target,
}

/// What an interrupt of a real pin becomes.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Raised {
    /// What to deliver; `None` where the guest has masked the pin in the meantime.
    pub message: Option<InterruptMessage>,
    /// What to do with the real pin, before the host's EOI.
    pub pin: Option<PinEffect>,
}

#[derive(Clone, Copy, Debug)]
struct Pin {
    rte: u64,
    /// The real pin has fired and waits, masked, for the guest.
    is_held: bool,
    /// How the real pin is programmed; `None` while it is masked.
    applied: Option<PinRoute>,
}

/// A virtual I/O APIC.
#[derive(Debug)]
pub struct IoApic {
    id: u32,
    select: u8,
    pins: Vec<Pin>,
}

impl IoApic {
    /// Makes one with the real one's id (bits 27:24 of its ID register) and number of pins (clamped to 1–[`MAX_PINS`]), all
    /// masked; the real pins are masked already.
    #[must_use]
    pub fn new(id: u8, pins: u8) -> Self {
        let masked = Pin {
            rte: rte::MASKED,
            is_held: false,
            applied: None,
        };
        Self {
            id: u32::from(id) & ID_MASK,
            select: 0,
            pins: alloc::vec![masked; usize::from(pins.clamp(1, MAX_PINS))],
        }
    }

    /// Reads 32 bits at byte `offset` of the page; 0 where there is no register.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            IOREGSEL => u32::from(self.select),
            IOWIN => self.read_selected(),
            _ => 0,
        }
    }

    /// Writes 32 bits at byte `offset` of the page; ignored where there is no writable register. The effect, if any, is
    /// to be applied before the guest goes on.
    pub fn write(&mut self, offset: u64, value: u32) -> Option<PinEffect> {
        match offset {
            IOREGSEL => {
                let [index, ..] = value.to_le_bytes();
                self.select = index;
                None
            }
            IOWIN => self.write_selected(value),
            _ => None,
        }
    }

    /// Takes an interrupt of real pin `pin`.
    pub fn raise(&mut self, pin: u8) -> Raised {
        let Some(entry) = self.pins.get_mut(usize::from(pin)) else {
            // no such pin here: keep the real one quiet
            return Raised {
                message: None,
                pin: Some(PinEffect::Mask { pin }),
            };
        };
        let message = entry.fire();
        Raised {
            message,
            pin: entry.settle(pin),
        }
    }

    /// Takes the EOI of `vector` by any vCPU: calls `apply` with what becomes of the real pins that waited for it.
    pub fn eoi(&mut self, vector: u8, mut apply: impl FnMut(PinEffect)) {
        for (pin, entry) in (0..=u8::MAX).zip(&mut self.pins) {
            if entry.waits_for(vector) {
                entry.release();
                if let Some(effect) = entry.settle(pin) {
                    apply(effect);
                }
            }
        }
    }

    /// Takes back a message of `pin` that no vCPU accepted (nobody has the id; the vector is illegal): no EOI will come. The real
    /// pin stays masked until the guest writes the entry again, or the held line would fire for ever.
    pub fn undelivered(&mut self, pin: u8) {
        if let Some(entry) = self.pins.get_mut(usize::from(pin)) {
            entry.rte &= !rte::REMOTE_IRR;
        }
    }

    /// How many pins.
    #[must_use]
    pub fn pins(&self) -> u8 {
        // never above MAX_PINS
        u8::try_from(self.pins.len()).unwrap_or(MAX_PINS)
    }

    /// The redirection entry of `pin` as the guest sees it, for the debug key.
    #[must_use]
    pub fn entry(&self, pin: u8) -> Option<u64> {
        self.pins.get(usize::from(pin)).map(|entry| entry.rte)
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            REG_ID | REG_ARBITRATION => self.id << ID_SHIFT,
            REG_VERSION => u32::from(self.pins() - 1) << 16 | VERSION,
            _ => self.selected_half().map_or(0, |(pin, is_high)| {
                let rte = self.entry(pin).unwrap_or(0);
                let [a, b, c, d, e, f, g, h] = rte.to_le_bytes();
                u32::from_le_bytes(if is_high { [e, f, g, h] } else { [a, b, c, d] })
            }),
        }
    }

    fn write_selected(&mut self, value: u32) -> Option<PinEffect> {
        if self.select == REG_ID {
            self.id = value >> ID_SHIFT & ID_MASK;
            return None;
        }
        let (pin, is_high) = self.selected_half()?;
        let entry = self.pins.get_mut(usize::from(pin))?;
        entry.write_half(is_high, value);
        entry.settle(pin)
    }

    /// The pin whose entry is selected, and whether its upper half is.
    fn selected_half(&self) -> Option<(u8, bool)> {
        let index = self.select.checked_sub(REG_TABLE)?;
        Some((index / 2, index % 2 == 1))
    }
}

impl Pin {
    fn write_half(&mut self, is_high: bool, value: u32) {
        let (shift, kept) = if is_high {
            (32, 0xFFFF_FFFF)
        } else {
            (0, 0xFFFF_FFFF << 32)
        };
        let written = self.rte & kept | u64::from(value) << shift;
        let read_only = self.rte & rte::REMOTE_IRR;
        self.rte = written & rte::WRITABLE | read_only;
        if self.trigger() == Trigger::Edge || self.rte & rte::REMOTE_IRR == 0 {
            // an entry made an edge forgets that it waits; so does one whose message went nowhere
            self.release();
        }
    }

    /// The message for an interrupt of the real pin, noting what waits for an EOI.
    fn fire(&mut self) -> Option<InterruptMessage> {
        let is_level = self.trigger() == Trigger::Level;
        self.is_held = is_level;
        if self.rte & rte::MASKED != 0 {
            // a line that is held fires again when its entry opens; an edge is lost, as on the real one
            self.is_held = false;
            return None;
        }
        if self.rte & rte::REMOTE_IRR != 0 {
            return None;
        }
        let message = self.message()?;
        if is_level && has_eoi(message.mode) {
            self.rte |= rte::REMOTE_IRR;
        }
        Some(message)
    }

    fn message(&self) -> Option<InterruptMessage> {
        let [vector, ..] = self.rte.to_le_bytes();
        Some(InterruptMessage {
            vector,
            mode: DeliveryMode::from_bits(self.rte >> rte::MODE_SHIFT)?,
            target: self.target(),
            trigger: self.trigger(),
        })
    }

    fn waits_for(&self, vector: u8) -> bool {
        let [own, ..] = self.rte.to_le_bytes();
        self.rte & rte::REMOTE_IRR != 0 && own == vector
    }

    /// Ends the wait for an EOI.
    fn release(&mut self) {
        self.rte &= !rte::REMOTE_IRR;
        self.is_held = false;
    }

    /// Compares how the real pin should be with how it is.
    fn settle(&mut self, pin: u8) -> Option<PinEffect> {
        let wanted = self.wanted(pin);
        if wanted == self.applied {
            return None;
        }
        self.applied = wanted;
        Some(wanted.map_or(PinEffect::Mask { pin }, PinEffect::Unmask))
    }

    /// How the real pin should be programmed; `None` for masked. Modes in which no interrupt could reach a vCPU keep it
    /// masked.
    fn wanted(&self, pin: u8) -> Option<PinRoute> {
        let mode = DeliveryMode::from_bits(self.rte >> rte::MODE_SHIFT)?;
        let is_open = self.rte & rte::MASKED == 0 && !self.is_held;
        (is_open && (has_eoi(mode) || mode == DeliveryMode::Nmi)).then(|| PinRoute {
            pin,
            trigger: self.trigger(),
            polarity: self.polarity(),
            target: self.target(),
        })
    }

    fn trigger(&self) -> Trigger {
        // modes other than these two are edges whatever the bit says
        let mode = DeliveryMode::from_bits(self.rte >> rte::MODE_SHIFT);
        if self.rte & rte::LEVEL != 0 && mode.is_some_and(has_eoi) {
            Trigger::Level
        } else {
            Trigger::Edge
        }
    }

    fn polarity(&self) -> Polarity {
        if self.rte & rte::ACTIVE_LOW != 0 {
            Polarity::Low
        } else {
            Polarity::High
        }
    }

    fn target(&self) -> Target {
        let [.., destination] = self.rte.to_le_bytes();
        Target::from_device(destination, self.rte & rte::LOGICAL != 0)
    }
}

/// True for the modes that go through IRR and ISR.
fn has_eoi(mode: DeliveryMode) -> bool {
    matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PINS: u8 = 24;
    const LEVEL_LOW: u32 = 0xA000;
    const MASK: u32 = 0x1_0000;

    fn select(ioapic: &mut IoApic, register: u8) {
        assert_eq!(ioapic.write(IOREGSEL, u32::from(register)), None);
    }

    fn write_low(ioapic: &mut IoApic, pin: u8, value: u32) -> Option<PinEffect> {
        select(ioapic, 0x10 + 2 * pin);
        ioapic.write(IOWIN, value)
    }

    fn write_high(ioapic: &mut IoApic, pin: u8, destination: u8) -> Option<PinEffect> {
        select(ioapic, 0x11 + 2 * pin);
        ioapic.write(IOWIN, u32::from(destination) << 24)
    }

    fn eoi(ioapic: &mut IoApic, vector: u8) -> Vec<PinEffect> {
        let mut effects = Vec::new();
        ioapic.eoi(vector, |effect| effects.push(effect));
        effects
    }

    fn open(pin: u8, trigger: Trigger, polarity: Polarity, id: u32) -> PinEffect {
        PinEffect::Unmask(PinRoute {
            pin,
            trigger,
            polarity,
            target: Target::Physical(id),
        })
    }

    #[test]
    fn id_version_and_pins_read_as_the_real_ones() {
        let mut ioapic = IoApic::new(2, PINS);
        assert_eq!(ioapic.read(IOWIN), 0x0200_0000);
        select(&mut ioapic, REG_VERSION);
        assert_eq!(ioapic.read(IOWIN), 0x0017_0011);
        select(&mut ioapic, REG_ARBITRATION);
        assert_eq!(ioapic.read(IOWIN), 0x0200_0000);
        assert_eq!(ioapic.read(IOREGSEL), 2);
    }

    #[test]
    fn entries_start_masked_and_keep_reserved_bits_zero() {
        let mut ioapic = IoApic::new(0, PINS);
        assert_eq!(ioapic.entry(3), Some(0x1_0000));
        assert_eq!(write_low(&mut ioapic, 3, 0xFFFF_FFFF), None);
        assert_eq!(ioapic.entry(3), Some(0x1_AFFF));
        assert_eq!(write_high(&mut ioapic, 3, 0xFF), None);
        select(&mut ioapic, 0x17);
        assert_eq!(ioapic.write(IOWIN, 0xFFFF_FFFF), None);
        assert_eq!(ioapic.read(IOWIN), 0xFF00_0000);
    }

    #[test]
    fn accesses_past_the_last_pin_read_zero_and_do_nothing() {
        let mut ioapic = IoApic::new(0, PINS);
        for register in [3, 0x0F, 0x10 + 2 * PINS, 0xFF] {
            select(&mut ioapic, register);
            assert_eq!(ioapic.write(IOWIN, 0x41), None);
            assert_eq!(ioapic.read(IOWIN), 0);
        }
        assert_eq!(ioapic.write(0x40, 0x41), None);
        assert_eq!(ioapic.read(0x40), 0);
    }

    #[test]
    fn edge_is_delivered_and_leaves_the_pin_open() {
        let mut ioapic = IoApic::new(0, PINS);
        assert_eq!(write_high(&mut ioapic, 14, 1), None);
        assert_eq!(
            write_low(&mut ioapic, 14, 0x41),
            Some(open(14, Trigger::Edge, Polarity::High, 1))
        );
        let message = InterruptMessage {
            vector: 0x41,
            mode: DeliveryMode::Fixed,
            target: Target::Physical(1),
            trigger: Trigger::Edge,
        };
        for _ in 0..2 {
            assert_eq!(
                ioapic.raise(14),
                Raised {
                    message: Some(message),
                    pin: None
                }
            );
        }
        assert_eq!(eoi(&mut ioapic, 0x41), []);
    }

    #[test]
    fn level_masks_the_real_pin_until_the_eoi() {
        let mut ioapic = IoApic::new(0, PINS);
        let route = open(11, Trigger::Level, Polarity::Low, 0);
        assert_eq!(write_low(&mut ioapic, 11, LEVEL_LOW | 0x51), Some(route));
        let raised = ioapic.raise(11);
        assert_eq!(
            raised.message.map(|m| (m.vector, m.trigger)),
            Some((0x51, Trigger::Level))
        );
        assert_eq!(raised.pin, Some(PinEffect::Mask { pin: 11 }));
        assert_eq!(ioapic.entry(11), Some(0xE051));
        assert_eq!(eoi(&mut ioapic, 0x52), []);
        assert_eq!(eoi(&mut ioapic, 0x51), [route]);
        assert_eq!(ioapic.entry(11), Some(0xA051));
    }

    #[test]
    fn level_masked_by_the_guest_while_in_service_opens_with_its_entry() {
        let mut ioapic = IoApic::new(0, PINS);
        let route = open(11, Trigger::Level, Polarity::Low, 0);
        let _ = write_low(&mut ioapic, 11, LEVEL_LOW | 0x51);
        let _ = ioapic.raise(11);
        assert_eq!(write_low(&mut ioapic, 11, MASK | LEVEL_LOW | 0x51), None);
        assert_eq!(eoi(&mut ioapic, 0x51), []);
        assert_eq!(write_low(&mut ioapic, 11, LEVEL_LOW | 0x51), Some(route));
    }

    #[test]
    fn flip_to_edge_and_back_clears_remote_irr() {
        let mut ioapic = IoApic::new(0, PINS);
        let _ = write_low(&mut ioapic, 11, LEVEL_LOW | 0x51);
        let _ = ioapic.raise(11);
        assert_eq!(write_low(&mut ioapic, 11, MASK | 0x2051), None);
        assert_eq!(ioapic.entry(11), Some(0x1_2051));
        assert_eq!(
            write_low(&mut ioapic, 11, LEVEL_LOW | 0x51),
            Some(open(11, Trigger::Level, Polarity::Low, 0))
        );
    }

    #[test]
    fn interrupt_that_was_on_its_way_when_the_guest_masked_is_dropped() {
        let mut ioapic = IoApic::new(0, PINS);
        let _ = write_low(&mut ioapic, 11, LEVEL_LOW | 0x51);
        assert_eq!(
            write_low(&mut ioapic, 11, MASK | LEVEL_LOW | 0x51),
            Some(PinEffect::Mask { pin: 11 })
        );
        let nothing = Raised {
            message: None,
            pin: None,
        };
        assert_eq!(ioapic.raise(11), nothing);
        assert!(write_low(&mut ioapic, 11, LEVEL_LOW | 0x51).is_some());
    }

    #[test]
    fn undelivered_level_keeps_the_pin_masked_until_the_next_write() {
        let mut ioapic = IoApic::new(0, PINS);
        let _ = write_low(&mut ioapic, 11, LEVEL_LOW | 0x05);
        let _ = ioapic.raise(11);
        ioapic.undelivered(11);
        assert_eq!(ioapic.entry(11), Some(0xA005));
        assert!(write_low(&mut ioapic, 11, LEVEL_LOW | 0x51).is_some());
    }

    #[test]
    fn modes_that_reach_nobody_keep_the_real_pin_masked() {
        let mut ioapic = IoApic::new(0, PINS);
        for mode in [2, 3, 5, 6, 7] {
            assert_eq!(write_low(&mut ioapic, 0, mode << 8 | 0x41), None, "{mode}");
        }
        assert!(write_low(&mut ioapic, 0, 4 << 8).is_some());
    }

    #[test]
    fn pin_that_does_not_exist_is_kept_quiet() {
        let mut ioapic = IoApic::new(0, PINS);
        let raised = ioapic.raise(PINS);
        assert_eq!(raised.pin, Some(PinEffect::Mask { pin: PINS }));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Low(u8, u32),
        High(u8, u8),
        Line(u8, bool),
        Eoi(u8),
        Raw(u64, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let entry = (0..3u32, 0..2u32, 0..2u32, 0..4u32).prop_map(|(v, level, mask, odd)| {
            (0x40 + v) | level << 15 | mask << 16 | (odd / 3) << 13
        });
        prop_oneof![
            (0..4u8, entry).prop_map(|(pin, value)| Step::Low(pin, value)),
            (0..4u8, any::<u8>()).prop_map(|(pin, id)| Step::High(pin, id)),
            (0..4u8, any::<bool>()).prop_map(|(pin, held)| Step::Line(pin, held)),
            (0x40..0x43u8).prop_map(Step::Eoi),
            (
                prop_oneof![Just(IOREGSEL), Just(IOWIN), any::<u64>()],
                any::<u32>()
            )
                .prop_map(|(offset, value)| Step::Raw(offset, value)),
        ]
    }

    /// The real I/O APIC, and whether anybody would hear a held line.
    #[derive(Default)]
    struct Real {
        open: [Option<PinRoute>; 24],
        held: [bool; 24],
    }

    impl Real {
        fn apply(&mut self, effect: PinEffect) {
            match effect {
                PinEffect::Unmask(route) => self.open[usize::from(route.pin)] = Some(route),
                PinEffect::Mask { pin } => self.open[usize::from(pin)] = None,
            }
        }
        fn fires(&self) -> Option<u8> {
            (0..PINS).find(|&pin| {
                let pin = usize::from(pin);
                self.held[pin] && self.open[pin].is_some_and(|r| r.trigger == Trigger::Level)
            })
        }
    }

    proptest! {
        /// Whatever the guest writes: a held level line whose entry is open is either waiting for its EOI or fires; and it
        /// never fires again while it waits.
        #[test]
        fn no_level_is_lost_or_repeated(steps in proptest::collection::vec(step(), 0..200)) {
            let mut ioapic = IoApic::new(0, PINS);
            let mut real = Real::default();
            for step in steps {
                let effect = match step {
                    Step::Low(pin, value) => write_low(&mut ioapic, pin, value),
                    Step::High(pin, id) => write_high(&mut ioapic, pin, id),
                    Step::Raw(offset, value) => ioapic.write(offset, value),
                    Step::Line(pin, held) => { real.held[usize::from(pin)] = held; None }
                    Step::Eoi(vector) => { ioapic.eoi(vector, |effect| real.apply(effect)); None }
                };
                if let Some(effect) = effect {
                    real.apply(effect);
                }
                let mut fired = 0;
                while let Some(pin) = real.fires() {
                    let before = ioapic.entry(pin).expect("a pin");
                    prop_assert_eq!(before & (rte::REMOTE_IRR | rte::MASKED), 0);
                    let raised = ioapic.raise(pin);
                    prop_assert!(raised.message.is_some());
                    if let Some(effect) = raised.pin {
                        real.apply(effect);
                    }
                    fired += 1;
                    prop_assert!(fired <= PINS, "a storm");
                }
                for pin in 0..PINS {
                    let rte = ioapic.entry(pin).expect("a pin");
                    let is_open = real.open[usize::from(pin)].is_some();
                    let fixed = rte & 0x600 == 0;
                    let wants = rte & (rte::MASKED | rte::REMOTE_IRR) == 0 && (fixed || rte & 0x700 == 0x400);
                    prop_assert_eq!(is_open, wants, "pin {} entry {:#x}", pin, rte);
                }
            }
        }
    }
}
