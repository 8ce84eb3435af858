//! Watches: who wants to hear of which path.
//!
//! They are found by path: a change looks up its own path and each of its ancestors, so its cost does not grow with the
//! number of watches set elsewhere. Special paths (`@releaseDomain`) match themselves only, and with `/<domid>`
//! appended the events of that domain only.

use std::{collections::HashMap, rc::Rc};

use xenstore::Domid;

use crate::tree::Usage;

/// A connection's number; never used twice.
pub(crate) type ConnId = u64;

/// One watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) conn: ConnId,
    /// Absolute, or special.
    pub(crate) path: Rc<str>,
    pub(crate) token: Rc<[u8]>,
    /// Bytes to cut off an event's path: the watch was set by a relative path.
    pub(crate) cut: usize,
    /// Levels below the path that count; all without it.
    pub(crate) depth: Option<u32>,
    serial: u64,
}

/// All watches.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    by_path: HashMap<Rc<str>, Vec<Watch>>,
    by_conn: HashMap<ConnId, Own>,
    next_serial: u64,
}

/// What one connection watches.
#[derive(Debug, Default)]
struct Own {
    /// Its paths, each with the number of its watches there.
    paths: HashMap<Rc<str>, usize>,
    usage: Usage,
}

impl Watch {
    /// Makes the payload of an event about `path`.
    pub(crate) fn event(&self, path: &str) -> Vec<u8> {
        let shown = path.get(self.cut..).unwrap_or_default();
        let mut payload = Vec::with_capacity(shown.len() + self.token.len() + 2);
        payload.extend_from_slice(shown.as_bytes());
        payload.push(0);
        payload.extend_from_slice(&self.token);
        payload.push(0);
        payload
    }

    fn cost(&self) -> usize {
        self.path.len() + self.token.len()
    }

    fn reaches(&self, path: &str) -> bool {
        let Some(depth) = self.depth else {
            return true;
        };
        let below = path.get(self.path.len()..).unwrap_or_default();
        // The root ends with the slash that other watched paths do not have.
        let levels = below.matches('/').count() + usize::from(&*self.path == "/" && path != "/");
        u32::try_from(levels).is_ok_and(|levels| levels <= depth)
    }
}

impl Watches {
    /// Adds a watch; false if the connection has the same path with the same token.
    pub(crate) fn add(
        &mut self,
        conn: ConnId,
        path: &Rc<str>,
        token: &[u8],
        cut: usize,
        depth: Option<u32>,
    ) -> bool {
        let all = self.by_path.entry(Rc::clone(path)).or_default();
        if all.iter().any(|w| w.conn == conn && &*w.token == token) {
            return false;
        }
        let own = self.by_conn.entry(conn).or_default();
        *own.paths.entry(Rc::clone(path)).or_default() += 1;
        own.usage.nodes += 1;
        own.usage.bytes += path.len() + token.len();
        self.next_serial += 1;
        all.push(Watch {
            conn,
            path: Rc::clone(path),
            token: token.into(),
            cut,
            depth,
            serial: self.next_serial,
        });
        true
    }

    /// Removes a watch and returns it.
    pub(crate) fn remove(&mut self, conn: ConnId, path: &str, token: &[u8]) -> Option<Watch> {
        let all = self.by_path.get_mut(path)?;
        let at = all
            .iter()
            .position(|w| w.conn == conn && &*w.token == token)?;
        let watch = all.remove(at);
        if all.is_empty() {
            self.by_path.remove(path);
        }
        self.disown(&watch);
        Some(watch)
    }

    /// Removes all watches of a connection.
    pub(crate) fn remove_all(&mut self, conn: ConnId) {
        let own = self.by_conn.remove(&conn).unwrap_or_default();
        for path in own.paths.into_keys() {
            if let Some(all) = self.by_path.get_mut(&path) {
                all.retain(|watch| watch.conn != conn);
                if all.is_empty() {
                    self.by_path.remove(&path);
                }
            }
        }
    }

    /// Returns how many watches a connection has, as `nodes`, and what they cost.
    pub(crate) fn usage(&self, conn: ConnId) -> Usage {
        self.by_conn
            .get(&conn)
            .map(|own| own.usage)
            .unwrap_or_default()
    }

    /// Lists the watches of a connection, in the order of their setting.
    pub(crate) fn of(&self, conn: ConnId) -> Vec<&Watch> {
        let paths = self.by_conn.get(&conn).into_iter();
        let paths = paths.flat_map(|own| own.paths.keys());
        let all = paths.filter_map(|path| self.by_path.get(path)).flatten();
        let mut own: Vec<_> = all.filter(|watch| watch.conn == conn).collect();
        own.sort_by_key(|watch| watch.serial);
        own
    }

    /// Finds the watches that a change of `path` concerns, in the order of their setting.
    pub(crate) fn matching(&self, path: &str, is_exact: bool) -> Vec<&Watch> {
        let mut found: Vec<&Watch> = Vec::new();
        let mut at = Some(path);
        while let Some(ancestor) = at {
            if let Some(all) = self.by_path.get(ancestor) {
                found.extend(all.iter().filter(|watch| watch.reaches(path)));
            }
            at = if is_exact {
                None
            } else {
                xenstore::path::parent(ancestor)
            };
        }
        found.sort_by_key(|watch| watch.serial);
        found
    }

