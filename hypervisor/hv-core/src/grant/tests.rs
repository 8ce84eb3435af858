//! Granters and users against a naive book of who may do what, and a granter that races.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use std::cell::RefCell;
use std::rc::Rc;

use guest_abi::grant_table as abi;
use proptest::prelude::*;

use super::*;
use crate::addr::{Gfn, Mfn, MfnRange};
use crate::domid::DomId;
use crate::evtchn::testing::{Meanwhile, TestFrame};
use crate::frame::{Buddy, FrameInfo, FrameTable, FrameUse, Freed, Role};
use crate::mem::SharedWords;
use crate::paging::flush::{FlushDone, PendingFlush};

const PAGES: usize = 4;

fn granter() -> DomId {
    DomId::new(7).unwrap()
}

fn user(number: u16) -> DomId {
    DomId::new(number).unwrap()
}

fn flushed() -> FlushDone {
    PendingFlush::none(Mfn::new(1)).completed()
}

/// The granter's RAM: guest frames from 0x100, one after the other.
struct Ram<'t, 'm> {
    frames: &'t FrameTable<'m>,
    first: Mfn,
    /// The granter's p2m: which of its pages it still has.
    mapped: [bool; PAGES],
}

const FIRST_GFN: u64 = 0x100;

impl GranterMemory for Ram<'_, '_> {
    fn use_gfn(&mut self, gfn: Gfn, _want: Want) -> Option<FrameUse> {
        let page = gfn.as_u64().checked_sub(FIRST_GFN)?;
        if !*self.mapped.get(usize::try_from(page).unwrap())? {
            return None;
        }
        self.frames.acquire(self.first + page, granter()).ok()
    }
    fn use_again(&mut self, mfn: Mfn) -> Option<FrameUse> {
        self.frames.acquire(mfn, granter()).ok()
    }
}

fn with_ram(run: impl for<'t, 'm> FnOnce(Buddy<'t, 'm>, Ram<'t, 'm>)) {
    let range = [MfnRange::new(Mfn::new(1), Mfn::new(64))];
    let records: Vec<_> = (0..FrameTable::records_needed(&range))
        .map(|_| FrameInfo::default())
        .collect();
    let frames = FrameTable::new(&records, &range).unwrap();
    let mut buddy = Buddy::new(&frames);
    buddy.add_free(range[0]).unwrap();
    let wanted = MfnRange::new(Mfn::new(16), Mfn::new(16) + PAGES as u64);
    let owned = buddy.alloc_exact(wanted).unwrap().never_used();
    let first = frames.give(owned, granter(), Role::Ram).start;
    let ram = Ram {
        frames: &frames,
        first,
        mapped: [true; PAGES],
    };
    run(buddy, ram);
}

fn write_entry(frame: &TestFrame, reference: u32, flags: u16, domid: u16, gfn: u64) {
    let offset = usize::try_from(reference).unwrap() * 8;
    frame.store_u32(offset + 4, u32::try_from(gfn).unwrap());
    frame.store_u32(offset, u32::from(domid) << 16 | u32::from(flags));
}

fn flags(frame: &TestFrame, reference: u32) -> u16 {
    (frame.load_u32(usize::try_from(reference).unwrap() * 8) & 0xFFFF) as u16
}

/// Ends a grant as Linux does: only while nobody uses it.
fn revoke(frame: &TestFrame, reference: u32) -> bool {
    let offset = usize::try_from(reference).unwrap() * 8;
    let word = frame.load_u32(offset);
    let in_use = u32::from(abi::GTF_reading | abi::GTF_writing);
    word & in_use == 0
        && frame
            .compare_exchange_u32(offset, word, word & 0xFFFF_0000)
            .is_ok()
}

