//! Rules of paths: ASCII letters, digits and `-/_@`, no doubled or trailing slash, 3072 bytes absolute, 2048 relative.
//!
//! A path without a leading slash is relative to the caller's `/local/domain/<domid>`. A path that starts with `@` is a
//! special watch. Source: `docs/misc/xenstore.txt`, `public/io/xs_wire.h, XENSTORE_ABS_PATH_MAX`.

use guest_abi::io::xs_wire::{XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX};

use crate::Domid;

/// Tells whether `path`, absolute or relative, may name a node.
#[must_use]
pub fn is_valid(path: &[u8]) -> bool {
    let limit = if path.first() == Some(&b'/') {
        XENSTORE_ABS_PATH_MAX
    } else {
        XENSTORE_REL_PATH_MAX
    };
    path.len() <= limit && is_well_formed(path)
}

/// Tells whether `path` is made of allowed bytes and has no empty component, whatever its length.
#[must_use]
pub fn is_well_formed(path: &[u8]) -> bool {
    if path == b"/" {
        return true;
    }
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(byte);
    !path.is_empty()
        && !path.ends_with(b"/")
        && path.iter().all(allowed)
        && !path.windows(2).any(|pair| pair == b"//")
}

/// Tells whether `path` names special events, such as `@releaseDomain`.
#[must_use]
pub fn is_special(path: &[u8]) -> bool {
    path.first() == Some(&b'@')
}

/// Returns a domain's own path, to which its relative paths refer.
#[must_use]
pub fn of_domain(domid: Domid) -> String {
    format!("/local/domain/{domid}")
}

/// Joins a path and a child's name.
#[must_use]
pub fn join(parent: &str, name: &str) -> String {
    if parent.ends_with('/') {
        format!("{parent}{name}")
    } else {
        format!("{parent}/{name}")
    }
}

/// Returns the parent of an absolute path; the root has none.
#[must_use]
pub fn parent(path: &str) -> Option<&str> {
    let (parent, name) = path.rsplit_once('/')?;
    match (parent, name) {
        ("", "") => None,
        ("", _) => Some("/"),
        _ => Some(parent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_and_bad_paths() {
        for good in ["/", "/a", "/a/b-c_d@9", "a", "device/vbd/51712"] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in ["", "//", "/a/", "/a//b", "/a b", "/a.b", "/ä", "a\0"] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn the_limits_are_3072_and_2048_bytes() {
        let (absolute, relative) = (format!("/{}", "a".repeat(3071)), "a".repeat(2048));
        assert!(is_valid(absolute.as_bytes()));
        assert!(!is_valid(format!("{absolute}a").as_bytes()));
        assert!(is_valid(relative.as_bytes()));
        assert!(!is_valid(format!("{relative}a").as_bytes()));
    }

    #[test]
    fn parents() {
        assert_eq!(parent("/a/b"), Some("/a"));
        assert_eq!(parent("/a"), Some("/"));
        assert_eq!(parent("/"), None);
        assert_eq!(join("/", "a"), "/a");
        assert_eq!(join("/a", "b"), "/a/b");
    }
}
