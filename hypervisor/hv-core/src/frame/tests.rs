//! The allocator against a set of free frames, and the life of a frame.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::addr::{Mfn, MfnRange, PageOrder};
use crate::domid::DomId;
use crate::paging::flush::PendingFlush;

fn range(start: u64, end: u64) -> MfnRange {
    MfnRange::new(Mfn::new(start), Mfn::new(end))
}

fn order(raw: u8) -> PageOrder {
    PageOrder::new(raw).expect("an order")
}

fn records(ram: &[MfnRange]) -> Vec<FrameInfo> {
    let count = FrameTable::records_needed(ram);
    (0..count).map(|_| FrameInfo::default()).collect()
}

/// Three pieces: the first with frame 0, one that crosses 4 GiB, and one far away.
const RAM: [(u64, u64); 3] = [(0, 700), (0xF_FF80, 0x10_0210), (0x123_4567, 0x123_4700)];

fn ram() -> Vec<MfnRange> {
    RAM.iter().map(|&(start, end)| range(start, end)).collect()
}

#[derive(Clone, Debug)]
enum Op {
    Alloc(u8),
    AllocExact(u64, u64),
    Free(usize),
}

fn frame() -> impl Strategy<Value = u64> {
    (0..RAM.len(), 0..800u64).prop_map(|(piece, offset)| {
        let (start, end) = RAM[piece];
        (start + offset).min(end)
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..11u8).prop_map(Op::Alloc),
        2 => (frame(), 0..300u64).prop_map(|(start, count)| Op::AllocExact(start, count)),
        5 => any::<usize>().prop_map(Op::Free),
    ]
}

/// True where the model has an aligned free block of `order`.
fn has_block(free: &BTreeSet<u64>, order: PageOrder) -> bool {
    let frames = order.frames();
    let starts = ram().into_iter().flat_map(|part| {
        let first = part.start.as_u64().next_multiple_of(frames);
        (first..part.end.as_u64()).step_by(usize::try_from(frames).unwrap())
    });
    starts
        .filter(|start| free.contains(start))
        .any(|start| (start..start + frames).all(|mfn| free.contains(&mfn)))
}

fn frames_of(owned: &OwnedFrames) -> impl Iterator<Item = u64> {
    owned.range().start.as_u64()..owned.range().end.as_u64()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_allocator_hands_out_free_frames_and_finds_every_block(
        ops in prop::collection::vec(op(), 1..60),
        last in 0..=RAM.len(),
    ) {
        let ram = ram();
        let records = records(&ram);
        let table = FrameTable::new(&records, &ram).unwrap();
        let mut buddy = Buddy::new(&table);
        let last: Vec<_> = ram.get(last).copied().into_iter().collect();
        buddy.hand_out_last(last.clone());
        let mut free = BTreeSet::new();
        for &part in &ram {
            prop_assert_eq!(buddy.add_free(part), Ok(()));
            free.extend(part.start.as_u64().max(1)..part.end.as_u64());
        }
        let all = free.clone();
        let mut held = Vec::new();
        for op in ops {
            match op {
                Op::Free(which) if !held.is_empty() => {
                    let owned: OwnedFrames = held.swap_remove(which % held.len());
                    free.extend(frames_of(&owned));
                    buddy.free(owned);
                }
                op => held.extend(ask(&mut buddy, &mut free, &op, &last)?),
            }
            prop_assert_eq!(buddy.free_frames(), free.len() as u64);
        }
        let low = free.range(..1 << 20).count() as u64;
        prop_assert_eq!(buddy.free_frames_below_4g(), low);
        for owned in held {
            buddy.free(owned);
        }
        prop_assert_eq!(buddy.free_frames(), all.len() as u64);
        check_runs(&buddy)?;
    }
}

/// Asks for frames where the model knows whether there are any, and checks what comes.
fn ask(
    buddy: &mut Buddy<'_, '_>,
    free: &mut BTreeSet<u64>,
    op: &Op,
    last: &[MfnRange],
) -> Result<Option<OwnedFrames>, TestCaseError> {
    let is_last = |mfn: u64| last.iter().any(|range| range.contains(Mfn::new(mfn)));
    let (got, count, alignment, exists) = match *op {
        Op::Alloc(raw) => {
            let (order, exists) = (order(raw), has_block(free, order(raw)));
            let others = free.iter().copied().filter(|mfn| !is_last(*mfn)).collect();
            let got = buddy.alloc(order);
            if let Some(got) = &got {
                let has_other = has_block(&others, order);
                prop_assert_eq!(is_last(got.start().as_u64()), !has_other);
            }
            (got, order.frames(), order.frames(), exists)
        }
        Op::AllocExact(start, count) => {
            let wanted = range(start, start + count);
            let is_free = (start..start + count).all(|mfn| free.contains(&mfn));
            prop_assert_eq!(buddy.is_free(wanted), is_free);
            let got = buddy.alloc_exact(wanted);
            prop_assert!(got.as_ref().is_none_or(|got| got.range() == wanted));
            (got, count, 1, is_free && count > 0)
        }
        Op::Free(_) => return Ok(None),
    };
    prop_assert_eq!(got.is_some(), exists);
    if let Some(owned) = &got {
        prop_assert_eq!(owned.range().len(), count);
        prop_assert!(owned.start().as_u64().is_multiple_of(alignment));
        for mfn in frames_of(owned) {
            prop_assert!(free.remove(&mfn), "{mfn:#x} was not free");
        }
    }
    Ok(got)
}

/// With everything free again, the runs are the ranges of RAM less frame 0.
fn check_runs(buddy: &Buddy<'_, '_>) -> Result<(), TestCaseError> {
    let mut from = Mfn::new(0);
    for (start, end) in RAM {
        let run = buddy.next_free_run(from);
        prop_assert_eq!(run, Some(range(start.max(1), end)));
        from = Mfn::new(end);
    }
    prop_assert_eq!(buddy.next_free_run(from), None);
    Ok(())
}

