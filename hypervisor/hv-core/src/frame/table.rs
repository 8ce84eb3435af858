//! One record per frame of RAM, found in two loads however the RAM is scattered.
//!
//! The address space is cut into sections of 1 GiB, the size of the largest block. Only sections that hold RAM have
//! records, and only up to their last frame of RAM, so holes cost nothing worth counting. What owns a frame is in
//! [`super::owner`], the free lists in [`super::buddy`]; both keep their state in these records.

use core::sync::atomic::{AtomicU32, AtomicU64};

use arrayvec::ArrayVec;
use zerocopy::{FromBytes, IntoBytes, KnownLayout};

use crate::addr::{Mfn, MfnRange, PageOrder};

/// How many separate ranges of RAM are kept.
pub const MAX_RAM_RANGES: usize = 128;
/// How many sections: 1 TiB of address space.
const SECTIONS: usize = 1024;
const FRAMES_PER_SECTION: u64 = PageOrder::SIZE_1G.frames();

/// What is known of one frame; all zeroes is "not in use". 16 bytes.
#[derive(Default, FromBytes, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct FrameInfo {
    /// Of a free block: the next one of its order.
    pub(super) next: AtomicU32,
    /// Of a free block: the one before.
    pub(super) prev: AtomicU32,
    /// Role, owner, count: see [`super::owner`].
    pub(super) word: AtomicU64,
}

/// The records of all frames of RAM.
pub struct FrameTable<'m> {
    records: &'m [FrameInfo],
    /// Section `s` has the records from `sections[s]` up to, not including, `sections[s + 1]`.
    sections: [u32; SECTIONS + 1],
    ram: ArrayVec<MfnRange, MAX_RAM_RANGES>,
}

/// The memory map has more separate ranges of RAM than [`MAX_RAM_RANGES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyRanges;

impl<'m> FrameTable<'m> {
    /// How many records a machine with these ranges of RAM needs; RAM above 1 TiB gets none.
    #[must_use]
    pub fn records_needed(ram: &[MfnRange]) -> usize {
        (0..SECTIONS)
            .map(|section| section_records(section, ram) as usize)
            .sum()
    }

    /// Sets the table up for `ram` over `records`, all zeroes and [`FrameTable::records_needed`] long. No frame is free
    /// yet: [`super::Buddy::add_free`] adds those that are.
    ///
    /// # Errors
    /// [`TooManyRanges`]; ranges that touch or overlap count as one.
    ///
    /// # Panics
    /// Where `records` is too short.
    pub fn new(records: &'m [FrameInfo], ram: &[MfnRange]) -> Result<Self, TooManyRanges> {
        assert!(
            records.len() >= Self::records_needed(ram),
            "the frame table has a record for every frame of RAM"
        );
        let mut sections = [0; SECTIONS + 1];
        let mut next = 0;
        for section in 0..SECTIONS {
            next += section_records(section, ram);
            sections[section + 1] = next;
        }
        Ok(Self {
            records,
            sections,
            ram: joined(ram)?,
        })
    }

    /// True where `mfn` is RAM, whoever owns it: such a frame is never mapped as a device's memory.
    #[must_use]
    pub fn is_ram(&self, mfn: Mfn) -> bool {
        self.ram.iter().any(|range| range.contains(mfn))
    }

    /// True where any frame of `range` is RAM.
    #[must_use]
    pub fn has_ram(&self, range: MfnRange) -> bool {
        self.ram.iter().any(|ram| ram.overlaps(range))
    }

    /// The ranges of RAM in ascending order, those that touch or overlap as one.
    #[must_use]
    pub fn ram(&self) -> &[MfnRange] {
        &self.ram
    }

    /// The frame's record; `None` outside RAM's sections.
    #[inline]
    pub(super) fn record(&self, mfn: Mfn) -> Option<&FrameInfo> {
        let section = usize::try_from(mfn.as_u64() / FRAMES_PER_SECTION).ok()?;
        let [start, end] = *self.sections.get(section..)?.first_chunk()?;
        let index = u64::from(start) + mfn.as_u64() % FRAMES_PER_SECTION;
        if index < u64::from(end) {
            self.records.get(usize::try_from(index).ok()?)
        } else {
            None
        }
    }

    /// The record of a frame that is known to be RAM because it was free, owned or handed out.
    #[inline]
    pub(super) fn known(&self, mfn: Mfn) -> &FrameInfo {
        self.record(mfn)
            .expect("frames that are handed out have records")
    }

    /// True where all of `range` is one range of RAM and has records.
    pub(super) fn is_all_ram(&self, range: MfnRange) -> bool {
        let inside = |ram: &MfnRange| ram.start <= range.start && range.end <= ram.end;
        range.end.as_u64() <= SECTIONS as u64 * FRAMES_PER_SECTION && self.ram.iter().any(inside)
    }

    /// The frames of RAM at or above `from`, in ascending order.
    pub(super) fn ram_from(&self, from: Mfn) -> impl Iterator<Item = Mfn> {
        let above = self.ram.iter().filter(move |range| from < range.end);
        above
            .flat_map(move |range| range.start.max(from).as_u64()..range.end.as_u64())
            .map(Mfn::new)
    }
}

/// Records of a section: up to its last frame of RAM.
fn section_records(section: usize, ram: &[MfnRange]) -> u32 {
    let start = Mfn::new(section as u64 * FRAMES_PER_SECTION);
    let whole = MfnRange::new(start, start + FRAMES_PER_SECTION);
    let last_end = ram
        .iter()
        .filter(|range| !range.is_empty() && range.overlaps(whole))
        .map(|range| range.end.min(whole.end) - start)
        .max();
    u32::try_from(last_end.unwrap_or(0)).expect("a section has 2^18 frames")
}

/// The ranges in ascending order, those that touch or overlap as one.
fn joined(ram: &[MfnRange]) -> Result<ArrayVec<MfnRange, MAX_RAM_RANGES>, TooManyRanges> {
    let mut joined = ArrayVec::<MfnRange, MAX_RAM_RANGES>::new();
    let mut from = Mfn::new(0);
    let next = |from: Mfn| {
        let at_or_above = ram
            .iter()
            .filter(move |range| from < range.end && !range.is_empty());
        at_or_above.min_by_key(|range| range.start)
    };
    while let Some(range) = next(from) {
        match joined.last_mut() {
            Some(last) if last.end >= range.start => last.end = range.end,
            _ => joined.try_push(*range).map_err(|_| TooManyRanges)?,
        }
        from = range.end;
    }
    Ok(joined)
}
