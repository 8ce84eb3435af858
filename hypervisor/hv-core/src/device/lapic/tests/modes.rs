//! The modes and the ways between them, and the registers of xAPIC mode against a naive model.

use super::*;
use crate::device::message::{ApicAddress, LogicalId};
use proptest::prelude::*;

const XAPIC: u64 = 0xFEE0_0800;
const X2APIC: u64 = 0xFEE0_0C00;
const OFF: u64 = 0xFEE0_0000;
const OF_ID: u16 = 0x020;
const OF_TPR: u16 = 0x080;
const OF_EOI: u16 = 0x0B0;
const OF_LDR: u16 = 0x0D0;
const OF_DFR: u16 = 0x0E0;
const OF_SVR: u16 = 0x0F0;
const OF_ESR: u16 = 0x280;
const OF_ICR: u16 = 0x300;
const OF_ICR_HIGH: u16 = 0x310;
const OF_LVT_TIMER: u16 = 0x320;
const OF_LVT_ERROR: u16 = 0x370;
const OF_INITIAL_COUNT: u16 = 0x380;

/// In xAPIC mode, software-enabled.
fn mapped(id: u32) -> Lapic<TestFrame> {
    let mut lapic = after_reset(Delivery::BySoftware, id);
    assert_eq!(put(&mut lapic, OF_SVR, 0x1FF), LapicEffect::SoftwareEnabled);
    lapic
}

fn get(lapic: &mut Lapic<TestFrame>, offset: u16) -> u32 {
    lapic.read_mapped(offset, 4, 0)
}

fn put(lapic: &mut Lapic<TestFrame>, offset: u16, value: u32) -> LapicEffect {
    lapic.write_mapped(offset, 4, value, 0)
}

fn sent(effect: LapicEffect) -> InterruptMessage {
    match effect {
        LapicEffect::Send(message) => message,
        other => panic!("{other:?} instead of a message"),
    }
}

#[test]
fn reset_state_is_that_of_xapic_mode() {
    let mut lapic = after_reset(Delivery::BySoftware, 0x21);
    assert_eq!((lapic.base(), lapic.mode()), (XAPIC, Mode::Xapic));
    for (offset, value) in [
        (OF_ID, 0x2100_0000),
        (0x030, 0x0005_0014),
        (OF_TPR, 0),
        (0x0A0, 0),
        (OF_LDR, 0),
        (OF_DFR, u32::MAX),
        (OF_SVR, 0xFF),
        (OF_ESR, 0),
        (OF_ICR, 0),
        (OF_ICR_HIGH, 0),
        (OF_LVT_TIMER, 0x1_0000),
        (OF_LVT_ERROR, 0x1_0000),
        (0x390, 0),
    ] {
        assert_eq!(get(&mut lapic, offset), value, "{offset:#x}");
    }
    assert!(lapic.is_mapped() && !lapic.is_enabled());
    assert_eq!(lapic.read(0x802, 0), Err(Gp));
    assert_eq!(lapic.write(SVR, 0x1FF, 0), Err(Gp));
}

/// Every value from every mode: as in the SDM's figure of x2APIC state transitions.
#[test]
fn apic_base_goes_the_ways_of_the_manual() {
    let modes = [OFF, XAPIC, X2APIC];
    let reach = |base| {
        let mut lapic = after_reset(Delivery::BySoftware, 2);
        if base != XAPIC {
            assert!(lapic.set_base(base).is_ok());
        }
        lapic
    };
    for from in modes {
        for to in [OFF, XAPIC, X2APIC, 0xFEE0_0400] {
            let mut lapic = reach(from);
            let is_way = matches!((from, to), (OFF, XAPIC) | (XAPIC, X2APIC) | (_, OFF));
            let expected = if from == to {
                Ok(LapicEffect::None)
            } else if is_way {
                Ok(LapicEffect::Mode(reach(to).mode()))
            } else {
                Err(BaseRefused::Invalid)
            };
            assert_eq!(lapic.set_base(to), expected, "{from:#x} to {to:#x}");
            let now = if expected.is_ok() { to } else { from };
            assert_eq!(lapic.base(), now, "{from:#x} to {to:#x}");
        }
        for (bad, why) in [
            (from | 1, BaseRefused::Invalid),
            (from | 1 << 9, BaseRefused::Invalid),
            (from ^ 0x1000, BaseRefused::Moved),
            (from | 1 << 35, BaseRefused::Moved),
        ] {
            assert_eq!(reach(from).set_base(bad), Err(why), "{bad:#x}");
        }
    }
}

