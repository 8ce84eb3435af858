//! Walks against the list of what was mapped.

use alloc::collections::BTreeMap;
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
                self.set_entry(at, width, self.next_table | 7);
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
fn process_reads_no_page_of_the_kernel_in_any_mode() {
    for (mode, shifts, width) in [
        (&LONG, &[39, 30, 21, 12][..], 8),
        (&LONG, &[39, 30, 21][..], 8),
        (&PAE, &[30, 21, 12][..], 8),
        (&LEGACY, &[22, 12][..], 4),
        (&LEGACY, &[22][..], 4),
    ] {
        let large = if shifts.last() == Some(&12) { 0 } else { LARGE };
        for (rights, expected) in [
            (3, Err(WalkFault::Supervisor)),
            (7, Ok(Gpa::new(0x80_0000))),
        ] {
            let mut ram = Ram::new();
            ram.map(shifts, width, 0x40_0000, 0x80_0000 | large | rights);
            let read = |access| translate(&ram, mode, Gva::new(0x40_0000), access);
            assert_eq!(read(Access::UserRead), expected, "{shifts:?} {rights}");
            assert_eq!(read(Access::Read), Ok(Gpa::new(0x80_0000)), "{shifts:?}");
        }
    }
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
    copy_in(&ram, &LONG, Gva::new(0x4ff8), Access::Read, &mut back).unwrap();
    assert_eq!(back, text);
    assert_eq!(ram.word(0x8_0000).to_le_bytes(), *b"he b");
    assert_eq!(
        copy_in(&ram, &LONG, Gva::new(0x5ff8), Access::Read, &mut back),
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

#[test]
fn top_entry_of_pae_has_no_reserved_bits() {
    let address = 0x1234_5000;
    assert!(pdpte_is_valid(address | 1, 36));
    assert!(pdpte_is_valid(address | 1 | 1 << 3 | 1 << 4 | 7 << 9, 36));
    for bit in [1, 2, 5, 6, 7, 8, 36, 51, 52, 63] {
        assert!(!pdpte_is_valid(address | 1 | 1 << bit, 36), "bit {bit}");
        assert!(pdpte_is_valid(1 << bit, 36), "not present");
    }
}
