//! Populate on demand against a map of single guest frames, each with what it holds.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::addr::MfnRange;
use crate::frame::{FrameInfo, FrameTable};
use crate::paging::testing::Arena;

const BLOCK: u64 = PageOrder::SIZE_2M.frames();
const BLOCKS: u64 = 4;
/// The machine's frames.
const FRAMES: u64 = 16 * BLOCK;

/// What the model says of a guest frame that is not empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Is {
    Marked,
    Ram { mfn: u64, is_zero: bool },
    Special,
}

#[derive(Clone, Debug)]
enum Op {
    Mark(u64, PageOrder),
    Target(u64),
    Touch(u64),
    Write(u64),
    Release(u64),
    ReleaseBlock(u64),
    Special(u64),
    Sweep(u32),
    TablesLeft(usize),
}

fn gfn() -> impl Strategy<Value = u64> {
    (0..BLOCKS, prop_oneof![Just(0u64), 0..5u64, 0..BLOCK]).prop_map(|(b, p)| b * BLOCK + p)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (0..BLOCKS).prop_map(|block| Op::Mark(block * BLOCK, PageOrder::SIZE_2M)),
        1 => gfn().prop_map(|gfn| Op::Mark(gfn, PageOrder::SIZE_4K)),
        2 => prop_oneof![0..20u64, 500..1100u64].prop_map(Op::Target),
        6 => gfn().prop_map(Op::Touch),
        4 => gfn().prop_map(Op::Write),
        3 => gfn().prop_map(Op::Release),
        1 => (0..BLOCKS).prop_map(|block| Op::ReleaseBlock(block * BLOCK)),
        1 => gfn().prop_map(Op::Special),
        2 => (1..3000u32).prop_map(Op::Sweep),
        1 => prop_oneof![Just(1000usize), 0..2usize].prop_map(Op::TablesLeft),
    ]
}

struct World {
    arena: Arena,
    p2m: P2m,
    table: FrameTable<'static>,
    model: BTreeMap<u64, Is>,
    /// What the domain is charged for: all frames that it has.
    charged: BTreeSet<u64>,
    free: Vec<u64>,
}

impl World {
    fn new() -> Self {
        let arena = Arena::with_limit(1000);
        let config = P2mConfig {
            format: Stage2Format::Ept,
            max_order: PageOrder::SIZE_2M,
            large_executable: true,
            heeds_pat: false,
            gfn_limit: Gfn::new(1 << 24),
        };
        let ram = MfnRange::new(Mfn::new(0), Mfn::new(FRAMES));
        let records = (0..FrameTable::records_needed(&[ram])).map(|_| FrameInfo::default());
        let records: Vec<FrameInfo> = records.collect();
        Self {
            p2m: P2m::new(&mut arena.clone(), config).expect("room for a root"),
            arena,
            table: FrameTable::new(records.leak(), &[ram]).expect("one range"),
            model: BTreeMap::new(),
            charged: BTreeSet::new(),
            free: (0..FRAMES).collect(),
        }
    }

    fn memory(&self) -> (Arena, Arena) {
        (self.arena.clone(), self.arena.clone())
    }

    fn count(&self, is: impl Fn(&Is) -> bool) -> u64 {
        self.model.values().filter(|here| is(here)).count() as u64
    }

    fn outstanding(&self) -> u64 {
        self.count(|is| *is == Is::Marked)
    }

