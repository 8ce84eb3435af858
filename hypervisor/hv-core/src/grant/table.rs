//! The granter's side: the shared frames, and for each entry who uses it and how often.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::v1::{self, ENTRIES_PER_FRAME};
use super::{GrantError, GrantRef, Want};
use crate::addr::{Gfn, Mfn};
use crate::domid::DomId;
use crate::frame::FrameUse;
use crate::mem::SharedWords;
use crate::paging::flush::FlushDone;

/// One domain's grant table. `F` is a shared frame.
pub struct GrantTable<F> {
    domid: DomId,
    frames: Vec<Shared<F>>,
    max_frames: u32,
    /// Uses of all entries.
    pins: u64,
    is_closed: bool,
}

/// A shared frame with what is known of its entries.
struct Shared<F> {
    frame: F,
    active: Box<[Active; ENTRIES_PER_FRAME]>,
}

/// An entry's uses; the rest counts only while there are some.
#[derive(Clone, Copy)]
struct Active {
    uses: u32,
    /// Those of `uses` that write.
    writers: u32,
    user: DomId,
    mfn: Mfn,
}

/// One use of an entry. It goes with one use of the frame behind it, and ends with [`GrantTable::unpin`] or
/// [`GrantTable::unpin_mapped`] after that.
#[must_use = "an entry that stays pinned can never be revoked"]
#[derive(PartialEq, Eq, Debug)]
pub struct Pin {
    granter: DomId,
    reference: GrantRef,
    want: Want,
}

/// A granted page, pinned.
#[must_use = "an entry that stays pinned can never be revoked"]
#[derive(PartialEq, Eq, Debug)]
pub struct Granted {
    /// The use of the entry.
    pub pin: Pin,
    /// The use of the frame.
    pub frame: FrameUse,
}

/// How a table finds the frames of its domain: over the granter's p2m and the frame table.
pub trait GranterMemory {
    /// One use of the frame behind `gfn`, which must be RAM of the granter's own (and writable, to write it).
    fn use_gfn(&mut self, gfn: Gfn, want: Want) -> Option<FrameUse>;
    /// One more use of a frame of the granter that has some already.
    fn use_again(&mut self, mfn: Mfn) -> Option<FrameUse>;
}

impl Pin {
    /// A pin of no entry in particular.
    #[cfg(test)]
    pub(super) fn for_test() -> Self {
        Self {
            granter: DomId::DOM0,
            reference: GrantRef::new(0),
            want: Want::Read,
        }
    }
    /// Whose entry it is.
    #[must_use]
    pub fn granter(&self) -> DomId {
        self.granter
    }
    /// Which entry it is.
    #[must_use]
    pub fn reference(&self) -> GrantRef {
        self.reference
    }
    /// What it is used for.
    #[must_use]
    pub fn want(&self) -> Want {
        self.want
    }
}

impl<F: SharedWords> GrantTable<F> {
    /// Bytes of the heap that [`GrantTable::grow`] takes.
    pub const BYTES_PER_FRAME: usize = ENTRIES_PER_FRAME * size_of::<Active>();

    /// The table of `domid`, without frames, to grow to at most `max_frames`.
    #[must_use]
    pub const fn new(domid: DomId, max_frames: u32) -> Self {
        Self {
            domid,
            frames: Vec::new(),
            max_frames,
            pins: 0,
            is_closed: false,
        }
    }

    /// How many frames it has.
    #[must_use]
    pub fn nr_frames(&self) -> u32 {
        u32::try_from(self.frames.len()).expect("no more than max_frames")
    }

    /// How many frames it may have (`public/grant_table.h, GNTTABOP_query_size`).
    #[must_use]
    pub fn max_frames(&self) -> u32 {
        self.max_frames
    }

    /// Adds a zeroed shared frame.
    ///
    /// # Errors
    /// [`GrantError::NoSpace`] where it has all it may have, is closed, or the heap is out; `frame` comes back.
    pub fn grow(&mut self, frame: F) -> Result<(), (GrantError, F)> {
        const UNUSED: Active = Active {
            uses: 0,
            writers: 0,
            user: DomId::DOM0,
            mfn: Mfn::new(0),
        };
        if self.is_closed
            || self.nr_frames() >= self.max_frames
            || self.frames.try_reserve(1).is_err()
        {
            return Err((GrantError::NoSpace, frame));
        }
        let mut active = Vec::new();
        if active.try_reserve_exact(ENTRIES_PER_FRAME).is_err() {
            return Err((GrantError::NoSpace, frame));
        }
        active.resize(ENTRIES_PER_FRAME, UNUSED);
        let Ok(active) = active.try_into() else {
            return Err((GrantError::NoSpace, frame));
        };
        self.frames.push(Shared { frame, active });
        Ok(())
    }

