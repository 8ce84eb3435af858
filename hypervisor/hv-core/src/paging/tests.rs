//! The page table against a naive model: for every page, the last edit that covered it counts.

use alloc::vec::Vec;
use core::ops::ControlFlow;

use proptest::prelude::*;

use super::flush::PendingFlush;
use super::host::{Host, HostAttr, HostPage};
use super::stage2::{Access, MemoryType, Stage2, Stage2Attr, Stage2Format};
use super::testing::Arena;
use super::{Format, MAX_PAGES, PageTable};
use crate::addr::{Gfn, Mfn, PageOrder};

const GIB: u64 = PageOrder::SIZE_1G.frames();
const ACCESSES: [Access; 4] = [Access::R, Access::Rw, Access::Rx, Access::Rwx];

fn attr(access: Access) -> Stage2Attr {
    Stage2Format::Ept.attr(access, MemoryType::WriteBack)
}

#[derive(Clone, Debug)]
enum Op {
    Map { mfn: u64, access: usize },
    Unmap,
    Split,
}

#[derive(Clone, Debug)]
struct Step {
    op: Op,
    first: u64,
    count: u64,
    tables_left: usize,
}

impl Step {
    /// The step, cut short where it would make a GiB of small leaves: too many tables for a quick test.
    fn quick(self, largest: PageOrder) -> Self {
        let is_small = largest == PageOrder::SIZE_4K
            || matches!(self.op, Op::Map { mfn, .. } if !(mfn ^ self.first).is_multiple_of(512));
        let most = if is_small { 1100 } else { u64::MAX };
        Self {
            count: self.count.min(most),
            ..self
        }
    }
}

/// Page numbers where alignment matters: near the multiples of 2 MiB and 1 GiB, over four GiB.
fn page() -> impl Strategy<Value = u64> {
    (
        0..4u64,
        0..4u64,
        prop_oneof![Just(0u64), Just(0), Just(1), 0..512u64],
    )
        .prop_map(|(gib, large, small)| gib * GIB + large * 512 + small)
}

fn step() -> impl Strategy<Value = Step> {
    let op = prop_oneof![
        3 => (prop_oneof![Just(0u64), Just(512), Just(7)], 0..4usize)
            .prop_map(|(skew, access)| Op::Map { mfn: 16 * GIB + skew, access }),
        2 => Just(Op::Unmap),
        1 => Just(Op::Split),
    ];
    let count = prop_oneof![
        1..3u64,
        500..1100u64,
        Just(512u64),
        Just(GIB),
        Just(GIB + 512)
    ];
    let tables_left = prop_oneof![4 => Just(10_000usize), 1 => 0..4usize];
    (op, page(), count, tables_left).prop_map(|(op, first, count, tables_left)| Step {
        op,
        first,
        count,
        tables_left,
    })
}

/// What the model knows: every edit with the pages it got done.
#[derive(Default)]
struct Model(Vec<Step>);

impl Model {
    fn lookup(&self, page: u64) -> Option<(u64, Stage2Attr)> {
        let mut mapped = None;
        for step in self
            .0
            .iter()
            .filter(|s| s.first <= page && page - s.first < s.count)
        {
            mapped = match (&step.op, mapped) {
                (Op::Map { mfn, access }, _) => {
                    Some((mfn + (page - step.first), attr(ACCESSES[*access])))
                }
                (Op::Unmap, _) => None,
                (_, mapped) => mapped,
            };
        }
        mapped
    }
    /// Pages at which anything can change, and their neighbours.
    fn samples(steps: &[Step]) -> Vec<u64> {
        let mut pages = Vec::new();
        for edge in steps.iter().flat_map(|s| [s.first, s.first + s.count]) {
            for around in [edge, edge & !511, (edge | 511) + 1, edge & !(GIB - 1)] {
                pages.extend([around.saturating_sub(1), around, around + 1]);
            }
        }
        pages.sort_unstable();
        pages.dedup();
        pages
    }
}

