//! Changes of a domain's address space, each with the flush that it owes.
//!
//! The order is always the same: take the entry out, flush, and only then put the frame's use. What another domain's
//! page is mapped by holds a use of it, so the page stays while the mapping does, whatever becomes of its owner.
//! Next: [`crate::machine::memory`] for the accounts.

use hv_hw::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hv_core::addr::{Gfn, Mfn, MfnRange, PAGE_SIZE, PageOrder};
use hv_core::frame::{FrameUse, Role};
use hv_core::image::e820::E820Kind;
use hv_core::mem::TableFrames;
use hv_core::p2m::{P2m, P2mEntry, P2mError, P2mKind, P2mMapping, Removal};
use hv_core::paging::flush::{FlushDone, PendingFlush};
use hv_hw::direct_map::DirectTables;
use hv_hw::virt::VcpuHw;

use crate::domain::vcpu::Requests;
use crate::domain::{Domain, pod};
use crate::machine::memory;
use crate::machine::memory::pool::TablePool;

/// What bounds a domain's memory.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Frames of RAM that it may have (`public/domctl.h, XEN_DOMCTL_max_mem`).
    pub max_pages: AtomicU64,
    /// Free frames that are set aside for it: see [`memory::set_claim`].
    pub claim: AtomicU64,
    /// Frames of page tables that it may have, beyond those in its pool.
    pub max_tables: AtomicU64,
    /// What its page tables can count on, and how many there are.
    pub pool: TablePool,
    /// Its memory is being taken down: nothing is mapped any longer.
    pub(super) is_closed: AtomicBool,
    /// Teardown has emptied all below this guest frame.
    pub(super) emptied_to: AtomicU64,
}

/// Frames for a domain's page tables, as many as it may have.
pub(crate) struct DomainTables<'a>(&'a Limits);

/// Why an address space was not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SpaceError {
    /// Nothing is there that could be removed.
    NotThere,
    /// What is there, or is wanted there, is not the domain's to change.
    NotYours,
    /// Outside the address space.
    OutOfRange,
    /// No frame is left, or the domain has all that it may have.
    OutOfMemory,
    /// The owner of the page that is wanted has none there.
    NoPage,
    /// The domain is being destroyed.
    Closed,
}

impl From<P2mError> for SpaceError {
    fn from(error: P2mError) -> Self {
        match error {
            P2mError::Occupied => Self::NotYours,
            P2mError::OutOfRange => Self::OutOfRange,
            // nothing was mapped, so nothing can be cached
            P2mError::OutOfTables(flush) => {
                let _ = flush.completed();
                Self::OutOfMemory
            }
        }
    }
}

impl Limits {
    /// Up to `max_pages` frames of RAM.
    #[must_use]
    pub(crate) const fn new(max_pages: u64) -> Self {
        Self {
            max_pages: AtomicU64::new(max_pages),
            claim: AtomicU64::new(0),
            max_tables: AtomicU64::new(u64::MAX),
            pool: TablePool::new(),
            emptied_to: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
        }
    }
    /// Where the domain's page tables get their frames from.
    #[inline]
    #[must_use]
    pub(crate) fn tables(&self) -> DomainTables<'_> {
        DomainTables(self)
    }
    /// True once the domain's memory is being taken down. Told under the lock of its p2m, it stays true or false as
    /// long as that is held.
    #[inline]
    #[must_use]
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }
}

impl TableFrames for DomainTables<'_> {
    fn alloc_table(&mut self) -> Option<Mfn> {
        let max = self.0.max_tables.load(Ordering::Relaxed);
        self.0.pool.alloc(max)
    }
    fn free_table(&mut self, table: Mfn) {
        self.0.pool.give_back(table);
    }
}