    /// Finds the watches of a special event about a domain, each with the path to tell.
    pub(crate) fn special(&self, event: &str, domid: Domid) -> Vec<(&Watch, String)> {
        let of_domain = format!("{event}/{domid}");
        let common = self.by_path.get(event).into_iter().flatten();
        let common = common.map(|watch| match watch.depth {
            Some(1..) => (watch, of_domain.clone()),
            _ => (watch, event.to_owned()),
        });
        let mut found: Vec<_> = common.collect();
        let single = self.by_path.get(of_domain.as_str()).into_iter().flatten();
        found.extend(single.map(|watch| (watch, of_domain.clone())));
        found.sort_by_key(|(watch, _)| watch.serial);
        found
    }

    /// Takes a removed watch off its owner's account.
    fn disown(&mut self, watch: &Watch) {
        let Some(own) = self.by_conn.get_mut(&watch.conn) else {
            return;
        };
        own.usage.nodes = own.usage.nodes.saturating_sub(1);
        own.usage.bytes = own.usage.bytes.saturating_sub(watch.cost());
        if let Some(count) = own.paths.get_mut(&watch.path) {
            *count -= 1;
            if *count == 0 {
                own.paths.remove(&watch.path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn add(watches: &mut Watches, conn: ConnId, path: &str, depth: Option<u32>) {
        assert!(watches.add(conn, &path.into(), b"t", 0, depth));
    }

    fn who(watches: &Watches, path: &str, is_exact: bool) -> Vec<ConnId> {
        let found = watches.matching(path, is_exact);
        found.iter().map(|watch| watch.conn).collect()
    }

    #[test]
    fn a_change_concerns_the_watches_of_its_path_and_above() {
        let mut watches = Watches::default();
        for (conn, path) in [(1, "/a/b"), (2, "/"), (3, "/a"), (4, "/a/b/c"), (5, "/ab")] {
            add(&mut watches, conn, path, None);
        }
        assert_eq!(who(&watches, "/a/b", false), [1, 2, 3]);
        assert_eq!(who(&watches, "/a/b", true), [1]);
    }

    #[test]
    fn depth_counts_levels_below_the_watched_path() {
        let mut watches = Watches::default();
        for depth in 0..3 {
            add(&mut watches, depth.into(), "/a", Some(depth));
            add(&mut watches, u64::from(depth) + 10, "/", Some(depth));
        }
        assert_eq!(who(&watches, "/a", false), [0, 1, 11, 2, 12]);
        assert_eq!(who(&watches, "/a/b", false), [1, 2, 12]);
        assert_eq!(who(&watches, "/a/b/c", false), [2]);
    }

    #[test]
    fn special_events_tell_the_domain_where_asked_to() {
        let mut watches = Watches::default();
        add(&mut watches, 1, "@releaseDomain", None);
        add(&mut watches, 2, "@releaseDomain", Some(1));
        add(&mut watches, 3, "@releaseDomain/5", None);
        let told = |domid| {
            let found = watches.special("@releaseDomain", domid);
            found
                .into_iter()
                .map(|(watch, path)| (watch.conn, path))
                .collect::<Vec<_>>()
        };
        let of_5 = "@releaseDomain/5".to_owned();
        assert_eq!(
            told(5),
            [
                (1, "@releaseDomain".to_owned()),
                (2, of_5.clone()),
                (3, of_5)
            ]
        );
        assert_eq!(told(6).len(), 2);
    }

    #[test]
    fn the_same_watch_is_not_set_twice() {
        let mut watches = Watches::default();
        add(&mut watches, 1, "/a", None);
        assert!(!watches.add(1, &"/a".into(), b"t", 0, Some(3)));
        assert!(watches.add(1, &"/a".into(), b"u", 0, None));
        assert!(watches.remove(1, "/a", b"t").is_some());
        assert!(watches.remove(1, "/a", b"t").is_none());
        assert_eq!(watches.of(1).len(), 1);
        assert_eq!(watches.usage(1), Usage { nodes: 1, bytes: 3 });
        watches.remove_all(1);
        assert_eq!(watches.usage(1), Usage::default());
        assert!(watches.matching("/a", true).is_empty());
    }

    #[test]
    fn events_of_a_relative_watch_are_relative() {
        let mut watches = Watches::default();
        let (path, cut) = ("/local/domain/3/data".into(), "/local/domain/3/".len());
        watches.add(1, &path, b"tok", cut, None);
        let watch = watches.matching("/local/domain/3/data/x", false)[0];
        assert_eq!(watch.event("/local/domain/3/data/x"), b"data/x\0tok\0");
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_scan_finds(
            set in prop::collection::vec((0u64..4, "(/[ab]){1,3}|/", prop::option::of(0u32..3)), 0..20),
            path in "(/[ab]){1,4}",
            is_exact: bool,
        ) {
            let mut watches = Watches::default();
            let mut expected = Vec::new();
            for (conn, at, depth) in &set {
                if !watches.add(*conn, &at.as_str().into(), b"", 0, *depth) {
                    continue;
                }
                let is_below = at == "/" || path == *at || path.starts_with(&format!("{at}/"));
                let level = |path: &str| if path == "/" { 0 } else { path.matches('/').count() };
                let is_near = depth.is_none_or(|d| level(&path) - level(at).min(level(&path)) <= d as usize);
                if is_below && is_near && (!is_exact || path == *at) {
                    expected.push(*conn);
                }
            }
            prop_assert_eq!(who(&watches, &path, is_exact), expected);
        }
    }
}