#[test]
fn switched_off_it_takes_nothing_and_comes_back_as_after_init() {
    for on in [XAPIC, X2APIC] {
        let mut lapic = mapped(2);
        let _ = put(&mut lapic, OF_LDR, 4 << 24);
        let _ = lapic.set_base(on);
        lapic.accept(0x41, Trigger::Edge);
        assert_eq!(lapic.set_base(OFF), Ok(LapicEffect::Mode(Mode::Off)));
        assert!(!lapic.is_on() && !lapic.is_enabled() && !lapic.is_mapped());
        assert_eq!(lapic.read(0x802, 0), Err(Gp));
        lapic.accept(0x42, Trigger::Edge);
        assert_eq!(lapic.deliverable(), None);
        assert_eq!(lapic.address().logical, LogicalId::RESET);
        assert_eq!(lapic.set_base(XAPIC), Ok(LapicEffect::Mode(Mode::Xapic)));
        let mut fresh = after_reset(Delivery::BySoftware, 2);
        assert_eq!(lapic.save(0), fresh.save(0));
        assert_eq!(get(&mut lapic, OF_SVR), get(&mut fresh, OF_SVR));
    }
}

/// All is kept but the logical id and the destination of the interrupt command.
#[test]
fn state_is_kept_on_the_way_to_x2apic_mode() {
    let mut lapic = mapped(0x12);
    lapic.accept(0x41, Trigger::Edge);
    lapic.accept(0x83, Trigger::Level);
    lapic.acknowledge(0x83);
    for (offset, value) in [
        (OF_LDR, 0x0400_0000),
        (OF_DFR, 0x0FFF_FFFF),
        (OF_TPR, 0x20),
        (0x3E0, 0xB),
        (OF_LVT_TIMER, 0xF0),
        (OF_LVT_ERROR, 0x1_00FE),
        (OF_INITIAL_COUNT, 1000),
        (OF_ICR_HIGH, 0x0700_0000),
        (OF_ICR, 0xF1),
    ] {
        let _ = put(&mut lapic, offset, value);
    }
    let ways = lapic.set_base(X2APIC);
    assert_eq!(ways, Ok(LapicEffect::Mode(Mode::X2apic)));
    for (msr, value) in [
        (0x802, 0x12),
        (0x80D, 0x0001_0004),
        (TPR, 0x20),
        (SVR, 0x1FF),
        (ICR, 0xF1),
        (LVT_TIMER, 0xF0),
        (LVT_ERROR, 0x1_00FE),
        (INITIAL_COUNT, 1000),
        (CURRENT_COUNT, 1000),
        (DIVIDE, 0xB),
    ] {
        assert_eq!(lapic.read(msr, 0), Ok(value), "{msr:#x}");
    }
    assert_eq!(set_of(&mut lapic, IRR), BTreeSet::from([0x41]));
    assert_eq!(set_of(&mut lapic, ISR), BTreeSet::from([0x83]));
    assert_eq!(set_of(&mut lapic, TMR), BTreeSet::from([0x83]));
    assert_eq!(lapic.on_timer(0), Some(1000 * TSC_PER_TICK));
}

#[test]
fn init_keeps_mode_and_id() {
    for (on, ldr, offset) in [(XAPIC, 0, OF_LDR), (X2APIC, 0x0001_0004, 0)] {
        let mut lapic = mapped(0x12);
        let _ = put(&mut lapic, OF_LDR, 4 << 24);
        let _ = lapic.set_base(on);
        lapic.init();
        assert_eq!(lapic.base(), on);
        if on == X2APIC {
            assert_eq!(lapic.read(0x802, 0), Ok(0x12));
            assert_eq!(lapic.read(0x80D, 0), Ok(ldr));
        } else {
            assert_eq!(get(&mut lapic, OF_ID), 0x1200_0000);
            assert_eq!(u64::from(get(&mut lapic, offset)), ldr);
        }
    }
}

