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

const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
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
#[inline]
pub fn translate<M: GuestMem + ?Sized>(
    mem: &M,
    mode: &PagingMode,
    address: Gva,
    access: Access,
) -> Result<Gpa, WalkFault> {
    let must_be_writable = access == Access::Write && mode.cr0 & CR0_WP != 0;
    if mode.efer & EFER_LMA != 0 && mode.cr0 & CR0_PG != 0 {
        return walk_long(mem, mode, address, must_be_writable);
    }
    if address.as_u64() > u64::from(u32::MAX) {
        return Err(WalkFault::NotCanonical);
    }
    if mode.cr0 & CR0_PG == 0 {
        Ok(Gpa::new(address.as_u64()))
    } else if mode.cr4 & CR4_PAE != 0 {
        walk_pae(mem, mode, address, must_be_writable)
    } else {
        walk_32(mem, mode, address, must_be_writable)
    }
}

/// Long mode: four levels, five with CR4.LA57.
#[inline]
fn walk_long<M: GuestMem + ?Sized>(
    mem: &M,
    mode: &PagingMode,
    address: Gva,
    must_be_writable: bool,
) -> Result<Gpa, WalkFault> {
    let top_shift = if mode.cr4 & CR4_LA57 != 0 { 48 } else { 39 };
    // The bits from the highest translated one upwards are all equal.
    let sign = address.as_u64() >> (top_shift + 8);
    if sign != 0 && sign != u64::MAX >> (top_shift + 8) {
        return Err(WalkFault::NotCanonical);
    }
    descend(mem, mode.cr3 & FRAME, top_shift, address, must_be_writable)
}

/// PAE without long mode: four pointers at CR3, then two levels. The CPU caches the pointers when CR3 is loaded; reading
/// them anew differs only for a guest that changed them and has not reloaded CR3 yet.
fn walk_pae<M: GuestMem + ?Sized>(
    mem: &M,
    mode: &PagingMode,
    address: Gva,
    must_be_writable: bool,
) -> Result<Gpa, WalkFault> {
    let pointer = (mode.cr3 & 0xffff_ffe0) | ((address.as_u64() >> 30) << 3);
    let entry = read_u64(mem, pointer)?;
    if entry & PRESENT == 0 {
        return Err(WalkFault::NotPresent);
    }
    descend(mem, entry & FRAME, 21, address, must_be_writable)
}

/// Follows tables of 512 entries from the one at `table`, whose index starts at bit `shift` of the address.
#[inline]
fn descend<M: GuestMem + ?Sized>(
    mem: &M,
    mut table: u64,
    mut shift: u32,
    address: Gva,
    must_be_writable: bool,
) -> Result<Gpa, WalkFault> {
    let mut rights = WRITABLE;
    loop {
        let index = (address.as_u64() >> shift) & 0x1ff;
        let entry = read_u64(mem, table | (index << 3))?;
        if entry & PRESENT == 0 {
            return Err(WalkFault::NotPresent);
        }
        rights &= entry;
        if shift == 12 || entry & LARGE != 0 {
            return page(entry, rights, shift, address, must_be_writable);
        }
        table = entry & FRAME;
        shift -= 9;
    }
}

/// Finishes a walk at `entry`, which maps 2^`shift` bytes.
#[inline]
fn page(
    entry: u64,
    rights: u64,
    shift: u32,
    address: Gva,
    must_be_writable: bool,
) -> Result<Gpa, WalkFault> {
    let offset_mask = (1 << shift) - 1;
    // Bit 12 of a large page belongs to its memory type. There are no pages of 512 GiB.
    if shift > 30 || entry & FRAME & offset_mask & !(1 << 12) != 0 {
        return Err(WalkFault::ReservedBit);
    }
    if must_be_writable && rights & WRITABLE == 0 {
        return Err(WalkFault::ReadOnly);
    }
    Ok(Gpa::new(
        (entry & FRAME & !offset_mask) | (address.as_u64() & offset_mask),
    ))
}

