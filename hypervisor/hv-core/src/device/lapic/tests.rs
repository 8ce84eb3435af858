//! Tests of the local APIC: examples for the SDM's rules, and models for what has state.

use super::*;
use crate::device::message::{DeliveryMode, Target, Trigger};
use crate::device::posted::PostedInterrupts;
use crate::device::test_frame::TestFrame;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec::Vec;

const TSC_KHZ: u32 = 2_000_000;
const TSC_PER_TICK: u64 = 20;
const TPR: u32 = 0x808;
const PPR: u32 = 0x80A;
const EOI: u32 = 0x80B;
const SVR: u32 = 0x80F;
const ISR: u32 = 0x810;
const TMR: u32 = 0x818;
const IRR: u32 = 0x820;
const ESR: u32 = 0x828;
const ICR: u32 = 0x830;
const LVT_TIMER: u32 = 0x832;
const LVT_ERROR: u32 = 0x837;
const INITIAL_COUNT: u32 = 0x838;
const CURRENT_COUNT: u32 = 0x839;
const DIVIDE: u32 = 0x83E;
const SELF_IPI: u32 = 0x83F;

fn with(delivery: Delivery, id: u32) -> Lapic<TestFrame> {
    let mut lapic = Lapic::new(
        TestFrame::zeroed(),
        LapicConfig {
            id,
            is_bsp: id == 0,
            tsc_khz: TSC_KHZ,
            delivery,
        },
    );
    assert_eq!(lapic.write(SVR, 0x1FF, 0), Ok(LapicEffect::SoftwareEnabled));
    lapic
}

fn enabled() -> Lapic<TestFrame> {
    with(Delivery::BySoftware, 0)
}

fn empty_box() -> PostedInterrupts<TestFrame> {
    PostedInterrupts::new(TestFrame::zeroed(), 0)
}

fn read(lapic: &mut Lapic<TestFrame>, msr: u32) -> u64 {
    lapic.read(msr, 0).expect("readable")
}

fn set_of(lapic: &mut Lapic<TestFrame>, first: u32) -> BTreeSet<u8> {
    let words: Vec<u64> = (first..first + 8).map(|msr| read(lapic, msr)).collect();
    (0..=255)
        .filter(|&v: &u8| words[usize::from(v >> 5)] >> (v & 31) & 1 != 0)
        .collect()
}

#[test]
fn reset_state_is_that_of_x2apic_mode() {
    let mut lapic = Lapic::new(
        TestFrame::zeroed(),
        LapicConfig {
            id: 0x21,
            is_bsp: false,
            tsc_khz: TSC_KHZ,
            delivery: Delivery::BySoftware,
        },
    );
    assert_eq!(lapic.base(), 0xFEE0_0C00);
    for (msr, value) in [
        (0x802, 0x21),
        (0x803, 0x0005_0014),
        (TPR, 0),
        (PPR, 0),
        (0x80D, 0x0002_0002),
        (SVR, 0xFF),
        (ESR, 0),
        (ICR, 0),
        (LVT_TIMER, 0x1_0000),
        (LVT_ERROR, 0x1_0000),
        (CURRENT_COUNT, 0),
    ] {
        assert_eq!(lapic.read(msr, 0), Ok(value), "{msr:#x}");
    }
    assert!(!lapic.is_enabled());
}

#[test]
fn only_the_boot_processor_has_the_flag() {
    assert_eq!(with(Delivery::BySoftware, 0).base(), 0xFEE0_0D00);
    assert_eq!(with(Delivery::BySoftware, 1).base(), 0xFEE0_0C00);
}

#[test]
fn apic_base_allows_itself_and_off_and_nothing_else() {
    let mut lapic = enabled();
    let base = lapic.base();
    assert_eq!(lapic.set_base(base), Ok(LapicEffect::None));
    for bad in [
        base & !base::EXTD, // xAPIC
        base & !base::EN,   // x2APIC without enable
        base | 1,           // reserved
        base ^ 0x1000,      // elsewhere
        base | 1 << 52,     // beyond any physical address
    ] {
        assert_eq!(lapic.set_base(bad), Err(Gp), "{bad:#x}");
    }
    assert_eq!(lapic.base(), base);
    assert_eq!(lapic.set_base(0xFEE0_0100), Ok(LapicEffect::Off));
    assert!(!lapic.is_on() && !lapic.is_enabled());
    assert_eq!(lapic.read(0x802, 0), Err(Gp));
    assert_eq!(lapic.set_base(base), Err(Gp));
}

