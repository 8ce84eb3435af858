//! The guest's memory, copied in once and out once.

use guest_abi::compat::{Compat, Width};
use guest_abi::errno::Errno;
use hv_core::addr::{Gfn, Gpa, Gva, PAGE_BYTES};
use hv_core::mem::{GuestMem, NotRam};
use hv_core::p2m::{P2m, P2mCache};
use hv_core::walk::{self, Access};
use hv_hw::direct_map::{DirectTables, SharedFrame, SharedWord};
use hv_hw::sync::{RankedGuard, rank};
use hv_hw::virt::VcpuHw;
use zerocopy::{FromBytes, IntoBytes};

use super::translations::{Record, Translations};
use crate::domain::Domain;
use crate::memory;
use crate::pinned::Pinned;
use crate::vcpu::Runner;

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

impl<H: VcpuHw> Runner<H> {
    /// Copies a structure in from the guest's linear address space, in the layout of the caller's width.
    ///
    /// # Errors
    /// EFAULT.
    #[inline]
    pub fn copy_in<T: Compat>(&self, from: Gva) -> Result<T, Errno> {
        if T::IS_SAME || self.width == Width::Bits64 {
            self.copy_plain_in(from)
        } else {
            self.copy_narrow_in(from)
        }
    }

    #[cold]
    #[inline(never)]
    fn copy_narrow_in<T: Compat>(&self, from: Gva) -> Result<T, Errno> {
        self.copy_plain_in(from).map(T::widen)
    }

    #[inline]
    fn copy_plain_in<T: FromBytes + IntoBytes>(&self, from: Gva) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.copy_bytes_in(from, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies several structures in that lie one behind the other.
    ///
    /// # Errors
    /// EFAULT.
    #[inline]
    pub fn copy_in_all<T: Compat>(&self, from: Gva, to: &mut [T]) -> Result<(), Errno> {
        if T::IS_SAME || self.width == Width::Bits64 {
            return self.copy_bytes_in(from, to.as_mut_bytes());
        }
        for (index, value) in (0..).zip(to) {
            *value = self.copy_narrow_in(self.element::<T>(from, index)?)?;
        }
        Ok(())
    }

    /// Copies a structure out, in the layout of the caller's width.
    ///
    /// # Errors
    /// EFAULT.
    #[inline]
    pub fn copy_out<T: Compat>(&self, to: Gva, value: &T) -> Result<(), Errno> {
        if T::IS_SAME || self.width == Width::Bits64 {
            self.copy_bytes_out(to, value.as_bytes())
        } else {
            self.copy_narrow_out(to, value)
        }
    }

    #[cold]
    #[inline(never)]
    fn copy_narrow_out<T: Compat>(&self, to: Gva, value: &T) -> Result<(), Errno> {
        self.copy_bytes_out(to, value.narrow().as_bytes())
    }

    /// Copies several structures out, one behind the other.
    ///
    /// # Errors
    /// EFAULT.
    #[inline]
    pub fn copy_out_all<T: Compat>(&self, to: Gva, values: &[T]) -> Result<(), Errno> {
        if T::IS_SAME || self.width == Width::Bits64 {
            return self.copy_bytes_out(to, values.as_bytes());
        }
        for (index, value) in (0..).zip(values) {
            self.copy_narrow_out(self.element::<T>(to, index)?, value)?;
        }
        Ok(())
    }

    /// Copies bytes in, each read once.
    ///
    /// # Errors
    /// EFAULT.
    #[inline(never)]
    pub fn copy_bytes_in(&self, from: Gva, to: &mut [u8]) -> Result<(), Errno> {
        if to.len() <= PAGE_BYTES - from.page_offset() {
            let memory = DomainMemory::lock(&self.domain, &self.memo);
            if let Some(frame) = self.known_frame(&memory, from, Access::Read) {
                frame.read_bytes(from.page_offset(), to);
                return Ok(());
            }
        }
        self.copy_pieces_in(from, to)
    }

    /// Copies bytes out; the pages before one that faults are written.
    ///
    /// # Errors
    /// EFAULT.
    #[inline(never)]
    pub fn copy_bytes_out(&self, to: Gva, from: &[u8]) -> Result<(), Errno> {
        if from.len() <= PAGE_BYTES - to.page_offset() {
            let memory = DomainMemory::lock(&self.domain, &self.memo);
            if let Some(frame) = self.known_frame(&memory, to, Access::Write) {
                frame.write_bytes(to.page_offset(), from);
                return Ok(());
            }
        }
        self.copy_pieces_out(to, from)
    }

    /// The frame of the linear page that `at` lies in, where it was translated before.
    #[inline(always)]
    fn known_frame(
        &self,
        memory: &DomainMemory<'_>,
        at: Gva,
        access: Access,
    ) -> Option<SharedFrame> {
        let mode = self.paging_mode();
        memory.memo.translations.find(&mode, at, access)
    }

    #[inline(never)]
    fn copy_pieces_in(&self, from: Gva, to: &mut [u8]) -> Result<(), Errno> {
        let memory = DomainMemory::lock(&self.domain, &self.memo);
        let mut rest = to;
        for (at, length) in walk::page_chunks(from, rest.len()) {
            let (piece, tail) = rest.split_at_mut(length);
            let frame = self.walk_to(&memory, at, Access::Read)?;
            frame.read_bytes(at.page_offset(), piece);
            rest = tail;
        }
        Ok(())
    }

    #[inline(never)]
    fn copy_pieces_out(&self, to: Gva, from: &[u8]) -> Result<(), Errno> {
        let memory = DomainMemory::lock(&self.domain, &self.memo);
        let mut rest = from;
        for (at, length) in walk::page_chunks(to, rest.len()) {
            let (piece, tail) = rest.split_at(length);
            let frame = self.walk_to(&memory, at, Access::Write)?;
            frame.write_bytes(at.page_offset(), piece);
            rest = tail;
        }
        Ok(())
    }

    /// The frame of the linear page that `at` lies in, by a walk of the guest's page tables, which is remembered.
    #[inline(never)]
    fn walk_to(
        &self,
        memory: &DomainMemory<'_>,
        at: Gva,
        access: Access,
    ) -> Result<SharedFrame, Errno> {
        let mode = self.paging_mode();
        let record = Record::of(memory);
        let gpa = walk::translate(&record, &mode, at, access).map_err(|_| Errno::EFAULT)?;
        let ram = match access {
            Access::Read | Access::UserRead => memory.readable(gpa),
            Access::Write => memory.writable(gpa),
        };
        let frame = ram.map_err(|NotRam(_)| Errno::EFAULT)?.frame;
        self.memo
            .translations
            .keep(&mode, (at, access), frame, record);
        Ok(frame)
    }

    /// Element `index` of an array of structures at `base`.
    ///
    /// # Errors
    /// EFAULT where it lies past the end of the address space.
    pub fn element<T: Compat>(&self, base: Gva, index: u64) -> Result<Gva, Errno> {
        let size = T::bytes(self.width) as u64;
        index
            .checked_mul(size)
            .and_then(|offset| base.checked_add(offset))
            .ok_or(Errno::EFAULT)
    }

    /// Where a linear address is now in the guest's memory, writable.
    ///
    /// # Errors
    /// EFAULT.
    pub fn locate(&self, address: Gva) -> Result<Gpa, Errno> {
        let mode = self.paging_mode();
        let memory = DomainMemory::lock(&self.domain, &self.memo);
        walk::translate(&memory, &mode, address, Access::Write).map_err(|_| Errno::EFAULT)
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