#[derive(Clone, Debug)]
enum Op {
    Grant {
        reference: u32,
        user: u16,
        is_readonly: bool,
        page: u64,
    },
    Revoke {
        reference: u32,
    },
    Use {
        reference: u32,
        user: u16,
        want: Want,
    },
    End(usize),
    GiveUp {
        page: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let want = prop_oneof![Just(Want::Read), Just(Want::Write)];
    prop_oneof![
        3 => (0..4u32, 1..3u16, any::<bool>(), 0..PAGES as u64 + 1).prop_map(
            |(reference, user, is_readonly, page)| Op::Grant { reference, user, is_readonly, page }
        ),
        2 => (0..4u32).prop_map(|reference| Op::Revoke { reference }),
        5 => (0..5u32, 1..3u16, want)
            .prop_map(|(reference, user, want)| Op::Use { reference, user, want }),
        4 => any::<usize>().prop_map(Op::End),
        1 => (0..PAGES as u64).prop_map(|page| Op::GiveUp { page }),
    ]
}

/// What the model knows of an entry: to whom, read-only, and the page.
type Book = BTreeMap<u32, (u16, bool, u64)>;

/// A use in progress.
struct Held {
    pin: Pin,
    frame: FrameUse,
    user: u16,
}

fn uses_of(held: &[Held], reference: u32) -> impl Iterator<Item = &Held> {
    held.iter()
        .filter(move |held| held.pin.reference().get() == reference)
}

/// What the model says of a use that begins now.
fn expect(
    book: &Book,
    held: &[Held],
    owned: &[bool],
    use_: (u32, u16, Want),
) -> Result<u64, GrantError> {
    let (reference, user, want) = use_;
    let may = |&(to, is_readonly, _): &(u16, bool, u64)| {
        to == user && !(is_readonly && want == Want::Write)
    };
    let entry = book.get(&reference).filter(|entry| may(entry));
    match uses_of(held, reference).next() {
        Some(other) if other.user != user => Err(GrantError::BadRef),
        Some(other) => {
            let writes = uses_of(held, reference).any(|held| held.pin.want() == Want::Write);
            let is_covered = want == Want::Read || writes || entry.is_some();
            let page = page_of(&other.frame);
            is_covered.then_some(page).ok_or(GrantError::BadRef)
        }
        None => {
            let &(_, _, page) = entry.ok_or(GrantError::BadRef)?;
            let is_owned = owned.get(usize::try_from(page).unwrap()) == Some(&true);
            is_owned.then_some(page).ok_or(GrantError::BadPage)
        }
    }
}

proptest! {
    #[test]
    fn uses_are_granted_and_counted_as_the_book_says(ops in prop::collection::vec(op(), 1..80)) {
        let mut result = Ok(());
        with_ram(|buddy, ram| {
            let mut world = World::new(buddy, ram);
            result = ops.into_iter().try_for_each(|op| {
                world.step(op)?;
                world.check_marks()
            });
        });
        result?;
    }
}

/// The granter, its users, and the book beside them.
struct World<'t, 'm> {
    buddy: Buddy<'t, 'm>,
    ram: Ram<'t, 'm>,
    shared: TestFrame,
    table: GrantTable<TestFrame>,
    book: Book,
    held: Vec<Held>,
}

impl<'t, 'm> World<'t, 'm> {
    fn new(buddy: Buddy<'t, 'm>, ram: Ram<'t, 'm>) -> Self {
        let shared = TestFrame::new();
        let mut table = GrantTable::new(granter(), 1);
        assert!(table.grow(shared.clone()).is_ok());
        Self {
            buddy,
            ram,
            shared,
            table,
            book: Book::new(),
            held: Vec::new(),
        }
    }

    fn step(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Grant {
                reference,
                user,
                is_readonly,
                page,
            } => self.grant(reference, (user, is_readonly, page)),
            Op::Revoke { reference } => self.revoke(reference)?,
            Op::Use {
                reference,
                user,
                want,
            } => self.begin(reference, user, want)?,
            Op::End(which) if !self.held.is_empty() => {
                let held = self.held.swap_remove(which % self.held.len());
                self.end(held)?;
            }
            Op::End(_) => {}
            Op::GiveUp { page } => self.give_up(page),
        }
        Ok(())
    }

    fn grant(&mut self, reference: u32, entry: (u16, bool, u64)) {
        if self.book.contains_key(&reference) {
            return;
        }
        let (user, is_readonly, page) = entry;
        let readonly = if is_readonly { abi::GTF_readonly } else { 0 };
        let flags = abi::GTF_permit_access | readonly;
        write_entry(&self.shared, reference, flags, user, FIRST_GFN + page);
        self.book.insert(reference, entry);
    }

    fn revoke(&mut self, reference: u32) -> Result<(), TestCaseError> {
        let is_used = uses_of(&self.held, reference).next().is_some();
        prop_assert_eq!(revoke(&self.shared, reference), !is_used);
        if !is_used {
            self.book.remove(&reference);
        }
        Ok(())
    }

    fn begin(&mut self, reference: u32, number: u16, want: Want) -> Result<(), TestCaseError> {
        let asked = (reference, number, want);
        let expected = expect(&self.book, &self.held, &self.ram.mapped, asked);
        let by = (user(number), want);
        let got = self.table.pin(GrantRef::new(reference), by, &mut self.ram);
        let page = got.as_ref().map(|granted| page_of(&granted.frame));
        prop_assert_eq!(page.map_err(|error| *error), expected);
        self.held.extend(got.map(|Granted { pin, frame }| Held {
            pin,
            frame,
            user: number,
        }));
        Ok(())
    }

    fn end(&mut self, held: Held) -> Result<(), TestCaseError> {
        let page = page_of(&held.frame);
        let freed = self
            .ram
            .frames
            .put_mapped(held.frame.into_mapping(), &flushed());
        let others = self.held.iter().any(|held| page_of(&held.frame) == page);
        let is_owned = self.ram.mapped[usize::try_from(page).unwrap()];
        prop_assert_eq!(freed.is_some(), !others && !is_owned);
        self.free(freed);
        self.table.unpin_mapped(held.pin, &flushed());
        Ok(())
    }

