//! What a verb can fail with: a chain from what was being done down to the hypercall's field and errno.
//!
//! Each level displays itself only and names the next as its source, so that whoever reports (anyhow's `{:#}`, or
//! [`Error::chain`]) joins them:
//! `creating "web": claiming memory: memory_op claim_pages (domain 3, 65536 pages): ENOMEM`.

use std::error::Error as _;
use std::path::PathBuf;

use crate::hypercall::HypercallError;
use crate::image::ImageError;

/// This crate's results.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The hypervisor refused.
    #[error(transparent)]
    Hypercall(#[from] HypercallError),
    /// A device under /dev/xen failed.
    #[error(transparent)]
    Device(#[from] xendev::Error),
    /// xenstored refused or is not there.
    #[error(transparent)]
    Store(#[from] xenstore::Error),
    /// The kernel, the initrd or what is told to the kernel cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A file or device node failed.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The host has too little free memory.
    #[error(
        "not enough memory: the domain needs {needed_mib} MiB, {free_mib} MiB are free, of which {claimed_mib} MiB are claimed by others; {remedy}"
    )]
    NotEnoughMemory {
        /// What the domain needs.
        needed_mib: u64,
        /// What is free.
        free_mib: u64,
        /// How much of that is promised to other domains.
        claimed_mib: u64,
        /// What its administrator can do.
        remedy: String,
    },
    /// There is no such domain.
    #[error("Domain '{0}' does not exist.")]
    NoDomain(String),
    /// A rule of ours forbids it; the text says which and what it met.
    #[error("{0}")]
    Refused(String),
    /// Somebody did not do in time what was waited for.
    #[error("{0}")]
    Timeout(String),
    /// A step of several failed.
    #[error("{step}")]
    Step {
        /// What was being done.
        step: String,
        /// Why it failed.
        #[source]
        source: Box<Error>,
    },
}

impl Error {
    /// The whole chain in one line, joined by colons.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(source) = next {
            let line = source.to_string();
            if !text.ends_with(&line) {
                text.push_str(": ");
                text.push_str(&line);
            }
            next = source.source();
        }
        text
    }

    /// Says that it failed while `step` was done.
    #[must_use]
    pub fn during(self, step: impl Into<String>) -> Self {
        Self::Step {
            step: step.into(),
            source: Box::new(self),
        }
    }

    /// The error behind the steps.
    #[must_use]
    pub fn root(&self) -> &Self {
        match self {
            Self::Step { source, .. } => source.root(),
            other => other,
        }
    }

    /// True where the connection to xenstored broke, or could not be made.
    #[must_use]
    pub fn is_lost_store(&self) -> bool {
        use xenstore::Error::{Closed, Connect, Io};
        matches!(self.root(), Self::Store(Io(_) | Closed | Connect { .. }))
    }

    /// Names the file that an I/O error is about.
    pub fn file(path: impl Into<PathBuf>, source: impl Into<std::io::Error>) -> Self {
        Self::File {
            path: path.into(),
            source: source.into(),
        }
    }
}

/// Names the step that a result comes from.
pub trait During<T> {
    /// Says that it failed while `step` was done.
    ///
    /// # Errors
    /// The result's, under the step.
    fn during(self, step: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Error>> During<T> for std::result::Result<T, E> {
    fn during(self, step: impl Into<String>) -> Result<T> {
        self.map_err(|error| error.into().during(step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_abi::Errno;

    #[test]
    fn a_chain_goes_from_the_verb_to_the_errno() {
        let refused = HypercallError::new(
            "memory_op claim_pages",
            "domain 3, 65536 pages",
            Errno::ENOMEM,
        );
        let error = Error::from(refused)
            .during("claiming memory")
            .during("creating \"web\"");
        assert_eq!(
            error.chain(),
            "creating \"web\": claiming memory: memory_op claim_pages (domain 3, 65536 pages): ENOMEM (Out of memory)"
        );
        assert!(matches!(error.root(), Error::Hypercall(_)));
    }
}
