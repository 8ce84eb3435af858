//! Walks a guest's own page tables, as the CPU would: guest linear → guest physical.
//!
//! Used wherever the guest hands us a linear address: the buffers of hypercalls, and the bytes of an instruction that
//! touched emulated MMIO. It is the memory of the guest's *kernel*, whatever it says: the user/supervisor bit, SMAP and
//! NX are ignored on purpose, because the kernel forwards buffers of its own processes (privcmd); but for an access
//! that a process makes itself ([`Access::UserRead`]). Write permission is
//! honoured as for a supervisor access: a read-only page is refused while CR0.WP is set. Accessed and dirty bits are
//! not set. Tables are read with [`GuestMem::read_u64`], once per level.
//!
//! [`copy_in`] and [`copy_out`] serve exits; hypercalls keep translations (`guest_mem` of the hypervisor).

#[cfg(test)]
mod tests;

use crate::addr::{Gpa, Gva};
use crate::mem::GuestMem;
use crate::x86::{CR0_PG, CR0_WP, CR4_LA57, CR4_PAE, CR4_PSE, EFER_LMA};

/// The control registers that decide how linear addresses are translated. All zero: no paging.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PagingMode {
    /// CR0: PG and WP count.
    pub cr0: u64,
    /// CR3: where the top table is.
    pub cr3: u64,
    /// CR4: PSE, PAE and LA57 count.
    pub cr4: u64,
    pub efer: u64,
}

/// What the access wants to do with the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    Write,
    /// Load by a process of the guest.
    UserRead,
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
    /// The page is the kernel's and the access is a process's.
    Supervisor,
    /// A table, or the page itself, is not RAM of the guest.
    NotRam(Gpa),
}

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
/// Bits 51:12 of an entry of 8 bytes: where the next table or the page is.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Translates `address` for an access of the guest's kernel.
///
/// Source: Intel SDM vol. 3A, "Paging". A frame above the guest's physical width is not singled out as a reserved bit:
/// it is not RAM, which ends the same way.
///
/// # Errors
/// See [`WalkFault`]; nothing has been changed in any case.
#[inline(always)]
pub fn translate<M: GuestMem + ?Sized>(
    mem: &M,
    mode: &PagingMode,
    address: Gva,
    access: Access,
) -> Result<Gpa, WalkFault> {
    let needed = match access {
        Access::Write => (mode.cr0 & CR0_WP) >> 15,
        Access::UserRead => USER,
        Access::Read => 0,
    };
    if mode.efer & EFER_LMA != 0 && mode.cr0 & CR0_PG != 0 {
        return walk_long(mem, mode, address, needed);
    }
    if address.as_u64() > u64::from(u32::MAX) {
        return Err(WalkFault::NotCanonical);
    }
    if mode.cr0 & CR0_PG == 0 {
        Ok(Gpa::new(address.as_u64()))
    } else if mode.cr4 & CR4_PAE != 0 {
        walk_pae(mem, mode, address, needed)
    } else {
        walk_32(mem, mode, address, needed)
    }
}

/// True where the CPU loads `entry` as a top entry of PAE paging: one that is present has no reserved bit set, with
/// `physical_bits` to an address. SDM vol. 3A, "PAE Page-Directory-Pointer-Table Entry".
#[must_use]
pub const fn pdpte_is_valid(entry: u64, physical_bits: u32) -> bool {
    const RESERVED_LOW: u64 = 0x1e6;
    let addressable = u64::MAX
        >> (64
            - if physical_bits < 52 {
                physical_bits
            } else {
                52
            });
    entry & PRESENT == 0 || entry & (RESERVED_LOW | !addressable) == 0
}

/// Long mode: four levels, five with CR4.LA57.
#[inline(always)]
fn walk_long<M: GuestMem + ?Sized>(
    mem: &M,
    mode: &PagingMode,
    address: Gva,
    needed: u64,
) -> Result<Gpa, WalkFault> {
    let top_shift = if mode.cr4 & CR4_LA57 != 0 { 48 } else { 39 };
    // The bits from the highest translated one upwards are all equal.
    let sign = address.as_u64() >> (top_shift + 8);
    if sign != 0 && sign != u64::MAX >> (top_shift + 8) {
        return Err(WalkFault::NotCanonical);
    }
    descend(mem, mode.cr3 & FRAME, top_shift, address, needed)
}

/// PAE without long mode: four pointers at CR3, then two levels. The CPU caches the pointers when CR3 is loaded;
/// reading them again differs only for a guest that changed them and has not reloaded CR3 yet.
#[cold]
fn walk_pae<M: GuestMem + ?Sized>(
    mem: &M,
    mode: &PagingMode,
    address: Gva,
    needed: u64,
) -> Result<Gpa, WalkFault> {
    let pointer = (mode.cr3 & 0xffff_ffe0) | ((address.as_u64() >> 30) << 3);
    let entry = read_u64(mem, pointer)?;
    if entry & PRESENT == 0 {
        return Err(WalkFault::NotPresent);
    }
    descend(mem, entry & FRAME, 21, address, needed)
}

