//! Frames for domains' page tables, set aside so that a machine without free memory ends no domain.
//!
//! A domain needs tables at moments when it asks for no memory: it gives a page out of a large leaf up, runs code in
//! one, or, as the hardware domain, touches a device for the first time. A balloon driver or a CPU takes no refusal
//! there. So each domain has a pool. Its toolstack sets the size before it claims memory (`public/domctl.h`,
//! XEN_DOMCTL_set_paging_mempool_size), the boot sets dom0's: enough to split all of its memory to single pages, and
//! some for what it maps beside. A pool is no list but a promise: as many free frames as it is larger than the domain
//! has tables are nobody else's, and count as taken already, so that a toolstack that looks for free memory finds what
//! it can give to another domain. Claims of others are kept beside pools, so a table from a pool heeds none. A domain
//! that outgrows its pool by mapping others' pages all over its address space gets further tables as long as memory is
//! free, up to its limit (`domain::space::set_max_pages`), and can be refused: it never takes from another's pool.

use hv_hw::sync::atomic::{AtomicU64, Ordering};

use hv_core::addr::{Mfn, MfnRange, PageOrder};
use hv_core::frame::Role;

use crate::machine::memory::{claimed_frames, free, table, zero};

/// How many free frames are set aside for page tables.
#[must_use]
pub(crate) fn set_aside() -> u64 {
    super::memory().set_aside.load(Ordering::Relaxed)
}

/// What one domain's page tables may count on. Dropped, nothing is set aside for it any longer.
#[derive(Debug, Default)]
pub(crate) struct TablePool {
    /// Tables that are promised, those that it has included.
    size: AtomicU64,
    /// Tables that it has. Both change only while the allocator is locked.
    used: AtomicU64,
}

impl TablePool {
    /// One of no size.
    #[must_use]
    pub(crate) const fn new() -> Self {
        Self {
            size: AtomicU64::new(0),
            used: AtomicU64::new(0),
        }
    }

    /// How many tables are promised.
    #[must_use]
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// How many tables the domain has; those of a map that was built before the domain do not count.
    #[must_use]
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Promises `frames` tables in all from now on. False where so many are not free; then nothing has changed.
    #[must_use]
    pub(crate) fn resize(&self, frames: u64) -> bool {
        let free = free().lock();
        let old = self.size().saturating_sub(self.used());
        let new = frames.saturating_sub(self.used());
        let Some(all) = (set_aside() - old).checked_add(new) else {
            return false;
        };
        let taken = all.checked_add(claimed_frames());
        if new > old && taken.is_none_or(|taken| taken > free.free_frames()) {
            return false;
        }
        super::memory().set_aside.store(all, Ordering::Relaxed);
        self.size.store(frames, Ordering::Relaxed);
        true
    }

    /// A zeroed frame for a table. Beyond the pool's size it comes from what is nobody's, up to `max` tables in all;
    /// `None` where there is none.
    #[must_use]
    pub(crate) fn alloc(&self, max: u64) -> Option<Mfn> {
        let frames = {
            let mut free = free().lock();
            let (used, all) = (self.used(), set_aside());
            let is_promised = used < self.size();
            if !is_promised && (used >= max || free.free_frames() <= all + claimed_frames()) {
                return None;
            }
            let frames = free.alloc(PageOrder::SIZE_4K)?;
            self.used.store(used + 1, Ordering::Relaxed);
            super::memory()
                .set_aside
                .store(all - u64::from(is_promised), Ordering::Relaxed);
            frames
        };
        let frames = frames.scrub(zero).into_owned();
        Some(table().keep(frames, Role::Table).start)
    }

    /// Takes a table's frame back.
    pub(crate) fn give_back(&self, mfn: Mfn) {
        let frames = table().unkeep(MfnRange::new(mfn, mfn + 1));
        let mut free = free().lock();
        free.free(frames);
        let Some(used) = self.used().checked_sub(1) else {
            return;
        };
        self.used.store(used, Ordering::Relaxed);
        let is_promised = used < self.size();
        super::memory()
            .set_aside
            .store(set_aside() + u64::from(is_promised), Ordering::Relaxed);
    }
}

impl Drop for TablePool {
    fn drop(&mut self) {
        if self.size() > 0 {
            let _ = self.resize(0);
        }
    }
}