#[test]
fn records_are_16_bytes_and_holes_have_none() {
    assert_eq!(size_of::<FrameInfo>(), 16);
    let gib = PageOrder::SIZE_1G.frames();
    let sparse = [range(1, 100), range(700 * gib, 700 * gib + 5)];
    assert_eq!(FrameTable::records_needed(&sparse), 105);
    let tib = [range(0, 1024 * gib), range(1024 * gib, 2048 * gib)];
    assert_eq!(FrameTable::records_needed(&tib), 1 << 28);
}

#[test]
fn ram_is_ram_whoever_owns_it() {
    let ram = [
        range(100, 101),
        range(32, 48),
        range(16, 32),
        range(20, 21),
        range(7, 7),
    ];
    let records = records(&ram);
    let table = FrameTable::new(&records, &ram).unwrap();
    assert_eq!(table.ram(), [range(16, 48), range(100, 101)]);
    assert!(table.is_ram(Mfn::new(47)) && !table.is_ram(Mfn::new(48)));
    assert!(table.has_ram(range(48, 101)) && !table.has_ram(range(48, 100)));
}

#[test]
fn too_many_ranges_are_refused() {
    let ram: Vec<_> = (0..=128).map(|n| range(2 * n, 2 * n + 1)).collect();
    let records = records(&ram);
    assert!(FrameTable::new(&records, &ram).is_err());
}

#[test]
fn frames_cannot_be_added_twice_or_where_no_ram_is() {
    let ram = [range(0, 64)];
    let records = records(&ram);
    let table = FrameTable::new(&records, &ram).unwrap();
    let mut buddy = Buddy::new(&table);
    assert_eq!(buddy.add_free(range(60, 65)), Err(AddFreeError::NotRam));
    assert_eq!(buddy.add_free(range(0, 64)), Ok(()));
    assert_eq!(buddy.add_free(range(10, 11)), Err(AddFreeError::InUse));
    let taken = buddy.alloc(order(0)).unwrap();
    let kept = table.keep(taken, Role::Table);
    assert_eq!(buddy.add_free(kept), Err(AddFreeError::InUse));
    buddy.free(table.unkeep(kept));
    assert_eq!(buddy.free_frames(), 63);
}

#[test]
fn memory_above_4_gib_is_handed_out_first() {
    let ram = [range(0x10, 0x20), range(0x10_0000, 0x10_0010)];
    let records = records(&ram);
    let table = FrameTable::new(&records, &ram).unwrap();
    let mut buddy = Buddy::new(&table);
    for part in ram {
        assert_eq!(buddy.add_free(part), Ok(()));
    }
    let high = buddy.alloc(order(4)).unwrap();
    assert_eq!(high.range(), range(0x10_0000, 0x10_0010));
    let low = buddy.alloc(order(4)).unwrap();
    assert_eq!(low.range(), range(0x10, 0x20));
    assert_eq!(buddy.alloc(order(0)), None);
}

#[test]
fn a_frame_is_freed_by_its_last_use_only() {
    let ram = [range(0, 64)];
    let records = records(&ram);
    let table = FrameTable::new(&records, &ram).unwrap();
    let mut buddy = Buddy::new(&table);
    assert_eq!(buddy.add_free(range(0, 64)), Ok(()));
    let (d1, d2) = (DomId::new(1).unwrap(), DomId::new(2).unwrap());
    let mut scrubbed = 0;
    let clean = buddy
        .alloc(order(1))
        .unwrap()
        .scrub(|range| scrubbed += range.len());
    let page = table.give(clean, d1, Role::Ram).start;
    assert_eq!(scrubbed, 2);

    assert_eq!(table.acquire(page, d2), Err(Refused::NotOwned));
    assert_eq!(table.acquire(Mfn::new(5000), d1), Err(Refused::NotOwned));
    let copying = table.acquire(page, d1).unwrap();
    let mapped = table.acquire(page, d1).unwrap().into_mapping();
    assert_eq!(table.state(page).uses, 3);

    let flushed = PendingFlush::none(Mfn::new(9)).completed();
    assert_eq!(table.put(copying), None);
    assert_eq!(table.put_mapped(page, &flushed), None);
    let freed = table
        .put_mapped(mapped, &flushed)
        .expect("that was the last use");
    assert_eq!(freed.owner, Owner::Domain(d1));
    assert_eq!(table.state(page).owner, Owner::Nobody);
    assert_eq!(table.acquire(page, d1), Err(Refused::NotOwned));
    buddy.free(freed.frames);
    assert_eq!(buddy.free_frames(), 62);
}

#[test]
fn the_hypervisors_frames_are_no_domains() {
    let ram = [range(0, 64)];
    let records = records(&ram);
    let table = FrameTable::new(&records, &ram).unwrap();
    let mut buddy = Buddy::new(&table);
    assert_eq!(buddy.add_free(range(0, 64)), Ok(()));
    let kept = table.keep(buddy.alloc(order(0)).unwrap(), Role::Hypervisor);
    assert_eq!(
        table.acquire(kept.start, DomId::DOM0),
        Err(Refused::NotOwned)
    );
    let state = table.state(kept.start);
    assert_eq!(
        (state.owner, state.role, state.uses),
        (Owner::Hypervisor, Some(Role::Hypervisor), 1)
    );
    let given = table.give(
        buddy.alloc(order(0)).unwrap().never_used(),
        DomId::DOM0,
        Role::Special,
    );
    assert_eq!(table.state(given.start).owner, Owner::Domain(DomId::DOM0));
    assert_eq!(table.state(Mfn::new(63)).role, None);
}