    /// The shared frame `number`, to map into the domain.
    #[must_use]
    pub fn frame(&self, number: u32) -> Option<&F> {
        let shared =
            nospec::get::<{ nospec::GRANTS }, _>(&self.frames, usize::try_from(number).ok()?)?;
        Some(&shared.frame)
    }

    /// Begins a use of an entry by `user`: the first one, and the first that writes, are agreed on with the guest.
    ///
    /// # Errors
    /// [`GrantError::BadDomain`] once the table is closed, [`GrantError::BadRef`], [`GrantError::BadPage`] where the
    /// entry's frame is not RAM of the granter's own, [`GrantError::NoSpace`] where no more uses can be counted,
    /// [`GrantError::General`].
    pub fn pin(
        &mut self,
        reference: GrantRef,
        (user, want): (DomId, Want),
        memory: &mut impl GranterMemory,
    ) -> Result<Granted, GrantError> {
        if self.is_closed {
            return Err(GrantError::BadDomain);
        }
        let (shared, index) = self.entry(reference).ok_or(GrantError::BadRef)?;
        let active = shared.active[index];
        if active.uses > 0 && active.user != user {
            return Err(GrantError::BadRef);
        }
        let uses = active.uses.checked_add(1).ok_or(GrantError::NoSpace)?;
        let frame = shared.agree(index, (user, want), memory)?;
        shared.active[index] = Active {
            uses,
            writers: active.writers + u32::from(want == Want::Write),
            user,
            mfn: frame.mfn(),
        };
        self.pins += 1;
        let pin = Pin {
            granter: self.domid,
            reference,
            want,
        };
        Ok(Granted { pin, frame })
    }

    /// Ends a use that was not a mapping. The frame's use was put before.
    ///
    /// # Panics
    /// Where `pin` is of another table.
    pub fn unpin(&mut self, pin: Pin) {
        assert_eq!(pin.granter, self.domid, "a pin goes back where it is from");
        let (shared, index) = self
            .entry(pin.reference)
            .expect("a table never loses an entry that is pinned");
        let active = &mut shared.active[index];
        active.uses -= 1;
        active.writers -= u32::from(pin.want == Want::Write);
        shared.show_use(index);
        self.pins -= 1;
    }

    /// Ends a use that was a mapping, which was removed and flushed since: only then may the granter use the page for
    /// something else. The frame's use was put before.
    ///
    /// # Panics
    /// Where `pin` is of another table.
    pub fn unpin_mapped(&mut self, pin: Pin, _flushed: &FlushDone) {
        self.unpin(pin);
    }

    /// Grants nothing more: the domain is being destroyed.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// True where no entry is in use: a condition for the domain to be gone.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pins == 0
    }

    /// Takes the shared frames out of a closed table that is idle: what they granted is over. `None` before.
    #[must_use = "the frames are still the domain's"]
    pub fn take_frames(&mut self) -> Option<impl Iterator<Item = F> + use<F>> {
        if !self.is_closed || !self.is_idle() {
            return None;
        }
        let frames = core::mem::take(&mut self.frames);
        Some(frames.into_iter().map(|shared| shared.frame))
    }

    fn entry(&mut self, reference: GrantRef) -> Option<(&mut Shared<F>, usize)> {
        let number = usize::try_from(reference.get()).ok()?;
        let shared =
            nospec::get_mut::<{ nospec::GRANTS }, _>(&mut self.frames, number / ENTRIES_PER_FRAME)?;
        Some((shared, number % ENTRIES_PER_FRAME))
    }
}

impl<F: SharedWords> Shared<F> {
    /// Gets the guest's agreement to one more use, where those that it agreed to do not cover it, and a use of the
    /// frame.
    fn agree(
        &self,
        index: usize,
        (user, want): (DomId, Want),
        memory: &mut impl GranterMemory,
    ) -> Result<FrameUse, GrantError> {
        let active = self.active[index];
        let is_covered = active.uses > 0 && (want == Want::Read || active.writers > 0);
        if is_covered {
            return memory.use_again(active.mfn).ok_or(GrantError::NoSpace);
        }
        let gfn = v1::begin_use(&self.frame, index, user, want)?;
        // The entry goes on standing for the page of its first use, whatever the guest has written there since.
        let frame = if active.uses > 0 {
            memory.use_again(active.mfn).ok_or(GrantError::NoSpace)
        } else {
            memory.use_gfn(gfn, want).ok_or(GrantError::BadPage)
        };
        if frame.is_err() {
            self.show_use(index);
        }
        frame
    }

    /// Takes back the marks in an entry that its uses do not account for.
    fn show_use(&self, index: usize) {
        let active = self.active[index];
        let left = match (active.uses, active.writers) {
            (0, _) => None,
            (_, 0) => Some(Want::Read),
            _ => Some(Want::Write),
        };
        if left != Some(Want::Write) {
            v1::end_use(&self.frame, index, left);
        }
    }
}
