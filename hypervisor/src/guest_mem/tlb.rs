//! Linear pages translated before, each with the page-table entries of which the translation was made.
//!
//! One holds as long as these entries read the same, under the same control registers, while the p2m has not changed: a
//! walk would read those very words, and end where it ended. So nothing has to be invalidated when a guest edits its
//! page tables, and a copy costs one look at each level instead of a walk.

use core::cell::{Cell, RefCell};

use arrayvec::ArrayVec;
use hv_core::addr::{Gpa, Gva, PAGE_SIZE};
use hv_core::mem::{GuestMem, NotRam};
use hv_core::walk::{Access, PagingMode};
use hv_hw::direct_map::{SharedFrame, SharedWord};

use crate::guest_mem::DomainMemory;

const SLOTS: usize = 8;
/// Levels of page tables in 64-bit mode; what needs more is not kept.
const LEVELS: usize = 4;
/// No page begins there.
const NO_PAGE: Gva = Gva::new(1);

/// The translations that a vCPU made last.
pub(super) struct LinearTlb {
    slots: [Slot; SLOTS],
}

struct Slot {
    page: Cell<Gva>,
    mode: Cell<PagingMode>,
    /// What was read on the way down; where that was less than [`LEVELS`] words, the last is there again.
    entries: [Cell<Entry>; LEVELS],
    frame: Cell<SharedFrame>,
    /// It was translated for writing, which includes reading.
    for_writing: Cell<bool>,
}

/// A word of a page table, and what it said.
#[derive(Clone, Copy)]
struct Entry {
    word: SharedWord,
    value: u64,
}

impl LinearTlb {
    /// None yet; `filler` is any frame.
    pub(super) fn new(filler: SharedFrame) -> Self {
        let entry = Entry {
            word: filler.word(0),
            value: 0,
        };
        Self {
            slots: core::array::from_fn(|_| Slot {
                page: Cell::new(NO_PAGE),
                mode: Cell::new(PagingMode::default()),
                entries: [entry; LEVELS].map(Cell::new),
                frame: Cell::new(filler),
                for_writing: Cell::new(false),
            }),
        }
    }

    /// Forgets all: the p2m has changed.
    #[cold]
    pub(super) fn forget(&self) {
        for slot in &self.slots {
            slot.page.set(NO_PAGE);
        }
    }

    /// The frame of the linear page that `at` lies in, where that is known. The caller has locked the p2m and had all
    /// forgotten if it changed.
    #[inline(always)]
    pub(super) fn find(&self, mode: &PagingMode, at: Gva, access: Access) -> Option<SharedFrame> {
        let slot = self.slot(at);
        let is_page = slot.page.get() == at.align_down(PAGE_SIZE)
            && (access == Access::Read || slot.for_writing.get());
        if !is_page || slot.mode.get() != *mode {
            return None;
        }
        for entry in &slot.entries {
            let entry = entry.get();
            if entry.word.load() != entry.value {
                return None;
            }
        }
        Some(slot.frame.get())
    }

    /// Keeps that the page of `at` is `frame`, if the walk's record allows it.
    pub(super) fn keep(
        &self,
        mode: &PagingMode,
        (at, access): (Gva, Access),
        frame: SharedFrame,
        record: Record<'_, '_>,
    ) {
        let entries = record.entries.into_inner();
        let (Some(last), true) = (entries.last(), entries.len() <= LEVELS) else {
            return;
        };
        let slot = self.slot(at);
        slot.page.set(at.align_down(PAGE_SIZE));
        slot.mode.set(*mode);
        slot.frame.set(frame);
        slot.for_writing.set(access == Access::Write);
        for (index, kept) in slot.entries.iter().enumerate() {
            kept.set(*entries.get(index).unwrap_or(last));
        }
    }

    #[inline(always)]
    fn slot(&self, at: Gva) -> &Slot {
        &self.slots[(at.as_u64() / PAGE_SIZE) as usize % SLOTS]
    }
}

/// A domain's memory that writes down which entries of page tables a walk reads. Tables of 4-byte entries leave no
/// record.
pub(super) struct Record<'a, 'm> {
    memory: &'a DomainMemory<'m>,
    entries: RefCell<ArrayVec<Entry, { LEVELS + 1 }>>,
}

impl<'a, 'm> Record<'a, 'm> {
    pub(super) fn of(memory: &'a DomainMemory<'m>) -> Self {
        Self {
            memory,
            entries: RefCell::new(ArrayVec::new()),
        }
    }
}

impl GuestMem for Record<'_, '_> {
    fn read(&self, from: Gpa, to: &mut [u8]) -> Result<(), NotRam> {
        self.memory.read(from, to)
    }

    #[inline]
    fn read_u64(&self, from: Gpa) -> Result<u64, NotRam> {
        let word = self.memory.word(from)?;
        let value = word.load();
        // a walk never reads more: five levels
        let _ = self.entries.borrow_mut().try_push(Entry { word, value });
        Ok(value)
    }

    /// Walks do not write.
    fn write(&mut self, to: Gpa, _from: &[u8]) -> Result<(), NotRam> {
        Err(NotRam(to))
    }
}
