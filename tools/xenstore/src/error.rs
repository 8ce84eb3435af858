//! What can go wrong between us and the daemon, said so that a user knows what to do.

use std::{fmt, io, path::PathBuf};

use crate::client::MOST_ATTEMPTS;
use crate::wire::{Kind, Refusal, XENSTORE_PAYLOAD_MAX};

/// This crate's results.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation failed.
#[derive(Debug)]
pub enum Error {
    /// Neither socket nor device could be opened.
    Connect {
        /// What was tried, and why each failed.
        tried: Vec<(PathBuf, io::Error)>,
    },
    /// The daemon refused the request.
    Refused {
        /// Its reason.
        reason: Refusal,
        /// What was asked.
        kind: Kind,
        /// The path or domain that it was asked about.
        subject: String,
    },
    /// The request is longer than a message may be.
    TooLong {
        /// What was asked.
        kind: Kind,
        /// The path that it was asked about.
        subject: String,
    },
    /// Each attempt at a transaction met a conflict: somebody changes the same nodes all the time.
    Conflicts,
    /// The connection broke.
    Io(io::Error),
    /// The daemon closed the connection.
    Closed,
    /// The daemon answered what the protocol does not allow.
    Protocol(&'static str),
}

impl Error {
    /// Returns the daemon's reason if it refused.
    #[must_use]
    pub const fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused { reason, .. } => Some(*reason),
            _ => None,
        }
    }

    /// Tells whether the node, watch or transaction does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.refusal() == Some(Refusal::NotFound)
    }

    /// Tells whether a transaction met a conflict and may be run again.
    #[must_use]
    pub fn is_again(&self) -> bool {
        self.refusal() == Some(Refusal::Again)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { tried } => {
                f.write_str("cannot reach xenstored (is it running?):")?;
                tried.iter().enumerate().try_for_each(|(i, (path, error))| {
                    let comma = if i == 0 { "" } else { "," };
                    write!(f, "{comma} {}: {error}", path.display())
                })
            }
            Self::Refused {
                reason,
                kind,
                subject,
            } => write!(
                f,
                "xenstore {} {subject}: {} ({})",
                kind.name(),
                reason.message(),
                reason.name()
            ),
            Self::TooLong { kind, subject } => write!(
                f,
                "xenstore {} {subject}: longer than {XENSTORE_PAYLOAD_MAX} bytes",
                kind.name()
            ),
            Self::Conflicts => write!(
                f,
                "xenstore: {MOST_ATTEMPTS} attempts at a transaction failed, as somebody keeps changing the same nodes"
            ),
            Self::Io(error) => write!(f, "connection to xenstored: {error}"),
            Self::Closed => f.write_str("xenstored closed the connection"),
            Self::Protocol(what) => write!(f, "xenstored broke the protocol: {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}