#[test]
fn registers_that_x2apic_mode_lacks_raise_gp() {
    let mut lapic = enabled();
    for msr in [0x7FF, 0x800, 0x80C, 0x80E, 0x82F, 0x831, 0x83A, 0x840] {
        assert_eq!(lapic.read(msr, 0), Err(Gp), "{msr:#x}");
        assert_eq!(lapic.write(msr, 0, 0), Err(Gp), "{msr:#x}");
    }
    for read_only in [0x802, 0x803, PPR, 0x80D, ISR, TMR, IRR, CURRENT_COUNT] {
        assert_eq!(lapic.write(read_only, 0, 0), Err(Gp), "{read_only:#x}");
    }
    for write_only in [EOI, SELF_IPI] {
        assert_eq!(lapic.read(write_only, 0), Err(Gp), "{write_only:#x}");
    }
}

#[test]
fn reserved_bits_raise_gp() {
    let mut lapic = enabled();
    for (msr, value) in [
        (TPR, 0x100),
        (TPR, 1 << 32),
        (EOI, 1),
        (SVR, 0x400),
        (SVR, 0x1000),
        (ESR, 1),
        (ICR, 1 << 13),
        (ICR, 1 << 20),
        (LVT_TIMER, 1 << 19),
        (LVT_TIMER, 3 << 17),
        (0x833, 1 << 13),
        (0x835, 1 << 17),
        (LVT_ERROR, 0x100),
        (INITIAL_COUNT, 1 << 32),
        (DIVIDE, 0b100),
        (SELF_IPI, 0x141),
    ] {
        assert_eq!(lapic.write(msr, value, 0), Err(Gp), "{msr:#x}");
    }
}

#[test]
fn interrupt_goes_from_requested_to_in_service_to_done() {
    let mut lapic = enabled();
    lapic.accept(0x41, Trigger::Edge);
    assert_eq!(lapic.deliverable(), Some(0x41));
    lapic.acknowledge(0x41);
    assert_eq!(lapic.deliverable(), None);
    assert_eq!(read(&mut lapic, PPR), 0x40);
    let eoi = Eoi {
        vector: 0x41,
        is_level: false,
    };
    assert_eq!(lapic.write(EOI, 0, 0), Ok(LapicEffect::Eoi(eoi)));
    assert_eq!(lapic.write(EOI, 0, 0), Ok(LapicEffect::None));
    assert_eq!(read(&mut lapic, PPR), 0);
}

#[test]
fn higher_class_preempts_and_same_class_waits() {
    let mut lapic = enabled();
    lapic.accept(0x41, Trigger::Edge);
    lapic.acknowledge(0x41);
    lapic.accept(0x4F, Trigger::Edge);
    assert_eq!(lapic.deliverable(), None);
    lapic.accept(0x50, Trigger::Edge);
    assert_eq!(lapic.deliverable(), Some(0x50));
}

#[test]
fn task_priority_holds_back_and_sets_the_threshold() {
    let mut lapic = enabled();
    lapic.accept(0x55, Trigger::Edge);
    assert_eq!(lapic.tpr_threshold(), 0);
    assert_eq!(lapic.set_cr8(5), Ok(()));
    assert_eq!(lapic.deliverable(), None);
    assert_eq!(lapic.tpr_threshold(), 5);
    assert_eq!(lapic.set_cr8(4), Ok(()));
    assert_eq!(lapic.deliverable(), Some(0x55));
    assert_eq!(lapic.set_cr8(16), Err(Gp));
}

#[test]
fn threshold_is_zero_where_the_interrupt_in_service_is_what_blocks() {
    let mut lapic = enabled();
    lapic.accept(0x61, Trigger::Edge);
    lapic.acknowledge(0x61);
    lapic.accept(0x55, Trigger::Edge);
    assert_eq!(lapic.set_cr8(8), Ok(()));
    assert_eq!(lapic.tpr_threshold(), 0);
}

#[test]
fn trigger_mode_follows_the_last_acceptance() {
    let mut lapic = enabled();
    lapic.accept(0x41, Trigger::Level);
    assert_eq!(set_of(&mut lapic, TMR), BTreeSet::from([0x41]));
    assert_eq!(lapic.eoi_exit_bitmap(), [0, 1 << 1, 0, 0]);
    lapic.accept(0x41, Trigger::Edge);
    assert_eq!(set_of(&mut lapic, TMR), BTreeSet::new());
}

