//! Memory that is populated on demand: whoever touches a page first brings it, the guest itself, or the hypervisor and
//! other domains on what they do with the guest's memory.
//!
//! | who | comes by |
//! |---|---|
//! | the guest's own instructions | `exit/stage2.rs`: [`touch`] |
//! | copies and walks for hypercalls and emulation | `guest_mem/mod.rs`: [`bring`] |
//! | grants, foreign mappings, registered areas | [`own_ram`] |
//! | its balloon, giving up what it has or never had | [`give_up`] |
//! | its toolstack | [`mark`], [`set_target`] |
//!
//! Where the cache is empty a bounded number of pages is looked at for some that are all zeroes; the guest's
//! instruction, or its hypercall, is executed again until one is found or all were looked at. Then the domain ends.
//! Rules: [`hv_core::p2m::Pod`].

use hv_hw::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use hv_core::addr::{Gfn, Mfn, MfnRange, PAGE_BYTES, PageOrder};
use hv_core::frame::Role;
use hv_core::p2m::{P2m, P2mEntry, P2mKind, P2mMapping, PodCounts, Populated, Removal, Swept};
use hv_core::paging::flush::PendingFlush;
use hv_hw::direct_map::{DirectTables, SharedFrame};
use hv_hw::domain_log;

use crate::domain::space::{self, SpaceError};
use crate::domain::vcpu::Requests;
use crate::domain::{Domain, ShutdownReason};
use crate::machine::memory;

/// How much of a sweep the guest's own exit does: entries of tables, of which a page takes four.
const SWEEP: u32 = 4 * 512;
/// How much is done where an instruction cannot simply be tried again.
const LONG_SWEEP: u32 = 4 * 4096;
/// What it costs to look through a whole page, in entries.
const WHOLE_PAGE: u32 = 64;
/// Pages that are taken back with one flush.
const BATCH: usize = 16;
/// Frames that a step of [`set_target`] takes, where they do not come in blocks.
const STEP: u64 = 64;

/// What became of a guest frame that was touched.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Touched {
    /// It is not one that is populated on demand.
    NotMarked,
    Done,
    /// No page to take back has been found yet: to be tried again.
    NotYet,
    /// There is none: [`end`].
    OutOfMemory,
    /// There is no frame for the table that maps it.
    OutOfTables,
}

/// What came of looking for pages to take back.
enum Reclaimed {
    Some,
    NotYet,
    Exhausted,
}

/// Has an empty block of guest frames populated when they are touched.
///
/// # Errors
/// [`SpaceError`]; a domain whose memory is where the machine's is gets all of it at once.
pub(crate) fn mark(domain: &Domain, gfn: Gfn, order: PageOrder) -> Result<(), SpaceError> {
    if domain.is_hardware {
        return Err(SpaceError::NotYours);
    }
    let mut p2m = domain.p2m.lock();
    if domain.limits.is_closed() {
        return Err(SpaceError::Closed);
    }
    let tables = &mut domain.limits.tables();
    Ok(p2m.mark_pod((&mut DirectTables, tables), gfn, order)?)
}

/// How much of the domain's memory is populated on demand.
#[must_use]
pub(crate) fn counts(domain: &Domain) -> PodCounts {
    domain.p2m.lock().pod.counts()
}

/// Fills the cache so far that the domain has `target` pages in all, a bounded step at a time; true once it is done.
///
/// # Errors
/// [`SpaceError::OutOfMemory`] where memory is out, or the domain has all that it may have.
pub(crate) fn set_target(domain: &Domain, target: u64) -> Result<bool, SpaceError> {
    let mut p2m = domain.p2m.lock();
    let charged = domain.pages();
    let wanted = p2m.pod.cache_for(target, charged);
    let Some(cache) = wanted.filter(|_| !domain.limits.is_closed()) else {
        return Ok(true);
    };
    let start = p2m.pod.counts().cached;
    loop {
        let cached = p2m.pod.counts().cached;
        if cached >= cache {
            return Ok(true);
        }
        if cached >= start + STEP {
            return Ok(false);
        }
        let is_block = cache - cached >= PageOrder::SIZE_2M.frames();
        let is_more = (is_block && stock(domain, &mut p2m, PageOrder::SIZE_2M))
            || stock(domain, &mut p2m, PageOrder::SIZE_4K);
        if !is_more {
            return Err(SpaceError::OutOfMemory);
        }
    }
}

/// Adds a block to the cache; false where there is none.
fn stock(domain: &Domain, p2m: &mut P2m, order: PageOrder) -> bool {
    let max = domain.limits.max_pages.load(Ordering::Relaxed);
    if !memory::charge_ram(domain.id, order.frames(), max) {
        return false;
    }
    let Some(frames) = memory::alloc_claimed(order, &domain.limits.claim) else {
        memory::uncharge_ram(domain.id, order.frames());
        return false;
    };
    let range = memory::table().give(frames, domain.id, Role::Ram);
    p2m.pod.stock(memory::table(), range.start, order);
    true
}

