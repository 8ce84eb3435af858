//! What can go wrong with a device, told so that the reader knows what to do.

use std::fmt;

use rustix::io::Errno;

/// Why a device under /dev/xen did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The device's file is not there.
    #[error("{device}: not there; {remedy}, and check that this is dom0 of a Xen host")]
    Missing {
        /// Path of the device.
        device: &'static str,
        /// What to try.
        remedy: &'static str,
    },
    /// It is there but cannot be opened.
    #[error("{device}: cannot be opened: {errno}{}", privilege_hint(*.errno))]
    Open {
        /// Path of the device.
        device: &'static str,
        /// Why.
        errno: Errno,
    },
    /// A request to it failed.
    #[error("{device}: {step}: {errno}")]
    Request {
        /// Path of the device.
        device: &'static str,
        /// What was asked, with its numbers.
        step: String,
        /// Why not.
        errno: Errno,
    },
    /// Some pages of another domain could not be mapped.
    #[error(
        "mapping {total} pages of domain {domid}: {failed} failed, the first is gfn {gfn:#x}: {errno}"
    )]
    Foreign {
        /// Whose pages.
        domid: u16,
        /// How many were asked for.
        total: usize,
        /// How many failed.
        failed: usize,
        /// The first guest frame that failed.
        gfn: u64,
        /// Why that one failed.
        errno: Errno,
    },
}

impl Error {
    pub(crate) fn request(device: &'static str, step: impl fmt::Display, errno: Errno) -> Self {
        Self::Request {
            device,
            step: step.to_string(),
            errno,
        }
    }

    /// The error number underneath, where there is one.
    #[must_use]
    pub const fn errno(&self) -> Option<Errno> {
        match self {
            Self::Missing { .. } => None,
            Self::Open { errno, .. }
            | Self::Request { errno, .. }
            | Self::Foreign { errno, .. } => Some(*errno),
        }
    }
}

fn privilege_hint(errno: Errno) -> &'static str {
    if matches!(errno, Errno::ACCESS | Errno::PERM) {
        " (are you root?)"
    } else {
        ""
    }
}
