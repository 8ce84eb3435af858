//! The p2m against a map of single guest frames.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::paging::stage2::Access;
use crate::paging::testing::Arena;

const GIB: u64 = PageOrder::SIZE_1G.frames();
const LIMIT: u64 = 1 << 24;

fn config() -> P2mConfig {
    P2mConfig {
        format: Stage2Format::Ept,
        max_order: PageOrder::SIZE_1G,
        large_executable: true,
        heeds_pat: false,
        gfn_limit: Gfn::new(LIMIT),
    }
}

fn new(arena: &Arena, config: P2mConfig) -> P2m {
    P2m::new(&mut arena.clone(), config).expect("room for a root")
}

fn ram(mfn: u64) -> P2mMapping {
    P2mMapping::new(Mfn::new(mfn), P2mKind::Ram)
}

/// Inserts where nothing can go wrong, and nothing needs a flush.
fn insert(p2m: &mut P2m, arena: &Arena, gfn: u64, count: u64, mapping: P2mMapping) {
    let with = (&mut arena.clone(), &mut arena.clone());
    let flush = p2m.insert(with, Gfn::new(gfn), count, mapping);
    assert!(!flush.expect("an empty range and room").is_needed());
}

#[derive(Clone, Debug)]
enum Op {
    Insert(P2mKind, u64),
    Remove,
    RemovePage,
    Execute,
}

#[derive(Clone, Debug)]
struct Step {
    op: Op,
    gfn: u64,
    count: u64,
    tables_left: usize,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        3 => Just(P2mKind::Ram),
        1 => Just(P2mKind::Special),
        1 => Just(P2mKind::Mmio),
        1 => Just(P2mKind::GrantRo),
    ];
    let skew = prop_oneof![3 => Just(0u64), 1 => Just(5u64)];
    let op = prop_oneof![
        4 => (kind, skew).prop_map(|(kind, skew)| Op::Insert(kind, skew)),
        2 => Just(Op::Remove),
        1 => Just(Op::RemovePage),
        1 => Just(Op::Execute),
    ];
    let gfn = (0..6u64, prop_oneof![Just(0u64), 0..512u64]).prop_map(|(l, s)| l * 512 + s);
    let count = prop_oneof![0..3u64, Just(512u64), 400..1200u64];
    let tables_left = prop_oneof![5 => Just(1000usize), 1 => 0..2usize];
    (op, gfn, count, tables_left).prop_map(|(op, gfn, count, tables_left)| Step {
        op,
        gfn,
        count,
        tables_left,
    })
}

type Model = BTreeMap<u64, (u64, P2mKind, Access)>;

fn mapped(model: &Model, step: &Step) -> Vec<(u64, (u64, P2mKind, Access))> {
    let range = model.range(step.gfn..step.gfn + step.count);
    range.map(|(&gfn, &entry)| (gfn, entry)).collect()
}

type Outcome = Result<PendingFlush, P2mError>;

/// Does a step on both; true where the p2m did it, false where it was refused. What it freed goes through a flush.
fn run(p2m: &mut P2m, arena: &Arena, model: &mut Model, step: &Step) -> bool {
    let outcome = match step.op {
        Op::Insert(kind, skew) => insert_both(p2m, arena, model, (step, kind, skew)),
        Op::Remove => remove_both(p2m, arena, model, step),
        Op::RemovePage => remove_page_both(p2m, arena, model, step.gfn),
        Op::Execute => execute(p2m, arena, model, step.gfn),
    };
    let (done, flush) = match outcome {
        Ok(flush) => (true, flush),
        Err(P2mError::OutOfTables(flush)) => (false, flush),
        Err(P2mError::Occupied) => return false,
        Err(P2mError::OutOfRange) => panic!("all steps are in range"),
    };
    p2m.reclaim(arena, &mut arena.clone(), &flush.completed());
    done
}