fn run(table: &mut PageTable<Stage2>, arena: &Arena, step: &Step) -> (u64, PendingFlush) {
    let (mut mem, mut frames) = (arena.clone(), arena.clone());
    let with = (&mut mem, &mut frames);
    let first = Gfn::new(step.first);
    let result = match step.op {
        Op::Map { mfn, access } => {
            let target = (Mfn::new(mfn), attr(ACCESSES[access]));
            table.map(with, first, step.count, target)
        }
        Op::Unmap => table.unmap(with, first, step.count),
        Op::Split => table.split_at(with, first),
    };
    match result {
        Ok(flush) => (step.count, flush),
        Err(stopped) => (stopped.done_pages, stopped.flush),
    }
}

proptest! {
    #[test]
    fn every_page_is_as_the_last_edit_left_it(
        steps in prop::collection::vec(step(), 1..16),
        largest in prop_oneof![
            Just(PageOrder::SIZE_4K), Just(PageOrder::SIZE_2M), Just(PageOrder::SIZE_1G)
        ],
    ) {
        let steps: Vec<_> = steps.into_iter().map(|step| step.quick(largest)).collect();
        let arena = Arena::with_limit(1);
        let mut table = PageTable::<Stage2>::new(&mut arena.clone(), largest).unwrap();
        let samples = Model::samples(&steps);
        let mut model = Model::default();
        for step in &steps {
            arena.set_left(step.tables_left);
            let (done, flush) = run(&mut table, &arena, step);
            let before: Vec<_> = samples.iter().map(|&page| model.lookup(page)).collect();
            model.0.push(Step { count: done, ..step.clone() });
            for (&page, before) in samples.iter().zip(before) {
                let found = table.lookup(&arena, Gfn::new(page));
                prop_assert!(found.is_none_or(|leaf| leaf.order <= largest));
                let expected = model.lookup(page);
                prop_assert_eq!(found.map(|leaf| (leaf.mfn.as_u64(), leaf.attr)), expected);
                if before.is_some() && before != expected {
                    let (first, count) = flush.span().expect("a changed page owes a flush");
                    prop_assert!(first <= page && page < first + count);
                }
            }
            check_visit(&table, &arena, step)?;
            let live = arena.live();
            table.reclaim(&arena, &mut arena.clone(), &flush.completed());
            prop_assert!(arena.live() <= live);
        }
        let (mut mem, mut frames) = (arena.clone(), arena.clone());
        let done = PendingFlush::none(table.root()).completed();
        while !table.dismantle((&mut mem, &mut frames), &done, 1500) {}
        prop_assert_eq!(arena.live(), 1);
    }
}

fn check_visit(table: &PageTable<Stage2>, arena: &Arena, step: &Step) -> Result<(), TestCaseError> {
    let mut next = step.first;
    let mut wrong = None;
    let _: ControlFlow<()> = table.visit(arena, Gfn::new(step.first), step.count, |gfn, leaf| {
        let is_first_of_leaf = leaf.mfn.is_aligned(leaf.order) || gfn.as_u64() == step.first;
        if gfn.as_u64() < next || !is_first_of_leaf || table.lookup(arena, gfn) != Some(leaf) {
            wrong = Some((gfn, leaf));
        }
        next = gfn.as_u64() + 1;
        ControlFlow::Continue(())
    });
    prop_assert_eq!(wrong, None);
    prop_assert!(next <= step.first + step.count);
    Ok(())
}

#[test]
fn the_largest_leaf_that_fits_is_used() {
    let arena = Arena::with_limit(100);
    let (mut mem, mut frames) = (arena.clone(), arena.clone());
    let mut table = PageTable::<Stage2>::new(&mut frames, PageOrder::SIZE_1G).unwrap();
    let target = (Mfn::new(GIB - 1), attr(Access::Rwx));
    let flush = table.map(
        (&mut mem, &mut frames),
        Gfn::new(GIB - 1),
        GIB + 514,
        target,
    );
    assert!(!flush.unwrap().is_needed(), "nothing was mapped before");
    let order = |gfn| table.lookup(&arena, Gfn::new(gfn)).map(|leaf| leaf.order);
    assert_eq!(order(GIB - 2), None);
    assert_eq!(order(GIB - 1), Some(PageOrder::SIZE_4K));
    assert_eq!(order(GIB), Some(PageOrder::SIZE_1G));
    assert_eq!(order(2 * GIB - 1), Some(PageOrder::SIZE_1G));
    assert_eq!(order(2 * GIB), Some(PageOrder::SIZE_2M));
    assert_eq!(order(2 * GIB + 512), Some(PageOrder::SIZE_4K));
    assert_eq!(order(2 * GIB + 513), None);
}