#[test]
fn disabled_apic_loses_edges_keeps_levels_and_masks_local_vectors() {
    let mut lapic = enabled();
    assert_eq!(lapic.write(LVT_ERROR, 0x33, 0), Ok(LapicEffect::None));
    assert_eq!(lapic.write(SVR, 0xFF, 0), Ok(LapicEffect::SoftwareDisabled));
    assert_eq!(read(&mut lapic, LVT_ERROR), 0x1_0033);
    assert_eq!(lapic.write(LVT_ERROR, 0x33, 0), Ok(LapicEffect::None));
    assert_eq!(read(&mut lapic, LVT_ERROR), 0x1_0033);
    let posted = empty_box();
    let _ = posted.post_edge(0x41);
    let _ = posted.post_level(0x51);
    let _ = lapic.sync(&posted);
    assert_eq!(lapic.deliverable(), None);
    assert_eq!(lapic.write(SVR, 0x1FF, 0), Ok(LapicEffect::SoftwareEnabled));
    assert_eq!(lapic.deliverable(), Some(0x51));
    assert_eq!(set_of(&mut lapic, IRR), BTreeSet::from([0x51]));
}

#[test]
fn icr_addresses_one_all_and_all_but_the_sender() {
    let mut lapic = with(Delivery::BySoftware, 2);
    let mut send = |icr: u64| match lapic.write(ICR, icr, 0) {
        Ok(LapicEffect::Send(message)) => Some((message.mode, message.target, message.vector)),
        Ok(LapicEffect::None) => None,
        other => panic!("{other:?}"),
    };
    use DeliveryMode::{Fixed, Init, Nmi, Startup};
    for (icr, expected) in [
        (3 << 32 | 0x4041, Some((Fixed, Target::Physical(3), 0x41))),
        (5 << 32 | 0x841, Some((Fixed, Target::Logical(5), 0x41))),
        (
            u64::from(u32::MAX) << 32 | 0x41,
            Some((Fixed, Target::All, 0x41)),
        ),
        (0x8_0041, Some((Fixed, Target::All, 0x41))),
        (0xC_0041, Some((Fixed, Target::AllBut(2), 0x41))),
        (0xC_0402, Some((Nmi, Target::AllBut(2), 2))),
        (3 << 32 | 0xC500, Some((Init, Target::Physical(3), 0))),
        (3 << 32 | 0x8500, None), // INIT level de-assert
        (3 << 32 | 0x469A, Some((Startup, Target::Physical(3), 0x9A))),
        (0x8_4500, None),         // INIT to a group with the sender
        (3 << 32 | 0x4200, None), // SMI
        (3 << 32 | 0x4341, None), // reserved mode
        (3 << 32 | 0x4700, None), // ExtINT
    ] {
        assert_eq!(send(icr), expected, "{icr:#x}");
    }
}

#[test]
fn icr_reads_back_without_delivery_status() {
    let mut lapic = enabled();
    let _ = lapic.write(ICR, 3 << 32 | 0x1041, 0).expect("valid");
    assert_eq!(read(&mut lapic, ICR), 3 << 32 | 0x41);
}

#[test]
fn self_ipi_comes_by_either_register() {
    let mut lapic = enabled();
    assert_eq!(lapic.write(SELF_IPI, 0x41, 0), Ok(LapicEffect::None));
    assert_eq!(lapic.write(ICR, 0x4_0051, 0), Ok(LapicEffect::None));
    assert_eq!(set_of(&mut lapic, IRR), BTreeSet::from([0x41, 0x51]));
}

#[test]
fn illegal_vectors_are_errors_and_raise_the_error_interrupt() {
    let mut lapic = enabled();
    assert_eq!(lapic.write(LVT_ERROR, 0xFE, 0), Ok(LapicEffect::None));
    assert_eq!(lapic.write(SELF_IPI, 3, 0), Ok(LapicEffect::None));
    assert_eq!(lapic.deliverable(), Some(0xFE));
    lapic.accept(5, Trigger::Edge);
    assert_eq!(read(&mut lapic, ESR), 0, "latched by a write only");
    assert_eq!(lapic.write(ESR, 0, 0), Ok(LapicEffect::None));
    assert_eq!(read(&mut lapic, ESR), 0x60);
    assert_eq!(lapic.write(ESR, 0, 0), Ok(LapicEffect::None));
    assert_eq!(read(&mut lapic, ESR), 0);
}

