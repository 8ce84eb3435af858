//! The guest's memory, copied in once and out once.

use guest_abi::errno::Errno;
use hv_core::addr::{Gfn, Gpa, Gva, Mfn, PAGE_BYTES};
use hv_core::mem::{GuestMem, NotRam};
use hv_core::p2m::{P2m, P2mCache, P2mEntry};
use hv_core::walk;
use hv_hw::direct_map::{self, DirectTables};
use hv_hw::sync::{RankedGuard, rank};
use hv_hw::virt::VcpuHw;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::domain::Domain;
use crate::pinned::Pinned;
use crate::vcpu::Runner;

/// A domain's memory while its p2m stands still.
pub struct DomainMemory<'a> {
    p2m: RankedGuard<'a, P2m, { rank::P2M }>,
    cache: &'a P2mCache,
}

impl<'a> DomainMemory<'a> {
    /// Locks the domain's p2m, of which `cache` remembers look-ups.
    #[inline]
    #[must_use]
    pub fn lock(domain: &'a Domain, cache: &'a P2mCache) -> Self {
        Self {
            p2m: domain.p2m.lock(),
            cache,
        }
    }

    /// What `gpa` is.
    #[inline(always)]
    fn entry(&self, gpa: Gpa) -> Option<P2mEntry> {
        // what the cache has is of the present generation, and none begins while the p2m is locked
        self.cache
            .lookup(&self.p2m, &DirectTables, Gfn::containing(gpa))
    }

    /// The frame behind `gpa`, for reading.
    #[inline(always)]
    fn readable(&self, gpa: Gpa) -> Result<Mfn, NotRam> {
        match self.entry(gpa) {
            Some(entry) if entry.is_readable_memory() => Ok(entry.mfn),
            _ => Err(NotRam(gpa)),
        }
    }

    #[inline]
    fn writable(&self, gpa: Gpa) -> Result<Mfn, NotRam> {
        match self.entry(gpa) {
            Some(entry) if entry.is_writable_memory() => Ok(entry.mfn),
            _ => Err(NotRam(gpa)),
        }
    }
}

impl GuestMem for DomainMemory<'_> {
    #[inline]
    fn read(&self, from: Gpa, to: &mut [u8]) -> Result<(), NotRam> {
        let mut at = from;
        let mut rest = to;
        while !rest.is_empty() {
            let length = rest.len().min(PAGE_BYTES - at.page_offset());
            let (part, tail) = rest.split_at_mut(length);
            let frame = self.readable(at)?;
            direct_map::read(frame.base() + at.page_offset() as u64, part)
                .map_err(|_| NotRam(at))?;
            rest = tail;
            at = at.checked_add(length as u64).ok_or(NotRam(at))?;
        }
        Ok(())
    }

    #[inline(always)]
    fn read_u64(&self, from: Gpa) -> Result<u64, NotRam> {
        use hv_core::mem::TableMem;
        let frame = self.readable(from)?;
        Ok(DirectTables.read(frame, from.page_offset() / 8))
    }

    #[inline]
    fn write(&mut self, to: Gpa, from: &[u8]) -> Result<(), NotRam> {
        let mut at = to;
        let mut rest = from;
        while !rest.is_empty() {
            let length = rest.len().min(PAGE_BYTES - at.page_offset());
            let (part, tail) = rest.split_at(length);
            let frame = self.writable(at)?;
            direct_map::write(frame.base() + at.page_offset() as u64, part)
                .map_err(|_| NotRam(at))?;
            rest = tail;
            at = at.checked_add(length as u64).ok_or(NotRam(at))?;
        }
        Ok(())
    }
}

impl<H: VcpuHw> Runner<H> {
    /// Copies a structure in from the guest's linear address space.
    ///
    /// # Errors
    /// EFAULT.
    #[inline]
    pub fn copy_in<T: FromBytes + IntoBytes>(&self, from: Gva) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.copy_bytes_in(from, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies a structure out.
    ///
    /// # Errors
    /// EFAULT.
    #[inline]
    pub fn copy_out<T: IntoBytes + Immutable>(&self, to: Gva, value: &T) -> Result<(), Errno> {
        self.copy_bytes_out(to, value.as_bytes())
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// EFAULT.
    #[inline(never)]
    pub fn copy_bytes_in(&self, from: Gva, to: &mut [u8]) -> Result<(), Errno> {
        let mode = self.paging_mode();
        let memory = DomainMemory::lock(&self.domain, &self.p2m_cache);
        walk::copy_in(&memory, &mode, from, to).map_err(|_| Errno::EFAULT)
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// EFAULT.
    #[inline(never)]
    pub fn copy_bytes_out(&self, to: Gva, from: &[u8]) -> Result<(), Errno> {
        let mode = self.paging_mode();
        let mut memory = DomainMemory::lock(&self.domain, &self.p2m_cache);
        walk::copy_out(&mut memory, &mode, to, from).map_err(|_| Errno::EFAULT)
    }

    /// Element `index` of an array of structures at `base`.
    ///
    /// # Errors
    /// EFAULT where it lies past the end of the address space.
    pub fn element<T>(&self, base: Gva, index: u64) -> Result<Gva, Errno> {
        let size = size_of::<T>() as u64;
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
        let memory = DomainMemory::lock(&self.domain, &self.p2m_cache);
        walk::translate(&memory, &mode, address, walk::Access::Write).map_err(|_| Errno::EFAULT)
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
    Pinned::new(mfn, domain.id).ok_or(Errno::EINVAL)
}
