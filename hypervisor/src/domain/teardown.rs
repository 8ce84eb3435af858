//! Taking down the memory of a domain that is being destroyed, in steps of bounded length.
//!
//! First no new mapping is let in ([`close`]), then what is mapped goes ([`empty`]), then the tables ([`dismantle`]).
//! Leaves are taken out a batch at a time under one lock, for one flush; their frames are put after it. Next:
//! `destroy`.

use hv_hw::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use hv_core::addr::{Gfn, PageOrder};
use hv_core::p2m::{P2m, P2mEntry};
use hv_core::paging::Next;
use hv_core::paging::flush::PendingFlush;
use hv_hw::direct_map::DirectTables;
use hv_hw::virt::VcpuHw;

use crate::domain::space::{SpaceError, flush, put};
use crate::domain::{Domain, pod};
use crate::machine::memory;

/// Leaves that are flushed at once.
const BATCH: usize = 64;

/// How much a step does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Frames that it puts; a large leaf may make it a few hundred more.
    pub frames: u64,
    /// Entries of tables that it looks at, at least the 4 on the way down to a page.
    pub entries: u32,
}

/// Begins to take the domain's memory down: nothing is mapped from now on, and no memory is set aside for it.
pub(crate) fn close(domain: &Domain) {
    // under the lock, so that whoever maps has mapped, or sees it
    let p2m = domain.p2m.lock();
    domain.limits.is_closed.store(true, Ordering::Release);
    drop(p2m);
    let _ = memory::set_claim(&domain.limits.claim, 0);
    let _ = domain.limits.pool.resize(0);
}

/// Takes down what a closed domain has mapped, of which none of its vCPUs is running, within `budget`. True once
/// nothing is left; what others still use stays on its account until they are done.
///
/// Granted pages have to be [unmapped](super::grants::release_mappings) before.
pub(crate) fn empty<H: VcpuHw>(hw: &mut H, domain: &Domain, mut budget: Budget) -> bool {
    let cached = pod::drain(&mut domain.p2m.lock(), 0, budget.frames);
    budget.frames = budget.frames.saturating_sub(cached);
    loop {
        let mut p2m = domain.p2m.lock();
        let batch = take_batch(domain, &mut p2m, &mut budget);
        let done = flush(hw, domain, batch.pending);
        p2m.reclaim(&DirectTables, &mut domain.limits.tables(), &done);
        drop(p2m);
        for (entry, frames) in batch.leaves {
            put(entry, frames, &done);
        }
        match batch.end {
            End::Full => {}
            End::OutOfBudget => return false,
            End::Nothing => return true,
        }
    }
}

/// Leaves that are out of the tables: what was there, and how many frames; and the flush that they owe.
struct Batch {
    leaves: ArrayVec<(P2mEntry, u64), BATCH>,
    pending: PendingFlush,
    end: End,
}

/// Why a batch has no more leaves.
enum End {
    Full,
    OutOfBudget,
    Nothing,
}

fn take_batch(domain: &Domain, p2m: &mut P2m, budget: &mut Budget) -> Batch {
    let mut leaves = ArrayVec::new();
    let mut pending = PendingFlush::none(p2m.root());
    let end = loop {
        if budget.frames == 0 {
            break End::OutOfBudget;
        }
        if leaves.is_full() {
            break End::Full;
        }
        let (gfn, entry) = match next_leaf(domain, p2m, &mut budget.entries) {
            Next::Mapped(gfn, entry) => (gfn, entry),
            Next::Nothing => break End::Nothing,
            Next::NotYet(_) => break End::OutOfBudget,
        };
        let Some((frames, owed)) = take_leaf(domain, p2m, gfn, entry) else {
            break End::OutOfBudget;
        };
        pending = pending.and(owed);
        budget.frames = budget.frames.saturating_sub(frames);
        leaves.push((entry, frames));
    };
    Batch {
        leaves,
        pending,
        end,
    }
}

/// The first leaf that is left, found from where the last search ended.
fn next_leaf(domain: &Domain, p2m: &P2m, entries: &mut u32) -> Next<Gfn, P2mEntry> {
    let emptied_to = &domain.limits.emptied_to;
    let from = Gfn::new(emptied_to.load(Ordering::Relaxed));
    let next = p2m.next_mapped(&DirectTables, from, entries);
    if let Next::Mapped(gfn, _) | Next::NotYet(gfn) = next {
        emptied_to.store(gfn.as_u64(), Ordering::Relaxed);
    }
    next
}

/// Takes a leaf out, or of a larger one 2 MiB where there is a table to split it: its size, and the flush.
fn take_leaf(
    domain: &Domain,
    p2m: &mut P2m,
    gfn: Gfn,
    entry: P2mEntry,
) -> Option<(u64, PendingFlush)> {
    if entry.order == PageOrder::SIZE_4K {
        let memory = (&mut DirectTables, &mut domain.limits.tables());
        let (_, pending) = p2m.remove_page(memory, gfn).ok()??;
        return Some((1, pending));
    }
    for order in [entry.order.min(PageOrder::SIZE_2M), entry.order] {
        let removed = p2m.remove(
            (&mut DirectTables, &mut domain.limits.tables()),
            gfn,
            order.frames(),
            |_, _| {},
        );
        match removed {
            Ok(pending) => return Some((order.frames(), pending)),
            Err(error) => {
                let _ = SpaceError::from(error);
            }
        }
    }
    None
}

/// Gives back the tables of an [emptied](empty) domain's p2m, all but the root, looking at no more than `budget`
/// entries at a time. True once they are gone.
pub(crate) fn dismantle<H: VcpuHw>(hw: &mut H, domain: &Domain, budget: u32) -> bool {
    let mut p2m = domain.p2m.lock();
    let owed = PendingFlush::pages(p2m.root(), 0, 1);
    let done = flush(hw, domain, owed);
    p2m.dismantle(
        (&mut DirectTables, &mut domain.limits.tables()),
        &done,
        budget,
    )
}
