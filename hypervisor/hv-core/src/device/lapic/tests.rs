//! Tests of the local APIC: examples for the SDM's rules, and models for what has state.

use super::*;
use crate::device::message::{DeliveryMode, Target, Trigger};
use crate::device::posted::PostedInterrupts;
use crate::evtchn::testing::TestFrame;
use std::collections::BTreeSet;
use std::vec::Vec;

mod models;
mod modes;
mod timer;

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

fn after_reset(delivery: Delivery, id: u32) -> Lapic<TestFrame> {
    Lapic::new(
        TestFrame::new(),
        LapicConfig {
            id,
            is_bsp: id == 0,
            tsc_khz: TSC_KHZ,
            delivery,
        },
    )
}

fn extended(delivery: Delivery, id: u32) -> Lapic<TestFrame> {
    let mut lapic = after_reset(delivery, id);
    let extended = lapic.base() | base::EXTD;
    assert_eq!(
        lapic.set_base(extended),
        Ok(LapicEffect::Mode(Mode::X2apic))
    );
    lapic
}

fn with(delivery: Delivery, id: u32) -> Lapic<TestFrame> {
    let mut lapic = extended(delivery, id);
    assert_eq!(lapic.write(SVR, 0x1FF, 0), Ok(LapicEffect::SoftwareEnabled));
    lapic
}

fn enabled() -> Lapic<TestFrame> {
    with(Delivery::BySoftware, 0)
}

fn empty_box() -> PostedInterrupts<TestFrame> {
    PostedInterrupts::new(TestFrame::new(), 0)
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
    let mut lapic = extended(Delivery::BySoftware, 0x21);
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
fn interrupt_taken_back_comes_again() {
    let mut lapic = enabled();
    lapic.accept(0x41, Trigger::Edge);
    lapic.acknowledge(0x41);
    lapic.take_back(0x41);
    assert_eq!(lapic.deliverable(), Some(0x41));
    assert_eq!(set_of(&mut lapic, ISR), BTreeSet::new());
    lapic.take_back(0xF3);
    assert_eq!(set_of(&mut lapic, IRR), BTreeSet::from([0x41]));
}

#[test]
fn deciding_to_wake_tells_the_next_entry_all_it_must_know() {
    let mut lapic = with(Delivery::ByCpu, 0);
    let posted = empty_box();
    let _ = posted.post_level(0x41);
    assert_eq!(lapic.wakes_for(&posted), Some(0x41));
    let expected = Synced {
        highest: 0x41,
        eoi_exits_changed: true,
    };
    assert_eq!(lapic.sync(&posted), expected);
    assert_eq!(lapic.sync(&posted), Synced::default());
}

#[test]
fn halted_vcpu_wakes_for_what_the_cpu_put_into_the_page() {
    let mut lapic = with(Delivery::ByCpu, 0);
    lapic.page().fetch_or_u32(0x270, 1 << 19);
    assert_eq!(lapic.wakes_for(&empty_box()), Some(0xF3));
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
fn a_loaded_state_is_the_saved_one() {
    let mut lapic = enabled();
    lapic.accept(0x41, Trigger::Edge);
    lapic.accept(0x83, Trigger::Level);
    assert_eq!(lapic.deliverable(), Some(0x83));
    lapic.acknowledge(0x83);
    let _ = lapic.write(TPR, 0x20, 0);
    let _ = lapic.write(DIVIDE, 0b1011, 0);
    let _ = lapic.write(LVT_TIMER, 0xF0, 0);
    let _ = lapic.write(INITIAL_COUNT, 1000, 0);
    let _ = lapic.write(ICR, 7 << 32 | 0xF1, 0);
    let later = 400 * TSC_PER_TICK;
    let (state, page) = lapic.save(later);
    assert_eq!((state.disabled, state.timer_divisor), (0, 1));
    assert_eq!(page[0x310], 7);
    let mut other = with(Delivery::ByCpu, 0);
    let start = 1 << 40;
    assert_eq!(other.load(&state, &page, start), Ok(()));
    assert_eq!(other.save(start), (state, page));
    let status = InterruptStatus {
        requested: 0x41,
        in_service: 0x83,
    };
    assert_eq!(other.interrupt_status(), status);
    assert_eq!(read(&mut other, ICR), 7 << 32 | 0xF1);
    assert_eq!(other.on_timer(start), Some(start + 600 * TSC_PER_TICK));
    let synced = other.sync(&empty_box());
    assert!(synced.eoi_exits_changed && synced.highest == 0x41);
}

#[test]
fn a_loaded_state_keeps_the_vcpus_own_id() {
    let (state, page) = enabled().save(0);
    let mut other = with(Delivery::BySoftware, 6);
    assert_eq!(other.load(&state, &page, 0), Ok(()));
    assert_eq!(read(&mut other, 0x802), 6);
    assert_eq!(other.deliverable(), None);
}

#[test]
fn states_that_no_apic_has_are_refused() {
    let (state, page) = enabled().save(0);
    let mut lapic = enabled();
    let mut extended_but_off = state;
    extended_but_off.apic_base_msr &= !base::EN;
    assert_eq!(lapic.load(&extended_but_off, &page, 0), Err(Gp));
    for (offset, value) in [(0x322, 6), (0x100, 1), (0x082, 1), (0x3E0, 0xF0)] {
        let mut bad = page;
        bad[offset] = value;
        assert_eq!(lapic.load(&state, &bad, 0), Err(Gp), "{offset:#x}");
    }
    assert_eq!(lapic.save(0), (state, page));
}
