//! Granted pages: mapping, copying and letting go, and what happens to grants when a domain ends.
//!
//! | step | lock held | whose |
//! |---|---|---|
//! | pin the entry, use the frame | `GRANT`, then `P2M` | the granter's |
//! | handle, entry in the p2m | `MAPTRACK`, then `P2M` | the user's |
//! | take handle and entry out | `MAPTRACK`, then `P2M` | the user's |
//! | flush; put the frame; unpin | `GRANT` | the granter's |
//!
//! No step holds locks of two domains, so there is no order between domains to keep; a domain may grant to itself. What
//! the steps hand on (a pin, a use of the frame, an owed flush) is a value that must be used up, so that a step between
//! two others of somebody else finds either all of a mapping or nothing. A mapping keeps the frame, and the granter's
//! table, until it ends: [`finish`]. Rules: `hv_core::grant`.

use alloc::sync::Arc;
use hv_hw::sync::atomic::{AtomicU32, Ordering};

use hv_core::addr::{Gfn, Mfn};
use hv_core::domid::DomId;
use hv_core::frame::FrameUse;
use hv_core::grant::{
    CopyRequest, CopySide, GrantError, GrantRef, GrantTable, Granted, GranterMemory, Handle,
    MapRequest, Mapping, Maptrack, Pin, UnmapRequest, Want,
};
use hv_core::p2m::{P2m, P2mKind, P2mMapping};
use hv_core::paging::flush::{FlushDone, PendingFlush};
use hv_hw::direct_map::{self, DirectTables, SharedFrame};
use hv_hw::sync::{RankedLock, rank};
use hv_hw::virt::VcpuHw;
use hv_hw::{domain_log, guest_log};

use crate::domain::space::{self, SpaceError};
use crate::domain::{Domain, pod, registry};
use crate::machine::{memory, zombies};

/// Frames of a grant table where nothing else is asked for: 32768 entries.
pub(crate) const DEFAULT_GRANT_FRAMES: u32 = 64;
/// The most frames that a grant table may be given.
pub(crate) const MAX_GRANT_FRAMES: u32 = 1024;
/// Frames' worth of handles where nothing else is asked for.
pub(crate) const DEFAULT_MAPTRACK_FRAMES: u32 = 1024;
/// Handles that Xen has in a frame.
const HANDLES_PER_FRAME: u32 = 256;

/// What a domain grants, and what it has mapped of what others do.
pub(crate) struct Grants {
    table: RankedLock<GrantTable<SharedFrame>, { rank::GRANT }>,
    maptrack: RankedLock<Maptrack, { rank::MAPTRACK }>,
    /// Teardown has seen all handles below.
    released_to: AtomicU32,
}

impl Grants {
    /// Of domain `domid`: a table of at most `max_frames` frames, and `max_maptrack_frames` frames' worth of handles
    /// (`public/domctl.h`, XEN_DOMCTL_createdomain).
    #[must_use]
    pub(crate) fn new(domid: DomId, max_frames: u32, max_maptrack_frames: u32) -> Self {
        let handles = max_maptrack_frames.saturating_mul(HANDLES_PER_FRAME);
        Self {
            table: RankedLock::new(GrantTable::new(domid, max_frames.min(MAX_GRANT_FRAMES))),
            maptrack: RankedLock::new(Maptrack::new(handles)),
            released_to: AtomicU32::new(0),
        }
    }

    /// How many frames the table has, and how many it may have.
    #[must_use]
    pub(crate) fn size(&self) -> (u32, u32) {
        let table = self.table.lock();
        (table.nr_frames(), table.max_frames())
    }
}

/// Why a grant table has no such frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoFrame {
    /// It is past the table's limit, or memory is out.
    Refused,
    /// The table has grown as far as it does in one go: ask again.
    NotYet,
}

/// Frames that a table grows by in one go.
const GROWTH: u32 = 64;

