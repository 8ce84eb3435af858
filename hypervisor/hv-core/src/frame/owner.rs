//! Who owns a frame, what it is used for, and how many uses it has.
//!
//! All three are in one atomic word, so that "it is still this domain's, one more use" is a single step that no
//! teardown can come between. A frame's first use is its owner's; mappings by others, and copies while they last, are
//! the rest.

use core::sync::atomic::Ordering;

use super::table::{FrameInfo, FrameTable};
use crate::addr::{Mfn, MfnRange, PageOrder};
use crate::domid::DomId;
use crate::paging::flush::FlushDone;

/// Who answers for a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// It is free, or not RAM, or about to be given to somebody.
    Nobody,
    Hypervisor,
    Domain(DomId),
}

/// What a frame is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Role {
    /// The hypervisor's own data: heap, stacks, control blocks of vCPUs.
    Hypervisor = 2,
    Table = 3,
    Ram = 4,
    /// A page shared between a domain and the hypervisor (shared info, grant frames): it never enters ballooning.
    Special = 5,
}

/// A frame's owner, role and number of uses at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameState {
    /// Who answers for it.
    pub owner: Owner,
    /// What it is used for; `None` with [`Owner::Nobody`].
    pub role: Option<Role>,
    /// How many uses it has.
    pub uses: u32,
}

/// Frames that are in no list and in nobody's use, with unknown contents. Dropping the value leaks them.
#[must_use = "frames that are neither given to somebody nor freed are lost"]
#[derive(PartialEq, Eq, Debug)]
pub struct OwnedFrames {
    range: MfnRange,
}

/// Frames like [`OwnedFrames`] that hold nothing of another domain.
#[must_use = "frames that are neither given to somebody nor freed are lost"]
#[derive(PartialEq, Eq, Debug)]
pub struct CleanFrames {
    range: MfnRange,
}

/// One use of a frame that somebody else owns: it is not freed before this is put back.
#[must_use = "a use that is not put keeps its frame for ever"]
#[derive(PartialEq, Eq, Debug)]
pub struct FrameUse {
    mfn: Mfn,
}

/// What remains after a frame's last use.
#[must_use = "the frame belongs back in the free list, and its domain's charge has to go"]
#[derive(PartialEq, Eq, Debug)]
pub struct Freed {
    /// The frame, for [`super::Buddy::free`].
    pub frames: OwnedFrames,
    /// Whom it was charged to.
    pub owner: Owner,
    /// What it was used for.
    pub role: Option<Role>,
}

/// Why no use of a frame can be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It is not a page of that domain.
    NotOwned,
    /// It has as many uses as can be counted.
    TooManyUses,
}

impl OwnedFrames {
    pub(super) fn new(range: MfnRange) -> Self {
        Self { range }
    }
    #[must_use]
    pub fn range(&self) -> MfnRange {
        self.range
    }
    #[must_use]
    pub fn start(&self) -> Mfn {
        self.range.start
    }
    /// Has `zero` fill each block of them with zeroes.
    pub fn scrub(self, mut zero: impl FnMut(MfnRange)) -> CleanFrames {
        zero(self.range);
        CleanFrames { range: self.range }
    }
    /// Takes them as clean because no domain has had them since the machine started.
    pub fn never_used(self) -> CleanFrames {
        CleanFrames { range: self.range }
    }
}

impl CleanFrames {
    #[must_use]
    pub fn range(&self) -> MfnRange {
        self.range
    }
    /// Takes them back, to be freed or kept.
    pub fn into_owned(self) -> OwnedFrames {
        OwnedFrames { range: self.range }
    }
}

impl FrameUse {
    #[must_use]
    pub fn mfn(&self) -> Mfn {
        self.mfn
    }
    /// Lets a mapping stand for the use: it ends with [`FrameTable::put_mapped`] after the mapping was removed and
    /// flushed.
    #[must_use = "a use that is not put keeps its frame for ever"]
    pub fn into_mapping(self) -> Mfn {
        self.mfn
    }
}

