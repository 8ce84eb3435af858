//! Maps of physical memory: which bytes are RAM, and what the rest is.
//!
//! The same type holds the host's map (host physical addresses) and dom0's (guest physical); dom0's memory being
//! identity-mapped, dom0's map is the host's with all RAM that dom0 does not get turned to unusable: see
//! [`E820Map::for_dom0`]. Firmware's tables overlap and are unsorted in practice; an [`E820Map`] never is.

use crate::addr::{Hpa, MfnRange};
use alloc::vec::Vec;

/// Where physical addresses end: no CPU has more than 52 bits of them.
const PHYS_LIMIT: u64 = 1 << 52;

/// What a range of physical memory is. Numbers as in the ACPI specification, "Address Range Types".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
pub enum E820Kind {
    Ram = 1,
    /// Not for use; also what an unknown number means.
    Reserved = 2,
    /// ACPI tables: RAM once they are read.
    AcpiTables = 3,
    /// The firmware's, to be kept over sleep.
    AcpiNvs = 4,
    /// Broken or withheld memory.
    Unusable = 5,
    /// Memory that is switched off.
    Disabled = 6,
    Persistent = 7,
}

impl E820Kind {
    /// The kind with number `raw`, [`E820Kind::Reserved`] where there is none.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            1 => Self::Ram,
            3 => Self::AcpiTables,
            4 => Self::AcpiNvs,
            5 => Self::Unusable,
            6 => Self::Disabled,
            7 => Self::Persistent,
            _ => Self::Reserved,
        }
    }
    /// Its number.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self as u32
    }
}

/// A range of physical memory and what it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct E820Entry {
    /// Address of the first byte.
    pub start: u64,
    /// Address after the last byte; above `start` in an [`E820Map`].
    pub end: u64,
    pub kind: E820Kind,
}

impl E820Entry {
    /// The bytes from `start` up to, not including, `end`.
    #[must_use]
    pub const fn new(start: u64, end: u64, kind: E820Kind) -> Self {
        Self { start, end, kind }
    }
    /// `size` bytes from `start`, cut at the end of the address space.
    #[must_use]
    pub const fn sized(start: u64, size: u64, kind: E820Kind) -> Self {
        Self {
            start,
            end: start.saturating_add(size),
            kind,
        }
    }
    /// How many bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// A map of physical memory: entries in ascending order, none empty, none overlapping, no two that could be one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct E820Map(Vec<E820Entry>);

impl E820Map {
    /// Puts a firmware's entries in order. Where entries overlap, the one with the higher number wins: rather lose RAM
    /// than use what is not.
    ///
    /// # Panics
    /// Where memory for it is out; [`E820Map::try_sanitise`] does not.
    #[must_use]
    pub fn sanitise(raw: &[E820Entry]) -> Self {
        Self::try_sanitise(raw).expect("there is room for the map that a machine begins with")
    }

    /// The same, or `None` where memory for it is out. Its work grows with the entries and their sorting only: a
    /// toolstack sets maps of any form.
    #[must_use]
    pub fn try_sanitise(raw: &[E820Entry]) -> Option<Self> {
        let mut edges = Vec::new();
        edges.try_reserve_exact(raw.len().checked_mul(2)?).ok()?;
        for entry in raw.iter().filter(|entry| entry.start < entry.end) {
            edges.push((entry.start, entry.kind, Edge::Start));
            edges.push((entry.end, entry.kind, Edge::End));
        }
        edges.sort_unstable_by_key(|(at, ..)| *at);
        let mut entries = Vec::new();
        entries.try_reserve_exact(edges.len()).ok()?;
        let mut covering = Covering::default();
        let mut start = 0;
        for (at, kind, edge) in edges {
            if start < at
                && let Some(kind) = covering.highest()
            {
                push(&mut entries, E820Entry::new(start, at, kind));
            }
            covering.pass(kind, edge);
            start = at;
        }
        Some(Self(entries))
    }

    #[must_use]
    pub fn entries(&self) -> &[E820Entry] {
        &self.0
    }

    /// What the byte at `address` is, `None` in a hole.
    #[cfg(test)]
    pub(crate) fn kind_at(&self, address: u64) -> Option<E820Kind> {
        let i = self.0.partition_point(|entry| entry.end <= address);
        self.0
            .get(i)
            .filter(|entry| entry.start <= address)
            .map(|entry| entry.kind)
    }