/// Follows tables of 512 entries from the one at `table`, whose index starts at bit `shift` of the address.
#[inline]
fn descend<M: GuestMem + ?Sized>(
    mem: &M,
    mut table: u64,
    mut shift: u32,
    address: Gva,
    needed: u64,
) -> Result<Gpa, WalkFault> {
    let mut rights = WRITABLE | USER;
    loop {
        let index = (address.as_u64() >> shift) & 0x1ff;
        let entry = read_u64(mem, table | (index << 3))?;
        if entry & PRESENT == 0 {
            return Err(WalkFault::NotPresent);
        }
        rights &= entry;
        if shift == 12 || entry & LARGE != 0 {
            return page(entry, rights, shift, address, needed);
        }
        table = entry & FRAME;
        shift -= 9;
    }
}

/// Finishes a walk at `entry`, which maps 2^`shift` bytes.
#[inline]
fn page(entry: u64, rights: u64, shift: u32, address: Gva, needed: u64) -> Result<Gpa, WalkFault> {
    let offset_mask = (1 << shift) - 1;
    // Bit 12 of a large page belongs to its memory type. There are no pages of 512 GiB.
    if shift > 30 || entry & FRAME & offset_mask & !(1 << 12) != 0 {
        return Err(WalkFault::ReservedBit);
    }
    grants(rights, needed)?;
    Ok(Gpa::new(
        (entry & FRAME & !offset_mask) | (address.as_u64() & offset_mask),
    ))
}

/// Checks that the `rights` of a page, as its entries grant them together, hold what is `needed`.
#[inline]
const fn grants(rights: u64, needed: u64) -> Result<(), WalkFault> {
    match needed & !rights {
        0 => Ok(()),
        WRITABLE => Err(WalkFault::ReadOnly),
        _ => Err(WalkFault::Supervisor),
    }
}

/// 32-bit paging: two levels of 1024 entries of 4 bytes; with CR4.PSE pages of 4 MiB anywhere below 2^40.
#[cold]
fn walk_32<M: GuestMem + ?Sized>(
    mem: &M,
    mode: &PagingMode,
    address: Gva,
    needed: u64,
) -> Result<Gpa, WalkFault> {
    let linear = address.as_u64();
    let directory = read_u32(mem, (mode.cr3 & 0xffff_f000) | ((linear >> 22) << 2))?;
    if directory & PRESENT == 0 {
        return Err(WalkFault::NotPresent);
    }
    if mode.cr4 & CR4_PSE != 0 && directory & LARGE != 0 {
        if directory & (1 << 21) != 0 {
            return Err(WalkFault::ReservedBit);
        }
        grants(directory, needed)?;
        let high = ((directory >> 13) & 0xff) << 32;
        return Ok(Gpa::new(
            high | (directory & 0xffc0_0000) | (linear & 0x003f_ffff),
        ));
    }
    let index = (linear >> 12) & 0x3ff;
    let entry = read_u32(mem, (directory & 0xffff_f000) | (index << 2))?;
    if entry & PRESENT == 0 {
        return Err(WalkFault::NotPresent);
    }
    page(entry, directory & entry, 12, address, needed)
}

#[inline]
fn read_u64<M: GuestMem + ?Sized>(mem: &M, at: u64) -> Result<u64, WalkFault> {
    mem.read_u64(Gpa::new(at))
        .map_err(|e| WalkFault::NotRam(e.0))
}

fn read_u32<M: GuestMem + ?Sized>(mem: &M, at: u64) -> Result<u64, WalkFault> {
    match mem.read_u32(Gpa::new(at)) {
        Ok(entry) => Ok(u64::from(entry)),
        Err(e) => Err(WalkFault::NotRam(e.0)),
    }
}

/// Fills `to` from the guest's linear memory at `from`, as an access of the kind `access` does.
///
/// # Errors
/// See [`WalkFault`]; `to` is then unspecified.
#[inline]
pub fn copy_in<M: GuestMem + ?Sized>(
    mem: &M,
    mode: &PagingMode,
    from: Gva,
    access: Access,
    to: &mut [u8],
) -> Result<(), WalkFault> {
    let mut rest = to;
    for (at, length) in from.page_pieces(rest.len()) {
        let (piece, tail) = rest.split_at_mut(length);
        let gpa = translate(mem, mode, at, access)?;
        mem.read(gpa, piece).map_err(|e| WalkFault::NotRam(e.0))?;
        rest = tail;
    }
    Ok(())
}

/// Copies `from` to the guest's linear memory at `to`.
///
/// # Errors
/// See [`WalkFault`]; the pages before the one that faults are written.
#[inline(always)]
pub fn copy_out<M: GuestMem + ?Sized>(
    mem: &mut M,
    mode: &PagingMode,
    to: Gva,
    from: &[u8],
) -> Result<(), WalkFault> {
    let mut rest = from;
    for (at, length) in to.page_pieces(rest.len()) {
        let (piece, tail) = rest.split_at(length);
        let gpa = translate(mem, mode, at, Access::Write)?;
        mem.write(gpa, piece).map_err(|e| WalkFault::NotRam(e.0))?;
        rest = tail;
    }
    Ok(())
}
