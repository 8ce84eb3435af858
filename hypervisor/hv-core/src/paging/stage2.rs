//! The bits of stage 2 tables, Intel's (EPT) and AMD's (NPT).
//!
//! Both have the frame, the size and the right to write in the same bits, and an entry that refers to a table is the
//! same in both; a leaf always has the right to read (bit 0), which says in both that it is present. So [`Stage2`]
//! serves both, and only who makes the attributes of a leaf has to know which it is: [`Stage2Format`].
//! Bits 52 to 56 of a leaf are ignored by the CPU: four hold what the p2m wants to remember, one says that the block
//! may be executed once it is split into small pages.
//!
//! Source: Intel SDM vol. 3C, "The Extended Page Table Mechanism (EPT)"; AMD APM vol. 2, "Nested Paging",
//! "Long-Mode Page Translation".

use super::{Format, LARGE};
use crate::addr::{Gfn, Mfn, PageOrder};

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
/// EPT: execute. NPT: accessible to users, as all of a guest's accesses count as users'.
const EXECUTE: u64 = 1 << 2;
const MEMORY_TYPE_SHIFT: u32 = 3;
const IGNORE_PAT: u64 = 1 << 6;
const SOFTWARE_SHIFT: u32 = 52;
const SOFTWARE: u64 = 0xF << SOFTWARE_SHIFT;
/// Of a large leaf: its 4 KiB pages may be executed, it as a whole may not.
const EXECUTE_WHEN_SMALL: u64 = 1 << 56;
/// NPT: not to be executed. EPT: no meaning without virtualisation exceptions; never set.
const NO_EXECUTE: u64 = 1 << 63;
/// NPT: two of the bits that choose from the host's PAT.
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;

/// Stage 2 tables of either format: translate [`Gfn`].
pub enum Stage2 {}

/// Whose format the leaves of stage 2 tables have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage2Format {
    /// Intel's extended page tables.
    Ept,
    /// AMD's nested page tables: those of long mode.
    Npt,
}

impl Stage2Format {
    /// Allows `access` with caching `memory_type`, which the guest's PAT still refines.
    #[must_use]
    #[inline]
    pub const fn attr(self, access: Access, memory_type: MemoryType) -> Stage2Attr {
        Stage2Attr(match self {
            Self::Ept => ept_rights(access) | (memory_type as u64) << MEMORY_TYPE_SHIFT,
            Self::Npt => npt_rights(access) | npt_caching(memory_type),
        })
    }
    /// The same, with the guest's PAT ignored where the format can say so: NPT cannot.
    #[must_use]
    #[inline]
    pub const fn ignoring_pat(self, attr: Stage2Attr) -> Stage2Attr {
        match self {
            Self::Ept => Stage2Attr(attr.0 | IGNORE_PAT),
            Self::Npt => attr,
        }
    }
    /// The same, but a large leaf withholds execution until it is split: what CPUs need that raise a machine check when
    /// the size of an executable page changes (CVE-2018-12207). None with NPT does.
    #[must_use]
    #[inline]
    pub const fn executable_when_small(self, attr: Stage2Attr) -> Stage2Attr {
        match self {
            Self::Ept if attr.0 & EXECUTE != 0 => {
                Stage2Attr(attr.0 & !EXECUTE | EXECUTE_WHEN_SMALL)
            }
            Self::Ept | Self::Npt => attr,
        }
    }
}

/// What a guest may do with a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    R,
    Rw,
    Rx,
    /// Read, write and execute.
    Rwx,
}

impl Access {
    /// True where writing is allowed.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::Rw | Self::Rwx)
    }
    /// True where executing is allowed.
    #[must_use]
    pub const fn executes(self) -> bool {
        matches!(self, Self::Rx | Self::Rwx)
    }
}

/// How the CPU caches a page, before the guest's own PAT is combined with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum MemoryType {
    Uncacheable = 0,
    WriteCombining = 1,
    WriteThrough = 4,
    WriteProtected = 5,
    WriteBack = 6,
}

/// The attributes of a stage 2 leaf, in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2Attr(u64);