#[test]
fn interrupt_command_of_two_halves_is_sent_by_the_lower() {
    let mut lapic = mapped(4);
    assert_eq!(put(&mut lapic, OF_ICR_HIGH, 0x0212_3456), LapicEffect::None);
    assert_eq!(get(&mut lapic, OF_ICR_HIGH), 0x0200_0000);
    let physical = sent(put(&mut lapic, OF_ICR, 0xF1));
    assert_eq!(
        (physical.vector, physical.target),
        (0xF1, Target::Physical(2))
    );
    let logical = sent(put(&mut lapic, OF_ICR, 1 << 11 | 0xF1));
    assert_eq!(logical.target, Target::Logical(2));
    let others = sent(put(&mut lapic, OF_ICR, 3 << 18 | 0xF1));
    assert_eq!(others.target, Target::AllBut(4));
    let _ = put(&mut lapic, OF_ICR_HIGH, 0xFF00_0000);
    assert_eq!(sent(put(&mut lapic, OF_ICR, 0xF1)).target, Target::All);
    let startup = sent(put(&mut lapic, OF_ICR, 6 << 8 | 0x9A));
    assert_eq!(
        (startup.mode, startup.vector),
        (DeliveryMode::Startup, 0x9A)
    );
    assert_eq!(put(&mut lapic, OF_ICR, 1 << 18 | 0x41), LapicEffect::None);
    assert_eq!(lapic.deliverable(), Some(0x41));
    // the delivery status and reserved bits are not kept
    let _ = put(&mut lapic, OF_ICR, 0xFFF3_3000 | 1 << 18 | 0x41);
    assert_eq!(get(&mut lapic, OF_ICR), 1 << 18 | 0x41);
}

#[test]
fn logical_address_follows_the_registers() {
    let mut lapic = mapped(4);
    let address = |logical| ApicAddress { id: 4, logical };
    assert_eq!(lapic.address(), address(LogicalId::Flat(0)));
    assert_eq!(
        put(&mut lapic, OF_LDR, 0x0800_0000),
        LapicEffect::Readdressed
    );
    assert_eq!(lapic.address(), address(LogicalId::Flat(8)));
    assert_eq!(put(&mut lapic, OF_DFR, 0), LapicEffect::Readdressed);
    assert_eq!(get(&mut lapic, OF_DFR), 0x0FFF_FFFF);
    assert_eq!(lapic.address(), address(LogicalId::Cluster(8)));
    let _ = lapic.set_base(X2APIC);
    assert_eq!(lapic.address(), address(LogicalId::OfId));
}

#[test]
fn access_to_a_register_that_is_not_there_is_an_error() {
    let mut lapic = mapped(0);
    let _ = put(&mut lapic, OF_LVT_ERROR, 0xFE);
    for offset in [
        0x000, 0x040, 0x0C0, 0x290, 0x2F0, 0x3A0, 0x3F0, 0x400, 0xFF0,
    ] {
        assert_eq!(get(&mut lapic, offset), 0, "{offset:#x}");
        assert_eq!(put(&mut lapic, OF_ESR, 0xFFFF), LapicEffect::None);
        assert_eq!(get(&mut lapic, OF_ESR), 0x80, "{offset:#x} read");
        assert_eq!(put(&mut lapic, offset, 1), LapicEffect::None);
        let _ = put(&mut lapic, OF_ESR, 0);
        assert_eq!(get(&mut lapic, OF_ESR), 0x80, "{offset:#x} written");
    }
    let _ = put(&mut lapic, OF_ESR, 0);
    assert_eq!(get(&mut lapic, OF_ESR), 0, "written, it tells what is new");
    assert_eq!(lapic.deliverable(), Some(0xFE));
}

