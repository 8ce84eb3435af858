//! public/io/xs_wire.h: xenstore's messages and the ring they travel on.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Debug commands.
pub const XS_CONTROL: u32 = 0;
/// Lists children.
pub const XS_DIRECTORY: u32 = 1;
/// Reads a node.
pub const XS_READ: u32 = 2;
/// Reads its permissions.
pub const XS_GET_PERMS: u32 = 3;
/// Sets a watch.
pub const XS_WATCH: u32 = 4;
/// Removes it.
pub const XS_UNWATCH: u32 = 5;
/// Starts a transaction.
pub const XS_TRANSACTION_START: u32 = 6;
/// Ends it.
pub const XS_TRANSACTION_END: u32 = 7;
/// Introduces a domain.
pub const XS_INTRODUCE: u32 = 8;
/// Releases it.
pub const XS_RELEASE: u32 = 9;
/// Asks for a domain's path.
pub const XS_GET_DOMAIN_PATH: u32 = 10;
/// Writes a node.
pub const XS_WRITE: u32 = 11;
/// Makes a node.
pub const XS_MKDIR: u32 = 12;
/// Removes a node.
pub const XS_RM: u32 = 13;
/// Sets permissions.
pub const XS_SET_PERMS: u32 = 14;
/// A watch fired.
pub const XS_WATCH_EVENT: u32 = 15;
/// A request failed.
pub const XS_ERROR: u32 = 16;
/// Asks whether a domain is introduced.
pub const XS_IS_DOMAIN_INTRODUCED: u32 = 17;
/// A domain resumed.
pub const XS_RESUME: u32 = 18;
/// Sets a stub domain's target.
pub const XS_SET_TARGET: u32 = 19;
/// Removes all watches of the caller.
pub const XS_RESET_WATCHES: u32 = 21;
/// Lists children in parts.
pub const XS_DIRECTORY_PART: u32 = 22;

/// Bytes of each direction's ring.
pub const XENSTORE_RING_SIZE: usize = 1024;
/// Bytes of a message's payload at most.
pub const XENSTORE_PAYLOAD_MAX: usize = 4096;
/// Bytes of an absolute path at most.
pub const XENSTORE_ABS_PATH_MAX: usize = 3072;
/// Bytes of a relative path at most.
pub const XENSTORE_REL_PATH_MAX: usize = 2048;
/// `connection`: in use.
pub const XENSTORE_CONNECTED: u32 = 0;
/// `connection`: being made anew.
pub const XENSTORE_RECONNECT: u32 = 1;
/// `server_features`: a guest may ask for [`XENSTORE_RECONNECT`].
pub const XENSTORE_SERVER_FEATURE_RECONNECTION: u32 = 1;
/// `server_features`: the `error` word is used.
pub const XENSTORE_SERVER_FEATURE_ERROR: u32 = 2;
/// `server_features`: a watch may have a depth.
pub const XENSTORE_SERVER_FEATURE_WATCHDEPTH: u32 = 4;
/// `error`: none.
pub const XENSTORE_ERROR_NONE: u32 = 0;
/// `error`: the event channel does not work.
pub const XENSTORE_ERROR_COMM: u32 = 1;
/// `error`: a producer or consumer index makes no sense.
pub const XENSTORE_ERROR_RINGIDX: u32 = 2;
/// `error`: a message longer than allowed.
pub const XENSTORE_ERROR_PROTO: u32 = 3;

/// Head of each message.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XsdSockmsg {
    /// [`XS_READ`] and its like.
    pub type_: u32,
    /// The request's id, echoed.
    pub req_id: u32,
    /// Transaction, or 0.
    pub tx_id: u32,
    /// Bytes that follow.
    pub len: u32,
}

/// The ring page; indices run freely and are masked by [`XENSTORE_RING_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct XenstoreDomainInterface {
    /// Requests.
    pub req: [u8; XENSTORE_RING_SIZE],
    /// Replies and watch events.
    pub rsp: [u8; XENSTORE_RING_SIZE],
    /// Consumer of `req`.
    pub req_cons: u32,
    /// Producer of `req`.
    pub req_prod: u32,
    /// Consumer of `rsp`.
    pub rsp_cons: u32,
    /// Producer of `rsp`.
    pub rsp_prod: u32,
    /// What the server can do.
    pub server_features: u32,
    /// [`XENSTORE_CONNECTED`] and its like.
    pub connection: u32,
    /// Why the server stopped.
    pub error: u32,
}
