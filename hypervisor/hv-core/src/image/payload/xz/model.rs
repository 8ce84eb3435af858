//! What LZMA's decisions mean: literals, matches and repeated matches, and the probabilities of each.
//!
//! Source: Igor Pavlov's "LZMA specification", whose names the tables have.

use alloc::vec::Vec;
use core::cell::Cell;

use super::range::{EVEN, Probability, RangeDecoder};

/// How many previous bits of a literal's neighbour and of its position choose its table, and of a match's position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Properties {
    literal_context_bits: u32,
    literal_position_mask: usize,
    position_mask: usize,
}

impl Properties {
    /// Takes the byte apart: `(pb * 5 + lp) * 9 + lc`.
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        let (lc, lp, pb) = (byte % 9, byte / 9 % 5, byte / 45);
        // LZMA2 allows no more, which keeps the literals' tables small
        (pb <= 4 && lc + lp <= 4).then_some(Self {
            literal_context_bits: u32::from(lc),
            literal_position_mask: (1 << lp) - 1,
            position_mask: (1 << pb) - 1,
        })
    }
}

/// States 0 to 6: the last was a literal. Tables have 16 so that an index needs no check.
const STATES: usize = 16;
const FIRST_AFTER_MATCH: usize = 7;
const POSITIONS: usize = 16;
const LITERAL_TABLES: usize = 16;
const MIN_MATCH: usize = 2;

/// The lengths' tables: 3 bits by position, 3 more by position, 8.
#[derive(Clone, Copy)]
struct Lengths {
    is_not_low: Probability,
    is_high: Probability,
    low: [[Probability; 8]; POSITIONS],
    middle: [[Probability; 8]; POSITIONS],
    high: [Probability; 256],
}

impl Lengths {
    const NEW: Self = Self {
        is_not_low: EVEN,
        is_high: EVEN,
        low: [[EVEN; 8]; POSITIONS],
        middle: [[EVEN; 8]; POSITIONS],
        high: [EVEN; 256],
    };

    #[inline(always)]
    fn decode(&mut self, range: &mut RangeDecoder<'_>, position: usize) -> usize {
        let position = position % POSITIONS;
        if !range.bit(&mut self.is_not_low) {
            range.tree::<3, _>(&mut self.low[position]) - 8 + MIN_MATCH
        } else if !range.bit(&mut self.is_high) {
            range.tree::<3, _>(&mut self.middle[position]) + MIN_MATCH
        } else {
            range.tree::<8, _>(&mut self.high) - 256 + 16 + MIN_MATCH
        }
    }
}

/// All probabilities, the state and the last four distances: 5 KiB, and 32 KiB on the heap.
pub(super) struct Model {
    state: usize,
    distances: [u32; 4],
    tables: Tables,
    literals: Vec<LiteralTable>,
}

type LiteralTable = [Probability; 0x400];

#[derive(Clone, Copy)]
struct Tables {
    is_match: [[Probability; POSITIONS]; STATES],
    is_repeated: [Probability; STATES],
    is_not_last: [Probability; STATES],
    is_not_second: [Probability; STATES],
    is_fourth: [Probability; STATES],
    is_long: [[Probability; POSITIONS]; STATES],
    slots: [[Probability; 64]; 4],
    special: [[Probability; 32]; 16],
    align: [Probability; 16],
    match_lengths: Lengths,
    repeated_lengths: Lengths,
}

impl Tables {
    const NEW: Self = Self {
        is_match: [[EVEN; POSITIONS]; STATES],
        is_repeated: [EVEN; STATES],
        is_not_last: [EVEN; STATES],
        is_not_second: [EVEN; STATES],
        is_fourth: [EVEN; STATES],
        is_long: [[EVEN; POSITIONS]; STATES],
        slots: [[EVEN; 64]; 4],
        special: [[EVEN; 32]; 16],
        align: [EVEN; 16],
        match_lengths: Lengths::NEW,
        repeated_lengths: Lengths::NEW,
    };
}