/// 32-bit paging: two levels of 1024 entries of 4 bytes; with CR4.PSE pages of 4 MiB anywhere below 2^40.
fn walk_32<M: GuestMem + ?Sized>(
    mem: &M,
    mode: &PagingMode,
    address: Gva,
    must_be_writable: bool,
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
        if must_be_writable && directory & WRITABLE == 0 {
            return Err(WalkFault::ReadOnly);
        }
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
    page(entry, directory & entry, 12, address, must_be_writable)
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

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    use super::*;
    use crate::mem::NotRam;

    const LONG: PagingMode = PagingMode {
        cr0: CR0_PG | CR0_WP | 1,
        cr3: TOP,
        cr4: CR4_PAE,
        efer: EFER_LMA | 1 << 8,
    };
    const PAE: PagingMode = PagingMode { efer: 0, ..LONG };
    const LEGACY: PagingMode = PagingMode {
        cr4: CR4_PSE,
        ..PAE
    };
    const TOP: u64 = 0x1000;

    /// Sparse RAM of words of 4 bytes; `ram_end` bounds it.
    struct Ram {
        words: BTreeMap<u64, u32>,
        ram_end: u64,
        next_table: u64,
    }

    impl Ram {
        fn new() -> Self {
            Self {
                words: BTreeMap::new(),
                ram_end: 1 << 52,
                next_table: TOP + 0x1000,
            }
        }
        fn word(&self, at: u64) -> u32 {
            self.words.get(&at).copied().unwrap_or(0)
        }
        fn entry(&self, at: u64, width: u64) -> u64 {
            let low = u64::from(self.word(at));
            if width == 8 {
                low | u64::from(self.word(at + 4)) << 32
            } else {
                low
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "splits a word")]
        fn set_entry(&mut self, at: u64, width: u64, entry: u64) {
            self.words.insert(at, entry as u32);
            if width == 8 {
                self.words.insert(at + 4, (entry >> 32) as u32);
            }
        }
        /// Maps a page of 2^`shifts.last()` bytes through the levels `shifts` (bit where each index starts).
        fn map(&mut self, shifts: &[u32], width: u64, gva: u64, leaf: u64) {
            let index_mask = 0x1000 / width - 1;
            let mut table = TOP;
            for (level, shift) in shifts.iter().enumerate() {
                let at = table + ((gva >> shift) & index_mask) * width;
                if level + 1 == shifts.len() {
                    self.set_entry(at, width, leaf);
                } else if self.entry(at, width) == 0 {
                    self.set_entry(at, width, self.next_table | 3);
                    table = self.next_table;
                    self.next_table += 0x1000;
                } else {
                    table = self.entry(at, width) & FRAME;
                }
            }
        }
    }

    impl GuestMem for Ram {
        fn read(&self, from: Gpa, to: &mut [u8]) -> Result<(), NotRam> {
            for (at, byte) in (from.as_u64()..).zip(to.iter_mut()) {
                if at >= self.ram_end {
                    return Err(NotRam(Gpa::new(at)));
                }
                *byte = self.word(at & !3).to_le_bytes()[(at & 3) as usize];
            }
            Ok(())
        }
        fn write(&mut self, to: Gpa, from: &[u8]) -> Result<(), NotRam> {
            for (at, byte) in (to.as_u64()..).zip(from) {
                let mut word = self.word(at & !3).to_le_bytes();
                word[(at & 3) as usize] = *byte;
                self.words.insert(at & !3, u32::from_le_bytes(word));
            }
            Ok(())
        }
    }

    #[test]
    fn without_paging_addresses_are_physical_below_4_gib() {
        let ram = Ram::new();
        let off = PagingMode::default();
        assert_eq!(
            translate(&ram, &off, Gva::new(0xdead_beef), Access::Write),
            Ok(Gpa::new(0xdead_beef))
        );
        assert_eq!(
            translate(&ram, &off, Gva::new(1 << 32), Access::Read),
            Err(WalkFault::NotCanonical)
        );
    }

    #[test]
    fn noncanonical_addresses_are_refused_and_the_upper_half_is_not() {
        let mut ram = Ram::new();
        let gva = 0xffff_8000_0000_0000;
        ram.map(&[39, 30, 21, 12], 8, gva, 0x5000 | 3);
        assert_eq!(
            translate(&ram, &LONG, Gva::new(gva + 7), Access::Read),
            Ok(Gpa::new(0x5007))
        );
        for bad in [1 << 47, 0xffff_7fff_ffff_ffff, 1 << 63] {
            assert_eq!(
                translate(&ram, &LONG, Gva::new(bad), Access::Read),
                Err(WalkFault::NotCanonical)
            );
        }
    }

    #[test]
    fn five_levels_reach_addresses_that_four_do_not() {
        let mut ram = Ram::new();
        let gva = 1 << 55;
        ram.map(&[48, 39, 30, 21, 12], 8, gva, 0x7000 | 3);
        let mode = PagingMode {
            cr4: CR4_PAE | CR4_LA57,
            ..LONG
        };
        assert_eq!(
            translate(&ram, &mode, Gva::new(gva), Access::Write),
            Ok(Gpa::new(0x7000))
        );
    }

    #[test]
    fn read_only_pages_refuse_writes_while_wp_is_set() {
        let mut ram = Ram::new();
        ram.map(&[39, 30, 21, 12], 8, 0x4000, 0x9000 | 1);
        let at = Gva::new(0x4000);
        assert!(translate(&ram, &LONG, at, Access::Read).is_ok());
        assert_eq!(
            translate(&ram, &LONG, at, Access::Write),
            Err(WalkFault::ReadOnly)
        );
        let no_wp = PagingMode {
            cr0: CR0_PG | 1,
            ..LONG
        };
        assert!(translate(&ram, &no_wp, at, Access::Write).is_ok());
    }

    #[test]
    fn a_large_top_entry_and_misaligned_large_pages_are_reserved() {
        let mut ram = Ram::new();
        ram.map(&[39], 8, 0, LARGE | 3);
        ram.map(&[39, 30], 8, 1 << 39, (1 << 29) | LARGE | 3);
        for gva in [0, 1 << 39] {
            assert_eq!(
                translate(&ram, &LONG, Gva::new(gva), Access::Read),
                Err(WalkFault::ReservedBit)
            );
        }
    }

    #[test]
    fn tables_outside_ram_are_named() {
        let mut ram = Ram::new();
        ram.ram_end = TOP;
        assert_eq!(
            translate(&ram, &LONG, Gva::new(0), Access::Read),
            Err(WalkFault::NotRam(Gpa::new(TOP)))
        );
    }

    #[test]
    fn pse_pages_lie_above_4_gib_where_their_high_bits_say_so() {
        let mut ram = Ram::new();
        ram.map(
            &[22],
            4,
            0x0080_0000,
            0x0140_0000 | (0x12 << 13) | LARGE | 3,
        );
        assert_eq!(
            translate(&ram, &LEGACY, Gva::new(0x0080_0123), Access::Write),
            Ok(Gpa::new(0x12_0140_0123))
        );
    }

    #[test]
    fn copies_cross_pages_that_are_not_contiguous() {
        let mut ram = Ram::new();
        ram.map(&[39, 30, 21, 12], 8, 0x4000, 0x9_0000 | 3);
        ram.map(&[39, 30, 21, 12], 8, 0x5000, 0x8_0000 | 3);
        let text = *b"across the border";
        copy_out(&mut ram, &LONG, Gva::new(0x4ff8), &text).unwrap();
        let mut back = [0; 17];
        copy_in(&ram, &LONG, Gva::new(0x4ff8), &mut back).unwrap();
        assert_eq!(back, text);
        assert_eq!(ram.word(0x8_0000).to_le_bytes(), *b"he b");
        assert_eq!(
            copy_in(&ram, &LONG, Gva::new(0x5ff8), &mut back),
            Err(WalkFault::NotPresent)
        );
    }

    /// One way to map a page: levels, entry width, mode, and whether the leaf needs the "large" bit.
    #[derive(Clone, Copy, Debug)]
    struct Shape(&'static [u32], u64, PagingMode);

    const SHAPES: [Shape; 5] = [
        Shape(&[39, 30, 21, 12], 8, LONG),
        Shape(&[39, 30, 21], 8, LONG),
        Shape(&[39, 30], 8, LONG),
        Shape(&[22, 12], 4, LEGACY),
        Shape(&[22], 4, LEGACY),
    ];

    proptest! {
        /// Pages of one shape in slots of their own: inside a mapped one the walk gives what was mapped, elsewhere nothing.
        #[test]
        fn walks_agree_with_the_list_of_what_was_mapped(
            shape in 0..SHAPES.len(),
            pages in proptest::collection::btree_map(0u64..64, (0u64..64, any::<bool>()), 0..12),
            probes in proptest::collection::vec((0u64..64, any::<u32>(), any::<bool>()), 1..40),
        ) {
            let Shape(shifts, width, mode) = SHAPES[shape];
            let shift = shifts[shifts.len() - 1];
            let large = if shift == 12 { 0 } else { LARGE };
            let mut ram = Ram::new();
            for (slot, (frame, writable)) in &pages {
                let leaf = frame << shift | large | 1 | u64::from(*writable) << 1;
                ram.map(shifts, width, slot << shift, leaf);
            }
            for (slot, offset, write) in probes {
                let offset = u64::from(offset) & ((1 << shift) - 1);
                let access = if write { Access::Write } else { Access::Read };
                let found = translate(&ram, &mode, Gva::new((slot << shift) | offset), access);
                let expected = match pages.get(&slot) {
                    None => Err(WalkFault::NotPresent),
                    Some((_, false)) if write => Err(WalkFault::ReadOnly),
                    Some((frame, _)) => Ok(Gpa::new(frame << shift | offset)),
                };
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn any_tables_and_any_mode_end_in_an_answer(
            words in proptest::collection::btree_map(0u64..0x400, any::<u32>(), 0..200),
            gva in any::<u64>(), cr0 in any::<u64>(), cr3 in 0u64..0x1000, cr4 in any::<u64>(), efer in any::<u64>(),
        ) {
            let ram = Ram {
                words: words.into_iter().map(|(k, v)| (k * 4, v & 0xfff)).collect(),
                ram_end: 0x1000,
                next_table: 0,
            };
            let mode = PagingMode { cr0, cr3, cr4, efer };
            let _ = translate(&ram, &mode, Gva::new(gva), Access::Write);
        }

        #[test]
        fn chunks_cover_the_range_in_order_and_never_cross_a_page(start in any::<u64>(), len in 0usize..20_000) {
            let chunks: Vec<_> = page_chunks(Gva::new(start), len).collect();
            prop_assert_eq!(chunks.iter().map(|c| c.1).sum::<usize>(), len);
            let mut at = start;
            for (gva, bytes) in chunks {
                prop_assert_eq!(gva.as_u64(), at);
                prop_assert!(bytes > 0 && gva.page_offset() + bytes <= PAGE_BYTES);
                at = at.wrapping_add(bytes as u64);
            }
        }
    }

    #[test]
    fn pae_pages_are_found_behind_their_pointer() {
        let mut ram = Ram::new();
        ram.set_entry(TOP + 3 * 8, 8, 0x2000 | 1);
        ram.set_entry(0x2000, 8, 0x3000 | 3);
        ram.set_entry(0x3000, 8, 0x00f_0000_0000 | 3);
        ram.set_entry(0x2008, 8, 0x0020_0000 | LARGE | 1);
        let at = |gva, access| translate(&ram, &PAE, Gva::new(gva), access);
        assert_eq!(at(0xc000_0010, Access::Write), Ok(Gpa::new(0xf_0000_0010)));
        assert_eq!(at(0xc020_0010, Access::Read), Ok(Gpa::new(0x0020_0010)));
        assert_eq!(at(0xc020_0010, Access::Write), Err(WalkFault::ReadOnly));
        assert_eq!(at(0x8000_0000, Access::Read), Err(WalkFault::NotPresent));
    }
}