#[test]
fn part_of_a_register_can_be_accessed() {
    let mut lapic = mapped(0x12);
    assert_eq!(lapic.read_mapped(OF_ID + 3, 1, 0), 0x12);
    assert_eq!(lapic.read_mapped(OF_ID + 2, 2, 0), 0x1200);
    let _ = lapic.write_mapped(OF_TPR, 1, 0x30, 0);
    assert_eq!(get(&mut lapic, OF_TPR), 0x30);
    let _ = lapic.write_mapped(OF_LDR + 3, 1, 8, 0);
    assert_eq!(lapic.address().logical, LogicalId::Flat(8));
    for (offset, size) in [
        (OF_TPR + 1, 4),
        (OF_TPR + 4, 4),
        (OF_TPR, 8),
        (OF_TPR + 12, 1),
    ] {
        assert_eq!(lapic.read_mapped(offset, size, 0), 0, "{offset:#x}, {size}");
        let _ = lapic.write_mapped(offset, size, 0x7070_7070, 0);
    }
    assert_eq!(get(&mut lapic, OF_TPR), 0x30);
    assert_eq!(put(&mut lapic, OF_ESR, 0), LapicEffect::None);
    assert_eq!(get(&mut lapic, OF_ESR), 0);
}

#[test]
fn a_loaded_state_is_the_saved_one_in_xapic_mode_too() {
    let mut lapic = mapped(0x12);
    for (offset, value) in [
        (OF_LDR, 0x0400_0000),
        (OF_DFR, 0),
        (OF_ICR_HIGH, 7 << 24),
        (OF_ICR, 0xF1),
    ] {
        let _ = put(&mut lapic, offset, value);
    }
    let (state, page) = lapic.save(0);
    assert_eq!(
        (state.apic_base_msr, page[0x313], page[0x23]),
        (XAPIC, 7, 0x12)
    );
    for was in [XAPIC, X2APIC] {
        let mut other = after_reset(Delivery::BySoftware, 0x12);
        let _ = other.set_base(was);
        assert_eq!(other.load(&state, &page, 0), Ok(()));
        assert_eq!((other.mode(), other.save(0)), (Mode::Xapic, (state, page)));
        assert_eq!(other.address().logical, LogicalId::Cluster(4));
    }
    let (state, page) = enabled().save(0);
    let mut other = mapped(0);
    assert_eq!(other.load(&state, &page, 0), Ok(()));
    assert_eq!((other.mode(), other.save(0)), (Mode::X2apic, (state, page)));
}

/// The writable registers of xAPIC mode that only keep what is written, with the bits that they keep and those always
/// set.
const PLAIN: [(u16, u32, u32); 11] = [
    (OF_TPR, 0xFF, 0),
    (OF_LDR, 0xFF00_0000, 0),
    (OF_DFR, 0xF000_0000, 0x0FFF_FFFF),
    (OF_SVR, 0x3FF, 0),
    (OF_ICR_HIGH, 0xFF00_0000, 0),
    (0x330, 0x1_07FF, 0),
    (0x340, 0x1_07FF, 0),
    (0x350, 0x1_A7FF, 0),
    (0x360, 0x1_A7FF, 0),
    (OF_LVT_ERROR, 0x1_00FF, 0),
    (0x3E0, 0xB, 0),
];
const LVT: [u16; 5] = [0x330, 0x340, 0x350, 0x360, OF_LVT_ERROR];

#[derive(Clone, Debug)]
enum Step {
    Write(usize, u32),
    /// A byte of it.
    WriteByte(usize, u16, u8),
    /// Of a register that is read-only, or not there.
    Ignored(u16, u32),
    Init,
}

fn step() -> impl Strategy<Value = Step> {
    const READ_ONLY: [u16; 8] = [0x020, 0x030, 0x0A0, 0x100, 0x180, 0x210, 0x390, 0x3F0];
    prop_oneof![
        8 => (0..PLAIN.len(), any::<u32>()).prop_map(|(n, v)| Step::Write(n, v)),
        4 => (0..PLAIN.len(), 0..4u16, any::<u8>()).prop_map(|(n, b, v)| Step::WriteByte(n, b, v)),
        2 => (proptest::sample::select(&READ_ONLY[..]), any::<u32>()).prop_map(|(o, v)| Step::Ignored(o, v)),
        1 => Just(Step::Init),
    ]
}