/// Populates `gfn`, where that is to be done when it is touched, for the guest's own instruction.
pub(crate) fn touch(domain: &Domain, p2m: &mut P2m, gfn: Gfn) -> Touched {
    touch_within(domain, p2m, gfn, SWEEP)
}

fn touch_within(domain: &Domain, p2m: &mut P2m, gfn: Gfn, sweep: u32) -> Touched {
    if !p2m.is_pod(&DirectTables, gfn) || domain.limits.is_closed() {
        return Touched::NotMarked;
    }
    loop {
        let memory = (&mut DirectTables, &mut domain.limits.tables());
        match p2m.populate_pod(memory, gfn, memory::table()) {
            Ok(Populated::Done) => return Touched::Done,
            Ok(Populated::NotMarked) => return Touched::NotMarked,
            Ok(Populated::NoFrame) => match reclaim(domain, p2m, sweep) {
                Reclaimed::Some => {}
                Reclaimed::NotYet => return Touched::NotYet,
                Reclaimed::Exhausted => return Touched::OutOfMemory,
            },
            Err(error) => {
                let _ = SpaceError::from(error);
                return Touched::OutOfTables;
            }
        }
    }
}

/// Populates `gfn` for an access that the hypervisor makes; true where it is there now. Where it is not, though it is
/// to be populated, the domain's vCPUs [see to that](relieve) before they go on.
#[cold]
pub(crate) fn bring(domain: &Domain, p2m: &mut P2m, gfn: Gfn) -> bool {
    match touch_within(domain, p2m, gfn, LONG_SWEEP) {
        Touched::Done => true,
        Touched::NotMarked | Touched::OutOfTables => false,
        Touched::NotYet | Touched::OutOfMemory => {
            for vcpu in &domain.vcpus {
                vcpu.request(Requests::RELIEVE);
            }
            false
        }
    }
}

/// The domain's own RAM at `gfn`, if it has some there.
pub(crate) fn own_ram(domain: &Domain, p2m: &mut P2m, gfn: Gfn) -> Option<P2mEntry> {
    let entry = match p2m.lookup(&DirectTables, gfn) {
        None if p2m.pod.is_active() && bring(domain, p2m, gfn) => p2m.lookup(&DirectTables, gfn),
        other => other,
    };
    entry.filter(|entry| entry.kind.is_own_ram())
}

/// Has `gfn` populated, where that is to be, and stay so for the next few pages that are.
pub(crate) fn ensure(domain: &Domain, p2m: &mut P2m, gfn: Gfn) {
    if p2m.pod.is_active() && !bring(domain, p2m, gfn) {
        p2m.pod.spare(gfn, PageOrder::SIZE_4K);
    }
}

/// Looks for a page that an access of the hypervisor did not get, and ends the domain where there is none.
#[cold]
pub(crate) fn relieve(domain: &Domain) {
    let mut p2m = domain.p2m.lock();
    let is_needed = p2m.pod.is_active() && p2m.pod.counts().cached == 0;
    if !is_needed || domain.limits.is_closed() {
        return;
    }
    let reclaimed = reclaim(domain, &mut p2m, SWEEP);
    drop(p2m);
    if let Reclaimed::Exhausted = reclaimed {
        end(domain);
    }
}

/// Ends a domain that has touched more than it has, with a line that says so.
#[cold]
pub(crate) fn end(domain: &Domain) {
    let outstanding = counts(domain).outstanding;
    domain_log!(
        domain.log,
        Error,
        "{}: out of memory that is populated on demand: it has {} pages, {outstanding} more are to be populated, and none \
         that it has is all zeroes; its balloon driver has not come down in time, or it has none",
        domain.id,
        domain.pages()
    );
    domain.end(ShutdownReason::Crash, "out of memory populated on demand");
}

/// Takes what was to be populated away from the domain; false where a block is not such as a whole.
#[inline]
pub(crate) fn give_up(
    domain: &Domain,
    p2m: &mut P2m,
    gfn: Gfn,
    order: PageOrder,
) -> Result<bool, SpaceError> {
    if !p2m.pod.is_active() {
        return Ok(false);
    }
    unmark(domain, p2m, gfn, order)
}

#[cold]
fn unmark(domain: &Domain, p2m: &mut P2m, gfn: Gfn, order: PageOrder) -> Result<bool, SpaceError> {
    let memory = (&mut DirectTables, &mut domain.limits.tables());
    let is_given = p2m.unmark_pod(memory, gfn, order)?;
    if is_given {
        // no more is kept than may be wanted
        let keep = p2m.pod.counts().outstanding;
        let _ = drain(p2m, keep, u64::MAX);
    }
    Ok(is_given)
}