    /// True where all bytes from `start` up to, not including, `end` are of `kind`.
    #[must_use]
    pub fn is_all(&self, start: u64, end: u64, kind: E820Kind) -> bool {
        // neighbours of one kind are one entry
        let i = self.0.partition_point(|entry| entry.end <= start);
        start >= end
            || self
                .0
                .get(i)
                .is_some_and(|entry| entry.kind == kind && entry.start <= start && end <= entry.end)
    }

    /// The whole frames of RAM, in ascending order.
    pub fn ram(&self) -> impl Iterator<Item = MfnRange> + '_ {
        self.0
            .iter()
            .filter(|entry| entry.kind == E820Kind::Ram)
            .map(|entry| {
                MfnRange::inside(
                    Hpa::new(entry.start.min(PHYS_LIMIT)),
                    Hpa::new(entry.end.min(PHYS_LIMIT)),
                )
            })
            .filter(|range| !range.is_empty())
    }

    /// How many whole frames of RAM there are.
    #[must_use]
    pub fn ram_pages(&self) -> u64 {
        self.ram().map(MfnRange::len).sum()
    }

    /// Makes the bytes from `start` up to, not including, `end` a range of `kind`, whatever they were.
    pub fn set(&mut self, start: u64, end: u64, kind: E820Kind) {
        if start >= end {
            return;
        }
        let mut entries = Vec::with_capacity(self.0.len() + 2);
        for &entry in self.0.iter().filter(|e| e.start < start) {
            push(
                &mut entries,
                E820Entry {
                    end: entry.end.min(start),
                    ..entry
                },
            );
        }
        push(&mut entries, E820Entry { start, end, kind });
        for &entry in self.0.iter().filter(|e| e.end > end) {
            push(
                &mut entries,
                E820Entry {
                    start: entry.start.max(end),
                    ..entry
                },
            );
        }
        self.0 = entries;
    }

    /// dom0's map on a host with this one: what is not RAM stays as it is; RAM stays RAM in the ranges `given` to dom0
    /// and is unusable elsewhere (Linux 6.12 takes unusable ranges as address space for foreign pages).
    #[must_use]
    pub fn for_dom0(&self, given: &[MfnRange]) -> Self {
        let mut map = self.clone();
        for entry in self.0.iter().filter(|entry| entry.kind == E820Kind::Ram) {
            map.set(entry.start, entry.end, E820Kind::Unusable);
        }
        for range in given {
            map.set(
                range.start.base().as_u64(),
                range.end.base().as_u64(),
                E820Kind::Ram,
            );
        }
        map
    }
}

/// Where an entry begins or ends.
#[derive(Clone, Copy)]
enum Edge {
    Start,
    End,
}

/// How many entries of each kind cover an address.
#[derive(Default)]
struct Covering([u32; E820Kind::Persistent as usize + 1]);

impl Covering {
    fn pass(&mut self, kind: E820Kind, edge: Edge) {
        let covering = &mut self.0[kind as usize];
        match edge {
            Edge::Start => *covering += 1,
            Edge::End => *covering -= 1,
        }
    }
    fn highest(&self) -> Option<E820Kind> {
        let kinds = (E820Kind::Ram.as_u32()..=E820Kind::Persistent.as_u32()).rev();
        let mut kinds = kinds.map(E820Kind::from_raw);
        kinds.find(|kind| self.0[*kind as usize] != 0)
    }
}

