//! Transactions: changes that others see all at once or not at all; dropped, they leave nothing.

use crate::client::Store;
use crate::error::{Error, Result};
use crate::ops::Ops;
use crate::wire::Kind;

/// A transaction under way; [`Ops`] on it are seen by others only after [`commit`](Self::commit).
#[derive(Debug)]
pub struct Transaction<'a> {
    store: &'a Store,
    id: u32,
    is_ended: bool,
}

impl<'a> Transaction<'a> {
    /// Starts a transaction on a connection.
    ///
    /// # Errors
    /// The daemon refused (too many transactions), or the connection broke.
    pub(crate) fn start(store: &'a Store) -> Result<Self> {
        let reply = store.exchange(Kind::TransactionStart, 0, "", &[b"\0"])?;
        let text = reply.strip_suffix(b"\0").unwrap_or(&reply);
        let id = str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(Error::Protocol("a transaction's id is no number"))?;
        Ok(Self {
            store,
            id,
            is_ended: false,
        })
    }

    /// Makes the changes visible to all.
    ///
    /// # Errors
    /// [`Error::is_again`] if somebody changed what this transaction had read or written: begin anew. Other refusals
    /// (quotas) and broken connections likewise leave nothing of the changes.
    pub fn commit(mut self) -> Result<()> {
        self.end(b"T\0")
    }

    fn end(&mut self, how: &[u8]) -> Result<()> {
        self.is_ended = true;
        self.store
            .exchange(Kind::TransactionEnd, self.id, "", &[how])
            .map(drop)
    }
}

impl Ops for Transaction<'_> {
    fn request(&self, kind: Kind, subject: &str, parts: &[&[u8]]) -> Result<Vec<u8>> {
        self.store.exchange(kind, self.id, subject, parts)
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.is_ended {
            // A connection that broke has ended the transaction as well.
            let _ = self.end(b"F\0");
        }
    }
}