    fn cached(&self) -> u64 {
        self.charged.len() as u64 - self.count(|is| matches!(is, Is::Ram { .. }))
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Mark(gfn, order) => self.mark(gfn, order),
            Op::Target(target) => self.target(target),
            Op::Touch(gfn) => self.touch(gfn),
            Op::Write(gfn) => {
                if let Some(Is::Ram { is_zero, .. }) = self.model.get_mut(&gfn) {
                    *is_zero = false;
                }
            }
            Op::Release(gfn) => self.release(gfn),
            Op::ReleaseBlock(gfn) => self.release_block(gfn),
            Op::Special(gfn) => self.special(gfn),
            Op::Sweep(budget) => self.sweep(budget),
            Op::TablesLeft(left) => self.arena.set_left(left),
        }
    }

    fn mark(&mut self, gfn: u64, order: PageOrder) {
        let (mut mem, mut frames) = self.memory();
        let marked = self
            .p2m
            .mark_pod((&mut mem, &mut frames), Gfn::new(gfn), order);
        let range = gfn..gfn + order.frames();
        let is_free = self
            .model
            .range(range.clone())
            .all(|(_, is)| *is == Is::Marked);
        assert_eq!(marked == Err(P2mError::Occupied), !is_free);
        if marked.is_ok() {
            self.model.extend(range.map(|gfn| (gfn, Is::Marked)));
        }
    }

    /// What the hypervisor does for a toolstack's target: whole blocks where so many are wanted.
    fn target(&mut self, target: u64) {
        let charged = self.charged.len() as u64;
        let Some(cache) = self.p2m.pod.cache_for(target, charged) else {
            let populated = charged - self.cached();
            assert!(target < charged || (populated > 0 && self.outstanding() == 0));
            return;
        };
        assert!(cache >= self.cached(), "it never shrinks for a target");
        while self.cached() < cache {
            let more = cache - self.cached();
            let block = (0..FRAMES).step_by(512).find(|start| {
                more >= BLOCK && (*start..start + BLOCK).all(|mfn| self.free.contains(&mfn))
            });
            let (start, order) = match block {
                Some(start) => (start, PageOrder::SIZE_2M),
                None => (*self.free.last().expect("frames"), PageOrder::SIZE_4K),
            };
            let taken = start..start + order.frames();
            self.free.retain(|mfn| !taken.contains(mfn));
            self.charged.extend(taken);
            self.p2m.pod.stock(&self.table, Mfn::new(start), order);
        }
    }

    fn touch(&mut self, gfn: u64) {
        let (mut mem, mut frames) = self.memory();
        let before = self.cached();
        let at = Gfn::new(gfn);
        let populated = self
            .p2m
            .populate_pod((&mut mem, &mut frames), at, &self.table);
        match (self.model.get(&gfn), populated) {
            (Some(Is::Marked), Ok(Populated::Done)) => {
                let entry = self.p2m.lookup(&self.arena, at).expect("it was populated");
                let start = at.align_down(entry.order).as_u64();
                for index in 0..entry.order.frames() {
                    let here = self.p2m.lookup(&self.arena, Gfn::new(start + index));
                    let mfn = here.expect("all of the block").mfn.as_u64();
                    let is = Is::Ram { mfn, is_zero: true };
                    assert_eq!(self.model.insert(start + index, is), Some(Is::Marked));
                }
            }
            (Some(Is::Marked), Ok(Populated::NoFrame)) => assert_eq!(before, 0),
            (Some(Is::Marked), Err(P2mError::OutOfTables(flush))) => assert!(!flush.is_needed()),
            (Some(Is::Marked), other) => panic!("{other:?}"),
            (_, other) => assert_eq!(other, Ok(Populated::NotMarked)),
        }
    }

    /// What the hypervisor does for a balloon driver.
    fn release(&mut self, gfn: u64) {
        let (mut mem, mut frames) = self.memory();
        let at = Gfn::new(gfn);
        match self
            .p2m
            .unmark_pod((&mut mem, &mut frames), at, PageOrder::SIZE_4K)
        {
            Ok(true) => {
                assert_eq!(self.model.remove(&gfn), Some(Is::Marked));
                return self.trim();
            }
            Ok(false) => assert_ne!(self.model.get(&gfn), Some(&Is::Marked)),
            Err(_) => return,
        }
        let keeps = self.p2m.pod.keeps_what_is_released();
        let is_ram = |entry: &P2mEntry| entry.kind == P2mKind::Ram;
        let (mut mem, mut frames) = self.memory();
        let removed = self.p2m.remove_page_if((&mut mem, &mut frames), at, is_ram);
        if let Ok(Removal::Done(entry, flush)) = removed {
            let done = flush.completed();
            self.p2m
                .reclaim(&self.arena, &mut self.arena.clone(), &done);
            let mfn = entry.mfn.as_u64();
            let was = self.model.remove(&gfn).expect("something was there");
            assert!(matches!(was, Is::Ram { mfn: frame, .. } if frame == mfn));
            if keeps {
                let order = PageOrder::SIZE_4K;
                self.p2m.pod.stock(&self.table, entry.mfn, order);
            } else {
                self.charged.remove(&mfn);
                self.free.push(mfn);
            }
        }
    }

    fn release_block(&mut self, gfn: u64) {
        let (mut mem, mut frames) = self.memory();
        let range = gfn..gfn + BLOCK;
        let is_all = range
            .clone()
            .all(|gfn| self.model.get(&gfn) == Some(&Is::Marked));
        let order = PageOrder::SIZE_2M;
        let unmarked = self
            .p2m
            .unmark_pod((&mut mem, &mut frames), Gfn::new(gfn), order);
        assert_eq!(unmarked, Ok(is_all), "whole entries need no table");
        if is_all {
            self.model.retain(|gfn, _| !range.contains(gfn));
            self.trim();
        }
    }

    fn trim(&mut self) {
        let keep = self.outstanding();
        while let Some((mfn, order)) = self.p2m.pod.surplus(&self.table, keep) {
            for mfn in mfn.as_u64()..mfn.as_u64() + order.frames() {
                assert!(self.charged.remove(&mfn), "a frame of the domain's own");
                self.free.push(mfn);
            }
        }
        assert!(self.cached() <= keep);
    }

    fn special(&mut self, gfn: u64) {
        let (mut mem, mut frames) = self.memory();
        let mapping = P2mMapping::new(Mfn::new(FRAMES + gfn), P2mKind::Special);
        let inserted = self
            .p2m
            .insert((&mut mem, &mut frames), Gfn::new(gfn), 1, mapping);
        match inserted {
            Ok(flush) => {
                assert!(!flush.is_needed());
                let was = self.model.insert(gfn, Is::Special);
                assert!(matches!(was, None | Some(Is::Marked)));
            }
            Err(error) => {
                let is_occupied =
                    matches!(self.model.get(&gfn), Some(Is::Ram { .. } | Is::Special));
                assert_eq!(error == P2mError::Occupied, is_occupied);
            }
        }
    }

    /// Takes back every page that a sweep comes upon and that is all zeroes.
    fn sweep(&mut self, mut budget: u32) {
        loop {
            let (gfn, entry) = match self.p2m.sweep(&self.arena, &mut budget) {
                Swept::Page(gfn, entry) => (gfn, entry),
                Swept::NotYet => return,
                Swept::Exhausted => return self.check_exhausted(),
            };
            let is = self.model.get(&gfn.as_u64()).copied();
            let Some(Is::Ram { mfn, is_zero }) = is else {
                panic!("a sweep comes upon RAM only, not {is:?}");
            };
            assert_eq!(mfn, entry.mfn.as_u64());
            if !is_zero {
                continue;
            }
            let (mut mem, mut frames) = self.memory();
            let removal = self.p2m.remove_to_mark((&mut mem, &mut frames), gfn);
            let Ok(Removal::Done(entry, flush)) = removal else {
                continue;
            };
            let done = flush.completed();
            self.p2m
                .reclaim(&self.arena, &mut self.arena.clone(), &done);
            let order = PageOrder::SIZE_4K;
            self.p2m.pod.stock(&self.table, entry.mfn, order);
            self.model.insert(gfn.as_u64(), Is::Marked);
        }
    }

    /// What is left is not all zeroes, or was populated just now, or could not be split.
    fn check_exhausted(&self) {
        let is_left = |is: &Is| matches!(is, Is::Ram { is_zero: true, .. });
        let is_short = self.arena.is_short();
        assert!(is_short || self.count(is_left) <= 8 * BLOCK);
    }

    fn check(&self) {
        let counts = self.p2m.pod.counts();
        assert_eq!(counts.outstanding, self.outstanding());
        assert_eq!(counts.cached, self.cached());
        for gfn in 0..BLOCKS * BLOCK {
            let is = self.model.get(&gfn);
            let at = Gfn::new(gfn);
            assert_eq!(self.p2m.is_pod(&self.arena, at), is == Some(&Is::Marked));
            let mapped = self
                .p2m
                .lookup(&self.arena, at)
                .map(|entry| entry.mfn.as_u64());
            match is {
                Some(Is::Ram { mfn, .. }) => assert_eq!(mapped, Some(*mfn)),
                Some(Is::Special) => assert_eq!(mapped, Some(FRAMES + gfn)),
                Some(Is::Marked) | None => assert_eq!(mapped, None),
            }
        }
    }

    /// Empties the cache: every frame comes out once, none of them mapped.
    fn drain(&mut self) {
        let mapped: BTreeSet<u64> = self
            .model
            .values()
            .filter_map(|is| match is {
                Is::Ram { mfn, .. } => Some(*mfn),
                _ => None,
            })
            .collect();
        while let Some((mfn, order)) = self.p2m.pod.surplus(&self.table, 0) {
            for mfn in mfn.as_u64()..mfn.as_u64() + order.frames() {
                assert!(self.charged.remove(&mfn) && !mapped.contains(&mfn));
            }
        }
        assert_eq!(self.charged, mapped);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_guest_frame_and_every_frame_is_where_a_model_says(
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
            world.check();
        }
        world.drain();
        let done = PendingFlush::none(world.p2m.root()).completed();
        let (mut mem, mut frames) = world.memory();
        while !world.p2m.dismantle((&mut mem, &mut frames), &done, 2000) {}
        world.p2m.end(&mut frames);
        prop_assert_eq!(world.arena.live(), 0);
    }
}

