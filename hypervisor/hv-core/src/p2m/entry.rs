//! What a p2m maps, and what it says of a guest frame.

use super::P2mKind;
use crate::addr::{Mfn, PageOrder};
use crate::paging::Leaf;
use crate::paging::stage2::{Access, MemoryType, Stage2Attr};

/// What to map a run of guest frames to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct P2mMapping {
    /// The first machine frame.
    pub mfn: Mfn,
    /// What they stand for.
    pub kind: P2mKind,
    /// What the guest may do.
    pub access: Access,
    /// How the CPU caches them.
    pub memory_type: MemoryType,
}

/// What a guest frame stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct P2mEntry {
    /// The machine frame behind it (inside the block, for a large leaf).
    pub mfn: Mfn,
    /// What it stands for.
    pub kind: P2mKind,
    /// What the guest may do.
    pub access: Access,
    /// The size of the leaf that maps it.
    pub order: PageOrder,
}

impl P2mMapping {
    /// Maps to the frames from `mfn` with the access and caching that are usual for `kind`.
    #[must_use]
    pub const fn new(mfn: Mfn, kind: P2mKind) -> Self {
        Self {
            mfn,
            kind,
            access: kind.default_access(),
            memory_type: kind.default_memory_type(),
        }
    }
    /// The same, with other caching.
    #[must_use]
    pub const fn with_memory_type(self, memory_type: MemoryType) -> Self {
        Self {
            memory_type,
            ..self
        }
    }
}

impl P2mEntry {
    /// True where the hypervisor may read it on the guest's behalf.
    #[must_use]
    #[inline]
    pub const fn is_readable_memory(&self) -> bool {
        self.kind.is_memory()
    }
    /// True where the hypervisor may write it on the guest's behalf. Log-dirty RAM may be: the write is logged then.
    #[must_use]
    #[inline]
    pub const fn is_writable_memory(&self) -> bool {
        self.kind.is_memory() && (self.access.writes() || matches!(self.kind, P2mKind::RamLogDirty))
    }
}

impl From<Leaf<Stage2Attr>> for P2mEntry {
    #[inline]
    fn from(leaf: Leaf<Stage2Attr>) -> Self {
        Self {
            mfn: leaf.mfn,
            kind: P2mKind::from_note(leaf.attr.software()),
            access: leaf.attr.access(),
            order: leaf.order,
        }
    }
}
