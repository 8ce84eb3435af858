//! Page tables on a machine whose memory is all given away: whoever stays within its limits gets those that it needs.

use std::sync::Arc;

use crate::domain::Domain;
use crate::domain::create::DomainConfig;
use crate::domain::destroy::{self, Progress};
use crate::domain::space::{self, SpaceError};
use crate::machine::memory::{self, pool};
use crate::tests::common::{domain, known_guest, prepare};
use hv_core::addr::{Gfn, Mfn, MfnRange, PageOrder};
use hv_hw::direct_map::DirectTables;
use hv_hw::virt::fake::FakeVcpu;

const BLOCK: u64 = 512;
/// Tables that three blocks far apart take, split.
const POOL: u64 = 16;

/// A guest with a pool, and with a block of RAM in one leaf.
fn guest_with_block() -> Arc<Domain> {
    let guest = known_guest();
    space::set_max_pages(&guest, 1 << 20);
    space::set_table_pool(&guest, POOL).unwrap();
    space::populate(&guest, Gfn::new(BLOCK), PageOrder::SIZE_2M).unwrap();
    guest
}

/// A guest that has taken all memory there was, page by page.
fn greedy() -> Arc<Domain> {
    let guest = known_guest();
    space::set_max_pages(&guest, 1 << 20);
    let refused = (0..1 << 20)
        .find_map(|page| space::populate(&guest, Gfn::new(page), PageOrder::SIZE_4K).err());
    assert_eq!(refused, Some(SpaceError::OutOfMemory));
    assert_eq!(memory::free_frames(), 0);
    guest
}

fn end(domains: impl IntoIterator<Item = Arc<Domain>>) {
    let mut hw = FakeVcpu::default();
    for domain in domains {
        while destroy::step(&domain, &mut hw) != Progress::Done {}
    }
    destroy::reap();
}

#[test]
fn full_machine_refuses_no_page_given_up_out_of_a_large_leaf() {
    prepare();
    let before = memory::free_frames();
    let (guest, other) = (guest_with_block(), greedy());
    let mut hw = FakeVcpu::default();
    let released = space::release(&mut hw, &guest, Gfn::new(BLOCK + 7));
    assert_eq!(released, Ok(()));
    assert_eq!(guest.pages(), BLOCK - 1);
    end([guest, other]);
    assert_eq!((memory::free_frames(), pool::set_aside()), (before, 0));
}

#[test]
fn full_machine_splits_a_leaf_in_which_a_guest_runs_code() {
    prepare();
    let (guest, other) = (guest_with_block(), greedy());
    let tables = &mut guest.limits.tables();
    let split = guest
        .p2m
        .lock()
        .allow_execute((&mut DirectTables, tables), Gfn::new(BLOCK + 7));
    let _ = split.unwrap().unwrap().completed();
    end([guest, other]);
}

#[test]
fn full_machine_lets_the_hardware_domain_touch_a_device() {
    prepare();
    let dom0 = domain(0, DomainConfig::dom0(1));
    space::set_table_pool(&dom0, POOL).unwrap();
    let other = greedy();
    let device = MfnRange::new(Mfn::new(0xF_EB00), Mfn::new(0xF_EB01));
    let tables = &mut dom0.limits.tables();
    let mapped = dom0.p2m.lock().insert_device_around(
        (&mut DirectTables, tables),
        Gfn::new(0xF_EB00),
        device,
    );
    let _ = mapped.unwrap().completed();
    end([dom0, other]);
    assert_eq!(pool::set_aside(), 0);
}

#[test]
fn claim_of_all_that_is_free_leaves_its_domain_tables() {
    prepare();
    let before = memory::free_frames();
    let guest = known_guest();
    space::set_max_pages(&guest, 1 << 20);
    space::set_table_pool(&guest, 64).unwrap();
    let all = memory::free_frames();
    assert!(!memory::set_claim(&guest.limits.claim, all + 1));
    assert!(memory::set_claim(&guest.limits.claim, all));
    for page in 0..all {
        space::populate(&guest, Gfn::new(page), PageOrder::SIZE_4K).unwrap();
    }
    assert_eq!((memory::free_frames(), memory::claimed_frames()), (0, 0));
    end([guest]);
    assert_eq!(memory::free_frames(), before);
}

#[test]
fn pool_holds_what_it_promises_and_no_more_is_promised_than_is_free() {
    prepare();
    let before = memory::free_frames();
    let guest = known_guest();
    let made = memory::free_frames();
    assert_eq!(
        space::set_table_pool(&guest, made + 1),
        Err(SpaceError::OutOfMemory)
    );
    assert_eq!(
        space::set_table_pool(&guest, u64::MAX),
        Err(SpaceError::OutOfMemory)
    );
    space::set_table_pool(&guest, 10).unwrap();
    assert_eq!((memory::free_frames(), pool::set_aside()), (made - 10, 10));
    // three tables out of the pool, which is charged for them already
    space::set_max_pages(&guest, 16);
    space::populate(&guest, Gfn::new(1), PageOrder::SIZE_4K).unwrap();
    assert_eq!((memory::free_frames(), pool::set_aside()), (made - 11, 7));
    space::set_table_pool(&guest, 2).unwrap();
    assert_eq!((memory::free_frames(), pool::set_aside()), (made - 4, 0));
    space::set_table_pool(&guest, 5).unwrap();
    assert_eq!((memory::free_frames(), pool::set_aside()), (made - 6, 2));
    while destroy::step(&guest, &mut FakeVcpu::default()) != Progress::Done {}
    assert_eq!(
        space::set_table_pool(&guest, 5),
        Err(SpaceError::Closed),
        "a pool for the dead"
    );
    end([guest]);
    assert_eq!((memory::free_frames(), pool::set_aside()), (before, 0));
}
