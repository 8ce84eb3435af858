//! Grants: one domain lets another map or copy single pages of its own.
//!
//! The granter writes entries into pages shared with the hypervisor (`v1.rs`); the user names them by reference.
//! [`GrantTable`] is the granter's side: which entries are in use, for what. [`Maptrack`] is the user's: which handles
//! stand for which mappings. Neither holds a lock, and no step needs those of two domains:
//!
//! | map | unmap | copy |
//! |---|---|---|
//! | [`MapRequest::decode`] | [`UnmapRequest::decode`] | [`CopyRequest::decode`] |
//! | [`GrantTable::pin`] → [`Granted`] | [`Maptrack::take`] → [`Mapping`] | [`GrantTable::pin`] each reference |
//! | [`Maptrack::insert`] → handle | `P2m::remove_page`, flush | copy |
//! | `P2m::insert` with [`Want::p2m_kind`] | `FrameTable::put_mapped` | `FrameTable::put` |
//! | | [`GrantTable::unpin_mapped`] | [`GrantTable::unpin`] |
//!
//! A pin goes with one use of the frame, so a mapping outlives its granter: a domain is only gone when its table
//! [is idle](GrantTable::is_idle). Source: `public/grant_table.h`; version 1 entries only.

mod maptrack;
mod request;
mod table;
#[cfg(test)]
mod tests;
mod v1;

pub use maptrack::{Handle, Mapping, Maptrack};
pub use request::{CopyRequest, CopySide, MapRequest, UnmapRequest};
pub use table::{GrantTable, Granted, GranterMemory, Pin};

use guest_abi::grant_table as abi;

use crate::p2m::P2mKind;

/// A domain's number for one of its entries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GrantRef(u32);

impl GrantRef {
    /// Names the entry `raw`, which may be any number a guest came up with.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }
    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// What a user wants to do with a granted page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    Read,
    /// Read and write it.
    Write,
}

impl Want {
    /// What such a mapping is in the user's p2m.
    #[must_use]
    pub const fn p2m_kind(self) -> P2mKind {
        match self {
            Self::Read => P2mKind::GrantRo,
            Self::Write => P2mKind::GrantRw,
        }
    }
}

/// Why an element of a grant operation failed: its `status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GrantError {
    /// Not supported, or the entry changed too often while it was looked at.
    General,
    /// No such domain, or it is being destroyed.
    BadDomain,
    /// No such entry, or it does not grant this.
    BadRef,
    BadHandle,
    /// It cannot be mapped there, or is not mapped there.
    BadAddress,
    /// Only privileged domains, or nobody, may.
    PermissionDenied,
    /// The granter has no such page.
    BadPage,
    /// The bytes to copy are not in one page.
    BadCopyArg,
    /// No room for another handle, frame or use.
    NoSpace,
}

impl GrantError {
    /// The element's `status` (`public/grant_table.h, GNTST_*`).
    #[must_use]
    pub const fn status(self) -> i16 {
        match self {
            Self::General => abi::GNTST_general_error,
            Self::BadDomain => abi::GNTST_bad_domain,
            Self::BadRef => abi::GNTST_bad_gntref,
            Self::BadHandle => abi::GNTST_bad_handle,
            Self::BadAddress => abi::GNTST_bad_virt_addr,
            Self::PermissionDenied => abi::GNTST_permission_denied,
            Self::BadPage => abi::GNTST_bad_page,
            Self::BadCopyArg => abi::GNTST_bad_copy_arg,
            Self::NoSpace => abi::GNTST_no_space,
        }
    }
}
