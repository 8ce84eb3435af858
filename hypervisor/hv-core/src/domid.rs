//! Which domain: the number that names it everywhere.

use core::fmt;

/// The number of a domain, below [`DomId::FIRST_RESERVED`]. The reserved numbers of the ABI (`DOMID_SELF` and its like)
/// are resolved where a hypercall is decoded and never get here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct DomId(u16);

impl DomId {
    /// The domain that owns the devices.
    pub const DOM0: Self = Self(0);
    /// The first number that names no domain (`public/xen.h, DOMID_FIRST_RESERVED`).
    pub const FIRST_RESERVED: u16 = 0x7FF0;

    /// The domain with number `raw`, or `None` for a reserved one.
    #[must_use]
    pub const fn new(raw: u16) -> Option<Self> {
        if raw < Self::FIRST_RESERVED {
            Some(Self(raw))
        } else {
            None
        }
    }
    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{}", self.0)
    }
}