fn insert_both(
    p2m: &mut P2m,
    arena: &Arena,
    model: &mut Model,
    (step, kind, skew): (&Step, P2mKind, u64),
) -> Outcome {
    let with = (&mut arena.clone(), &mut arena.clone());
    let is_empty = mapped(model, step).is_empty();
    let mapping = P2mMapping::new(Mfn::new(GIB + step.gfn + skew), kind);
    let outcome = p2m.insert(with, Gfn::new(step.gfn), step.count, mapping);
    assert_eq!(outcome == Err(P2mError::Occupied), !is_empty);
    if let Ok(flush) = &outcome {
        assert!(!flush.is_needed(), "nothing was mapped there");
        let entry = |gfn| (GIB + gfn + skew, kind, kind.default_access());
        model.extend((step.gfn..step.gfn + step.count).map(|gfn| (gfn, entry(gfn))));
    }
    outcome
}

fn remove_both(p2m: &mut P2m, arena: &Arena, model: &mut Model, step: &Step) -> Outcome {
    let with = (&mut arena.clone(), &mut arena.clone());
    let touched = mapped(model, step);
    let mut seen = Vec::new();
    let outcome = p2m.remove(with, Gfn::new(step.gfn), step.count, |gfn, entry| {
        for n in 0..entry.order.frames() {
            let old = (entry.mfn.as_u64() + n, entry.kind, entry.access);
            seen.push((gfn.as_u64() + n, old));
        }
    });
    match &outcome {
        Ok(flush) => {
            assert_eq!(seen, touched);
            assert!(flush.is_needed() || touched.is_empty());
            model.retain(|gfn, _| !(step.gfn..step.gfn + step.count).contains(gfn));
        }
        Err(_) => assert!(seen.is_empty()),
    }
    outcome
}

fn remove_page_both(p2m: &mut P2m, arena: &Arena, model: &mut Model, gfn: u64) -> Outcome {
    let with = (&mut arena.clone(), &mut arena.clone());
    let Some((entry, flush)) = p2m.remove_page(with, Gfn::new(gfn))? else {
        assert!(!model.contains_key(&gfn));
        return Ok(PendingFlush::none(p2m.root()));
    };
    let old = (entry.mfn.as_u64(), entry.kind, entry.access);
    assert_eq!(model.remove(&gfn), Some(old));
    assert!(flush.is_needed());
    Ok(flush)
}

fn execute(p2m: &mut P2m, arena: &Arena, model: &Model, gfn: u64) -> Outcome {
    let with = (&mut arena.clone(), &mut arena.clone());
    let may = model.get(&gfn).is_some_and(|entry| entry.2.executes());
    let Some(flush) = p2m.allow_execute(with, Gfn::new(gfn))? else {
        assert!(!may);
        return Ok(PendingFlush::none(p2m.root()));
    };
    assert!(may);
    let entry = p2m.lookup(arena, Gfn::new(gfn));
    assert_eq!(entry.unwrap().order, PageOrder::SIZE_4K);
    Ok(flush)
}

/// A lookup through the cache, as one that has just locked the p2m does it.
fn cached(
    cache: &P2mCache<Option<P2mEntry>>,
    p2m: &P2m,
    arena: &Arena,
    gfn: u64,
) -> Option<P2mEntry> {
    let _ = cache.renew(p2m);
    let gfn = Gfn::new(gfn);
    if let Some(kept) = cache.get(gfn) {
        return kept;
    }
    let found = p2m.lookup(arena, gfn);
    if found.is_some() {
        cache.keep(p2m, gfn, found);
    }
    found
}