/// Appends an entry, or lengthens the last one where they are of one kind and touch.
fn push(entries: &mut Vec<E820Entry>, entry: E820Entry) {
    match entries.last_mut() {
        Some(last) if last.kind == entry.kind && last.end == entry.start => last.end = entry.end,
        _ => entries.push(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    fn raw_entries() -> impl Strategy<Value = Vec<E820Entry>> {
        let entry = (0u64..256, 0u64..64, 0u32..9).prop_map(|(start, size, kind)| {
            E820Entry::sized(start, size, E820Kind::from_raw(kind))
        });
        proptest::collection::vec(entry, 0..20)
    }

    fn naive_kind(raw: &[E820Entry], address: u64) -> Option<E820Kind> {
        raw.iter()
            .filter(|e| e.start <= address && address < e.end)
            .map(|e| e.kind)
            .max()
    }

    fn is_in_order(map: &E820Map) -> bool {
        map.entries().iter().all(|e| e.start < e.end)
            && map.entries().windows(2).all(|w| {
                w[0].end < w[1].start || (w[0].end == w[1].start && w[0].kind != w[1].kind)
            })
    }

    #[test]
    fn overlapping_and_unsorted_entries_are_put_in_order() {
        let map = E820Map::sanitise(&[
            E820Entry::new(0x10_0000, 0x20_0000, E820Kind::Ram),
            E820Entry::new(0, 0xa_0000, E820Kind::Ram),
            E820Entry::new(0x9_fc00, 0xa_0000, E820Kind::Reserved),
            E820Entry::new(0x20_0000, 0x30_0000, E820Kind::Ram),
        ]);
        assert_eq!(
            map.entries(),
            [
                E820Entry::new(0, 0x9_fc00, E820Kind::Ram),
                E820Entry::new(0x9_fc00, 0xa_0000, E820Kind::Reserved),
                E820Entry::new(0x10_0000, 0x30_0000, E820Kind::Ram),
            ]
        );
        assert_eq!(map.ram_pages(), 0x9f + 0x200);
    }

    #[test]
    fn entries_at_the_end_of_the_address_space_do_not_wrap() {
        let map = E820Map::sanitise(&[E820Entry::sized(u64::MAX - 0xfff, u64::MAX, E820Kind::Ram)]);
        assert_eq!(map.kind_at(u64::MAX - 1), Some(E820Kind::Ram));
        assert_eq!(map.ram_pages(), 0);
    }

    #[test]
    fn work_on_a_map_grows_with_its_entries_only() {
        // going over the whole map for every entry, this takes minutes
        const ENTRIES: u64 = 1 << 18;
        let raw: Vec<_> = (0..ENTRIES)
            .map(|i| E820Entry::sized((ENTRIES - i) * 3, 2, E820Kind::Ram))
            .collect();
        let map = E820Map::sanitise(&raw);
        assert!(is_in_order(&map));
        assert_eq!(map.entries().len() as u64, ENTRIES);
    }

    #[test]
    fn dom0_gets_unusable_for_ram_it_does_not_own() {
        let host = E820Map::sanitise(&[
            E820Entry::new(0, 0x9_fc00, E820Kind::Ram),
            E820Entry::new(0xf_0000, 0x10_0000, E820Kind::Reserved),
            E820Entry::new(0x10_0000, 0x1000_0000, E820Kind::Ram),
        ]);
        let given = vec![
            MfnRange::inside(Hpa::new(0), Hpa::new(0x9_f000)),
            MfnRange::inside(Hpa::new(0x100_0000), Hpa::new(0x800_0000)),
        ];
        let map = host.for_dom0(&given);
        assert_eq!(
            map.entries(),
            [
                E820Entry::new(0, 0x9_f000, E820Kind::Ram),
                E820Entry::new(0x9_f000, 0x9_fc00, E820Kind::Unusable),
                E820Entry::new(0xf_0000, 0x10_0000, E820Kind::Reserved),
                E820Entry::new(0x10_0000, 0x100_0000, E820Kind::Unusable),
                E820Entry::new(0x100_0000, 0x800_0000, E820Kind::Ram),
                E820Entry::new(0x800_0000, 0x1000_0000, E820Kind::Unusable),
            ]
        );
    }

    proptest! {
        #[test]
        fn sanitised_map_says_what_the_naive_model_says(raw in raw_entries()) {
            let map = E820Map::sanitise(&raw);
            prop_assert!(is_in_order(&map));
            for address in 0..330 {
                prop_assert_eq!(map.kind_at(address), naive_kind(&raw, address));
            }
        }

        #[test]
        fn is_all_agrees_with_each_byte(raw in raw_entries(), start in 0u64..300, size in 0u64..40) {
            let map = E820Map::sanitise(&raw);
            let each = (start..start + size).all(|a| map.kind_at(a) == Some(E820Kind::Ram));
            prop_assert_eq!(map.is_all(start, start + size, E820Kind::Ram), each);
        }

        #[test]
        fn no_numbers_panic(raw in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u32>()), 0..12)) {
            let raw: Vec<_> = raw.into_iter().map(|(a, s, k)| E820Entry::sized(a, s, E820Kind::from_raw(k))).collect();
            let map = E820Map::sanitise(&raw);
            prop_assert!(is_in_order(&map));
            let _ = map.ram_pages();
        }
    }
}
