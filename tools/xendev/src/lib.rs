//! The devices under /dev/xen, safely: hypercalls, foreign pages, events, grants.
//!
//! What every tool of ours stands on. [`privcmd`] makes hypercalls and maps other domains' memory, [`evtchn`] receives
//! and sends events, [`gntdev`] maps what a domain granted, [`xenbus_backend`] is how xenstored meets its own kernel.
//! Memory that another domain may write at any time is never a Rust reference: it is [`MappedPages`], read and written
//! by copy. [`ring`] holds the index rules of the byte rings that xenstored and xenconsoled serve.
//!
//! Unsafe code is in `ioctl`, `mapped` and `scratch` only.

mod device;
mod error;
pub mod evtchn;
pub mod gntdev;
mod ioctl;
mod mapped;
pub mod privcmd;
pub mod ring;
mod scratch;
pub mod xenbus_backend;

pub use error::Error;
pub use guest_abi::Errno;
pub use mapped::{MappedPages, PAGE_SIZE};
pub use privcmd::{Arg, Handle, Privcmd};
pub use scratch::Scratch;
