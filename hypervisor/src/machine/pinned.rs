//! A guest's frame that the hypervisor reads and writes for as long as it likes: the frame stays, whatever the guest
//! does with its memory meanwhile.

use alloc::sync::Arc;

use hv_core::addr::Mfn;
use hv_core::domid::DomId;
use hv_core::frame::FrameUse;
use hv_core::mem::SharedWords;
use hv_hw::direct_map::SharedFrame;

use crate::machine::memory;

/// A frame with one use of it held.
#[derive(Clone, Debug)]
pub(crate) struct Pinned {
    frame: SharedFrame,
    _held: Arc<Held>,
}

#[derive(Debug)]
struct Held(Option<FrameUse>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(held) = self.0.take()
            && let Some(freed) = memory::table().put(held)
        {
            memory::give_back(freed);
        }
    }
}

impl Pinned {
    /// Takes a use of frame `mfn` of domain `domid`; `None` where it is not a page of that domain, or has too many
    /// uses.
    #[must_use]
    pub(crate) fn new(mfn: Mfn, domid: DomId) -> Option<Self> {
        let held = memory::table().acquire(mfn, domid).ok()?;
        // dropped on failure below, which puts the use back
        let held = Arc::new(Held(Some(held)));
        Some(Self {
            frame: SharedFrame::new(mfn)?,
            _held: held,
        })
    }
    #[must_use]
    pub(crate) fn mfn(&self) -> Mfn {
        self.frame.mfn()
    }
}

impl SharedWords for Pinned {
    #[inline]
    fn load_u8(&self, offset: usize) -> u8 {
        self.frame.load_u8(offset)
    }
    #[inline]
    fn store_u8(&self, offset: usize, value: u8) {
        self.frame.store_u8(offset, value);
    }
    #[inline]
    fn swap_u8(&self, offset: usize, value: u8) -> u8 {
        self.frame.swap_u8(offset, value)
    }
    #[inline]
    fn load_u32(&self, offset: usize) -> u32 {
        self.frame.load_u32(offset)
    }
    #[inline]
    fn store_u32(&self, offset: usize, value: u32) {
        self.frame.store_u32(offset, value);
    }
    #[inline]
    fn fetch_or_u32(&self, offset: usize, bits: u32) -> u32 {
        self.frame.fetch_or_u32(offset, bits)
    }
    #[inline]
    fn fetch_and_u32(&self, offset: usize, bits: u32) -> u32 {
        self.frame.fetch_and_u32(offset, bits)
    }
    #[inline]
    fn compare_exchange_u32(&self, offset: usize, current: u32, new: u32) -> Result<u32, u32> {
        self.frame.compare_exchange_u32(offset, current, new)
    }
    #[inline]
    fn load_u64(&self, offset: usize) -> u64 {
        self.frame.load_u64(offset)
    }
    #[inline]
    fn store_u64(&self, offset: usize, value: u64) {
        self.frame.store_u64(offset, value);
    }
    #[inline]
    fn fetch_or_u64(&self, offset: usize, bits: u64) -> u64 {
        self.frame.fetch_or_u64(offset, bits)
    }
    #[inline]
    fn fetch_and_u64(&self, offset: usize, bits: u64) -> u64 {
        self.frame.fetch_and_u64(offset, bits)
    }
}