/// The frame of a domain's grant table with this index; the table grows up to it.
///
/// # Errors
/// [`NoFrame`].
pub(crate) fn frame(domain: &Domain, index: u32) -> Result<Mfn, NoFrame> {
    let mut table = domain.grants.table.lock();
    if index >= table.max_frames() {
        return Err(NoFrame::Refused);
    }
    for _ in 0..GROWTH {
        if let Some(frame) = table.frame(index) {
            return Ok(frame.mfn());
        }
        grow(domain, &mut table)?;
    }
    table
        .frame(index)
        .map_or(Err(NoFrame::NotYet), |frame| Ok(frame.mfn()))
}

fn grow(domain: &Domain, table: &mut GrantTable<SharedFrame>) -> Result<(), NoFrame> {
    const BYTES: usize = GrantTable::<SharedFrame>::BYTES_PER_FRAME;
    if !domain.heap.charge(BYTES) {
        return Err(NoFrame::Refused);
    }
    let grown = match memory::alloc_special(domain.id) {
        Some(mfn) => {
            let frame = SharedFrame::new(mfn).expect("frames of ours are in the direct map");
            let grown = table.grow(frame);
            grown.map_err(|(_, frame)| memory::free_special(frame.mfn()))
        }
        None => Err(()),
    };
    grown.map_err(|()| {
        domain.heap.uncharge(BYTES);
        NoFrame::Refused
    })
}

/// The memory that a domain grants from.
struct OwnRam<'a>(&'a Domain);

impl GranterMemory for OwnRam<'_> {
    fn use_gfn(&mut self, gfn: Gfn, _want: Want) -> Option<FrameUse> {
        space::use_ram(self.0, gfn)
    }
    fn use_again(&mut self, mfn: Mfn) -> Option<FrameUse> {
        memory::table().acquire(mfn, self.0.id).ok()
    }
}

/// A granted page in use, with its granter.
struct InUse {
    granter: Arc<Domain>,
    granted: Granted,
}

impl InUse {
    fn begin(
        granter: Arc<Domain>,
        user: &Domain,
        reference: GrantRef,
        want: Want,
    ) -> Result<Self, GrantError> {
        let granted = {
            let mut table = granter.grants.table.lock();
            table.pin(reference, (user.id, want), &mut OwnRam(&granter))?
        };
        Ok(Self { granter, granted })
    }

    /// Ends a use that was never mapped.
    fn end(self) {
        space::put_unmapped(self.granted.frame);
        self.granter.grants.table.lock().unpin(self.granted.pin);
        zombies::let_go(self.granter.id);
    }
}

/// Maps a page that `granter` granted `user`, and says by which handle it goes.
///
/// # Errors
/// [`GrantError`]; nothing has changed then, but that RAM of the user's own may be gone from the place.
pub(crate) fn map<H: VcpuHw>(
    hw: &mut H,
    user: &Domain,
    granter: Arc<Domain>,
    request: &MapRequest,
) -> Result<Handle, GrantError> {
    let InUse { granter, granted } = InUse::begin(granter, user, request.reference, request.want)?;
    let Granted { pin, frame } = granted;
    let mut entered = enter(user, request.gfn, pin, &frame);
    if let Err((SpaceError::NotYours, pin)) = entered {
        entered = match space::vacate(hw, user, request.gfn) {
            Ok(()) => enter(user, request.gfn, pin, &frame),
            Err(error) => Err((error, pin)),
        };
    }
    match entered {
        Ok(handle) => {
            let _ = frame.into_mapping();
            Ok(handle)
        }
        Err((error, pin)) => {
            let granted = Granted { pin, frame };
            InUse { granter, granted }.end();
            Err(match error {
                SpaceError::OutOfMemory => GrantError::NoSpace,
                _ => GrantError::General,
            })
        }
    }
}

/// Handle and entry appear together: whoever has the handle finds the entry.
fn enter(user: &Domain, gfn: Gfn, pin: Pin, frame: &FrameUse) -> Result<Handle, (SpaceError, Pin)> {
    let kind = pin.want().p2m_kind();
    let mut maptrack = user.grants.maptrack.lock();
    if maptrack.is_full() && !make_room(user, &mut maptrack) {
        return Err((SpaceError::OutOfMemory, pin));
    }
    let handle = maptrack
        .insert(Mapping { pin, gfn })
        .map_err(|(_, mapping)| (SpaceError::OutOfMemory, mapping.pin))?;
    let mapping = P2mMapping::new(frame.mfn(), kind);
    let inserted = space::insert_locked(user, &mut user.p2m.lock(), gfn, 1, mapping);
    match inserted {
        Ok(()) => Ok(handle),
        Err(error) => {
            let mapping = maptrack
                .take(handle, gfn)
                .expect("the handle was just made, and the lock is held");
            Err((error, mapping.pin))
        }
    }
}

