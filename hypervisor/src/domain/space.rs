//! Changes of a domain's address space, each with the flush that it owes.
//!
//! The order is always the same: take the entry out, flush, and only then put the frame's use.

use hv_core::addr::{Gfn, Mfn, MfnRange, PAGE_SIZE, PageOrder};
use hv_core::frame::Role;
use hv_core::image::e820::E820Kind;
use hv_core::p2m::{P2mError, P2mKind, P2mMapping};
use hv_core::paging::flush::{FlushDone, PendingFlush};
use hv_hw::direct_map::DirectTables;
use hv_hw::virt::VcpuHw;

use super::Domain;
use crate::memory::{self, Tables};
use crate::vcpu::Runner;

/// Why an address space was not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpaceError {
    /// Nothing is there that could be removed.
    NotThere,
    /// What is there, or is wanted there, is not the domain's to change.
    NotYours,
    /// Outside the address space.
    OutOfRange,
    /// No frame is left.
    OutOfMemory,
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

/// Takes the domain's own RAM at `gfn` away from it.
///
/// # Errors
/// [`SpaceError::NotThere`] where nothing is mapped, [`SpaceError::NotYours`] where it is not the domain's own RAM.
pub fn release<H: VcpuHw>(runner: &mut Runner<H>, gfn: Gfn) -> Result<(), SpaceError> {
    remove(runner, gfn, P2mKind::is_own_ram)
}

/// Removes whatever is mapped at `gfn`, but for devices' memory.
///
/// # Errors
/// As for [`release`].
pub fn unmap<H: VcpuHw>(runner: &mut Runner<H>, gfn: Gfn) -> Result<(), SpaceError> {
    remove(runner, gfn, P2mKind::is_memory)
}

fn remove<H: VcpuHw>(
    runner: &mut Runner<H>,
    gfn: Gfn,
    may_go: impl FnOnce(P2mKind) -> bool,
) -> Result<(), SpaceError> {
    let domain = runner.domain.clone();
    let mut p2m = domain.p2m.lock();
    let entry = p2m.lookup(&DirectTables, gfn).ok_or(SpaceError::NotThere)?;
    if !may_go(entry.kind) {
        return Err(SpaceError::NotYours);
    }
    let removed = p2m.remove_page((&mut DirectTables, &mut Tables), gfn)?;
    let (entry, pending) = removed.ok_or(SpaceError::NotThere)?;
    let done = flush(runner, pending);
    p2m.reclaim(&DirectTables, &mut Tables, &done);
    drop(p2m);
    // counted while mapped: the hypervisor may hold the frame on, for a structure that the guest registered in it
    if entry.kind.is_own_ram() {
        domain.count_pages(-1);
    }
    if entry.kind == P2mKind::Special {
        domain.set_special_place(entry.mfn, None);
    }
    if entry.kind.holds_use()
        && let Some(freed) = memory::table().put_mapped(entry.mfn, &done)
    {
        memory::give_back(freed);
    }
    Ok(())
}

/// Gives the domain RAM at `gfn`: dom0 the frames of that very number, if they were its own, others any.
///
/// # Errors
/// [`SpaceError`].
pub fn populate(domain: &Domain, gfn: Gfn, order: PageOrder) -> Result<(), SpaceError> {
    if domain
        .p2m
        .lock()
        .is_any_mapped(&DirectTables, gfn, order.frames())
    {
        return Err(SpaceError::NotYours);
    }
    let frames = if domain.is_hardware {
        let start = Mfn::new(gfn.as_u64());
        let end = start
            .checked_add(order.frames())
            .ok_or(SpaceError::OutOfRange)?;
        if !was_its_own(domain, start, end) {
            return Err(SpaceError::NotYours);
        }
        let frames = memory::free().lock().alloc_exact(MfnRange::new(start, end));
        frames.ok_or(SpaceError::NotYours)?.scrub(memory::zero)
    } else {
        memory::alloc_clean(order).ok_or(SpaceError::OutOfMemory)?
    };
    let range = memory::table().give(frames, domain.id, Role::Ram);
    let mapping = P2mMapping::new(range.start, P2mKind::Ram);
    let inserted = domain.p2m.lock().insert(
        (&mut DirectTables, &mut Tables),
        gfn,
        order.frames(),
        mapping,
    );
    match inserted {
        // nothing was mapped there before, so nothing is cached
        Ok(flush) => {
            let _ = flush.completed();
            domain.count_pages(i64::try_from(order.frames()).expect("an order is small"));
            Ok(())
        }
        Err(error) => {
            take_back(range);
            Err(error.into())
        }
    }
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

/// Maps a page that the domain shares with the hypervisor at `gfn`. RAM that is there goes; the page leaves its old place.
///
/// # Errors
/// [`SpaceError::NotYours`] where something else than RAM is there.
pub fn map_special<H: VcpuHw>(
    runner: &mut Runner<H>,
    mfn: Mfn,
    gfn: Gfn,
) -> Result<(), SpaceError> {
    let domain = runner.domain.clone();
    let old = domain.special_place(mfn);
    if old == Some(gfn) {
        return Ok(());
    }
    match release(runner, gfn) {
        Ok(()) | Err(SpaceError::NotThere) => {}
        Err(error) => return Err(error),
    }
    if let Some(old) = old {
        unmap(runner, old)?;
    }
    let held = memory::table()
        .acquire(mfn, domain.id)
        .map_err(|_| SpaceError::NotYours)?;
    let mapping = P2mMapping::new(held.mfn(), P2mKind::Special);
    let inserted = domain
        .p2m
        .lock()
        .insert((&mut DirectTables, &mut Tables), gfn, 1, mapping);
    match inserted {
        Ok(pending) => {
            let _ = held.into_mapping();
            let _ = flush(runner, pending);
            domain.set_special_place(mfn, Some(gfn));
            Ok(())
        }
        Err(error) => {
            if let Some(freed) = memory::table().put(held) {
                memory::give_back(freed);
            }
            Err(error.into())
        }
    }
}

/// Has every CPU that runs the domain drop its stale translations. One CPU runs guests, and it is this one.
fn flush<H: VcpuHw>(runner: &mut Runner<H>, pending: PendingFlush) -> FlushDone {
    if pending.is_needed() {
        runner.hw.flush_stage2(runner.domain.stage2);
    }
    pending.completed()
}
