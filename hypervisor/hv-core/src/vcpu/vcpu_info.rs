//! The 64 bytes a vCPU shares with us (`public/xen.h, struct vcpu_info`): upcall flag, selector of pending words, time.
//!
//! The first 32 vCPUs start with theirs in the shared info frame; the guest may move each once, to anywhere in its
//! memory (`VCPUOP_register_vcpu_info`). The owner of the current place is `evtchn::EventChannels`. Of a 32-bit guest's
//! only the selector is in another place.

use core::mem::offset_of;

use guest_abi::compat::{Width, shared_info};
use guest_abi::xen;

use super::time::PvClock;
use crate::addr::PAGE_BYTES;
use crate::mem::SharedWords;

/// Bytes of a `vcpu_info`.
pub const VCPU_INFO_BYTES: usize = size_of::<xen::VcpuInfo>();
/// vCPUs that have a place in the shared info frame (`public/xen.h, XEN_LEGACY_MAX_VCPUS`).
pub const LEGACY_VCPUS: usize = xen::XEN_LEGACY_MAX_VCPUS;

const UPCALL_PENDING: usize = xen::VCPU_INFO_UPCALL_PENDING;
const UPCALL_MASK: usize = offset_of!(xen::VcpuInfo, evtchn_upcall_mask);
const PENDING_SEL: usize = xen::VCPU_INFO_PENDING_SEL;
const NARROW_SEL: usize = shared_info::VCPU_INFO_PENDING_SEL;
const ARCH: usize = offset_of!(xen::VcpuInfo, cr2);
const TIME: usize = xen::VCPU_INFO_TIME;

/// True where an info can start at byte `offset` of a frame: 8-aligned, and whole in it.
#[must_use]
pub fn fits(offset: u32) -> bool {
    usize::try_from(offset)
        .is_ok_and(|offset| offset.is_multiple_of(8) && offset <= PAGE_BYTES - VCPU_INFO_BYTES)
}

/// Where a vCPU's info is.
#[derive(Clone, Debug)]
pub struct VcpuInfo<F> {
    frame: F,
    offset: usize,
}

impl<F: SharedWords> VcpuInfo<F> {
    /// The info at byte `offset` of `frame`, or `None` where it does not fit ([`fits`]).
    #[must_use]
    pub fn new(frame: F, offset: u32) -> Option<Self> {
        let at = usize::try_from(offset).ok()?;
        fits(offset).then_some(Self { frame, offset: at })
    }

    /// The place in the shared info frame of vCPU `index`, or `None` from [`LEGACY_VCPUS`] on.
    #[must_use]
    pub fn in_shared_info(shared_info: F, index: u16) -> Option<Self> {
        (usize::from(index) < LEGACY_VCPUS).then(|| Self {
            frame: shared_info,
            offset: usize::from(index) * VCPU_INFO_BYTES,
        })
    }

    /// True while the guest has an upcall to take.
    #[must_use]
    pub fn is_upcall_pending(&self) -> bool {
        self.frame.load_u8(self.offset + UPCALL_PENDING) != 0
    }

    /// Sets the upcall flag. True where it was clear: the vCPU has to be kicked.
    #[must_use]
    pub fn raise_upcall(&self) -> bool {
        self.frame.swap_u8(self.offset + UPCALL_PENDING, 1) == 0
    }

    /// Marks the word of pending bits that holds `port`'s as worth a look. True where it was not.
    #[must_use]
    #[inline]
    pub fn select(&self, width: Width, port: u32) -> bool {
        match width {
            Width::Bits64 => {
                let bit = 1 << (port / 64 % 64);
                self.frame.fetch_or_u64(self.offset + PENDING_SEL, bit) & bit == 0
            }
            Width::Bits32 => {
                let bit = 1 << (port / 32 % 32);
                self.frame.fetch_or_u32(self.offset + NARROW_SEL, bit) & bit == 0
            }
        }
    }

    /// Takes over from `old` what the guest may rely on, then makes the guest look at everything once: an event that
    /// came in at the old place while the vCPU moved must not be lost.
    pub fn take_over(&self, width: Width, old: Option<&Self>) {
        if let Some(old) = old {
            let mask = old.frame.load_u8(old.offset + UPCALL_MASK);
            self.frame.store_u8(self.offset + UPCALL_MASK, mask);
            // The two places may overlap: read all before the first write.
            let mut words = [0; (VCPU_INFO_BYTES - ARCH) / 8];
            for (index, word) in words.iter_mut().enumerate() {
                *word = old.frame.load_u64(old.offset + ARCH + index * 8);
            }
            for (index, word) in words.iter().enumerate() {
                self.frame.store_u64(self.offset + ARCH + index * 8, *word);
            }
        }
        match width {
            Width::Bits64 => self.frame.store_u64(self.offset + PENDING_SEL, u64::MAX),
            Width::Bits32 => self.frame.store_u32(self.offset + NARROW_SEL, u32::MAX),
        }
        self.frame.store_u8(self.offset + UPCALL_PENDING, 1);
    }

    /// Tells the guest the time.
    pub fn write_time(&self, clock: &PvClock) {
        clock.write(&self.frame, self.offset + TIME);
    }
}