#[test]
fn a_detached_table_is_kept_until_the_flush_is_done() {
    let arena = Arena::with_limit(100);
    let (mut mem, mut frames) = (arena.clone(), arena.clone());
    let mut table = PageTable::<Stage2>::new(&mut frames, PageOrder::SIZE_2M).unwrap();
    let target = (Mfn::new(1025), attr(Access::Rw));
    let flush = table.map((&mut mem, &mut frames), Gfn::new(512), 512, target);
    assert!(!flush.unwrap().is_needed());
    assert_eq!(arena.live(), 4);
    let flush = table
        .unmap((&mut mem, &mut frames), Gfn::new(512), 512)
        .unwrap();
    assert_eq!(flush.span(), Some((512, 512)));
    assert_eq!(arena.live(), 4);
    table.reclaim(&mem, &mut frames, &flush.completed());
    assert_eq!(arena.live(), 3);
}

#[test]
fn ranges_outside_the_input_space_are_refused_untouched() {
    let arena = Arena::with_limit(100);
    let (mut mem, mut frames) = (arena.clone(), arena.clone());
    let mut table = PageTable::<Stage2>::new(&mut frames, PageOrder::SIZE_2M).unwrap();
    for (first, count) in [(MAX_PAGES, 1), (MAX_PAGES - 1, 2), (1, u64::MAX)] {
        let stopped = table
            .unmap((&mut mem, &mut frames), Gfn::new(first), count)
            .unwrap_err();
        assert_eq!((stopped.done_pages, stopped.flush.is_needed()), (0, false));
    }
    assert_eq!(table.lookup(&arena, Gfn::new(MAX_PAGES)), None);
    assert_eq!(table.lookup(&arena, Gfn::new(u64::MAX)), None);
}

#[test]
fn a_lookup_reads_four_entries_and_fewer_under_large_leaves() {
    let arena = Arena::with_limit(100);
    let (mut mem, mut frames) = (arena.clone(), arena.clone());
    let mut table = PageTable::<Stage2>::new(&mut frames, PageOrder::SIZE_1G).unwrap();
    for (gfn, count) in [(0, 1), (512, 512), (GIB, GIB)] {
        let target = (Mfn::new(4 * GIB + gfn), attr(Access::Rwx));
        let flush = table.map((&mut mem, &mut frames), Gfn::new(gfn), count, target);
        assert!(!flush.unwrap().is_needed());
    }
    arena.take_reads();
    for (gfn, reads) in [(0, 4), (513, 3), (GIB + 5, 2), (1 << 30, 1)] {
        let _ = table.lookup(&arena, Gfn::new(gfn));
        assert_eq!(arena.take_reads(), reads, "gfn {gfn:#x}");
    }
}

#[test]
fn ept_leaves_have_the_bits_of_the_manual() {
    let format = Stage2Format::Ept;
    let ram = format.attr(Access::Rwx, MemoryType::WriteBack);
    assert_eq!(
        Stage2::leaf(Mfn::new(0x1234), PageOrder::SIZE_4K, ram),
        0x0123_4037
    );
    assert_eq!(
        Stage2::leaf(Mfn::new(0x1200), PageOrder::SIZE_2M, ram),
        0x0120_00B7
    );
    let device = format.ignoring_pat(format.attr(Access::Rw, MemoryType::Uncacheable));
    assert_eq!(
        Stage2::leaf(Mfn::new(0xFE000), PageOrder::SIZE_4K, device),
        0xFE00_0043
    );
    assert_eq!(Stage2::table(Mfn::new(5)), 0x5007);
    let noted = ram.with_software(0xF);
    assert_eq!(
        Stage2::leaf(Mfn::new(0), PageOrder::SIZE_4K, noted),
        0x00F0_0000_0000_0037
    );
    let entry = Stage2::leaf(Mfn::new(0x1200), PageOrder::SIZE_2M, noted) | 0x300;
    assert_eq!(
        Stage2::attr(entry),
        noted,
        "accessed and dirty are not attributes"
    );
}

