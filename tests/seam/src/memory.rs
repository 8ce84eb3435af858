//! Frames for page tables and guests: one after the other, never given back.

use hv_core::addr::{Mfn, MfnRange, PageOrder};
use hv_core::mem::TableFrames;
use hv_hw::direct_map;

/// Free frames.
pub(crate) struct Frames {
    next: Mfn,
    end: Mfn,
}

impl Frames {
    pub(crate) fn new(free: MfnRange) -> Self {
        Self {
            next: free.start,
            end: free.end,
        }
    }

    /// A zeroed block, aligned to its size.
    ///
    /// # Panics
    /// Where memory is out.
    pub(crate) fn block(&mut self, order: PageOrder) -> MfnRange {
        let start = Mfn::new(self.next.as_u64().next_multiple_of(order.frames()));
        let end = start + order.frames();
        assert!(end <= self.end, "the checks need more memory");
        self.next = end;
        for frame in start.as_u64()..end.as_u64() {
            direct_map::zero_frame(Mfn::new(frame));
        }
        MfnRange::new(start, end)
    }

    /// A zeroed frame.
    pub(crate) fn one(&mut self) -> Mfn {
        self.block(PageOrder::SIZE_4K).start
    }
}

impl TableFrames for Frames {
    fn alloc_table(&mut self) -> Option<Mfn> {
        Some(self.one())
    }
    fn free_table(&mut self, _table: Mfn) {}
}