/// The first mapped guest frame from `from` on, found in steps of a few entries each.
fn next_mapped(p2m: &P2m, arena: &Arena, mut from: Gfn) -> Option<Gfn> {
    const BUDGET: u32 = 23;
    loop {
        let mut budget = BUDGET;
        arena.take_reads();
        let found = p2m.next_mapped(arena, from, &mut budget);
        assert_eq!(arena.take_reads(), (BUDGET - budget) as usize);
        match found {
            Next::Mapped(gfn, _) => return Some(gfn),
            Next::Nothing => return None,
            Next::NotYet(gfn) => {
                assert!(gfn > from, "no step is in vain");
                from = gfn;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn every_guest_frame_is_as_a_map_of_single_frames_says(
        steps in prop::collection::vec(step(), 1..24),
        large_executable in any::<bool>(),
    ) {
        let arena = Arena::with_limit(1);
        let mut p2m = new(&arena, P2mConfig { large_executable, ..config() });
        let mut model = Model::new();
        let cache = P2mCache::new(None);
        for step in &steps {
            arena.set_left(step.tables_left);
            let done = run(&mut p2m, &arena, &mut model, step);
            prop_assert!(done || step.tables_left < 1000 || matches!(step.op, Op::Insert(..)));
            for gfn in 0..10 * 512 {
                let found = p2m.lookup(&arena, Gfn::new(gfn));
                // the same slots again and again, so that some hold what has changed since
                if gfn < 100 || gfn % 512 < 3 {
                    prop_assert_eq!(cached(&cache, &p2m, &arena, gfn), found);
                }
                let found = found.map(|entry| (entry.mfn.as_u64(), entry.kind, entry.access));
                prop_assert_eq!(found, model.get(&gfn).copied(), "gfn {:#x}", gfn);
            }
        }
        prop_assert!(p2m.max_gfn().map(Gfn::as_u64) >= model.keys().next_back().copied());
        let mut from = Gfn::new(0);
        for &gfn in model.keys() {
            let next = next_mapped(&p2m, &arena, from);
            prop_assert_eq!(next.map(Gfn::as_u64), Some(gfn));
            from = Gfn::new(gfn + 1);
        }
        prop_assert_eq!(next_mapped(&p2m, &arena, from), None);
        let done = PendingFlush::none(p2m.root()).completed();
        while !p2m.dismantle((&mut arena.clone(), &mut arena.clone()), &done, 2000) {}
        p2m.end(&mut arena.clone());
        prop_assert_eq!(arena.live(), 0);
    }
}

#[test]
fn a_cached_lookup_reads_nothing_until_something_mapped_changes() {
    let arena = Arena::with_limit(100);
    let mut p2m = new(&arena, config());
    let cache = P2mCache::new(None);
    insert(&mut p2m, &arena, 5, 1, ram(50));
    insert(&mut p2m, &arena, 512, 512, ram(512));
    let reads = |p2m: &P2m, gfn| {
        arena.take_reads();
        let found = cached(&cache, p2m, &arena, gfn);
        let reads = arena.take_reads();
        assert_eq!(found, p2m.lookup(&Arena::clone(&arena), Gfn::new(gfn)));
        reads
    };
    assert_eq!([reads(&p2m, 5), reads(&p2m, 5)], [4, 0]);
    assert_eq!(
        [reads(&p2m, 512), reads(&p2m, 512), reads(&p2m, 513)],
        [3, 0, 3]
    );
    insert(&mut p2m, &arena, 7, 1, ram(70));
    assert_eq!(
        reads(&p2m, 5),
        0,
        "inserting changes nothing that is mapped"
    );
    let with = (&mut arena.clone(), &mut arena.clone());
    let removed = p2m.remove_page(with, Gfn::new(7)).unwrap();
    assert!(removed.is_some_and(|(_, flush)| flush.is_needed()));
    assert_eq!(reads(&p2m, 5), 0, "what was never asked for may go");
    let with = (&mut arena.clone(), &mut arena.clone());
    let removed = p2m.remove_page(with, Gfn::new(5)).unwrap();
    assert!(removed.is_some_and(|(_, flush)| flush.is_needed()));
    assert_eq!(reads(&p2m, 5), 1, "the lowest table is known");
    assert_eq!(reads(&p2m, 512), 3, "the rest is forgotten with it");
}

#[test]
fn inserting_over_anything_is_refused() {
    let arena = Arena::with_limit(100);
    let mut p2m = new(&arena, config());
    insert(&mut p2m, &arena, 512, 512, ram(512));
    let with = (&mut arena.clone(), &mut arena.clone());
    assert_eq!(
        p2m.insert(with, Gfn::new(0), 513, ram(0)),
        Err(P2mError::Occupied)
    );
    assert_eq!(p2m.lookup(&arena, Gfn::new(0)), None);
}

#[test]
fn guest_frames_past_the_limit_are_refused() {
    let arena = Arena::with_limit(100);
    let mut p2m = new(&arena, config());
    for (gfn, count) in [(LIMIT, 1), (LIMIT - 1, 2), (5, u64::MAX), (u64::MAX, 1)] {
        let with = (&mut arena.clone(), &mut arena.clone());
        let refused = p2m.insert(with, Gfn::new(gfn), count, ram(1));
        assert_eq!(refused, Err(P2mError::OutOfRange));
    }
    insert(&mut p2m, &arena, LIMIT - 1, 1, ram(1));
    assert_eq!(p2m.max_gfn(), Some(Gfn::new(LIMIT - 1)));
}

#[test]
fn a_touched_device_page_brings_the_largest_block_that_is_all_device() {
    let arena = Arena::with_limit(100);
    let mut p2m = new(&arena, config());
    insert(&mut p2m, &arena, 0xF_0000, 1, ram(0xF_0000));
    let device = MfnRange::new(Mfn::new(0xC_0000), Mfn::new(0xF_FC10));
    let mut touch = |gfn| {
        let with = (&mut arena.clone(), &mut arena.clone());
        let result = p2m.insert_device_around(with, Gfn::new(gfn), device);
        result.map(|flush| {
            assert!(!flush.is_needed());
            let entry = p2m.lookup(&arena, Gfn::new(gfn)).expect("just mapped");
            assert_eq!((entry.mfn, entry.kind), (Mfn::new(gfn), P2mKind::Mmio));
            entry.order
        })
    };
    assert_eq!(touch(0xF_FC00), Ok(PageOrder::SIZE_4K));
    assert_eq!(touch(0xF_0001), Ok(PageOrder::SIZE_4K));
    assert_eq!(touch(0xE_0001), Ok(PageOrder::SIZE_2M));
    assert_eq!(touch(0xE_0001), Err(P2mError::Occupied));
    assert_eq!(touch(0xF_FC10), Err(P2mError::OutOfRange));
}

#[test]
fn execution_withheld_from_a_large_leaf_is_allowed_by_splitting_it() {
    let arena = Arena::with_limit(100);
    let mut p2m = new(
        &arena,
        P2mConfig {
            large_executable: false,
            ..config()
        },
    );
    insert(&mut p2m, &arena, 0, GIB, ram(0));
    let gfn = Gfn::new(512 * 7);
    assert_eq!(p2m.lookup(&arena, gfn).unwrap().order, PageOrder::SIZE_1G);
    let with = (&mut arena.clone(), &mut arena.clone());
    let flush = p2m.allow_execute(with, gfn).expect("room for tables");
    assert!(flush.expect("RAM may be executed").is_needed());
    assert_eq!(p2m.lookup(&arena, gfn).unwrap().order, PageOrder::SIZE_4K);
    assert_eq!(
        p2m.lookup(&arena, gfn + 512).unwrap().order,
        PageOrder::SIZE_2M
    );
}

#[test]
fn guest_without_devices_cannot_have_memory_uncached() {
    use P2mKind::{Foreign, GrantRo, GrantRw, Mmio, Ram, RamLogDirty, Special};
    let arena = Arena::with_limit(100);
    let guest = new(&arena, config());
    let with_devices = P2mConfig {
        heeds_pat: true,
        ..config()
    };
    let hardware = new(&arena, with_devices);
    for kind in [Ram, RamLogDirty, Special, Mmio, Foreign, GrantRw, GrantRo] {
        let mapping = P2mMapping::new(Mfn::new(9), kind);
        let ignores = |p2m: &P2m| {
            let attr = p2m.attr_of(mapping);
            attr == Stage2Format::Ept.ignoring_pat(attr)
        };
        assert_eq!(ignores(&guest), kind != Mmio, "{kind:?}");
        assert!(!ignores(&hardware), "{kind:?}");
    }
}

#[test]
fn tables_that_are_there_stay_when_their_range_is_filled() {
    let arena = Arena::with_limit(100);
    let mut p2m = new(&arena, config());
    insert(&mut p2m, &arena, 5, 1, ram(5));
    let with = (&mut arena.clone(), &mut arena.clone());
    let removed = p2m.remove_page(with, Gfn::new(5)).unwrap();
    assert!(removed.is_some_and(|(_, flush)| flush.is_needed()));
    let live = arena.live();
    insert(&mut p2m, &arena, 0, 512, ram(0));
    assert_eq!(arena.live(), live);
    let order = p2m.lookup(&arena, Gfn::new(5)).unwrap().order;
    assert_eq!(order, PageOrder::SIZE_4K);
}

#[test]
fn execution_of_a_foreign_page_is_refused_for_good() {
    let arena = Arena::with_limit(100);
    let mut p2m = new(&arena, config());
    insert(
        &mut p2m,
        &arena,
        3,
        1,
        P2mMapping::new(Mfn::new(9), P2mKind::Foreign),
    );
    for gfn in [3, 4] {
        let with = (&mut arena.clone(), &mut arena.clone());
        assert_eq!(p2m.allow_execute(with, Gfn::new(gfn)), Ok(None));
    }
}

#[test]
fn only_memory_is_copied_and_only_what_is_writable_is_written() {
    let arena = Arena::with_limit(100);
    let mut p2m = new(&arena, config());
    let cases = [
        (P2mKind::Ram, true, true),
        (P2mKind::RamLogDirty, true, true),
        (P2mKind::Special, true, true),
        (P2mKind::Mmio, false, false),
        (P2mKind::Foreign, true, true),
        (P2mKind::GrantRw, true, true),
        (P2mKind::GrantRo, true, false),
    ];
    for (gfn, (kind, reads, writes)) in (0..).zip(cases) {
        insert(&mut p2m, &arena, gfn, 1, P2mMapping::new(Mfn::new(7), kind));
        let entry = p2m.lookup(&arena, Gfn::new(gfn)).unwrap();
        assert_eq!((entry.kind, entry.access), (kind, kind.default_access()));
        assert_eq!(
            (entry.is_readable_memory(), entry.is_writable_memory()),
            (reads, writes)
        );
    }
}

#[test]
fn notes_that_were_never_written_read_as_device_memory() {
    for note in 0..32 {
        let kind = P2mKind::from_note(note);
        assert!(kind as u8 == note & 15 || kind == P2mKind::Mmio);
    }
}

#[test]
fn nothing_hides_the_local_apics_registers() {
    let arena = Arena::with_limit(100);
    let mut p2m = new(&arena, config());
    let apic = 0xFEE00;
    insert(&mut p2m, &arena, apic + 1, 1, ram(GIB));
    insert(&mut p2m, &arena, apic - 1, 1, ram(GIB + 1));
    for (gfn, count) in [(apic, 1), (apic, 2), (apic - 4, 8), (0, LIMIT)] {
        let with = (&mut arena.clone(), &mut arena.clone());
        let refused = p2m.insert(with, Gfn::new(gfn), count, ram(GIB));
        assert_eq!(refused, Err(P2mError::OutOfRange), "{gfn:#x}, {count}");
    }
}