#[test]
fn illegal_vector_in_the_error_entry_itself_does_not_recurse() {
    let mut lapic = enabled();
    assert_eq!(lapic.write(LVT_ERROR, 2, 0), Ok(LapicEffect::None));
    assert_eq!(lapic.write(SELF_IPI, 3, 0), Ok(LapicEffect::None));
    assert_eq!(lapic.deliverable(), None);
}

#[test]
fn apic_write_exits_act_on_what_the_page_holds() {
    let mut lapic = with(Delivery::ByCpu, 0);
    lapic.page().store_u32(0x3F0, 3);
    assert_eq!(lapic.apic_write_exit(0x3F0), LapicEffect::None);
    let _ = lapic.write(ESR, 0, 0).expect("valid");
    assert_eq!(read(&mut lapic, ESR), 0x20);
    lapic.page().store_u64(0x300, 7 << 32 | 0x41);
    assert!(matches!(
        lapic.apic_write_exit(0x300),
        LapicEffect::Send(message) if message.target == Target::Physical(7)
    ));
}

#[test]
fn init_keeps_id_and_base_and_forgets_the_rest() {
    let mut lapic = with(Delivery::BySoftware, 3);
    let base = lapic.base();
    let _ = lapic.write(TPR, 0x50, 0).expect("valid");
    lapic.accept(0x61, Trigger::Level);
    lapic.acknowledge(0x61);
    lapic.accept(0x71, Trigger::Edge);
    lapic.init();
    assert_eq!(lapic.base(), base);
    assert_eq!(read(&mut lapic, 0x802), 3);
    assert_eq!(read(&mut lapic, SVR), 0xFF);
    for first in [ISR, TMR, IRR] {
        assert_eq!(set_of(&mut lapic, first), BTreeSet::new());
    }
    assert_eq!(read(&mut lapic, PPR), 0);
    assert_eq!(lapic.sync(&empty_box()), Synced::default());
}

#[test]
fn registers_pass_through_only_where_the_page_holds_the_truth() {
    let full = ApicVirtualization {
        x2apic_mode: true,
        registers: true,
        delivery: Delivery::ByCpu,
    };
    assert!(full.reads(ISR) && full.reads(PPR) && full.reads(0x802) && full.reads(ICR));
    assert!(!full.reads(CURRENT_COUNT) && !full.reads(EOI) && !full.reads(0x80E));
    assert!(full.writes(TPR) && full.writes(EOI) && full.writes(SELF_IPI) && !full.writes(ICR));
    let shadow = ApicVirtualization {
        registers: false,
        delivery: Delivery::BySoftware,
        ..full
    };
    assert!(shadow.reads(TPR) && shadow.writes(TPR));
    assert!(!shadow.reads(ISR) && !shadow.writes(EOI) && !shadow.writes(SELF_IPI));
    let none = ApicVirtualization {
        x2apic_mode: false,
        ..full
    };
    assert!(!none.reads(TPR) && !none.writes(TPR));
}

#[test]
fn one_shot_counts_down_and_fires_once() {
    let mut lapic = enabled();
    assert_eq!(lapic.write(DIVIDE, 0b1011, 0), Ok(LapicEffect::Timer(None)));
    assert_eq!(
        lapic.write(LVT_TIMER, 0x41, 0),
        Ok(LapicEffect::Timer(None))
    );
    let due = 1000 * TSC_PER_TICK;
    assert_eq!(
        lapic.write(INITIAL_COUNT, 1000, 0),
        Ok(LapicEffect::Timer(Some(due)))
    );
    assert_eq!(lapic.read(CURRENT_COUNT, due / 4), Ok(750));
    assert_eq!(lapic.on_timer(due - 1), Some(due));
    assert_eq!(lapic.deliverable(), None);
    assert_eq!(lapic.on_timer(due), None);
    assert_eq!(lapic.deliverable(), Some(0x41));
    assert_eq!(lapic.read(CURRENT_COUNT, due), Ok(0));
}

