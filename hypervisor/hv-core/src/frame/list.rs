//! A list of blocks of frames that somebody has, linked through their records: it takes no memory, however long it is.

use core::sync::atomic::Ordering;

use super::table::FrameTable;
use crate::addr::Mfn;

/// Frames, the last added first out. Each stands for a block of as many frames as its keeper says; a frame is in one
/// list at most, and in no free block.
#[derive(Debug, Default)]
pub struct FrameList {
    first: Option<Mfn>,
    length: u64,
}

impl FrameList {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            first: None,
            length: 0,
        }
    }

    /// How many are in it.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.length
    }

    /// True where none is.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Adds a frame that is in no list.
    pub fn push(&mut self, table: &FrameTable<'_>, mfn: Mfn) {
        let next = self.first.map_or(END, number);
        table.known(mfn).next.store(next, Ordering::Relaxed);
        self.first = Some(mfn);
        self.length += 1;
    }

    /// Takes the frame out that was added last.
    pub fn pop(&mut self, table: &FrameTable<'_>) -> Option<Mfn> {
        let mfn = self.first?;
        let next = table.known(mfn).next.load(Ordering::Relaxed);
        self.first = (next != END).then(|| Mfn::new(u64::from(next)));
        self.length -= 1;
        Some(mfn)
    }
}

/// The number of no frame that has a record.
const END: u32 = u32::MAX;

fn number(mfn: Mfn) -> u32 {
    u32::try_from(mfn.as_u64()).expect("frames with records have numbers of 28 bits")
}