/// The registers by offset, as one who reads the manual would keep them.
struct Model([u32; PLAIN.len()]);

impl Model {
    fn after_init() -> Self {
        Self(PLAIN.map(|(offset, _, ones)| match offset {
            OF_DFR => u32::MAX,
            OF_SVR => 0xFF,
            _ if LVT.contains(&offset) => 0x1_0000,
            _ => ones,
        }))
    }

    fn is_enabled(&self) -> bool {
        self.0[3] & 0x100 != 0
    }

    fn write(&mut self, n: usize, value: u32) {
        let (offset, kept, ones) = PLAIN[n];
        self.0[n] = value & kept | ones;
        if !self.is_enabled() && (offset == OF_SVR || LVT.contains(&offset)) {
            for (register, (offset, ..)) in self.0.iter_mut().zip(PLAIN) {
                *register |= if LVT.contains(&offset) { 0x1_0000 } else { 0 };
            }
        }
    }
}

proptest! {
    #[test]
    fn registers_keep_what_the_model_keeps_in_both_modes(steps in proptest::collection::vec(step(), 0..100)) {
        let mut lapic = after_reset(Delivery::BySoftware, 0x12);
        let mut model = Model::after_init();
        for step in steps {
            match step {
                Step::Write(n, value) => {
                    let _ = put(&mut lapic, PLAIN[n].0, value);
                    model.write(n, value);
                }
                Step::WriteByte(n, byte, value) => {
                    let _ = lapic.write_mapped(PLAIN[n].0 + byte, 1, u32::from(value), 0);
                    let others = model.0[n] & !(0xFF << (byte * 8));
                    model.write(n, others | u32::from(value) << (byte * 8));
                }
                Step::Ignored(offset, value) => {
                    let before = get(&mut lapic, offset);
                    prop_assert_eq!(put(&mut lapic, offset, value), LapicEffect::None);
                    prop_assert_eq!(get(&mut lapic, offset), before);
                }
                Step::Init => {
                    lapic.init();
                    model = Model::after_init();
                }
            }
            for ((offset, ..), value) in PLAIN.into_iter().zip(model.0) {
                prop_assert_eq!(get(&mut lapic, offset), value, "{:#x}", offset);
            }
            prop_assert_eq!(lapic.is_enabled(), model.is_enabled());
        }
        prop_assert!(lapic.set_base(X2APIC).is_ok());
        for ((offset, ..), value) in PLAIN.into_iter().zip(model.0) {
            if ![OF_LDR, OF_DFR, OF_ICR_HIGH].contains(&offset) {
                prop_assert_eq!(lapic.read(0x800 + u32::from(offset / 16), 0), Ok(u64::from(value)));
            }
        }
        prop_assert_eq!(lapic.read(0x80D, 0), Ok(0x0001_0004));
    }

    #[test]
    fn no_mapped_access_panics(
        accesses in proptest::collection::vec((0..0x1010u16, any::<u32>(), 0..9u8, any::<u64>(), any::<bool>()), 0..100),
        by_cpu: bool,
    ) {
        let delivery = if by_cpu { Delivery::ByCpu } else { Delivery::BySoftware };
        let mut lapic = after_reset(delivery, 0x12);
        let posted = empty_box();
        for (offset, value, size, now, is_aligned) in accesses {
            let (offset, size) = if is_aligned { (offset & 0x3F0, 4) } else { (offset, size) };
            let _ = lapic.write_mapped(offset, size, value, now);
            let _ = lapic.read_mapped(offset, size, now);
            let _ = lapic.on_timer(now);
            let _ = lapic.sync(&posted);
            if let Some(v) = lapic.deliverable() {
                lapic.acknowledge(v);
            }
            let _ = put(&mut lapic, OF_EOI, 0);
            lapic.tpr_threshold();
            let (state, page) = lapic.save(now);
            prop_assert_eq!(lapic.load(&state, &page, now), Ok(()));
        }
    }
}
