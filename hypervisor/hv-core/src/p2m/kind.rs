//! What a guest page stands for, as it is noted in its entry.

use crate::paging::stage2::{Access, MemoryType};

/// What a guest page stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum P2mKind {
    /// The domain's own RAM.
    Ram = 0,
    /// The domain's own RAM while writes to it are being logged: not writable until it is noted as dirty.
    RamLogDirty = 1,
    /// A page shared between the domain and the hypervisor: shared info, grant frames. It never enters ballooning.
    Special = 2,
    /// A device's memory: never copied from or to, never granted.
    Mmio = 3,
    /// A page of another domain, mapped by a toolstack.
    Foreign = 4,
    /// A page that another domain granted for reading and writing.
    GrantRw = 5,
    /// A page that another domain granted for reading.
    GrantRo = 6,
}

impl P2mKind {
    /// Decodes the note in an entry. Numbers that were never noted read as [`P2mKind::Mmio`], which nothing may touch.
    #[inline]
    pub(super) const fn from_note(note: u8) -> Self {
        const KINDS: [P2mKind; 16] = {
            let mut kinds = [P2mKind::Mmio; 16];
            kinds[P2mKind::Ram as usize] = P2mKind::Ram;
            kinds[P2mKind::RamLogDirty as usize] = P2mKind::RamLogDirty;
            kinds[P2mKind::Special as usize] = P2mKind::Special;
            kinds[P2mKind::Foreign as usize] = P2mKind::Foreign;
            kinds[P2mKind::GrantRw as usize] = P2mKind::GrantRw;
            kinds[P2mKind::GrantRo as usize] = P2mKind::GrantRo;
            kinds
        };
        KINDS[(note & 15) as usize]
    }

    /// What the guest may do with such a page, unless it is inserted with less.
    #[must_use]
    pub const fn default_access(self) -> Access {
        match self {
            Self::Ram | Self::Mmio => Access::Rwx,
            Self::RamLogDirty => Access::Rx,
            Self::Special | Self::Foreign | Self::GrantRw => Access::Rw,
            Self::GrantRo => Access::R,
        }
    }

    /// How the CPU caches it: the guest's PAT refines both.
    #[must_use]
    pub const fn default_memory_type(self) -> MemoryType {
        match self {
            Self::Mmio => MemoryType::Uncacheable,
            _ => MemoryType::WriteBack,
        }
    }

    /// True for RAM that the domain owns and may give up, grant, or have mapped by others.
    #[must_use]
    #[inline]
    pub const fn is_own_ram(self) -> bool {
        matches!(self, Self::Ram | Self::RamLogDirty)
    }

    /// True where there is memory behind it that the hypervisor may copy from (and to, where the access allows it).
    #[must_use]
    #[inline]
    pub const fn is_memory(self) -> bool {
        !matches!(self, Self::Mmio)
    }

    /// True where the mapping holds a use of a frame, to be put when it is removed: all but devices' memory.
    #[must_use]
    pub const fn holds_use(self) -> bool {
        self.is_memory()
    }
}