#[test]
fn divider_slows_the_count_and_may_change_while_it_runs() {
    let mut lapic = enabled();
    let _ = lapic.write(LVT_TIMER, 0x41, 0).expect("valid");
    let _ = lapic.write(DIVIDE, 0b0011, 0).expect("by 16");
    let due = 1000 * 16 * TSC_PER_TICK;
    assert_eq!(
        lapic.write(INITIAL_COUNT, 1000, 0),
        Ok(LapicEffect::Timer(Some(due)))
    );
    let half = due / 2;
    assert_eq!(
        lapic.write(DIVIDE, 0b1011, half),
        Ok(LapicEffect::Timer(Some(half + 500 * TSC_PER_TICK)))
    );
    assert_eq!(lapic.read(CURRENT_COUNT, half), Ok(500));
}

#[test]
fn periodic_goes_on_and_merges_missed_periods() {
    let mut lapic = enabled();
    let _ = lapic.write(DIVIDE, 0b1011, 0).expect("by 1");
    let _ = lapic.write(LVT_TIMER, 0x2_0041, 0).expect("valid");
    let period = 100_000 * TSC_PER_TICK;
    let _ = lapic.write(INITIAL_COUNT, 100_000, 0).expect("valid");
    assert_eq!(lapic.on_timer(period), Some(2 * period));
    lapic.acknowledge(0x41);
    assert_eq!(lapic.on_timer(5 * period + 7), Some(6 * period));
    assert_eq!(set_of(&mut lapic, IRR), BTreeSet::from([0x41]));
}

#[test]
fn tiny_periods_are_stretched() {
    let mut lapic = enabled();
    let _ = lapic.write(LVT_TIMER, 0x2_0041, 0).expect("valid");
    let shortest = u64::from(TSC_KHZ) / 10;
    assert_eq!(
        lapic.write(INITIAL_COUNT, 1, 0),
        Ok(LapicEffect::Timer(Some(shortest)))
    );
    assert_eq!(lapic.on_timer(shortest), Some(2 * shortest));
}

#[test]
fn tsc_deadline_fires_at_once_where_it_has_passed() {
    let mut lapic = enabled();
    assert_eq!(lapic.set_tsc_deadline(500, 0), LapicEffect::None);
    let _ = lapic.write(LVT_TIMER, 0x4_0041, 0).expect("valid");
    assert_eq!(
        lapic.set_tsc_deadline(500, 0),
        LapicEffect::Timer(Some(500))
    );
    assert_eq!(lapic.tsc_deadline(), 500);
    assert_eq!(lapic.set_tsc_deadline(400, 450), LapicEffect::Timer(None));
    assert_eq!(lapic.deliverable(), Some(0x41));
    assert_eq!(lapic.tsc_deadline(), 0);
    let _ = lapic.write(INITIAL_COUNT, 77, 0).expect("ignored");
    assert_eq!(read(&mut lapic, CURRENT_COUNT), 0);
}

#[test]
fn masked_timer_expires_unheard() {
    let mut lapic = enabled();
    let _ = lapic.write(LVT_TIMER, 0x5_0041, 0).expect("valid");
    assert_eq!(lapic.set_tsc_deadline(500, 0), LapicEffect::Timer(None));
    assert_eq!(
        lapic.write(LVT_TIMER, 0x4_0041, 600),
        Ok(LapicEffect::Timer(None))
    );
    assert_eq!(lapic.deliverable(), None);
}

#[test]
fn change_between_deadline_and_count_disarms() {
    let mut lapic = enabled();
    let _ = lapic.write(LVT_TIMER, 0x41, 0).expect("valid");
    let _ = lapic.write(INITIAL_COUNT, 1000, 0).expect("valid");
    assert_eq!(
        lapic.write(LVT_TIMER, 0x4_0041, 0),
        Ok(LapicEffect::Timer(None))
    );
    assert_eq!(read(&mut lapic, INITIAL_COUNT), 0);
}

/// The APIC as the SDM describes it, without any cleverness.
#[derive(Default)]
struct Model {
    irr: BTreeSet<u8>,
    isr: BTreeSet<u8>,
    tmr: BTreeSet<u8>,
    tpr: u8,
}