/// Makes room for handles; false where there is none for them.
#[cold]
fn make_room(user: &Domain, maptrack: &mut Maptrack) -> bool {
    if !user.heap.charge(Maptrack::BYTES_PER_PIECE) {
        return false;
    }
    let is_made = maptrack.make_room();
    if !is_made {
        user.heap.uncharge(Maptrack::BYTES_PER_PIECE);
    }
    is_made
}

/// A mapping that is out of the tables, and maybe in a TLB still.
#[must_use = "the page stays in use until this is finished"]
pub(crate) struct Unmapped {
    pin: Pin,
    mfn: Option<Mfn>,
}

/// Takes a mapping of `user` out and adds the flush that it owes to `pending`; then [`flush`], then
/// [`Unmapped::finish`].
///
/// # Errors
/// [`GrantError::BadHandle`], [`GrantError::BadAddress`]; nothing has changed then.
pub(crate) fn unmap(
    user: &Domain,
    request: &UnmapRequest,
    pending: &mut Option<PendingFlush>,
) -> Result<Unmapped, GrantError> {
    let mut maptrack = user.grants.maptrack.lock();
    let mapping = maptrack.take(request.handle, request.gfn)?;
    let removed = space::remove_granted(user, mapping.gfn);
    drop(maptrack);
    let mfn = removed.map(|(entry, flush)| {
        *pending = Some(match pending.take() {
            Some(owed) => owed.and(flush),
            None => flush,
        });
        entry.mfn
    });
    if mfn.is_none() {
        guest_log!(
            user.log,
            Error,
            "{}: granted page at {} was not mapped",
            user.id,
            mapping.gfn
        );
    }
    Ok(Unmapped {
        pin: mapping.pin,
        mfn,
    })
}

/// Flushes what unmapping owes.
pub(crate) fn flush<H: VcpuHw>(
    hw: &mut H,
    user: &Domain,
    pending: Option<PendingFlush>,
) -> FlushDone {
    let pending = pending.unwrap_or_else(|| PendingFlush::none(user.stage2.table));
    space::flush(hw, user, pending)
}

impl Unmapped {
    /// Lets the page and the granter's entry go, `user` being who had mapped it.
    pub(crate) fn finish(self, user: &Domain, done: &FlushDone) {
        if let Some(mfn) = self.mfn
            && let Some(freed) = memory::table().put_mapped(mfn, done)
        {
            memory::give_back(freed);
        }
        // a domain is known until nothing of its grants is in use
        match registry::find(self.pin.granter()) {
            Some(granter) => {
                granter.grants.table.lock().unpin_mapped(self.pin, done);
                zombies::let_go(granter.id);
            }
            None => domain_log!(
                user.log,
                Error,
                "{}: gone before what {} has mapped of it",
                self.pin.granter(),
                user.id
            ),
        }
    }
}

/// Copies bytes between two pages, each of which is `user`'s own or granted to it.
///
/// # Errors
/// [`GrantError`]; nothing was copied then.
pub(crate) fn copy(user: &Domain, request: &CopyRequest) -> Result<(), GrantError> {
    let source = begin_side(user, &request.source, Want::Read)?;
    let dest = begin_side(user, &request.dest, Want::Write);
    let copied = match &dest {
        Ok(dest) => copy_between(user, request, (source.as_ref(), dest.as_ref())),
        Err(error) => Err(*error),
    };
    // one by one: moving them about would cost more than what is done with them
    if let Some(in_use) = source {
        in_use.end();
    }
    if let Ok(Some(in_use)) = dest {
        in_use.end();
    }
    copied
}

/// Begins to use what a side of a copy was granted; `None` for a page of the user's own.
fn begin_side(user: &Domain, side: &CopySide, want: Want) -> Result<Option<InUse>, GrantError> {
    let CopySide::Granted {
        granter, reference, ..
    } = *side
    else {
        return Ok(None);
    };
    let granter = granter_of(user, granter).ok_or(GrantError::BadDomain)?;
    InUse::begin(granter, user, reference, want).map(Some)
}

