//! Tests of the I/O APIC: examples, and a held line in front of a real one.

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
fn a_real_pins_entry_says_what_it_was_made_of() {
    assert_eq!(
        rte::fixed(0x41, 3, Trigger::Level, Polarity::Low),
        0x0300_0000_0000_a041
    );
    assert_eq!(
        rte::fixed(0x41, 3, Trigger::Edge, Polarity::High) >> 8,
        3 << 48
    );
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
    let entry = (0..3u32, 0..2u32, 0..2u32, 0..4u32)
        .prop_map(|(v, level, mask, odd)| (0x40 + v) | level << 15 | mask << 16 | (odd / 3) << 13);
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
