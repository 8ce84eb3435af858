//! The guest's memory, copied in once and out once.

pub(crate) mod hypercall_page;
mod tlb;

use core::cell::RefCell;

use guest_abi::errno::Errno;
use hv_core::addr::{Gfn, Gpa, Gva};
use hv_core::mem::{GuestMem, NotRam};
use hv_core::p2m::{P2m, P2mCache, P2mEntry};
use hv_core::walk::{self, Access, PagingMode};
use hv_hw::direct_map::{DirectTables, SharedFrame, SharedWord};
use hv_hw::sync::{RankedGuard, rank};

use crate::domain::{Domain, pod};
use crate::machine::memory;
use crate::machine::pinned::Pinned;
use tlb::{LinearTlb, Record};

/// A frame of memory that the hypervisor may read on the guest's behalf.
#[derive(Clone, Copy)]
struct Ram {
    frame: SharedFrame,
    is_writable: bool,
}

/// What a vCPU remembers of its domain's memory: handles of the frames that it looked up last, and translations.
pub(crate) struct SoftwareTlb {
    frames: P2mCache<Ram>,
    translations: LinearTlb,
}

impl SoftwareTlb {
    /// Remembers nothing yet; `filler` is any frame.
    #[must_use]
    pub(crate) fn new(filler: SharedFrame) -> Self {
        Self {
            frames: P2mCache::new(Ram {
                frame: filler,
                is_writable: false,
            }),
            translations: LinearTlb::new(filler),
        }
    }
}

/// A domain's memory while its p2m stands still.
pub(crate) struct DomainMemory<'a> {
    domain: &'a Domain,
    p2m: RefCell<RankedGuard<'a, P2m, { rank::P2M }>>,
    tlb: &'a SoftwareTlb,
}

impl<'a> DomainMemory<'a> {
    /// Locks the domain's p2m, whose look-ups `tlb` remembers.
    #[inline]
    #[must_use]
    pub(crate) fn lock(domain: &'a Domain, tlb: &'a SoftwareTlb) -> Self {
        let p2m = domain.p2m.lock();
        if tlb.frames.renew(&p2m) {
            tlb.translations.forget();
        }
        let p2m = RefCell::new(p2m);
        Self { domain, p2m, tlb }
    }

    /// The frame behind `gpa`, for reading.
    #[inline(always)]
    fn readable(&self, gpa: Gpa) -> Result<Ram, NotRam> {
        let gfn = Gfn::containing(gpa);
        // what the TLB has is of the present generation: where one begins while the p2m is locked, it is renewed
        let known = self.tlb.frames.get(gfn);
        known.or_else(|| self.find(gfn)).ok_or(NotRam(gpa))
    }

    /// Looks a frame up that the TLB has not. Apart, so that a hit is short enough to be part of its caller.
    #[cold]
    #[inline(never)]
    fn find(&self, gfn: Gfn) -> Option<Ram> {
        let mut p2m = self.p2m.borrow_mut();
        let entry = match p2m.lookup(&DirectTables, gfn) {
            None if p2m.pod.is_active() => self.populate(&mut p2m, gfn),
            other => other,
        }?;
        if !entry.is_readable_memory() {
            return None;
        }
        let ram = Ram {
            frame: SharedFrame::new(entry.mfn)?,
            is_writable: entry.is_writable_memory(),
        };
        self.tlb.frames.keep(&p2m, gfn, ram);
        Some(ram)
    }

    /// Has a page populated that is so on demand. Others may have been taken back for it, of which nothing may be known
    /// then.
    #[cold]
    fn populate(&self, p2m: &mut P2m, gfn: Gfn) -> Option<P2mEntry> {
        let is_there = pod::bring(self.domain, p2m, gfn);
        if self.tlb.frames.renew(p2m) {
            self.tlb.translations.forget();
        }
        is_there.then(|| p2m.lookup(&DirectTables, gfn)).flatten()
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
        self.tlb.translations.find(mode, at, access)
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
        self.tlb
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

impl GuestMem for DomainMemory<'_> {
    fn read(&self, from: Gpa, to: &mut [u8]) -> Result<(), NotRam> {
        let mut rest = to;
        for (at, length) in from.page_pieces(rest.len()) {
            let (part, tail) = rest.split_at_mut(length);
            let ram = self.readable(at)?;
            ram.frame.read_bytes(at.page_offset(), part);
            rest = tail;
        }
        Ok(())
    }

    #[inline(always)]
    fn read_u64(&self, from: Gpa) -> Result<u64, NotRam> {
        Ok(self.word(from)?.load())
    }

    fn write(&mut self, to: Gpa, from: &[u8]) -> Result<(), NotRam> {
        let mut rest = from;
        for (at, length) in to.page_pieces(rest.len()) {
            let (part, tail) = rest.split_at(length);
            let ram = self.writable(at)?;
            ram.frame.write_bytes(at.page_offset(), part);
            rest = tail;
        }
        Ok(())
    }
}

/// Pins the guest's own frame at `gfn`.
///
/// # Errors
/// EINVAL where the guest has no RAM there; ENOMEM.
pub(crate) fn pin(domain: &Domain, gfn: Gfn) -> Result<Pinned, Errno> {
    let mut p2m = domain.p2m.lock();
    let entry = pod::own_ram(domain, &mut p2m, gfn);
    let mfn = entry.ok_or(Errno::EINVAL)?.mfn;
    if !memory::heap_has_room() {
        return Err(Errno::ENOMEM);
    }
    Pinned::new(mfn, domain.id).ok_or(Errno::EINVAL)
}
