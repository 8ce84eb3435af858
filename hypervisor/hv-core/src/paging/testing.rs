//! Memory for tables under test: counts what is live, refuses past a limit, and panics on a double free.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use super::ENTRIES;
use crate::addr::Mfn;
use crate::mem::{TableFrames, TableMem};

/// Frames of tables, shared between the two roles that code under test wants at once.
#[derive(Clone, Default)]
pub(crate) struct Arena {
    tables: Rc<RefCell<BTreeMap<u64, [u64; ENTRIES]>>>,
    made: Rc<Cell<u64>>,
    left: Rc<Cell<usize>>,
    reads: Rc<Cell<usize>>,
}

impl Arena {
    /// Memory for at most `limit` more tables at a time.
    pub(crate) fn with_limit(limit: usize) -> Self {
        let arena = Self::default();
        arena.left.set(limit);
        arena
    }
    /// How many tables are in use.
    pub(crate) fn live(&self) -> usize {
        self.tables.borrow().len()
    }
    /// True where the next few tables may be refused.
    pub(crate) fn is_short(&self) -> bool {
        self.left.get() < 10
    }
    /// Moves the limit to `left` more tables.
    pub(crate) fn set_left(&self, left: usize) {
        self.left.set(left);
    }
    /// How many entries were read since the last call.
    pub(crate) fn take_reads(&self) -> usize {
        self.reads.take()
    }
}

impl TableMem for Arena {
    fn read(&self, table: Mfn, index: usize) -> u64 {
        self.reads.set(self.reads.get() + 1);
        self.tables.borrow()[&table.as_u64()][index]
    }
    fn write(&mut self, table: Mfn, index: usize, entry: u64) {
        let mut tables = self.tables.borrow_mut();
        tables.get_mut(&table.as_u64()).expect("a live table")[index] = entry;
    }
}

impl TableFrames for Arena {
    fn alloc_table(&mut self) -> Option<Mfn> {
        self.left.set(self.left.get().checked_sub(1)?);
        self.made.set(self.made.get() + 1);
        let mfn = 0x1000_0000 + self.made.get();
        self.tables.borrow_mut().insert(mfn, [0; ENTRIES]);
        Some(Mfn::new(mfn))
    }
    fn free_table(&mut self, table: Mfn) {
        let freed = self.tables.borrow_mut().remove(&table.as_u64());
        assert!(freed.is_some(), "{table} is freed twice");
        self.left.set(self.left.get() + 1);
    }
}
