//! What a guest gets of the machine's frames: those it claimed, tables up to a bound, a grant table as large as it may
//! be; and that all come back.

use crate::domain::create::DomainConfig;
use crate::domain::destroy::{self, Progress};
use crate::domain::grants::{self, NoFrame};
use crate::domain::space::{self, SpaceError};
use crate::domain::{Domain, registry};
use crate::machine::memory;
use crate::tests::common::{domain, guest_config, known_guest, prepare};
use hv_core::addr::{Gfn, PageOrder};
use hv_hw::virt::fake::FakeVcpu;

/// Where guests have RAM.
const RAM: u64 = 0x1000;

fn at(gfn: u64) -> Gfn {
    Gfn::new(gfn)
}

#[test]
fn claimed_frames_are_kept_for_whoever_claimed_them() {
    prepare();
    let (first, second) = (known_guest(), known_guest());
    for guest in [&first, &second] {
        space::set_max_pages(guest, 1 << 20);
    }
    // a table each for what is mapped below
    for (guest, gfn) in [(&first, RAM), (&second, RAM)] {
        space::populate(guest, at(gfn), PageOrder::SIZE_4K).unwrap();
    }
    let free = memory::free_frames();
    assert!(!memory::set_claim(&first.limits.claim, free + 1));
    assert!(memory::set_claim(&first.limits.claim, free - 2));
    assert!(!memory::set_claim(&second.limits.claim, 3));
    let populate = |guest: &Domain, gfn| space::populate(guest, at(gfn), PageOrder::SIZE_4K);
    assert_eq!(populate(&second, RAM + 1), Ok(()));
    assert_eq!(populate(&second, RAM + 2), Ok(()));
    assert_eq!(populate(&second, RAM + 3), Err(SpaceError::OutOfMemory));
    assert_eq!(second.pages(), 3);
    for page in 1..10 {
        assert_eq!(populate(&first, RAM + page), Ok(()));
    }
    assert_eq!(memory::claimed_frames(), free - 11);
    assert!(memory::set_claim(&first.limits.claim, 0));
    assert_eq!(memory::claimed_frames(), 0);
    assert_eq!(populate(&second, RAM + 3), Ok(()));
    let mut hw = FakeVcpu::default();
    for guest in [first, second] {
        assert!(memory::set_claim(&guest.limits.claim, 5));
        while destroy::step(&guest, &mut hw) != Progress::Done {}
    }
    assert_eq!(memory::claimed_frames(), 0);
}

#[test]
fn page_tables_of_a_guest_are_bounded() {
    prepare();
    let before = memory::free_frames();
    let guest = known_guest();
    space::set_max_pages(&guest, 4096);
    let spread = |page: u64| at((page + 1) << 18);
    let populated = (0..4096)
        .take_while(|page| space::populate(&guest, spread(*page), PageOrder::SIZE_4K).is_ok())
        .count();
    let used = guest.limits.pool.used();
    assert!(used <= 1024 + 4096 / 128, "{used} tables");
    assert!(populated > 400 && populated < 1024, "{populated} pages");
    let mut hw = FakeVcpu::default();
    while destroy::step(&guest, &mut hw) != Progress::Done {}
    drop(guest);
    destroy::reap();
    assert_eq!(memory::free_frames(), before);
}

#[test]
fn grant_table_grows_in_pieces_and_comes_back() {
    prepare();
    let before = memory::free_frames();
    let number = registry::reserve(None).unwrap();
    let config = DomainConfig {
        max_grant_frames: 80,
        ..guest_config(1)
    };
    let guest = domain(number.id().get(), config);
    registry::add(guest.clone());
    let pieces = (0..10)
        .take_while(|_| grants::frame(&guest, 79) == Err(NoFrame::NotYet))
        .count();
    assert_eq!((pieces, guest.grants.size()), (1, (80, 80)));
    assert_eq!(grants::frame(&guest, 80), Err(NoFrame::Refused));
    assert_eq!(memory::charged(guest.id), 81);
    let mut hw = FakeVcpu::default();
    while destroy::step(&guest, &mut hw) != Progress::Done {}
    drop(guest);
    destroy::reap();
    assert_eq!(memory::free_frames(), before);
}
