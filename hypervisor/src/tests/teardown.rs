//! How a dying domain's memory goes: in steps of bounded length, whatever it did with it.

use crate::domain::destroy::{self, Progress};
use crate::domain::space;
use crate::domain::teardown::{self, Budget};
use crate::machine::memory;
use crate::tests::common::{known_guest, prepare};
use hv_core::addr::{Gfn, PageOrder};
use hv_hw::virt::fake::FakeVcpu;

/// Taken down in one go.
const STEP: Budget = Budget {
    frames: 64,
    entries: 1000,
};

#[test]
fn empty_tables_are_gone_over_in_steps() {
    const PAGES: u64 = 500;
    prepare();
    let before = memory::free_frames();
    let guest = known_guest();
    space::set_max_pages(&guest, PAGES);
    let mut hw = FakeVcpu::default();
    for page in 0..PAGES {
        space::populate(&guest, Gfn::new(page * 512), PageOrder::SIZE_4K).unwrap();
    }
    for page in 0..PAGES {
        space::release(&mut hw, &guest, Gfn::new(page * 512)).unwrap();
    }
    let steps = (0..10_000u64).find(|_| teardown::empty(&mut hw, &guest, STEP));
    let least = PAGES * 512 / u64::from(STEP.entries);
    assert!(steps.unwrap() >= least, "{steps:?}");
    while destroy::step(&guest, &mut hw) != Progress::Done {}
    drop(guest);
    destroy::reap();
    assert_eq!(memory::free_frames(), before);
}

#[test]
fn step_puts_hardly_more_frames_than_it_may() {
    const PAGES: u64 = 3 * 512 + 200;
    prepare();
    let before = memory::free_frames();
    let guest = known_guest();
    space::set_max_pages(&guest, PAGES);
    for block in 0..3 {
        space::populate(&guest, Gfn::new((block + 8) * 512), PageOrder::SIZE_2M).unwrap();
    }
    for page in 0..200 {
        space::populate(&guest, Gfn::new(page), PageOrder::SIZE_4K).unwrap();
    }
    let mut hw = FakeVcpu::default();
    let mut left = Vec::new();
    while !teardown::empty(&mut hw, &guest, STEP) {
        left.push(guest.pages());
    }
    // pages one by one, and then a block a step; what follows them is gone over as well
    left.dedup();
    let expected = [1672, 1608, 1544, 1024, 512, 0];
    assert_eq!(left, expected);
    while destroy::step(&guest, &mut hw) != Progress::Done {}
    drop(guest);
    destroy::reap();
    assert_eq!(memory::free_frames(), before);
}
