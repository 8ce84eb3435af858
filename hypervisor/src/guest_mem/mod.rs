//! The guest's memory, copied in once and out once.

pub mod hypercall_page;
mod tlb;

use guest_abi::errno::Errno;
use hv_core::addr::{Gfn, Gpa, Gva, PAGE_BYTES};
use hv_core::mem::{GuestMem, NotRam};
use hv_core::p2m::{P2m, P2mCache};
use hv_core::walk::{self, Access, PagingMode};
use hv_hw::direct_map::{DirectTables, SharedFrame, SharedWord};
use hv_hw::sync::{RankedGuard, rank};

use crate::domain::Domain;
use crate::machine::memory;
use crate::machine::pinned::Pinned;
use tlb::{Record, Translations};

/// A frame of memory that the hypervisor may read on the guest's behalf.
#[derive(Clone, Copy)]
struct Ram {
    frame: SharedFrame,
    is_writable: bool,
}

/// What a vCPU remembers of its domain's memory: handles of the frames that it looked up last, and translations.
pub struct Memo {
    frames: P2mCache<Ram>,
    translations: Translations,
}

impl Memo {
    /// Remembers nothing yet; `filler` is any frame.
    #[must_use]
    pub fn new(filler: SharedFrame) -> Self {
        Self {
            frames: P2mCache::new(Ram {
                frame: filler,
                is_writable: false,
            }),
            translations: Translations::new(filler),
        }
    }
}

/// A domain's memory while its p2m stands still.
pub struct DomainMemory<'a> {
    p2m: RankedGuard<'a, P2m, { rank::P2M }>,
    memo: &'a Memo,
}

impl<'a> DomainMemory<'a> {
    /// Locks the domain's p2m, of which `memo` remembers look-ups.
    #[inline]
    #[must_use]
    pub fn lock(domain: &'a Domain, memo: &'a Memo) -> Self {
        let p2m = domain.p2m.lock();
        if memo.frames.renew(&p2m) {
            memo.translations.forget();
        }
        Self { p2m, memo }
    }

    /// The frame behind `gpa`, for reading.
    #[inline(always)]
    fn readable(&self, gpa: Gpa) -> Result<Ram, NotRam> {
        // what the memo has is of the present generation, and none begins while the p2m is locked
        self.memo
            .frames
            .lookup(&self.p2m, Gfn::containing(gpa), find)
            .ok_or(NotRam(gpa))
    }

    /// The word of 8 bytes that `gpa` lies in.
    #[inline(always)]
    pub(super) fn word(&self, gpa: Gpa) -> Result<SharedWord, NotRam> {
        Ok(self.readable(gpa)?.frame.word(gpa.page_offset() / 8))
    }

    /// The frame of the linear page that `at` lies in, where it was translated before.
    #[inline(always)]
    pub(crate) fn known_frame(
        &self,
        mode: &PagingMode,
        at: Gva,
        access: Access,
    ) -> Option<SharedFrame> {
        self.memo.translations.find(mode, at, access)
    }

    /// The frame of the linear page that `at` lies in, by a walk of the guest's page tables, which is remembered.
    ///
    /// # Errors
    /// EFAULT.
    #[inline(never)]
    pub(crate) fn walk_to(
        &self,
        mode: &PagingMode,
        at: Gva,
        access: Access,
    ) -> Result<SharedFrame, Errno> {
        let record = Record::of(self);
        let gpa = walk::translate(&record, mode, at, access).map_err(|_| Errno::EFAULT)?;
        let ram = match access {
            Access::Read | Access::UserRead => self.readable(gpa),
            Access::Write => self.writable(gpa),
        };
        let frame = ram.map_err(|NotRam(_)| Errno::EFAULT)?.frame;
        self.memo
            .translations
            .keep(mode, (at, access), frame, record);
        Ok(frame)
    }

    #[inline(always)]
    fn writable(&self, gpa: Gpa) -> Result<Ram, NotRam> {
        self.readable(gpa)
            .and_then(|ram| ram.is_writable.then_some(ram).ok_or(NotRam(gpa)))
    }
}

/// Looks a frame up that the memo has not. Apart, so that a hit is short enough to be part of its caller.
#[cold]
#[inline(never)]
fn find(p2m: &P2m, gfn: Gfn) -> Option<Ram> {
    let entry = p2m.lookup(&DirectTables, gfn)?;
    if !entry.is_readable_memory() {
        return None;
    }
    Some(Ram {
        frame: SharedFrame::new(entry.mfn)?,
        is_writable: entry.is_writable_memory(),
    })
}

impl GuestMem for DomainMemory<'_> {
    fn read(&self, from: Gpa, to: &mut [u8]) -> Result<(), NotRam> {
        let mut at = from;
        let mut rest = to;
        while !rest.is_empty() {
            let length = rest.len().min(PAGE_BYTES - at.page_offset());
            let (part, tail) = rest.split_at_mut(length);
            let ram = self.readable(at)?;
            ram.frame.read_bytes(at.page_offset(), part);
            rest = tail;
            at = at.checked_add(length as u64).ok_or(NotRam(at))?;
        }
        Ok(())
    }

    #[inline(always)]
    fn read_u64(&self, from: Gpa) -> Result<u64, NotRam> {
        Ok(self.word(from)?.load())
    }

    fn write(&mut self, to: Gpa, from: &[u8]) -> Result<(), NotRam> {
        let mut at = to;
        let mut rest = from;
        while !rest.is_empty() {
            let length = rest.len().min(PAGE_BYTES - at.page_offset());
            let (part, tail) = rest.split_at(length);
            let ram = self.writable(at)?;
            ram.frame.write_bytes(at.page_offset(), part);
            rest = tail;
            at = at.checked_add(length as u64).ok_or(NotRam(at))?;
        }
        Ok(())
    }
}

/// Holds the guest's own frame at `gfn`.
///
/// # Errors
/// EINVAL where the guest has no RAM there.
pub fn pin(domain: &Domain, gfn: Gfn) -> Result<Pinned, Errno> {
    let p2m = domain.p2m.lock();
    let entry = p2m
        .lookup(&DirectTables, gfn)
        .filter(|entry| entry.kind.is_own_ram());
    let mfn = entry.ok_or(Errno::EINVAL)?.mfn;
    if !memory::heap_has_room() {
        return Err(Errno::ENOMEM);
    }
    Pinned::new(mfn, domain.id).ok_or(Errno::EINVAL)
}