#[test]
fn a_target_fills_the_cache_for_what_is_marked_and_never_takes_from_it() {
    let mut world = World::new();
    // before anything is marked: a domain that is being made
    world.target(600);
    world.mark(0, PageOrder::SIZE_2M);
    world.mark(BLOCK, PageOrder::SIZE_2M);
    assert_eq!((world.cached(), world.outstanding()), (600, 1024));
    world.touch(3);
    assert_eq!(world.cached(), 600 - BLOCK);
    world.target(550);
    assert_eq!(
        world.cached(),
        600 - BLOCK,
        "a smaller target is the balloon's business"
    );
    world.target(5000);
    assert_eq!(world.cached(), BLOCK, "no more than is marked");
}

#[test]
fn a_sweep_spares_what_was_populated_last_and_says_when_there_is_nothing() {
    let mut world = World::new();
    world.target(10);
    world.mark(0, PageOrder::SIZE_2M);
    (0..10).for_each(|gfn| world.touch(gfn));
    assert_eq!(world.cached(), 0);
    world.sweep(10_000);
    assert_eq!(world.cached(), 2, "all but the last 8");
    world.touch(100);
    world.touch(101);
    (0..102).for_each(|gfn| world.apply(&Op::Write(gfn)));
    let mut budget = 10_000;
    let pages = core::iter::from_fn(|| match world.p2m.sweep(&world.arena, &mut budget) {
        Swept::Page(gfn, _) => Some(gfn),
        Swept::NotYet => panic!("the budget is large enough"),
        Swept::Exhausted => None,
    });
    assert!(pages.count() <= 4);
    assert_eq!(world.p2m.sweep(&world.arena, &mut 10), Swept::Exhausted);
}
