//! The memory of a vCPU's guest, by linear addresses: copied in once, checked, and out once.

use guest_abi::compat::{Compat, Width};
use guest_abi::errno::Errno;
use hv_core::addr::{Gpa, Gva, PAGE_BYTES};
use hv_core::walk::{self, Access};
use hv_hw::virt::VcpuHw;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Runner;
use crate::guest_mem::DomainMemory;

impl<H: VcpuHw> Runner<H> {
    /// Copies a structure in from the guest's linear address space, in the layout of the caller's width.
    ///
    /// # Errors
    /// EFAULT.
    #[inline]
    pub(crate) fn copy_in<T: Compat>(&self, from: Gva) -> Result<T, Errno> {
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
        self.copy_value_in(from, &mut value)?;
        Ok(value)
    }

    /// As [`Self::copy_bytes_in`], for each size its own: most copies are of a few words, and half of such a copy was
    /// to find out how many.
    #[inline(never)]
    fn copy_value_in<T: FromBytes + IntoBytes>(
        &self,
        from: Gva,
        value: &mut T,
    ) -> Result<(), Errno> {
        self.copy_at_once_in(from, value.as_mut_bytes())
    }

    /// Copies several structures in that lie one after the other.
    ///
    /// # Errors
    /// EFAULT.
    #[inline]
    pub(crate) fn copy_in_all<T: Compat>(&self, from: Gva, to: &mut [T]) -> Result<(), Errno> {
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
    pub(crate) fn copy_out<T: Compat>(&self, to: Gva, value: &T) -> Result<(), Errno> {
        if T::IS_SAME || self.width == Width::Bits64 {
            self.copy_value_out(to, value)
        } else {
            self.copy_narrow_out(to, value)
        }
    }

    /// As [`Self::copy_bytes_out`], for each size its own.
    #[inline(never)]
    fn copy_value_out<T: IntoBytes + Immutable>(&self, to: Gva, value: &T) -> Result<(), Errno> {
        self.copy_at_once_out(to, value.as_bytes())
    }

    #[cold]
    #[inline(never)]
    fn copy_narrow_out<T: Compat>(&self, to: Gva, value: &T) -> Result<(), Errno> {
        self.copy_bytes_out(to, value.narrow().as_bytes())
    }

    /// Copies several structures out, one after the other.
    ///
    /// # Errors
    /// EFAULT.
    #[inline]
    pub(crate) fn copy_out_all<T: Compat>(&self, to: Gva, values: &[T]) -> Result<(), Errno> {
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
    pub(crate) fn copy_bytes_in(&self, from: Gva, to: &mut [u8]) -> Result<(), Errno> {
        self.copy_at_once_in(from, to)
    }

    /// Where all bytes are in one page that is remembered, they are copied at once.
    #[inline(always)]
    fn copy_at_once_in(&self, from: Gva, to: &mut [u8]) -> Result<(), Errno> {
        if to.len() <= PAGE_BYTES - from.page_offset() {
            let memory = DomainMemory::lock(&self.domain, &self.tlb);
            if let Some(frame) = memory.known_frame(&self.hw.paging(), from, Access::Read) {
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
    pub(crate) fn copy_bytes_out(&self, to: Gva, from: &[u8]) -> Result<(), Errno> {
        self.copy_at_once_out(to, from)
    }

    #[inline(always)]
    fn copy_at_once_out(&self, to: Gva, from: &[u8]) -> Result<(), Errno> {
        if from.len() <= PAGE_BYTES - to.page_offset() {
            let memory = DomainMemory::lock(&self.domain, &self.tlb);
            if let Some(frame) = memory.known_frame(&self.hw.paging(), to, Access::Write) {
                frame.write_bytes(to.page_offset(), from);
                return Ok(());
            }
        }
        self.copy_pieces_out(to, from)
    }

    #[inline(never)]
    fn copy_pieces_in(&self, from: Gva, to: &mut [u8]) -> Result<(), Errno> {
        let mode = self.hw.paging();
        let memory = DomainMemory::lock(&self.domain, &self.tlb);
        let mut rest = to;
        for (at, length) in from.page_pieces(rest.len()) {
            let (piece, tail) = rest.split_at_mut(length);
            let frame = memory.walk_to(&mode, at, Access::Read)?;
            frame.read_bytes(at.page_offset(), piece);
            rest = tail;
        }
        Ok(())
    }

    #[inline(never)]
    fn copy_pieces_out(&self, to: Gva, from: &[u8]) -> Result<(), Errno> {
        let mode = self.hw.paging();
        let memory = DomainMemory::lock(&self.domain, &self.tlb);
        let mut rest = from;
        for (at, length) in to.page_pieces(rest.len()) {
            let (piece, tail) = rest.split_at(length);
            let frame = memory.walk_to(&mode, at, Access::Write)?;
            frame.write_bytes(at.page_offset(), piece);
            rest = tail;
        }
        Ok(())
    }

    /// Element `index` of an array of structures at `base`.
    ///
    /// # Errors
    /// EFAULT where it lies past the end of the address space.
    pub(crate) fn element<T: Compat>(&self, base: Gva, index: u64) -> Result<Gva, Errno> {
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
    pub(crate) fn locate(&self, address: Gva) -> Result<Gpa, Errno> {
        let mode = self.hw.paging();
        let memory = DomainMemory::lock(&self.domain, &self.tlb);
        walk::translate(&memory, &mode, address, Access::Write).map_err(|_| Errno::EFAULT)
    }
}
