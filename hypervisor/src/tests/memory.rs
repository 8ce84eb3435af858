//! Memory between domains, against a naive book of which page has which contents and who sees it: whatever is mapped,
//! granted, given up and destroyed in whatever order, nobody sees a page that has become somebody else's, and in the
//! end every frame is back.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::create::DomainConfig;
use crate::domain::destroy::{self, Progress};
use crate::domain::space::{self, SpaceError};
use crate::domain::teardown::{self, Budget};
use crate::domain::{Domain, grants, registry};
use crate::machine::memory;
use crate::tests::common::{domain, known_guest, prepare};
use guest_abi::grant_table::{GTF_permit_access, GTF_reading, GTF_readonly, GTF_writing};
use hv_core::addr::{Gfn, Mfn, PageOrder};
use hv_core::grant::{
    CopyRequest, CopySide, GrantError, GrantRef, Handle, MapRequest, UnmapRequest, Want,
};
use hv_core::mem::SharedWords;
use hv_core::p2m::P2mKind;
use hv_hw::direct_map::{self, DirectTables, SharedFrame};
use hv_hw::virt::fake::FakeVcpu;
use proptest::prelude::*;

const GUESTS: usize = 3;
const PAGES: u64 = 6;
const PLACES: u64 = 5;
/// Where guests have RAM, and where others' pages are mapped.
const RAM: u64 = 0x1000;
const SCRATCH: u64 = 0x8_0000;
/// Taken down in one go.
const STEP: Budget = Budget {
    frames: 64,
    entries: 1000,
};

