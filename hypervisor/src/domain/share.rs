//! What a domain may take of the hypervisor's heap by what it does: handles of pages that it maps, records of grants,
//! ports.
//!
//! What grows is charged first. A guest gets an eighth of the heap at most, and all guests together a half, so that
//! whatever they do, the other half is there for the hardware domain, which serves them, and for whoever makes domains.
//! A little each guest gets in any case: what others have taken keeps none from working. Nothing grows into the last
//! reserve ([`memory::heap_has_room`]), which is for what cannot be refused.

use hv_hw::sync::atomic::{AtomicUsize, Ordering};

use crate::domain::domains;
use crate::machine::memory;

/// Of the heap, one guest may have one part in so many.
const ONE: usize = 8;
/// All guests together.
const ALL: usize = 2;
/// Bytes that a guest gets in any case: grants and ports of one with a few devices.
const LITTLE: usize = 128 << 10;

/// What one domain has of the heap. Dropped, all of it is returned.
#[derive(Debug)]
pub(crate) struct HeapShare {
    is_hardware: bool,
    bytes: AtomicUsize,
}

impl HeapShare {
    /// Of a new domain.
    #[must_use]
    pub(crate) const fn new(is_hardware: bool) -> Self {
        Self {
            is_hardware,
            bytes: AtomicUsize::new(0),
        }
    }

    /// Bytes that a guest has; the hardware domain's are not counted.
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Notes that something grows by `bytes`; false where it may not.
    #[must_use]
    pub(crate) fn charge(&self, bytes: usize) -> bool {
        if !memory::heap_has_room() {
            return false;
        }
        if self.is_hardware {
            return true;
        }
        let heap = memory::heap_bytes();
        let Some(own) = add(&self.bytes, bytes, LITTLE.max(heap / ONE)) else {
            return false;
        };
        let most = if own <= LITTLE {
            usize::MAX
        } else {
            heap / ALL
        };
        if add(&domains().guests_heap_bytes, bytes, most).is_none() {
            self.bytes.fetch_sub(bytes, Ordering::AcqRel);
            return false;
        }
        true
    }

    /// Notes that `bytes` that were charged are free again.
    pub(crate) fn uncharge(&self, bytes: usize) {
        let less = |now: usize| Some(now.saturating_sub(bytes));
        let before = self
            .bytes
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, less);
        let before = before.unwrap_or_else(|now| now);
        domains()
            .guests_heap_bytes
            .fetch_sub(before.min(bytes), Ordering::AcqRel);
    }
}

impl Drop for HeapShare {
    fn drop(&mut self) {
        self.uncharge(self.bytes());
    }
}

/// Adds to a count that stays within `most`: the sum, or `None` and nothing has changed.
fn add(count: &AtomicUsize, more: usize, most: usize) -> Option<usize> {
    let sum = |now: usize| now.checked_add(more).filter(|sum| *sum <= most);
    let before = count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, sum);
    before.ok().map(|before| before + more)
}