/// Sets how many frames of RAM a domain may have, and by that how many its page tables may have: what a dense map of so
/// much RAM and of others' pages needs, and not what a guest needs that spreads single pages over its address space.
/// The hardware domain, which maps the machine's devices, has no limit on tables.
pub(crate) fn set_max_pages(domain: &Domain, pages: u64) {
    const BASE: u64 = 1024;
    const PAGES_PER_TABLE: u64 = 128;
    let limits = &domain.limits;
    limits.max_pages.store(pages, Ordering::Relaxed);
    if !domain.is_hardware {
        let tables = BASE.saturating_add(pages / PAGES_PER_TABLE);
        limits.max_tables.store(tables, Ordering::Relaxed);
    }
}

/// Sets how many frames are set aside for the domain's page tables: see [`memory::pool`].
///
/// # Errors
/// [`SpaceError::OutOfMemory`] where so many are not free, [`SpaceError::Closed`]; nothing has changed then.
pub(crate) fn set_table_pool(domain: &Domain, frames: u64) -> Result<(), SpaceError> {
    // under the lock, so that a domain that is closed meanwhile keeps none
    let _p2m = domain.p2m.lock();
    if domain.limits.is_closed() {
        return Err(SpaceError::Closed);
    }
    let is_set = domain.limits.pool.resize(frames);
    is_set.then_some(()).ok_or(SpaceError::OutOfMemory)
}

/// Takes the domain's own RAM at `gfn` away from it. What it has yet to touch goes first into what it has been
/// promised: see [`pod`].
///
/// # Errors
/// [`SpaceError::NotThere`] where nothing is mapped, [`SpaceError::NotYours`] where it is not the domain's own RAM.
pub(crate) fn release<H: VcpuHw>(hw: &mut H, domain: &Domain, gfn: Gfn) -> Result<(), SpaceError> {
    let mut p2m = domain.p2m.lock();
    if pod::give_up(domain, &mut p2m, gfn, PageOrder::SIZE_4K)? {
        return Ok(());
    }
    let (entry, done) = take_out(hw, domain, &mut p2m, gfn, |entry| entry.kind.is_own_ram())?;
    if !pod::keep(domain, &mut p2m, &entry) {
        drop(p2m);
        put(entry, 1, &done);
    }
    Ok(())
}

/// Takes a block of the domain's own RAM away from it, page by page; what is before the first page that is no RAM of
/// its own is gone then.
///
/// # Errors
/// As for [`release`].
pub(crate) fn release_block<H: VcpuHw>(
    hw: &mut H,
    domain: &Domain,
    gfn: Gfn,
    order: PageOrder,
) -> Result<(), SpaceError> {
    if order > PageOrder::SIZE_4K && pod::give_up(domain, &mut domain.p2m.lock(), gfn, order)? {
        return Ok(());
    }
    for index in 0..order.frames() {
        let page = gfn.checked_add(index).ok_or(SpaceError::OutOfRange)?;
        release(hw, domain, page)?;
    }
    Ok(())
}

/// Removes what is mapped at `gfn`: RAM, a page shared with the hypervisor, a page of another domain. A granted page
/// goes by its handle only, devices' memory not at all.
///
/// # Errors
/// As for [`release`].
pub(crate) fn unmap<H: VcpuHw>(hw: &mut H, domain: &Domain, gfn: Gfn) -> Result<(), SpaceError> {
    let may_go = |entry: &P2mEntry| {
        entry.kind.is_own_ram() || matches!(entry.kind, P2mKind::Special | P2mKind::Foreign)
    };
    remove(hw, domain, gfn, may_go)
}

/// Takes a granted page out of the p2m: what was there, and the flush that is owed.
pub(super) fn remove_granted(domain: &Domain, gfn: Gfn) -> Option<(P2mEntry, PendingFlush)> {
    let is_granted = |entry: &P2mEntry| matches!(entry.kind, P2mKind::GrantRo | P2mKind::GrantRw);
    let mut p2m = domain.p2m.lock();
    let tables = &mut domain.limits.tables();
    // a granted page is a leaf of its own, so no table is needed to take it out
    match p2m.remove_page_if((&mut DirectTables, tables), gfn, is_granted) {
        Ok(Removal::Done(entry, flush)) => Some((entry, flush)),
        Ok(Removal::NotMapped | Removal::Kept) | Err(_) => None,
    }
}