impl Model {
    /// How much of the heap it takes.
    pub(super) const HEAP_NEEDED: usize = size_of::<LiteralTable>() * LITERAL_TABLES;

    /// One that has learnt nothing; `None` where the heap is too small.
    pub(super) fn new() -> Option<Self> {
        let mut literals = Vec::new();
        literals.try_reserve_exact(LITERAL_TABLES).ok()?;
        literals.resize(LITERAL_TABLES, [EVEN; _]);
        Some(Self {
            state: 0,
            distances: [0; 4],
            tables: Tables::NEW,
            literals,
        })
    }

    pub(super) fn reset(&mut self) {
        self.state = 0;
        self.distances = [0; 4];
        self.tables = Tables::NEW;
        for table in &mut self.literals {
            table.fill(EVEN);
        }
    }

    /// Decodes to `out[at..end]`, for which everything before `at` is the dictionary; `None` where the data are
    /// corrupt.
    #[inline(never)]
    pub(super) fn decode(
        &mut self,
        packed: &[u8],
        properties: Properties,
        out: &mut [u8],
        mut at: usize,
        end: usize,
    ) -> Option<()> {
        if end > out.len() {
            return None;
        }
        let literals = all_of(&mut self.literals);
        let tables = &mut self.tables;
        // local, so that they are in registers
        let mut range = RangeDecoder::new(packed)?;
        let mut distances = self.distances;
        let mut state = self.state;
        while at < end {
            let position = at & properties.position_mask;
            if !range.bit(&mut tables.is_match[state % STATES][position % POSITIONS]) {
                let before = if at == 0 { 0 } else { out[at - 1] };
                let table = &mut literals[properties.literal_table(at, before)];
                let symbol = if state < FIRST_AFTER_MATCH {
                    range.tree::<8, _>(table)
                } else {
                    let matched = out[at.checked_sub(distances[0] as usize + 1)?];
                    literal_after_match(&mut range, table, matched)
                };
                out[at] = symbol.to_le_bytes()[0];
                at += 1;
                state = after_literal(state);
                continue;
            }
            let length;
            if !range.bit(&mut tables.is_repeated[state % STATES]) {
                length = tables.match_lengths.decode(&mut range, position);
                let distance = tables.distance(&mut range, length);
                let [first, second, third, _] = distances;
                distances = [distance, first, second, third];
                state = if state < FIRST_AFTER_MATCH { 7 } else { 10 };
            } else if tables.is_short(&mut range, state, position, &mut distances) {
                length = 1;
                state = if state < FIRST_AFTER_MATCH { 9 } else { 11 };
            } else {
                length = tables.repeated_lengths.decode(&mut range, position);
                state = if state < FIRST_AFTER_MATCH { 8 } else { 11 };
            }
            let distance = distances[0] as usize + 1;
            if distance > at || length > end - at {
                return None;
            }
            copy(out, at, distance, length);
            at += length;
        }
        self.distances = distances;
        self.state = state;
        range.finish().then_some(())
    }
}

/// The tables of literals, as many as there are for the compiler too.
#[inline(always)]
fn all_of(literals: &mut [LiteralTable]) -> &mut [LiteralTable; LITERAL_TABLES] {
    literals.try_into().expect("there are as many since new")
}

impl Properties {
    #[inline(always)]
    fn literal_table(self, at: usize, before: u8) -> usize {
        let by_position = (at & self.literal_position_mask) << self.literal_context_bits;
        let by_neighbour = (usize::from(before) << self.literal_context_bits) >> 8;
        (by_position + by_neighbour) % LITERAL_TABLES
    }
}

#[inline(always)]
fn after_literal(state: usize) -> usize {
    match state {
        0..=3 => 0,
        4..=9 => state - 3,
        _ => state - 6,
    }
}

