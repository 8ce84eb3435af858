//! Where the hypervisor's own image lies: linked at [`ImageLayout::VIRTUAL_OFFSET`], each permission with pages of its
//! own.

use hv_core::addr::{Mfn, MfnRange};

/// The parts of the loaded image, in host physical memory.
#[derive(Clone, Copy, Debug)]
pub struct ImageLayout {
    pub text: MfnRange,
    pub rodata: MfnRange,
    /// Variables and the boot CPU's stacks: writable.
    pub data: MfnRange,
}

impl ImageLayout {
    /// Linear address minus host physical address of every byte of the image.
    pub const VIRTUAL_OFFSET: u64 = 0xffff_ffff_8000_0000;

    #[must_use]
    pub fn whole(&self) -> MfnRange {
        let parts = [self.text, self.rodata, self.data];
        let start = parts
            .iter()
            .map(|part| part.start)
            .min()
            .unwrap_or_default();
        let end = parts.iter().map(|part| part.end).max().unwrap_or_default();
        MfnRange::new(start, end)
    }
    /// The linear address of the first byte of frame `mfn` of the image.
    #[must_use]
    pub fn address_of(mfn: Mfn) -> u64 {
        Self::VIRTUAL_OFFSET + mfn.base().as_u64()
    }
}