#[derive(Clone, Debug)]
enum Op {
    Populate {
        guest: usize,
        page: u64,
    },
    Release {
        guest: usize,
        page: u64,
    },
    Foreign {
        place: u64,
        guest: usize,
        page: u64,
    },
    Unmap {
        place: u64,
    },
    Grant {
        guest: usize,
        reference: u32,
        user: usize,
        page: u64,
        is_readonly: bool,
    },
    Map {
        user: usize,
        place: u64,
        guest: usize,
        reference: u32,
        want: Want,
    },
    End {
        user: usize,
        place: u64,
    },
    Copy {
        user: usize,
        guest: usize,
        reference: u32,
        page: u64,
    },
    Destroy {
        guest: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let guest = || 0..GUESTS;
    // the last user is the toolstack's domain
    let user = || 0..=GUESTS;
    let want = prop_oneof![Just(Want::Read), Just(Want::Write)];
    prop_oneof![
        4 => (guest(), 0..PAGES).prop_map(|(guest, page)| Op::Populate { guest, page }),
        2 => (guest(), 0..PAGES).prop_map(|(guest, page)| Op::Release { guest, page }),
        3 => (0..PLACES, guest(), 0..PAGES)
            .prop_map(|(place, guest, page)| Op::Foreign { place, guest, page }),
        2 => (0..PLACES).prop_map(|place| Op::Unmap { place }),
        4 => (guest(), 0..3u32, user(), 0..PAGES, any::<bool>()).prop_map(
            |(guest, reference, user, page, is_readonly)| Op::Grant {
                guest, reference, user, page, is_readonly
            }
        ),
        6 => (user(), 0..PLACES, guest(), 0..3u32, want).prop_map(
            |(user, place, guest, reference, want)| Op::Map { user, place, guest, reference, want }
        ),
        4 => (user(), 0..PLACES).prop_map(|(user, place)| Op::End { user, place }),
        2 => (user(), guest(), 0..3u32, 0..PAGES).prop_map(
            |(user, guest, reference, page)| Op::Copy { user, guest, reference, page }
        ),
        1 => guest().prop_map(|guest| Op::Destroy { guest }),
    ]
}

/// What somebody sees at a place.
#[derive(Clone, Copy, Debug)]
struct Seen {
    stamp: u64,
    mfn: Mfn,
    kind: P2mKind,
    handle: Option<Handle>,
}

struct World {
    hw: FakeVcpu,
    /// Free frames before there was a guest.
    free_before: u64,
    /// The guests, and the toolstack's domain after them.
    domains: Vec<Arc<Domain>>,
    is_alive: [bool; GUESTS],
    /// The stamp that each page of a guest's own holds.
    own: BTreeMap<(usize, u64), u64>,
    /// What each user sees at its places.
    seen: BTreeMap<(usize, u64), Seen>,
    next_stamp: u64,
}

fn at(gfn: u64) -> Gfn {
    Gfn::new(gfn)
}

fn lookup(domain: &Domain, gfn: Gfn) -> Option<(Mfn, P2mKind)> {
    let entry = domain.p2m.lock().lookup(&DirectTables, gfn)?;
    Some((entry.mfn, entry.kind))
}

fn stamp_of(mfn: Mfn) -> u64 {
    let mut bytes = [0; 8];
    direct_map::read(mfn.base(), &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

fn stamp(mfn: Mfn, stamp: u64) {
    direct_map::write(mfn.base(), &stamp.to_le_bytes()).unwrap();
}

fn entry_of(domain: &Domain, reference: u32) -> Option<(SharedFrame, usize)> {
    let frame = SharedFrame::new(grants::frame(domain, 0).ok()?)?;
    Some((frame, usize::try_from(reference).unwrap() * 8))
}

impl World {
    fn new() -> Self {
        let toolstack = domain(0, DomainConfig::dom0(1));
        let free_before = memory::free_frames();
        let guests = (0..GUESTS).map(|_| known_guest());
        let domains: Vec<_> = guests.chain([toolstack]).collect();
        for guest in &domains[..GUESTS] {
            space::set_max_pages(guest, PAGES - 1);
        }
        Self {
            hw: FakeVcpu::default(),
            free_before,
            domains,
            is_alive: [true; GUESTS],
            own: BTreeMap::new(),
            seen: BTreeMap::new(),
            next_stamp: 1,
        }
    }

    fn domain(&self, index: usize) -> Arc<Domain> {
        self.domains[index].clone()
    }

    fn apply(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Populate { guest, page } => self.populate(guest, page),
            Op::Release { guest, page } => {
                let domain = self.domain(guest);
                let released = space::release(&mut self.hw, &domain, at(RAM + page));
                let was_there = self.own.remove(&(guest, page)).is_some();
                prop_assert_eq!(released.is_ok(), was_there);
                Ok(())
            }
            Op::Foreign { place, guest, page } => self.foreign(place, guest, page),
            Op::Unmap { place } => {
                let domain = self.domain(GUESTS);
                let unmapped = space::unmap(&mut self.hw, &domain, at(SCRATCH + place));
                let seen = self.seen.get(&(GUESTS, place)).copied();
                let expected = match seen {
                    None => Err(SpaceError::NotThere),
                    Some(seen) if seen.handle.is_some() => Err(SpaceError::NotYours),
                    Some(_) => Ok(()),
                };
                prop_assert_eq!(unmapped, expected);
                if unmapped.is_ok() {
                    self.seen.remove(&(GUESTS, place));
                }
                Ok(())
            }
            Op::Grant {
                guest,
                reference,
                user,
                page,
                is_readonly,
            } => {
                self.grant(guest, reference, user, (page, is_readonly));
                Ok(())
            }
            Op::Map {
                user,
                place,
                guest,
                reference,
                want,
            } => self.map((user, place), (guest, reference), want),
            Op::End { user, place } => self.end(user, place),
            Op::Copy {
                user,
                guest,
                reference,
                page,
            } => self.copy(user, (guest, reference), page),
            Op::Destroy { guest } => self.destroy(guest),
        }
    }

    fn populate(&mut self, guest: usize, page: u64) -> Result<(), TestCaseError> {
        let domain = self.domain(guest);
        let room = domain.pages() < PAGES - 1;
        let is_free = !self.own.contains_key(&(guest, page));
        let populated = space::populate(&domain, at(RAM + page), PageOrder::SIZE_4K);
        prop_assert_eq!(populated.is_ok(), self.is_alive[guest] && room && is_free);
        if populated.is_ok() {
            let (mfn, _) = lookup(&domain, at(RAM + page)).unwrap();
            prop_assert_eq!(
                stamp_of(mfn),
                0,
                "a page that is given holds nothing of others"
            );
            stamp(mfn, self.next_stamp);
            self.own.insert((guest, page), self.next_stamp);
            self.next_stamp += 1;
        }
        Ok(())
    }

    fn foreign(&mut self, place: u64, guest: usize, page: u64) -> Result<(), TestCaseError> {
        let (mapper, owner) = (self.domain(GUESTS), self.domain(guest));
        let gfn = at(SCRATCH + place);
        let mapped = space::map_foreign(&mut self.hw, (&mapper, gfn), (&owner, at(RAM + page)));
        let holds_grant = self
            .seen
            .get(&(GUESTS, place))
            .is_some_and(|seen| seen.handle.is_some());
        match self.own.get(&(guest, page)) {
            None => prop_assert_eq!(mapped, Err(SpaceError::NoPage)),
            Some(_) if holds_grant => prop_assert_eq!(mapped, Err(SpaceError::NotYours)),
            Some(stamp) => {
                prop_assert_eq!(mapped, Ok(()));
                let (mfn, kind) = lookup(&mapper, gfn).unwrap();
                let seen = Seen {
                    stamp: *stamp,
                    mfn,
                    kind,
                    handle: None,
                };
                self.seen.insert((GUESTS, place), seen);
            }
        }
        Ok(())
    }

    /// Writes an entry as a careful granter does: not over one in use.
    fn grant(&self, guest: usize, reference: u32, user: usize, (page, is_readonly): (u64, bool)) {
        let granter = self.domain(guest);
        let Some((frame, offset)) = entry_of(&granter, reference) else {
            return;
        };
        let in_use = u32::from(GTF_reading | GTF_writing);
        if !self.is_alive[guest] || frame.load_u32(offset) & in_use != 0 {
            return;
        }
        let readonly = if is_readonly { GTF_readonly } else { 0 };
        let flags = u32::from(GTF_permit_access | readonly);
        frame.store_u32(offset + 4, u32::try_from(RAM + page).unwrap());
        frame.store_u32(offset, flags | u32::from(self.domains[user].id.get()) << 16);
    }

    fn map(
        &mut self,
        (user, place): (usize, u64),
        (guest, reference): (usize, u32),
        want: Want,
    ) -> Result<(), TestCaseError> {
        if user < GUESTS && !self.is_alive[user] {
            return Ok(());
        }
        let (mapper, granter) = (self.domain(user), self.domain(guest));
        let gfn = at(SCRATCH + place);
        let request = MapRequest {
            granter: granter.id.get(),
            reference: GrantRef::new(reference),
            want,
            gfn,
        };
        let before = self.seen.get(&(user, place)).copied();
        let mapped = grants::map(&mut self.hw, &mapper, granter, &request);
        if let Ok(handle) = mapped {
            prop_assert!(self.is_alive[guest], "a dying domain grants nothing");
            prop_assert!(before.is_none_or(|before| before.handle.is_none()));
            let (mfn, kind) = lookup(&mapper, gfn).unwrap();
            prop_assert_eq!(kind, want.p2m_kind());
            let seen = Seen {
                stamp: stamp_of(mfn),
                mfn,
                kind,
                handle: Some(handle),
            };
            let is_known = self.own.values().any(|own| *own == seen.stamp)
                || self.seen.values().any(|other| other.stamp == seen.stamp);
            prop_assert!(is_known, "a page that was never given is mapped");
            self.seen.insert((user, place), seen);
        } else if lookup(&mapper, gfn).is_none() {
            self.seen.remove(&(user, place));
        }
        Ok(())
    }

    fn end(&mut self, user: usize, place: u64) -> Result<(), TestCaseError> {
        let Some(handle) = self.seen.get(&(user, place)).and_then(|seen| seen.handle) else {
            return Ok(());
        };
        let mapper = self.domain(user);
        let request = UnmapRequest {
            handle,
            gfn: at(SCRATCH + place),
        };
        let elsewhere = UnmapRequest {
            gfn: at(SCRATCH + place + 1),
            ..request
        };
        let mut pending = None;
        let refused = grants::unmap(&mapper, &elsewhere, &mut pending).err();
        prop_assert_eq!(refused, Some(GrantError::BadAddress));
        let unmapped = grants::unmap(&mapper, &request, &mut pending).unwrap();
        prop_assert!(pending.as_ref().is_some_and(|flush| flush.is_needed()));
        let done = grants::flush(&mut self.hw, &mapper, pending);
        unmapped.finish(&mapper, &done);
        let again = grants::unmap(&mapper, &request, &mut None).err();
        prop_assert_eq!(again, Some(GrantError::BadHandle));
        self.seen.remove(&(user, place));
        Ok(())
    }

    fn copy(
        &mut self,
        user: usize,
        (guest, reference): (usize, u32),
        page: u64,
    ) -> Result<(), TestCaseError> {
        if user >= GUESTS || !self.own.contains_key(&(user, page)) {
            return Ok(());
        }
        let own = at(RAM + page);
        let copier = self.domain(user);
        let request = CopyRequest {
            source: CopySide::Granted {
                granter: self.domains[guest].id.get(),
                reference: GrantRef::new(reference),
                offset: 0,
            },
            // not over the stamp
            dest: CopySide::Own {
                gfn: own,
                offset: 64,
            },
            len: 8,
        };
        if grants::copy(&copier, &request).is_ok() {
            let (mfn, _) = lookup(&copier, own).unwrap();
            let mut bytes = [0; 8];
            direct_map::read(mfn.base() + 64, &mut bytes).unwrap();
            let copied = u64::from_le_bytes(bytes);
            let is_known = self.own.values().any(|own| *own == copied)
                || self.seen.values().any(|seen| seen.stamp == copied);
            prop_assert!(
                is_known && self.is_alive[guest],
                "what was copied: {copied}"
            );
        }
        Ok(())
    }

    fn destroy(&mut self, guest: usize) -> Result<(), TestCaseError> {
        let domain = self.domain(guest);
        for _ in 0..1000 {
            if destroy::step(&domain, &mut self.hw) == Progress::Done {
                self.is_alive[guest] = false;
                self.own.retain(|(owner, _), _| *owner != guest);
                self.seen.retain(|(user, _), _| *user != guest);
                return Ok(());
            }
        }
        Err(TestCaseError::fail("destruction does not end"))
    }

    /// Everybody sees what the book says.
    fn check(&self) -> Result<(), TestCaseError> {
        for ((guest, page), own) in &self.own {
            let (mfn, kind) = lookup(&self.domains[*guest], at(RAM + page)).unwrap();
            prop_assert_eq!((stamp_of(mfn), kind), (*own, P2mKind::Ram));
        }
        for ((user, place), seen) in &self.seen {
            let found = lookup(&self.domains[*user], at(SCRATCH + place));
            prop_assert_eq!(found, Some((seen.mfn, seen.kind)));
            prop_assert_eq!(
                stamp_of(seen.mfn),
                seen.stamp,
                "a page in use was given to another"
            );
        }
        Ok(())
    }

    /// Ends all, and says what is left of the guests.
    fn end_all(mut self) -> Result<(), TestCaseError> {
        for guest in 0..GUESTS {
            if self.is_alive[guest] {
                self.destroy(guest)?;
                self.check()?;
            }
        }
        let places: Vec<_> = self.seen.keys().copied().collect();
        for (user, place) in places {
            prop_assert_eq!(user, GUESTS, "a guest that is gone has nothing mapped");
            if self.seen[&(user, place)].handle.is_some() {
                self.end(user, place)?;
            } else {
                self.apply(Op::Unmap { place })?;
            }
        }
        let ids: Vec<_> = self.domains[..GUESTS].iter().map(|d| d.id).collect();
        let toolstack = self.domain(GUESTS);
        for _ in 0..1000 {
            if teardown::empty(&mut self.hw, &toolstack, STEP) {
                break;
            }
        }
        prop_assert!(teardown::dismantle(&mut self.hw, &toolstack, 1 << 16));
        self.domains.clear();
        destroy::reap();
        prop_assert_eq!(memory::free_frames(), self.free_before, "frames are lost");
        for id in ids {
            prop_assert!(registry::find(id).is_none(), "{} stays", id);
            prop_assert_eq!(memory::charged(id), 0);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nobody_sees_a_page_that_became_anothers(ops in prop::collection::vec(op(), 1..120)) {
        prepare();
        let mut world = World::new();
        for op in ops {
            world.apply(op)?;
            world.check()?;
        }
        world.end_all()?;
    }
}