/// Keeps a page that the domain gives up for what it has yet to touch; false where it needs none so. It is mapped no
/// longer, and flushed; `p2m` has been locked since.
pub(crate) fn keep(domain: &Domain, p2m: &mut P2m, entry: &P2mEntry) -> bool {
    let keeps = p2m.pod.is_active()
        && p2m.pod.keeps_what_is_released()
        && !domain.limits.is_closed()
        && is_its_alone(domain, entry.mfn);
    if keeps {
        memory::zero(MfnRange::new(entry.mfn, entry.mfn + 1));
        p2m.pod
            .stock(memory::table(), entry.mfn, PageOrder::SIZE_4K);
    }
    keeps
}

/// Frees what is in the cache beyond `keep` frames, some `budget` frames at most; how many.
pub(super) fn drain(p2m: &mut P2m, keep: u64, budget: u64) -> u64 {
    let mut freed = 0;
    // what is in the cache is mapped nowhere, and was flushed when it came there
    let done = PendingFlush::none(p2m.root()).completed();
    while freed < budget
        && let Some((mfn, order)) = p2m.pod.surplus(memory::table(), keep)
    {
        for index in 0..order.frames() {
            if let Some(freed) = memory::table().put_mapped(mfn + index, &done) {
                memory::give_back(freed);
            }
        }
        freed += order.frames();
    }
    freed
}

/// Takes pages back that the guest has left all zeroes, looking at as many as `budget` allows.
fn reclaim(domain: &Domain, p2m: &mut P2m, mut budget: u32) -> Reclaimed {
    loop {
        let batch = take_batch(domain, p2m, &mut budget);
        let done = space::flush_before_entry(domain, batch.pending);
        p2m.reclaim(&DirectTables, &mut domain.limits.tables(), &done);
        for (gfn, mfn) in batch.pages {
            settle(domain, p2m, gfn, mfn);
        }
        if p2m.pod.counts().cached > 0 {
            return Reclaimed::Some;
        }
        match batch.end {
            Some(Swept::NotYet) => return Reclaimed::NotYet,
            Some(Swept::Exhausted) => return Reclaimed::Exhausted,
            Some(Swept::Page(..)) | None => {}
        }
    }
}

/// Pages that are out of the tables, with the flush that they owe, and why there are no more.
struct Batch {
    pages: ArrayVec<(Gfn, Mfn), BATCH>,
    pending: PendingFlush,
    end: Option<Swept>,
}

fn take_batch(domain: &Domain, p2m: &mut P2m, budget: &mut u32) -> Batch {
    let mut batch = Batch {
        pages: ArrayVec::new(),
        pending: PendingFlush::none(p2m.root()),
        end: None,
    };
    while !batch.pages.is_full() {
        let (gfn, entry) = match p2m.sweep(&DirectTables, budget) {
            Swept::Page(gfn, entry) => (gfn, entry),
            end => {
                batch.end = Some(end);
                break;
            }
        };
        if !begins_with_zeroes(entry.mfn) {
            continue;
        }
        *budget = budget.saturating_sub(WHOLE_PAGE);
        if !is_its_alone(domain, entry.mfn) || !is_all_zeroes(entry.mfn) {
            continue;
        }
        let memory = (&mut DirectTables, &mut domain.limits.tables());
        match p2m.remove_to_mark(memory, gfn) {
            Ok(Removal::Done(entry, owed)) => {
                batch.pending = batch.pending.and(owed);
                batch.pages.push((gfn, entry.mfn));
            }
            Ok(Removal::NotMapped | Removal::Kept) => {}
            // a page of a block that cannot be split stays
            Err(error) => {
                let _ = SpaceError::from(error);
            }
        }
    }
    batch
}

/// Puts a page that nobody can reach any longer into the cache, or back where it was written to meanwhile.
fn settle(domain: &Domain, p2m: &mut P2m, gfn: Gfn, mfn: Mfn) {
    if is_all_zeroes(mfn) {
        return p2m.pod.stock(memory::table(), mfn, PageOrder::SIZE_4K);
    }
    let mapping = P2mMapping::new(mfn, P2mKind::Ram);
    let memory = (&mut DirectTables, &mut domain.limits.tables());
    let back = p2m.insert(memory, gfn, 1, mapping);
    let _ = back
        .expect("the entry that it had is there, and empty")
        .completed();
}

/// True for RAM that is in nobody's use but the domain's own: nothing else can begin to use it while its p2m is locked.
fn is_its_alone(domain: &Domain, mfn: Mfn) -> bool {
    let state = memory::table().state(mfn);
    state.role == Some(Role::Ram)
        && state.uses == 1
        && state.owner == hv_core::frame::Owner::Domain(domain.id)
}

fn begins_with_zeroes(mfn: Mfn) -> bool {
    const FEW: usize = 16;
    has_zeroes(mfn, FEW)
}

fn is_all_zeroes(mfn: Mfn) -> bool {
    has_zeroes(mfn, PAGE_BYTES / 8)
}

fn has_zeroes(mfn: Mfn, words: usize) -> bool {
    SharedFrame::new(mfn).is_some_and(|frame| (0..words).all(|index| frame.word(index).load() == 0))
}