/// After a match the byte is not the one that the match would have gone on with: its bits choose the table for as long
/// as the literal's agree.
#[inline(always)]
fn literal_after_match(
    range: &mut RangeDecoder<'_>,
    table: &mut LiteralTable,
    matched: u8,
) -> usize {
    let mut matched = usize::from(matched);
    let mut symbol = 1;
    while symbol < 0x100 {
        matched <<= 1;
        let expected = matched & 0x100;
        symbol = range.append(
            &mut table[(0x100 + expected + symbol) % table.len()],
            symbol,
        );
        if (expected >> 8) != symbol & 1 {
            break;
        }
    }
    while symbol < 0x100 {
        symbol = range.append(&mut table[symbol], symbol);
    }
    symbol
}

impl Tables {
    /// The distance of a new match, less 1.
    #[inline(always)]
    fn distance(&mut self, range: &mut RangeDecoder<'_>, length: usize) -> u32 {
        let slot = range.tree::<6, _>(&mut self.slots[(length - MIN_MATCH).min(3)]) % 64;
        let number = u32::try_from(slot).expect("6 bits fit");
        if number < 4 {
            return number;
        }
        let bits = (number >> 1) - 1;
        let base = (2 | (number & 1)) << bits;
        if number < 14 {
            base + range.reverse_tree(&mut self.special[slot % 16], bits)
        } else {
            let high = range.direct(bits - 4) << 4;
            // corrupt data can name the end marker, which LZMA2 does not have: it is further back than any output
            base.wrapping_add(high)
                .wrapping_add(range.reverse_tree(&mut self.align, 4))
        }
    }

    /// Puts the distance that is repeated first; true where a single byte is.
    #[inline(always)]
    fn is_short(
        &mut self,
        range: &mut RangeDecoder<'_>,
        state: usize,
        position: usize,
        distances: &mut [u32; 4],
    ) -> bool {
        let state = state % STATES;
        if !range.bit(&mut self.is_not_last[state]) {
            return !range.bit(&mut self.is_long[state][position % POSITIONS]);
        }
        let [first, second, third, fourth] = *distances;
        *distances = if !range.bit(&mut self.is_not_second[state]) {
            [second, first, third, fourth]
        } else if !range.bit(&mut self.is_fourth[state]) {
            [third, first, second, fourth]
        } else {
            [fourth, first, second, third]
        };
        false
    }
}

/// How much is copied at once.
const WORD: usize = 8;

/// Copies `length` bytes from `distance` before `at` to `at`; they may overlap. Up to 7 bytes after them are
/// overwritten too: the output goes on there.
#[inline(always)]
fn copy(out: &mut [u8], at: usize, distance: usize, length: usize) {
    if distance >= WORD {
        copy_words(out, at, distance, length);
    } else {
        copy_pattern(out, at, distance, length);
    }
}

#[inline(always)]
fn copy_words(out: &mut [u8], at: usize, distance: usize, length: usize) {
    let Some(window) = out.get_mut(at - distance..at + length.next_multiple_of(WORD)) else {
        return copy_bytes(out, at, distance, length);
    };
    // reads and writes overlap where the match repeats itself
    let window = Cell::from_mut(window).as_slice_of_cells();
    let (from, _) = window.as_chunks::<WORD>();
    let (to, _) = window[distance..].as_chunks::<WORD>();
    for (from, to) in from.iter().zip(to) {
        let word = from.each_ref().map(Cell::get);
        for (cell, byte) in to.iter().zip(word) {
            cell.set(byte);
        }
    }
}

/// Repeats a pattern shorter than a word.
#[inline(never)]
fn copy_pattern(out: &mut [u8], at: usize, distance: usize, length: usize) {
    let word = match out[at - distance..at] {
        [byte] => [byte; WORD],
        [a, b] => [a, b, a, b, a, b, a, b],
        [a, b, c, d] => [a, b, c, d, a, b, c, d],
        _ => return copy_bytes(out, at, distance, length),
    };
    let (words, rest) = out[at..at + length].as_chunks_mut();
    words.fill(word);
    rest.copy_from_slice(&word[..rest.len()]);
}

#[inline(never)]
fn copy_bytes(out: &mut [u8], at: usize, distance: usize, length: usize) {
    for to in at..at + length {
        out[to] = out[to - distance];
    }
}
