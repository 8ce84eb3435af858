//! Permissions of a node: a list of domain and letter, the first of them the owner with everybody else's default.
//!
//! `n0,r3` reads: owned by domain 0, nobody else may do anything, but domain 3 may read. Source:
//! `docs/misc/xenstore.txt`.

use std::fmt;

use crate::Domid;

/// What a domain may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Write.
    Write,
    /// Read and write.
    Both,
}

impl Access {
    /// Returns the letter on the wire.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::None => 'n',
            Self::Read => 'r',
            Self::Write => 'w',
            Self::Both => 'b',
        }
    }

    /// Tells whether reading is included.
    #[must_use]
    pub const fn may_read(self) -> bool {
        matches!(self, Self::Read | Self::Both)
    }

    /// Tells whether writing is included.
    #[must_use]
    pub const fn may_write(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }
}

/// One entry of a node's permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Perm {
    /// Whom it is about; in the first entry the owner.
    pub domid: Domid,
    /// What that domain may do; in the first entry what all others may.
    pub access: Access,
}

impl Perm {
    /// Makes an entry `n<domid>`; as the first entry: owned by `domid` and closed to others.
    #[must_use]
    pub const fn none(domid: Domid) -> Self {
        Self {
            domid,
            access: Access::None,
        }
    }

    /// Makes an entry `r<domid>`.
    #[must_use]
    pub const fn read(domid: Domid) -> Self {
        Self {
            domid,
            access: Access::Read,
        }
    }

    /// Makes an entry `w<domid>`.
    #[must_use]
    pub const fn write(domid: Domid) -> Self {
        Self {
            domid,
            access: Access::Write,
        }
    }

    /// Makes an entry `b<domid>`.
    #[must_use]
    pub const fn both(domid: Domid) -> Self {
        Self {
            domid,
            access: Access::Both,
        }
    }

    /// Reads an entry such as `r3`.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (letter, digits) = text.split_first()?;
        let access = match letter {
            b'n' => Access::None,
            b'r' => Access::Read,
            b'w' => Access::Write,
            b'b' => Access::Both,
            _ => return None,
        };
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let domid = str::from_utf8(digits).ok()?.parse().ok()?;
        Some(Self { domid, access })
    }
}

impl fmt::Display for Perm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.access.letter(), self.domid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_and_printed() {
        for text in ["n0", "r3", "w65535", "b12"] {
            assert_eq!(Perm::parse(text.as_bytes()).unwrap().to_string(), text);
        }
        for bad in ["", "r", "x1", "r-1", "r+1", "r65536", "r1 "] {
            assert_eq!(Perm::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