/// Copies between two pages that stay: granted ones are in use, and the user's own are while its p2m is locked.
fn copy_between(
    user: &Domain,
    request: &CopyRequest,
    (source, dest): (Option<&InUse>, Option<&InUse>),
) -> Result<(), GrantError> {
    let mut p2m = user.p2m.lock();
    for side in [&request.source, &request.dest] {
        if let CopySide::Own { gfn, .. } = *side {
            pod::ensure(user, &mut p2m, gfn);
        }
    }
    let place = |side: &CopySide, in_use: Option<&InUse>, want| {
        let (mfn, offset) = match (*side, in_use) {
            (CopySide::Granted { offset, .. }, Some(in_use)) => {
                (in_use.granted.frame.mfn(), offset)
            }
            (CopySide::Own { gfn, offset }, _) => (mapped_at(&p2m, gfn, want)?, offset),
            (CopySide::Granted { .. }, None) => return None,
        };
        Some(mfn.base() + u64::from(offset))
    };
    let from = place(&request.source, source, Want::Read).ok_or(GrantError::BadPage)?;
    let to = place(&request.dest, dest, Want::Write).ok_or(GrantError::BadPage)?;
    direct_map::duplicate(from, to, request.len).map_err(|_| GrantError::BadPage)
}

/// The domain that a copy names; it may be the caller by `DOMID_SELF`.
fn granter_of(user: &Domain, raw: u16) -> Option<Arc<Domain>> {
    let id = if raw == guest_abi::xen::DOMID_SELF {
        user.id
    } else {
        DomId::new(raw)?
    };
    registry::find(id)
}

/// The page that a domain has at `gfn`: RAM of its own, or another's that it has mapped. It stays while the p2m is
/// locked, since every mapping is a use of its frame.
fn mapped_at(p2m: &P2m, gfn: Gfn, want: Want) -> Option<Mfn> {
    let entry = p2m.lookup(&DirectTables, gfn)?;
    let is_allowed = match want {
        Want::Read => entry.is_readable_memory(),
        Want::Write => entry.is_writable_memory(),
    };
    (is_allowed && entry.kind != P2mKind::Special).then_some(entry.mfn)
}

/// Grants nothing more: the domain is being destroyed. What is mapped stays so.
pub(crate) fn close(domain: &Domain) {
    domain.grants.table.lock().close();
}

/// Unmaps what a domain that is being destroyed, and whose memory is [closed](super::teardown::close), has mapped of
/// others' grants; looks at no more than `budget` handles. True once there is none left.
pub(crate) fn release_mappings<H: VcpuHw>(hw: &mut H, domain: &Domain, budget: u32) -> bool {
    let released_to = &domain.grants.released_to;
    let start = released_to.load(Ordering::Relaxed);
    let end = start.saturating_add(budget);
    let mut from = Handle::new(start);
    while from.get() < end {
        let next = {
            let maptrack = domain.grants.maptrack.lock();
            maptrack.next(from, end - from.get())
        };
        match next {
            Ok((handle, gfn)) => {
                release_mapping(hw, domain, &UnmapRequest { handle, gfn });
                from = Handle::new(handle.get().saturating_add(1));
            }
            Err(Some(next)) => from = next,
            Err(None) => return true,
        }
    }
    released_to.store(from.get(), Ordering::Relaxed);
    false
}

fn release_mapping<H: VcpuHw>(hw: &mut H, domain: &Domain, request: &UnmapRequest) {
    let mut pending = None;
    // somebody else may have unmapped it since
    if let Ok(unmapped) = unmap(domain, request, &mut pending) {
        let done = flush(hw, domain, pending);
        unmapped.finish(domain, &done);
    }
}

/// Gives the frames of a closed domain's grant table up, once nobody uses a page that it granted. True where that is
/// done.
pub(crate) fn finish(domain: &Domain) -> bool {
    let Some(frames) = domain.grants.table.lock().take_frames() else {
        return false;
    };
    for frame in frames {
        memory::free_special(frame.mfn());
    }
    true
}