#[test]
fn npt_leaves_have_the_bits_of_the_manual() {
    const NX: u64 = 1 << 63;
    let format = Stage2Format::Npt;
    let leaf = |access, memory_type| {
        let attr = format.attr(access, memory_type);
        (
            Stage2::leaf(Mfn::new(0x1234), PageOrder::SIZE_4K, attr),
            attr.access(),
        )
    };
    for (access, memory_type, bits) in [
        (Access::Rwx, MemoryType::WriteBack, 0x07),
        (Access::Rx, MemoryType::WriteBack, 0x05),
        (Access::Rw, MemoryType::Uncacheable, 0x1F | NX),
        (Access::R, MemoryType::WriteThrough, 0x0D | NX),
        (Access::R, MemoryType::WriteCombining, 0x15 | NX),
    ] {
        assert_eq!(leaf(access, memory_type), (0x0123_4000 | bits, access));
    }
    let ram = format.attr(Access::Rwx, MemoryType::WriteBack);
    assert_eq!(
        Stage2::leaf(Mfn::new(0x1200), PageOrder::SIZE_2M, ram),
        0x0120_0087
    );
    // a table is the same in both, no CPU with NPT has the erratum, and it has no bit to ignore the PAT by
    assert_eq!(Stage2::table(Mfn::new(5)), 0x5007);
    assert_eq!(format.executable_when_small(ram), ram);
    assert_eq!(format.ignoring_pat(ram), ram);
    let used = Stage2::leaf(Mfn::new(0), PageOrder::SIZE_4K, ram) | 0x60;
    assert!(Stage2::is_present(used) && Stage2::attr(used).access() == Access::Rwx);
}

#[test]
fn withheld_execution_comes_back_with_small_leaves() {
    let format = Stage2Format::Ept;
    let ram = format.executable_when_small(format.attr(Access::Rwx, MemoryType::WriteBack));
    let large = Stage2::leaf(Mfn::new(0), PageOrder::SIZE_2M, ram);
    assert_eq!(large & 0x87, 0x83);
    assert_eq!(Stage2::attr(large).access(), Access::Rwx);
    assert!(Stage2::attr(large).withholds_execute());
    let small = Stage2::leaf(Mfn::new(0), PageOrder::SIZE_4K, Stage2::attr(large));
    assert_eq!(small & 0x87, 0x07);
    assert!(!Stage2::attr(small).withholds_execute());
}

#[test]
fn host_leaves_have_the_bits_of_the_manual() {
    const NO_EXECUTE: u64 = 1 << 63;
    let leaf = |attr| Host::leaf(Mfn::new(0x200), PageOrder::SIZE_2M, attr);
    assert_eq!(leaf(HostAttr::CODE), 0x0020_0081);
    assert_eq!(leaf(HostAttr::DATA.global()), 0x0020_0183 | NO_EXECUTE);
    assert_eq!(leaf(HostAttr::DEVICE), 0x0020_009B | NO_EXECUTE);
    assert_eq!(Host::attr(leaf(HostAttr::DEVICE)), HostAttr::DEVICE);
    assert!(HostAttr::CODE.executes() && !HostAttr::CODE.writes());
}

#[test]
fn host_pages_are_canonical_addresses() {
    for address in [
        0,
        0x7FFF_FFFF_F000,
        0xFFFF_8000_0000_0000,
        0xFFFF_FFFF_FFFF_F000,
    ] {
        assert_eq!(HostPage::containing(address + 0xFFF).base(), address);
    }
}

#[test]
fn host_tables_map_the_high_half() {
    let arena = Arena::with_limit(100);
    let (mut mem, mut frames) = (arena.clone(), arena.clone());
    let mut table = PageTable::<Host>::new(&mut frames, PageOrder::SIZE_1G).unwrap();
    let page = HostPage::containing(0xFFFF_8000_0000_0000);
    let target = (Mfn::new(0), HostAttr::DATA);
    let flush = table.map((&mut mem, &mut frames), page, 2 * GIB, target);
    assert!(!flush.unwrap().is_needed());
    let inside = HostPage::containing(0xFFFF_8000_4000_5000);
    let leaf = table.lookup(&arena, inside).unwrap();
    assert_eq!(
        (leaf.mfn, leaf.order),
        (Mfn::new(GIB + 5), PageOrder::SIZE_1G)
    );
}
