//! The bits of our own page tables: long mode with four levels.
//!
//! Source: Intel SDM vol. 3A, "4-Level Paging and 5-Level Paging".

use super::{Format, LARGE};
use crate::addr::{Mfn, PAGE_SIZE, PageOrder};

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;

/// The format of the hypervisor's own tables: translates [`HostPage`].
pub enum Host {}

/// A page of the hypervisor's linear address space: the address's bits 12 to 47.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HostPage(u64);

impl HostPage {
    const MASK: u64 = super::MAX_PAGES - 1;

    /// The page that holds the linear address `address` (canonical).
    #[must_use]
    pub const fn containing(address: u64) -> Self {
        Self((address / PAGE_SIZE) & Self::MASK)
    }
    /// The canonical address of the page's first byte.
    #[must_use]
    pub const fn base(self) -> u64 {
        let address = self.0 * PAGE_SIZE;
        let is_high_half = self.0 > Self::MASK / 2;
        if is_high_half {
            address | !(super::MAX_PAGES * PAGE_SIZE - 1)
        } else {
            address
        }
    }
}

/// The attributes of one of our own leaves, in place. [`HostAttr::READ_ONLY`] is where each starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostAttr(u64);

impl HostAttr {
    /// Present, read-only, not executable, cached write-back, supervisor only.
    pub const READ_ONLY: Self = Self(PRESENT | NO_EXECUTE);
    /// The same, writable.
    pub const DATA: Self = Self(PRESENT | WRITE | NO_EXECUTE);
    /// Executable, read-only: code.
    pub const CODE: Self = Self(PRESENT);
    /// Executable and writable: code of the firmware's, whose images have their data in the same pages.
    pub const FIRMWARE_CODE: Self = Self(PRESENT | WRITE);
    /// Writable and uncacheable: device registers.
    pub const DEVICE: Self = Self(PRESENT | WRITE | CACHE_DISABLE | WRITE_THROUGH | NO_EXECUTE);

    /// The same, kept in the TLB over changes of CR3.
    #[must_use]
    pub const fn global(self) -> Self {
        Self(self.0 | GLOBAL)
    }
    /// True where it may be written.
    #[must_use]
    pub const fn writes(self) -> bool {
        self.0 & WRITE != 0
    }
    /// True where it may be executed.
    #[must_use]
    pub const fn executes(self) -> bool {
        self.0 & NO_EXECUTE == 0
    }
}

impl Format for Host {
    type Page = HostPage;
    type Attr = HostAttr;

    #[inline]
    fn number(page: HostPage) -> u64 {
        page.0
    }
    #[inline]
    fn page(number: u64) -> HostPage {
        HostPage(number)
    }
    fn leaf(mfn: Mfn, order: PageOrder, attr: HostAttr) -> u64 {
        let size = if order > PageOrder::SIZE_4K { LARGE } else { 0 };
        mfn.base().as_u64() | attr.0 | size
    }
    fn table(table: Mfn) -> u64 {
        table.base().as_u64() | PRESENT | WRITE
    }
    #[inline]
    fn is_present(entry: u64) -> bool {
        entry & PRESENT != 0
    }
    #[inline]
    fn attr(entry: u64) -> HostAttr {
        const KEPT: u64 =
            PRESENT | WRITE | USER | WRITE_THROUGH | CACHE_DISABLE | GLOBAL | NO_EXECUTE;
        HostAttr(entry & KEPT)
    }
}