    fn give_up(&mut self, page: u64) {
        let is_mapped = &mut self.ram.mapped[usize::try_from(page).unwrap()];
        if core::mem::take(is_mapped) {
            let freed = self
                .ram
                .frames
                .put_mapped(self.ram.first + page, &flushed());
            self.free(freed);
        }
    }

    fn free(&mut self, freed: Option<Freed>) {
        if let Some(freed) = freed {
            self.buddy.free(freed.frames);
        }
    }

    fn check_marks(&self) -> Result<(), TestCaseError> {
        for reference in 0..4 {
            let mut uses = uses_of(&self.held, reference).peekable();
            let flags = flags(&self.shared, reference);
            prop_assert_eq!(flags & abi::GTF_reading != 0, uses.peek().is_some());
            let is_written = uses.any(|held| held.pin.want() == Want::Write);
            prop_assert_eq!(flags & abi::GTF_writing != 0, is_written);
        }
        prop_assert_eq!(self.table.is_idle(), self.held.is_empty());
        Ok(())
    }
}

fn page_of(frame: &FrameUse) -> u64 {
    frame.mfn() - Mfn::new(16)
}

proptest! {
    #[test]
    fn a_granter_that_scribbles_meanwhile_gets_no_count_wrong(
        scribbles in prop::collection::vec((0..16u16, 0..3u16, 0..6u64), 1..40),
        wants in prop::collection::vec((any::<bool>(), 1..3u16), 1..12),
    ) {
        with_ram(|_, mut ram| {
            let plain = TestFrame::new();
            let scribbles = Rc::new(RefCell::new(scribbles.into_iter().cycle()));
            let page = plain.clone();
            let meanwhile: Meanwhile = Rc::new(move || {
                let (flags, domid, gfn) = scribbles.borrow_mut().next().expect("endless");
                write_entry(&page, 3, flags | 1, domid, FIRST_GFN + gfn);
            });
            let mut table = GrantTable::new(granter(), 1);
            assert!(table.grow(plain.raced_by(&meanwhile)).is_ok());
            let mut held = Vec::new();
            for (is_write, number) in wants {
                let want = if is_write { Want::Write } else { Want::Read };
                held.extend(table.pin(GrantRef::new(3), (user(number), want), &mut ram));
            }
            let pages: Vec<_> = held.iter().map(|granted| granted.frame.mfn()).collect();
            assert!(pages.windows(2).all(|pair| pair[0] == pair[1]), "one entry, one page");
            for Granted { pin, frame } in held {
                assert_eq!(ram.frames.put(frame), None);
                table.unpin(pin);
            }
            assert!(table.is_idle());
            for page in 0..PAGES as u64 {
                assert_eq!(ram.frames.state(ram.first + page).uses, 1);
            }
        });
    }
}

#[test]
fn a_closed_table_grants_nothing_more_and_takes_back_what_it_granted() {
    with_ram(|_, mut ram| {
        let shared = TestFrame::new();
        let mut table = GrantTable::new(granter(), 1);
        assert!(table.grow(shared.clone()).is_ok());
        write_entry(&shared, 8, abi::GTF_permit_access, 1, FIRST_GFN);
        let reference = GrantRef::new(8);
        let granted = table
            .pin(reference, (user(1), Want::Write), &mut ram)
            .unwrap();
        table.close();
        let refused = table.pin(reference, (user(1), Want::Read), &mut ram);
        assert_eq!(refused, Err(GrantError::BadDomain));
        assert!(!table.is_idle());
        assert_eq!(ram.frames.put(granted.frame), None);
        table.unpin(granted.pin);
        assert!(table.is_idle());
    });
}

#[test]
fn an_entry_with_a_bad_page_is_left_unmarked() {
    with_ram(|_, mut ram| {
        let shared = TestFrame::new();
        let mut table = GrantTable::new(granter(), 1);
        assert!(table.grow(shared.clone()).is_ok());
        write_entry(&shared, 9, abi::GTF_permit_access, 1, 5);
        let refused = table.pin(GrantRef::new(9), (user(1), Want::Write), &mut ram);
        assert_eq!(refused, Err(GrantError::BadPage));
        assert_eq!(flags(&shared, 9), abi::GTF_permit_access);
    });
}

#[test]
fn references_outside_the_table_are_refused() {
    with_ram(|_, mut ram| {
        let mut table = GrantTable::new(granter(), 2);
        for raw in [0, 511, 512, u32::MAX] {
            let refused = table.pin(GrantRef::new(raw), (user(1), Want::Read), &mut ram);
            assert_eq!(refused, Err(GrantError::BadRef));
        }
        assert!(table.grow(TestFrame::new()).is_ok());
        assert!(table.grow(TestFrame::new()).is_ok());
        assert!(table.grow(TestFrame::new()).is_err());
        assert_eq!((table.nr_frames(), table.max_frames()), (2, 2));
        assert!(table.frame(1).is_some() && table.frame(2).is_none());
    });
}