impl FrameTable<'_> {
    /// Makes clean frames the domain's, each with one use: its own.
    pub fn give(&self, frames: CleanFrames, owner: DomId, role: Role) -> MfnRange {
        self.claim(frames.range, Word::used(Owner::Domain(owner), role, 1))
    }

    /// Makes frames the hypervisor's own, each with one use.
    pub fn keep(&self, frames: OwnedFrames, role: Role) -> MfnRange {
        self.claim(frames.range, Word::used(Owner::Hypervisor, role, 1))
    }

    /// Takes frames back that [`FrameTable::keep`] was given, once nothing refers to them.
    ///
    /// # Panics
    /// Where one of them is not the hypervisor's or has other uses.
    pub fn unkeep(&self, range: MfnRange) -> OwnedFrames {
        for mfn in range.start.as_u64()..range.end.as_u64() {
            let word = Word(self.known(Mfn::new(mfn)).word.swap(0, Ordering::AcqRel));
            let state = word.state();
            assert!(
                state.owner == Owner::Hypervisor && state.uses == 1,
                "what the hypervisor gives back is its own"
            );
        }
        OwnedFrames::new(range)
    }

    /// What is known of a frame now.
    #[must_use]
    pub fn state(&self, mfn: Mfn) -> FrameState {
        let word = self
            .record(mfn)
            .map_or(0, |info| info.word.load(Ordering::Acquire));
        Word(word).state()
    }

    /// Takes one more use of a page of `owner`.
    ///
    /// # Errors
    /// [`Refused::NotOwned`] where `mfn` is no page of `owner`, [`Refused::TooManyUses`] where the count is full.
    #[inline]
    pub fn acquire(&self, mfn: Mfn, owner: DomId) -> Result<FrameUse, Refused> {
        let info = self.record(mfn).ok_or(Refused::NotOwned)?;
        let mut now = info.word.load(Ordering::Relaxed);
        loop {
            let word = Word(now);
            if !word.is_page_of(owner) {
                return Err(Refused::NotOwned);
            }
            let more = word.one_more().ok_or(Refused::TooManyUses)?;
            match info
                .word
                .compare_exchange_weak(now, more.0, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return Ok(FrameUse { mfn }),
                Err(changed) => now = changed,
            }
        }
    }

    /// Ends a use that no TLB has seen: a copy, or a mapping that was never made.
    #[must_use = "the last use frees the frame"]
    pub fn put(&self, frame: FrameUse) -> Option<Freed> {
        self.drop_use(frame.mfn)
    }

    /// Ends a use that was a mapping (a domain's own, a foreign one, a grant), removed from its table and flushed
    /// since.
    ///
    /// # Panics
    /// Where the frame has no use left.
    #[must_use = "the last use frees the frame"]
    pub fn put_mapped(&self, mfn: Mfn, _flushed: &FlushDone) -> Option<Freed> {
        self.drop_use(mfn)
    }

    fn claim(&self, range: MfnRange, word: Word) -> MfnRange {
        for mfn in range.start.as_u64()..range.end.as_u64() {
            self.known(Mfn::new(mfn))
                .word
                .store(word.0, Ordering::Release);
        }
        range
    }

    fn drop_use(&self, mfn: Mfn) -> Option<Freed> {
        let info = self.known(mfn);
        let mut now = info.word.load(Ordering::Relaxed);
        loop {
            let word = Word(now);
            let less = word.one_less();
            match info
                .word
                .compare_exchange_weak(now, less.0, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) if less.0 != 0 => return None,
                Ok(_) => {
                    return Some(Freed {
                        frames: OwnedFrames::new(MfnRange::new(mfn, mfn + 1)),
                        owner: word.state().owner,
                        role: word.role(),
                    });
                }
                Err(changed) => now = changed,
            }
        }
    }
}

/// The word of a record: bits 0–31 the count, 32–47 the owner, 48–55 the role, 56–63 the order of a free block.
#[derive(Clone, Copy)]
struct Word(u64);

const OWNER_SHIFT: u32 = 32;
const ROLE_SHIFT: u32 = 48;
const ORDER_SHIFT: u32 = 56;
/// The role of the first frame of a free block.
const FREE_BLOCK: u8 = 1;
/// The owner's number for the hypervisor (`public/xen.h, DOMID_XEN`).
const HYPERVISOR: u16 = 0x7FF2;

impl Word {
    fn used(owner: Owner, role: Role, uses: u32) -> Self {
        let owner = match owner {
            Owner::Nobody => 0,
            Owner::Hypervisor => HYPERVISOR,
            Owner::Domain(domain) => domain.get(),
        };
        Self((role as u64) << ROLE_SHIFT | u64::from(owner) << OWNER_SHIFT | u64::from(uses))
    }
    fn free_block(order: PageOrder) -> Self {
        Self(u64::from(FREE_BLOCK) << ROLE_SHIFT | u64::from(order.get()) << ORDER_SHIFT)
    }
    fn role(self) -> Option<Role> {
        match self.0.to_le_bytes()[6] {
            2 => Some(Role::Hypervisor),
            3 => Some(Role::Table),
            4 => Some(Role::Ram),
            5 => Some(Role::Special),
            _ => None,
        }
    }
    fn uses(self) -> u32 {
        let [a, b, c, d, ..] = self.0.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }
    fn is_page_of(self, owner: DomId) -> bool {
        const COMPARED: u64 = 0xFF_FFFF << OWNER_SHIFT;
        let as_role = |role| Self::used(Owner::Domain(owner), role, 0).0;
        let owned = self.0 & COMPARED;
        owned == as_role(Role::Ram) || owned == as_role(Role::Special)
    }
    fn one_more(self) -> Option<Self> {
        (self.uses() < u32::MAX).then(|| Self(self.0 + 1))
    }
    fn one_less(self) -> Self {
        assert!(
            self.role().is_some() && self.uses() > 0,
            "only a use that was taken is put"
        );
        if self.uses() == 1 {
            Self(0)
        } else {
            Self(self.0 - 1)
        }
    }
    fn state(self) -> FrameState {
        let [_, _, _, _, low, high, ..] = self.0.to_le_bytes();
        let role = self.role();
        let owner = match (role, u16::from_le_bytes([low, high])) {
            (None, _) => Owner::Nobody,
            (Some(_), raw) => DomId::new(raw).map_or(Owner::Hypervisor, Owner::Domain),
        };
        FrameState {
            owner,
            role,
            uses: self.uses(),
        }
    }
}

impl FrameInfo {
    /// The order of the free block that starts with this frame, if one does.
    pub(super) fn free_order(&self) -> Option<PageOrder> {
        let [.., role, order] = self.word.load(Ordering::Relaxed).to_le_bytes();
        if role == FREE_BLOCK {
            PageOrder::new(order)
        } else {
            None
        }
    }
    /// True where nobody uses the frame and no free block starts with it.
    pub(super) fn is_unused(&self) -> bool {
        self.word.load(Ordering::Relaxed) == 0
    }
    pub(super) fn set_free_block(&self, order: PageOrder) {
        self.word
            .store(Word::free_block(order).0, Ordering::Relaxed);
    }
    pub(super) fn clear(&self) {
        self.word.store(0, Ordering::Relaxed);
    }
}