impl Stage2Attr {
    /// The same, with `note` (below 16) in the bits that the CPU ignores.
    #[must_use]
    pub const fn with_software(self, note: u8) -> Self {
        Self(self.0 & !SOFTWARE | ((note as u64) << SOFTWARE_SHIFT) & SOFTWARE)
    }
    /// What a guest may do, withheld execution included.
    #[must_use]
    #[inline]
    pub const fn access(self) -> Access {
        let executes = self.0 & (EXECUTE | EXECUTE_WHEN_SMALL) != 0 && self.0 & NO_EXECUTE == 0;
        match (self.0 & WRITE != 0, executes) {
            (false, false) => Access::R,
            (true, false) => Access::Rw,
            (false, true) => Access::Rx,
            (true, true) => Access::Rwx,
        }
    }
    /// True where execution waits for the block to be split.
    #[must_use]
    pub const fn withholds_execute(self) -> bool {
        self.0 & EXECUTE_WHEN_SMALL != 0
    }
    /// What was noted in the bits that the CPU ignores, below 16.
    #[must_use]
    #[inline]
    pub const fn software(self) -> u8 {
        ((self.0 & SOFTWARE) >> SOFTWARE_SHIFT) as u8
    }
}

const fn npt_rights(access: Access) -> u64 {
    let writes = if access.writes() { WRITE } else { 0 };
    let no_execute = if access.executes() { 0 } else { NO_EXECUTE };
    READ | EXECUTE | writes | no_execute
}

/// By the host's PAT as after reset: write-back, write-through, UC-, uncacheable. UC- becomes write-combining where the
/// guest's own PAT says so; what it has no entry for is not cached.
const fn npt_caching(memory_type: MemoryType) -> u64 {
    match memory_type {
        MemoryType::WriteBack => 0,
        MemoryType::WriteThrough => WRITE_THROUGH,
        MemoryType::WriteCombining => CACHE_DISABLE,
        MemoryType::Uncacheable | MemoryType::WriteProtected => CACHE_DISABLE | WRITE_THROUGH,
    }
}

const fn ept_rights(access: Access) -> u64 {
    match access {
        Access::R => READ,
        Access::Rw => READ | WRITE,
        Access::Rx => READ | EXECUTE,
        Access::Rwx => READ | WRITE | EXECUTE,
    }
}

impl Format for Stage2 {
    type Page = Gfn;
    type Attr = Stage2Attr;

    #[inline]
    fn number(page: Gfn) -> u64 {
        page.as_u64()
    }
    #[inline]
    fn page(number: u64) -> Gfn {
        Gfn::new(number)
    }
    fn leaf(mfn: Mfn, order: PageOrder, attr: Stage2Attr) -> u64 {
        let bits = if order > PageOrder::SIZE_4K {
            attr.0 | LARGE
        } else if attr.withholds_execute() {
            attr.0 & !EXECUTE_WHEN_SMALL | EXECUTE
        } else {
            attr.0
        };
        mfn.base().as_u64() | bits
    }
    fn table(table: Mfn) -> u64 {
        table.base().as_u64() | READ | WRITE | EXECUTE
    }
    #[inline]
    fn is_present(entry: u64) -> bool {
        entry & (READ | WRITE | EXECUTE) != 0
    }
    #[inline]
    fn attr(entry: u64) -> Stage2Attr {
        const TYPE: u64 = 7 << MEMORY_TYPE_SHIFT;
        // NPT notes accesses and writes in two of these bits, which makes no difference to whoever reads an attribute
        const KEPT: u64 =
            READ | WRITE | EXECUTE | TYPE | IGNORE_PAT | SOFTWARE | EXECUTE_WHEN_SMALL | NO_EXECUTE;
        Stage2Attr(entry & KEPT)
    }
}

/// An entry that is not present, with `mark` (from 1 to 15) in the bits in which a leaf notes what it is.
pub(super) const fn marked(mark: u8) -> u64 {
    ((mark as u64) << SOFTWARE_SHIFT) & SOFTWARE
}
