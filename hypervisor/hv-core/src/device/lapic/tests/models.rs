//! The local APIC against models: a naive one of the priorities, and a CPU that acts on the page by itself.

use super::*;
use proptest::prelude::*;

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
            let status = lapic.interrupt_status();
            prop_assert_eq!(status.requested, model.irr.last().copied().unwrap_or(0));
            prop_assert_eq!(status.in_service, model.isr.last().copied().unwrap_or(0));
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
        let frame = TestFrame::new();
        let posted = PostedInterrupts::new(frame.clone(), 0);
        let mut exits = lapic.eoi_exit_bitmap();
        let mut status = InterruptStatus::default();
        for (what, vector) in steps {
            // odd vectors are levels, as an I/O APIC's vectors are one or the other
            match what {
                0 if vector & 1 == 0 => { let _ = posted.post_edge(vector); }
                0 | 1 => { let _ = posted.post_level(vector | 1); }
                2 => status = status.raised(cpu_takes_posted(&frame, lapic.page())),
                3 => {
                    let synced = lapic.sync(&posted);
                    status = status.raised(synced.highest);
                    if synced.eoi_exits_changed {
                        exits = lapic.eoi_exit_bitmap();
                    }
                }
                4 => {
                    let wakes_for = lapic.wakes_for(&posted);
                    // what that collected is told at the next entry
                    let synced = lapic.sync(&posted);
                    status = status.raised(synced.highest);
                    if synced.eoi_exits_changed {
                        exits = lapic.eoi_exit_bitmap();
                    }
                    if let Some(v) = wakes_for {
                        lapic.acknowledge(v);
                        status = lapic.interrupt_status();
                    }
                }
                _ => {
                    let served = status.in_service;
                    if served != 0 {
                        let exited = exits[usize::from(served >> 6)] >> (served & 63) & 1 != 0;
                        prop_assert_eq!(exited, served & 1 == 1);
                        prop_assert_eq!(lapic.eoi().map(|e| (e.vector, e.is_level)), Some((served, exited)));
                        status = lapic.interrupt_status();
                    }
                }
            }
            prop_assert_eq!(status, lapic.interrupt_status());
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
