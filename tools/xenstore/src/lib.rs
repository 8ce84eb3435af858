//! XenStore as its users see it: the tree of small strings in which toolstack, backends and guests meet.
//!
//! [`Store`] is a connection; [`Ops`] are the operations that work in and out of a [`Transaction`], so that a helper
//! `fn publish(at: &impl Ops)` serves both. Everything is synchronous; a request is one `write` and one `read`.
//!
//! The fact one would not guess: watch events arrive between replies, on the same connection. They are queued, so after
//! any request [`Store::next_event`] must be asked before polling the file descriptor again.
//!
//! ```no_run
//! use std::time::Duration;
//! use xenstore::{Ops, Perm, Store};
//!
//! # fn main() -> Result<(), xenstore::Error> {
//! let store = Store::open()?;
//! let name = store.read_string("/local/domain/0/name")?;
//! store.transaction(|tx| {
//!     tx.write("/local/domain/3/name", b"web")?;
//!     tx.set_perms("/local/domain/3/name", &[Perm::none(0), Perm::read(3)])
//! })?;
//! store.watch("@releaseDomain", "exits")?;
//! while let Some(event) = store.next_event(Some(Duration::from_secs(5)))? {
//!     println!("{name}: {} {}", event.path, event.token);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`wire`] holds what the daemon shares with us: messages, their framing, error names. [`path`] and [`perm`] are the
//! rules of paths and permissions.
#![forbid(unsafe_code)]

mod client;
mod error;
mod ops;
pub mod path;
pub mod perm;
mod transaction;
pub mod wire;

pub use client::{DEVICES, MOST_ATTEMPTS, SOCKETS, Store, WatchEvent};
pub use error::{Error, Result};
pub use ops::Ops;
pub use perm::{Access, Perm};
pub use transaction::Transaction;
pub use wire::{Kind, Refusal};

/// A domain's id.
pub type Domid = u16;
