//! public/io/console.h: the console ring of a domU, one page.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes from backend to guest.
pub const XENCONS_IN_LEN: usize = 1024;
/// Bytes from guest to backend.
pub const XENCONS_OUT_LEN: usize = 2048;

/// The ring; indices run freely and are masked by the ring's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct XenconsInterface {
    /// To the guest.
    pub in_: [u8; XENCONS_IN_LEN],
    /// From the guest.
    pub out: [u8; XENCONS_OUT_LEN],
    /// Consumer of `in_`.
    pub in_cons: u32,
    /// Producer of `in_`.
    pub in_prod: u32,
    /// Consumer of `out`.
    pub out_cons: u32,
    /// Producer of `out`.
    pub out_prod: u32,
}