/// Makes room at `gfn` for another page: RAM that is there goes, as does another domain's page, and, for the hardware
/// domain, a device's memory that was mapped because it once touched the block around it.
///
/// # Errors
/// [`SpaceError::NotYours`] where something else is there.
pub(crate) fn vacate<H: VcpuHw>(hw: &mut H, domain: &Domain, gfn: Gfn) -> Result<(), SpaceError> {
    let may_go = |entry: &P2mEntry| {
        let is_unclaimed_device = entry.kind == P2mKind::Mmio
            && domain.is_hardware
            && entry.mfn == Mfn::new(gfn.as_u64())
            && !memory::table().is_ram(entry.mfn);
        entry.kind.is_own_ram() || entry.kind == P2mKind::Foreign || is_unclaimed_device
    };
    match remove(hw, domain, gfn, may_go) {
        Err(SpaceError::NotThere) => Ok(()),
        other => other,
    }
}

/// Takes devices' memory out of the hardware domain's map, for its accesses there to come to the hypervisor. What may
/// be mapped there is told by [`super::pci`], which names these frames already.
///
/// # Errors
/// [`SpaceError::OutOfMemory`] where a table is needed to take one page out of many.
pub(super) fn keep_from<H: VcpuHw>(
    hw: &mut H,
    domain: &Domain,
    frames: MfnRange,
) -> Result<(), SpaceError> {
    let mut p2m = domain.p2m.lock();
    for mfn in frames.start.as_u64()..frames.end.as_u64() {
        let is_device = |entry: &P2mEntry| entry.kind == P2mKind::Mmio;
        match take_out(hw, domain, &mut p2m, Gfn::new(mfn), is_device) {
            // a mapping of a device's memory holds no use
            Ok(_) | Err(SpaceError::NotThere | SpaceError::NotYours) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn remove<H: VcpuHw>(
    hw: &mut H,
    domain: &Domain,
    gfn: Gfn,
    may_go: impl FnOnce(&P2mEntry) -> bool,
) -> Result<(), SpaceError> {
    let mut p2m = domain.p2m.lock();
    let (entry, done) = take_out(hw, domain, &mut p2m, gfn, may_go)?;
    drop(p2m);
    if entry.kind == P2mKind::Special {
        domain.set_special_place(entry.mfn, None);
    }
    put(entry, 1, &done);
    Ok(())
}

/// Takes what is at `gfn` out of the tables and flushes; its use is the caller's to put.
fn take_out<H: VcpuHw>(
    hw: &mut H,
    domain: &Domain,
    p2m: &mut P2m,
    gfn: Gfn,
    may_go: impl FnOnce(&P2mEntry) -> bool,
) -> Result<(P2mEntry, FlushDone), SpaceError> {
    let tables = &mut domain.limits.tables();
    let (entry, pending) = match p2m.remove_page_if((&mut DirectTables, tables), gfn, may_go)? {
        Removal::Done(entry, pending) => (entry, pending),
        Removal::NotMapped => return Err(SpaceError::NotThere),
        Removal::Kept => return Err(SpaceError::NotYours),
    };
    let done = flush(hw, domain, pending);
    p2m.reclaim(&DirectTables, &mut domain.limits.tables(), &done);
    Ok((entry, done))
}

/// Puts the uses of a leaf that was removed.
pub(super) fn put(entry: P2mEntry, frames: u64, done: &FlushDone) {
    if !entry.kind.holds_use() {
        return;
    }
    for index in 0..frames {
        if let Some(freed) = memory::table().put_mapped(entry.mfn + index, done) {
            memory::give_back(freed);
        }
    }
}

/// Gives the domain RAM at `gfn`: dom0 the frames of that very number, if they were its own, others any.
///
/// # Errors
/// [`SpaceError`].
pub(crate) fn populate(domain: &Domain, gfn: Gfn, order: PageOrder) -> Result<(), SpaceError> {
    if domain
        .p2m
        .lock()
        .is_any_mapped(&DirectTables, gfn, order.frames())
    {
        return Err(SpaceError::NotYours);
    }
    let max = domain.limits.max_pages.load(Ordering::Relaxed);
    if !memory::charge_ram(domain.id, order.frames(), max) {
        return Err(SpaceError::OutOfMemory);
    }
    let range = take_frames(domain, gfn, order)
        .inspect_err(|_| memory::uncharge_ram(domain.id, order.frames()))?;
    let mapping = P2mMapping::new(range.start, P2mKind::Ram);
    insert(domain, gfn, order.frames(), mapping).inspect_err(|_| take_back(range))
}

/// Frames for `gfn`, which are the domain's then and mapped nowhere.
fn take_frames(domain: &Domain, gfn: Gfn, order: PageOrder) -> Result<MfnRange, SpaceError> {
    let frames = if domain.is_hardware {
        let start = Mfn::new(gfn.as_u64());
        let end = start
            .checked_add(order.frames())
            .ok_or(SpaceError::OutOfRange)?;
        if !was_its_own(domain, start, end) {
            return Err(SpaceError::NotYours);
        }
        memory::alloc_exact_clean(MfnRange::new(start, end)).ok_or(SpaceError::NotYours)?
    } else {
        memory::alloc_claimed(order, &domain.limits.claim).ok_or(SpaceError::OutOfMemory)?
    };
    Ok(memory::table().give(frames, domain.id, Role::Ram))
}

/// True where the domain's own map has RAM in all these frames.
fn was_its_own(domain: &Domain, start: Mfn, end: Mfn) -> bool {
    let address = |mfn: Mfn| mfn.as_u64().checked_mul(PAGE_SIZE);
    address(start)
        .zip(address(end))
        .is_some_and(|(start, end)| domain.e820.is_all(start, end, E820Kind::Ram))
}

/// Frees frames that were given and never mapped.
fn take_back(range: MfnRange) {
    let done = PendingFlush::none(Mfn::new(0)).completed();
    let mut mfn = range.start;
    while mfn < range.end {
        if let Some(freed) = memory::table().put_mapped(mfn, &done) {
            memory::give_back(freed);
        }
        mfn = mfn + 1;
    }
}

/// Maps where nothing was mapped, so that nothing is cached.
fn insert(domain: &Domain, gfn: Gfn, frames: u64, mapping: P2mMapping) -> Result<(), SpaceError> {
    insert_locked(domain, &mut domain.p2m.lock(), gfn, frames, mapping)
}

/// The same, with the domain's p2m locked already.
pub(super) fn insert_locked(
    domain: &Domain,
    p2m: &mut P2m,
    gfn: Gfn,
    frames: u64,
    mapping: P2mMapping,
) -> Result<(), SpaceError> {
    if domain.limits.is_closed() {
        return Err(SpaceError::Closed);
    }
    let flush = p2m.insert(
        (&mut DirectTables, &mut domain.limits.tables()),
        gfn,
        frames,
        mapping,
    )?;
    let _ = flush.completed();
    Ok(())
}

/// Maps a page that the domain shares with the hypervisor at `gfn`. RAM that is there goes; the page leaves its old
/// place.
///
/// # Errors
/// [`SpaceError::NotYours`] where something else is there.
pub(crate) fn map_special<H: VcpuHw>(
    hw: &mut H,
    domain: &Domain,
    mfn: Mfn,
    gfn: Gfn,
) -> Result<(), SpaceError> {
    let old = domain.special_place(mfn);
    if old == Some(gfn) {
        return Ok(());
    }
    domain.make_special_room()?;
    vacate(hw, domain, gfn)?;
    if let Some(old) = old {
        unmap(hw, domain, old)?;
    }
    let held = hold(domain, mfn)?;
    insert_use(domain, gfn, held, P2mKind::Special)?;
    domain.set_special_place(mfn, Some(gfn));
    Ok(())
}

/// Maps the RAM that `owner` has at `source` into `domain` at `gfn`, for a toolstack. RAM that is there goes.
///
/// # Errors
/// [`SpaceError::NoPage`] where the owner has no RAM of its own there, [`SpaceError::NotYours`] where something that
/// does not go is at `gfn`.
pub(crate) fn map_foreign<H: VcpuHw>(
    hw: &mut H,
    (domain, gfn): (&Domain, Gfn),
    (owner, source): (&Domain, Gfn),
) -> Result<(), SpaceError> {
    let held = use_ram(owner, source).ok_or(SpaceError::NoPage)?;
    map_held(hw, (domain, gfn), held)
}

/// Maps a page that `owner` shares with the hypervisor into `domain` at `gfn`, for a toolstack. RAM that is there goes.
///
/// # Errors
/// As for [`map_foreign`].
pub(crate) fn map_foreign_special<H: VcpuHw>(
    hw: &mut H,
    (domain, gfn): (&Domain, Gfn),
    (owner, mfn): (&Domain, Mfn),
) -> Result<(), SpaceError> {
    let held = hold(owner, mfn)?;
    map_held(hw, (domain, gfn), held)
}

fn map_held<H: VcpuHw>(
    hw: &mut H,
    (domain, gfn): (&Domain, Gfn),
    held: FrameUse,
) -> Result<(), SpaceError> {
    if let Err(error) = vacate(hw, domain, gfn) {
        put_unmapped(held);
        return Err(error);
    }
    insert_use(domain, gfn, held, P2mKind::Foreign)
}

/// One use of a page that is known to be the domain's.
fn hold(domain: &Domain, mfn: Mfn) -> Result<FrameUse, SpaceError> {
    memory::table()
        .acquire(mfn, domain.id)
        .map_err(|_| SpaceError::NotYours)
}

/// One use of the domain's own RAM at `gfn`, if it has some there.
pub(super) fn use_ram(domain: &Domain, gfn: Gfn) -> Option<FrameUse> {
    let entry = pod::own_ram(domain, &mut domain.p2m.lock(), gfn)?;
    memory::table().acquire(entry.mfn, domain.id).ok()
}

/// Ends a use that was never mapped.
pub(super) fn put_unmapped(held: FrameUse) {
    if let Some(freed) = memory::table().put(held) {
        memory::give_back(freed);
    }
}

fn insert_use(domain: &Domain, gfn: Gfn, held: FrameUse, kind: P2mKind) -> Result<(), SpaceError> {
    match insert(domain, gfn, 1, P2mMapping::new(held.mfn(), kind)) {
        Ok(()) => {
            let _ = held.into_mapping();
            Ok(())
        }
        Err(error) => {
            put_unmapped(held);
            Err(error)
        }
    }
}

/// Has every CPU that runs the domain drop its stale translations. One CPU runs guests, and it is this one.
pub(super) fn flush<H: VcpuHw>(hw: &mut H, domain: &Domain, pending: PendingFlush) -> FlushDone {
    if pending.is_needed() {
        hw.flush_stage2(domain.stage2);
    }
    pending.completed()
}

/// The same for a change of a domain's memory that somebody makes on the way, without a vCPU at hand: whichever of the
/// domain's vCPUs is entered first flushes before. One CPU runs guests, and it is this one, so none is in the guest
/// now.
pub(super) fn flush_before_entry(domain: &Domain, pending: PendingFlush) -> FlushDone {
    if pending.is_needed() {
        for vcpu in &domain.vcpus {
            vcpu.request(Requests::FLUSH);
        }
    }
    pending.completed()
}