impl Model {
    fn ppr(&self) -> u8 {
        let isrv = self.isr.last().copied().unwrap_or(0);
        if self.tpr >> 4 >= isrv >> 4 {
            self.tpr
        } else {
            isrv & 0xF0
        }
    }
    fn deliverable(&self) -> Option<u8> {
        self.irr
            .last()
            .copied()
            .filter(|v| v >> 4 > self.ppr() >> 4)
    }
    fn accept(&mut self, vector: u8, is_level: bool) {
        self.irr.insert(vector);
        if is_level {
            self.tmr.insert(vector);
        } else {
            self.tmr.remove(&vector);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Accept(u8, bool),
    Post(u8, bool),
    Tpr(u8),
    Take,
    Eoi,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (16..=255u8, any::<bool>()).prop_map(|(v, l)| Step::Accept(v, l)),
        (16..=255u8, any::<bool>()).prop_map(|(v, l)| Step::Post(v, l)),
        any::<u8>().prop_map(Step::Tpr),
        Just(Step::Take),
        Just(Step::Take),
        Just(Step::Eoi),
    ]
}

proptest! {
    #[test]
    fn priorities_agree_with_the_naive_model(steps in proptest::collection::vec(step(), 0..200)) {
        let mut lapic = enabled();
        let mut model = Model::default();
        let posted = empty_box();
        for step in steps {
            match step {
                Step::Accept(v, is_level) => {
                    lapic.accept(v, if is_level { Trigger::Level } else { Trigger::Edge });
                    model.accept(v, is_level);
                }
                Step::Post(v, is_level) => {
                    let _ = if is_level { posted.post_level(v) } else { posted.post_edge(v) };
                    let before = model.tmr.clone();
                    model.accept(v, is_level);
                    let synced = lapic.sync(&posted);
                    prop_assert!(synced.highest >= v);
                    prop_assert!(synced.eoi_exits_changed || before == model.tmr);
                }
                Step::Tpr(tpr) => {
                    prop_assert_eq!(lapic.write(TPR, u64::from(tpr), 0), Ok(LapicEffect::None));
                    model.tpr = tpr;
                }
                Step::Take => if let Some(v) = model.deliverable() {
                    prop_assert_eq!(lapic.deliverable(), Some(v));
                    lapic.acknowledge(v);
                    model.irr.remove(&v);
                    model.isr.insert(v);
                },
                Step::Eoi => {
                    let expected = model.isr.pop_last().map(|vector| Eoi { vector, is_level: model.tmr.contains(&vector) });
                    prop_assert_eq!(lapic.eoi(), expected);
                }
            }
            prop_assert_eq!(lapic.deliverable(), model.deliverable());
            prop_assert_eq!(lapic.processor_priority(), model.ppr());
            prop_assert_eq!(&set_of(&mut lapic, IRR), &model.irr);
            prop_assert_eq!(&set_of(&mut lapic, ISR), &model.isr);
            prop_assert_eq!(&set_of(&mut lapic, TMR), &model.tmr);
            let [rvi, svi] = lapic.guest_interrupt_status().to_le_bytes();
            prop_assert_eq!(rvi, model.irr.last().copied().unwrap_or(0));
            prop_assert_eq!(svi, model.isr.last().copied().unwrap_or(0));
            let threshold = lapic.tpr_threshold();
            if threshold != 0 {
                // just below the threshold the interrupt comes, and VM entry accepts the value
                prop_assert!(threshold <= model.tpr >> 4);
                let lower = Model { tpr: (threshold - 1) << 4, irr: model.irr.clone(), isr: model.isr.clone(), ..Model::default() };
                prop_assert_eq!(lower.deliverable().map(|v| v >> 4), Some(threshold));
                prop_assert_eq!(model.deliverable(), None);
            } else if model.deliverable().is_none() {
                let lowest = Model { tpr: 0, irr: model.irr.clone(), isr: model.isr.clone(), ..Model::default() };
                prop_assert_eq!(lowest.deliverable(), None, "a lower TPR would deliver, but nobody asks for the exit");
            }
        }
    }

    #[test]
    fn no_access_panics(accesses in proptest::collection::vec((0x7F0..0x850u32, any::<u64>(), 0..6u8, any::<u64>()), 0..100)) {
        let mut lapic = enabled();
        let posted = empty_box();
        for (msr, value, narrow, now) in accesses {
            // few random 64-bit values have no reserved bit set
            let value = if narrow == 0 { value } else { value & 0x7_03FF >> (narrow * 2) };
            let _ = lapic.write(msr, value, now);
            let _ = lapic.read(msr, now);
            let _ = lapic.set_tsc_deadline(value, now);
            let _ = lapic.on_timer(now);
            let _ = lapic.sync(&posted);
            let _ = lapic.apic_write_exit(u16::try_from(msr & 0x3F).expect("small") << 4);
            if let Some(v) = lapic.deliverable() {
                lapic.acknowledge(v);
            }
            lapic.tpr_threshold();
        }
    }

    #[test]
    fn timer_is_never_early_and_never_forgotten(
        initial in prop_oneof![1..=u32::MAX, 1..20_000u32], divide in 0..8u64, is_periodic: bool, start in 0..1u64 << 60, lates in proptest::collection::vec(0..1u64 << 30, 1..20),
    ) {
        let mut lapic = enabled();
        let mode = if is_periodic { 0x2_0041 } else { 0x41 };
        let _ = lapic.write(DIVIDE, divide & 3 | (divide & 4) << 1, start).expect("valid");
        let _ = lapic.write(LVT_TIMER, mode, start).expect("valid");
        let Ok(LapicEffect::Timer(Some(mut due))) = lapic.write(INITIAL_COUNT, u64::from(initial), start) else {
            panic!("armed");
        };
        for late in lates {
            let early = due - 1;
            prop_assert_eq!(lapic.on_timer(early), Some(due));
            let count = lapic.read(CURRENT_COUNT, early).expect("readable");
            prop_assert!(count >= 1 && count <= u64::from(initial));
            let next = lapic.on_timer(due + late);
            prop_assert_eq!(lapic.deliverable(), Some(0x41));
            lapic.acknowledge(0x41);
            let _ = lapic.eoi();
            match next {
                Some(next) => {
                    prop_assert!(is_periodic && next > due + late);
                    due = next;
                }
                None => {
                    prop_assert!(!is_periodic);
                    break;
                }
            }
        }
    }

    /// A CPU that takes posted interrupts whenever it likes must never swallow the EOI of a level.
    #[test]
    fn eoi_of_a_level_always_exits(steps in proptest::collection::vec((0..6u8, 16..=255u8), 0..200)) {
        let mut lapic = with(Delivery::ByCpu, 0);
        let frame = TestFrame::zeroed();
        let posted = PostedInterrupts::new(frame.clone(), 0);
        let mut exits = lapic.eoi_exit_bitmap();
        let mut status = 0u16;
        for (what, vector) in steps {
            // odd vectors are levels, as an I/O APIC's vectors are one or the other
            match what {
                0 if vector & 1 == 0 => { let _ = posted.post_edge(vector); }
                0 | 1 => { let _ = posted.post_level(vector | 1); }
                2 => status = raise_rvi(status, cpu_takes_posted(&frame, lapic.page())),
                3 => {
                    let synced = lapic.sync(&posted);
                    status = raise_rvi(status, synced.highest);
                    if synced.eoi_exits_changed {
                        exits = lapic.eoi_exit_bitmap();
                    }
                }
                4 => if let Some(v) = lapic.deliverable_by_cpu(status) {
                    lapic.acknowledge(v);
                    status = lapic.guest_interrupt_status();
                },
                _ => {
                    let [_, svi] = status.to_le_bytes();
                    if svi != 0 {
                        let exited = exits[usize::from(svi >> 6)] >> (svi & 63) & 1 != 0;
                        prop_assert_eq!(exited, svi & 1 == 1);
                        prop_assert_eq!(lapic.eoi().map(|e| (e.vector, e.is_level)), Some((svi, exited)));
                        status = lapic.guest_interrupt_status();
                    }
                }
            }
            prop_assert_eq!(status, lapic.guest_interrupt_status());
        }
    }
}

/// The CPU's posted-interrupt processing: clears ON, moves the requests into the IRR, and returns the highest.
fn cpu_takes_posted(descriptor: &TestFrame, page: &TestFrame) -> u8 {
    let mut highest = 0;
    if descriptor.fetch_and_u32(32, !1) & 1 == 0 {
        return 0;
    }
    for word in 0..8u8 {
        let bits = descriptor.fetch_and_u32(usize::from(word) * 4, 0);
        page.fetch_or_u32(0x200 + 0x10 * usize::from(word), bits);
        for bit in 0..32 {
            if bits >> bit & 1 != 0 {
                highest = word * 32 + bit;
            }
        }
    }
    highest
}
