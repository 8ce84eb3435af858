//! A shared frame for tests: one thread, so plain cells do for atomics.

use crate::addr::PAGE_BYTES;
use crate::mem::SharedWords;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

/// A frame; clones share it.
#[derive(Clone, Debug)]
pub(super) struct TestFrame(Rc<Vec<Cell<u8>>>);

impl TestFrame {
    pub(super) fn zeroed() -> Self {
        Self(Rc::new(alloc::vec![Cell::new(0); PAGE_BYTES]))
    }
    fn load<const N: usize>(&self, offset: usize) -> [u8; N] {
        assert!(offset.is_multiple_of(N));
        core::array::from_fn(|i| self.0[offset + i].get())
    }
    fn store<const N: usize>(&self, offset: usize, bytes: [u8; N]) {
        assert!(offset.is_multiple_of(N));
        for (i, byte) in bytes.into_iter().enumerate() {
            self.0[offset + i].set(byte);
        }
    }
}

impl SharedWords for TestFrame {
    fn load_u8(&self, offset: usize) -> u8 {
        u8::from_le_bytes(self.load(offset))
    }
    fn store_u8(&self, offset: usize, value: u8) {
        self.store(offset, value.to_le_bytes());
    }
    fn swap_u8(&self, offset: usize, value: u8) -> u8 {
        let before = self.load_u8(offset);
        self.store_u8(offset, value);
        before
    }
    fn load_u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.load(offset))
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.store(offset, value.to_le_bytes());
    }
    fn fetch_or_u32(&self, offset: usize, bits: u32) -> u32 {
        let before = self.load_u32(offset);
        self.store_u32(offset, before | bits);
        before
    }
    fn fetch_and_u32(&self, offset: usize, bits: u32) -> u32 {
        let before = self.load_u32(offset);
        self.store_u32(offset, before & bits);
        before
    }
    fn compare_exchange_u32(&self, offset: usize, current: u32, new: u32) -> Result<u32, u32> {
        let before = self.load_u32(offset);
        if before != current {
            return Err(before);
        }
        self.store_u32(offset, new);
        Ok(before)
    }
    fn load_u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.load(offset))
    }
    fn store_u64(&self, offset: usize, value: u64) {
        self.store(offset, value.to_le_bytes());
    }
    fn fetch_or_u64(&self, offset: usize, bits: u64) -> u64 {
        let before = self.load_u64(offset);
        self.store_u64(offset, before | bits);
        before
    }
    fn fetch_and_u64(&self, offset: usize, bits: u64) -> u64 {
        let before = self.load_u64(offset);
        self.store_u64(offset, before & bits);
        before
    }
}
