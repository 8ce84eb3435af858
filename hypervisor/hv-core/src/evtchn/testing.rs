//! The test double of a guest frame: plain bytes that clones share, as guest and hypervisor share a page.

use std::cell::RefCell;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use crate::addr::PAGE_BYTES;
use crate::mem::SharedWords;

/// What others do at the same time: runs before each access.
pub(crate) type Meanwhile = Rc<dyn Fn()>;

/// One zeroed frame. Clones are the same frame.
#[derive(Clone)]
pub(crate) struct TestFrame {
    bytes: Rc<RefCell<Vec<u8>>>,
    meanwhile: Option<Meanwhile>,
}

impl TestFrame {
    pub(crate) fn new() -> Self {
        Self {
            bytes: Rc::new(RefCell::new(vec![0; PAGE_BYTES])),
            meanwhile: None,
        }
    }

    /// The same frame, seen by one that is not alone with it.
    pub(crate) fn raced_by(&self, meanwhile: &Meanwhile) -> Self {
        Self {
            bytes: self.bytes.clone(),
            meanwhile: Some(meanwhile.clone()),
        }
    }

    fn update<const N: usize>(
        &self,
        offset: usize,
        change: impl FnOnce([u8; N]) -> [u8; N],
    ) -> [u8; N] {
        assert!(offset.is_multiple_of(N), "unaligned access at {offset}");
        if let Some(meanwhile) = &self.meanwhile {
            meanwhile();
        }
        let mut bytes = self.bytes.borrow_mut();
        let place = &mut bytes[offset..offset + N];
        let before = <[u8; N]>::try_from(&*place).expect("N bytes");
        place.copy_from_slice(&change(before));
        before
    }

    fn update_u32(&self, offset: usize, change: impl FnOnce(u32) -> u32) -> u32 {
        u32::from_le_bytes(self.update(offset, |b| change(u32::from_le_bytes(b)).to_le_bytes()))
    }

    fn update_u64(&self, offset: usize, change: impl FnOnce(u64) -> u64) -> u64 {
        u64::from_le_bytes(self.update(offset, |b| change(u64::from_le_bytes(b)).to_le_bytes()))
    }
}

impl SharedWords for TestFrame {
    fn load_u8(&self, offset: usize) -> u8 {
        self.update(offset, |b: [u8; 1]| b)[0]
    }
    fn store_u8(&self, offset: usize, value: u8) {
        self.swap_u8(offset, value);
    }
    fn swap_u8(&self, offset: usize, value: u8) -> u8 {
        self.update(offset, |_| [value])[0]
    }
    fn load_u32(&self, offset: usize) -> u32 {
        self.update_u32(offset, |word| word)
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.update_u32(offset, |_| value);
    }
    fn fetch_or_u32(&self, offset: usize, bits: u32) -> u32 {
        self.update_u32(offset, |word| word | bits)
    }
    fn fetch_and_u32(&self, offset: usize, bits: u32) -> u32 {
        self.update_u32(offset, |word| word & bits)
    }
    fn compare_exchange_u32(&self, offset: usize, current: u32, new: u32) -> Result<u32, u32> {
        let found = self.update_u32(offset, |word| if word == current { new } else { word });
        if found == current {
            Ok(found)
        } else {
            Err(found)
        }
    }
    fn load_u64(&self, offset: usize) -> u64 {
        self.update_u64(offset, |word| word)
    }
    fn store_u64(&self, offset: usize, value: u64) {
        self.update_u64(offset, |_| value);
    }
    fn fetch_or_u64(&self, offset: usize, bits: u64) -> u64 {
        self.update_u64(offset, |word| word | bits)
    }
    fn fetch_and_u64(&self, offset: usize, bits: u64) -> u64 {
        self.update_u64(offset, |word| word & bits)
    }
}
