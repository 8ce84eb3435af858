//! Limits on what one guest may use, under Xen's names; dom0 has none.
//!
//! Each refusal is logged with the domain and the limit, at most once in [`LOG_EVERY`] for each domain and limit.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use xenstore::Domid;

/// How often the same refusal of the same domain is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The default of the soft limit on memory, as in Xen.
const SOFT_MEMORY: usize = 2 << 20;
/// How the soft limit is called in the journal.
const SOFT: &str = "memory (soft)";

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Limit {
    Nodes,
    Watches,
    Transactions,
    Outstanding,
    TransactionNodes,
    TransactionAge,
    Memory,
    NodeSize,
    PathMax,
    PathDepth,
    Permissions,
}

/// Name, default and meaning of each limit, in the order in which they are printed.
const LIMITS: [(Limit, &str, usize, &str); 11] = [
    (Limit::Nodes, "nodes", 1000, "nodes per domain"),
    (Limit::Watches, "watches", 128, "watches per domain"),
    (
        Limit::Transactions,
        "transactions",
        10,
        "transactions per domain",
    ),
    (
        Limit::Outstanding,
        "outstanding",
        20,
        "requests per domain whose watch events others have not read",
    ),
    (
        Limit::TransactionNodes,
        "transaction-nodes",
        1024,
        "nodes touched by a transaction",
    ),
    (
        Limit::TransactionAge,
        "transaction-age",
        60,
        "seconds that a transaction may be under way",
    ),
    (
        Limit::Memory,
        "memory",
        2_621_440,
        "bytes per domain of nodes, watches and transactions",
    ),
    (
        Limit::NodeSize,
        "node-size",
        2048,
        "bytes of a node's value and permissions",
    ),
    (
        Limit::PathMax,
        "path-max",
        2048,
        "bytes of a path, not counting /local/domain/<domid>/",
    ),
    (
        Limit::PathDepth,
        "path-depth",
        32,
        "names in a path: each costs time at each look",
    ),
    (
        Limit::Permissions,
        "permissions",
        5,
        "permissions of a node",
    ),
];

impl Limit {
    /// Returns Xen's name of the limit.
    pub(crate) fn name(self) -> &'static str {
        LIMITS
            .iter()
            .find(|(limit, ..)| *limit == self)
            .map_or("", |(_, name, ..)| name)
    }

    /// Finds a limit by its name, or by that which Xen has given it since 4.22.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let name = match name {
            "node-permissions" => "permissions",
            "path-length" => "path-max",
            name => name,
        };
        let found = LIMITS.iter().find(|(_, known, ..)| *known == name);
        found.map(|(limit, ..)| *limit)
    }
}

/// The limits in force.
#[derive(Debug)]
pub(crate) struct Quotas {
    values: [usize; LIMITS.len()],
    /// Bytes per domain above which a warning is logged.
    soft: usize,
    logged: HashMap<(Domid, &'static str), Instant>,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            values: LIMITS.map(|(_, _, default, _)| default),
            soft: SOFT_MEMORY,
            logged: HashMap::new(),
        }
    }
}

impl Quotas {
    /// Returns a limit.
    pub(crate) fn get(&self, limit: Limit) -> usize {
        self.values.get(index(limit)).copied().unwrap_or(0)
    }

    /// Changes a limit.
    pub(crate) fn set(&mut self, limit: Limit, value: usize) {
        if let Some(slot) = self.values.get_mut(index(limit)) {
            *slot = value;
        }
    }

    /// Tells whether `domid` may have `wanted` in all; logs a refusal, about `subject`.
    pub(crate) fn allows(
        &mut self,
        domid: Domid,
        limit: Limit,
        wanted: usize,
        subject: &str,
    ) -> bool {
        let most = self.get(limit);
        if domid == 0 {
            return true;
        }
        if limit == Limit::Memory && wanted > self.soft && self.may_log(domid, SOFT) {
            let soft = self.soft;
            log::warn!("d{domid}: soft quota memory exceeded: {wanted} used or wanted, {soft}");
        }
        if wanted <= most {
            return true;
        }
        self.log_refusal(domid, limit, wanted, subject);
        false
    }

    /// Iterates over the limits in force, with their names and meanings.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, usize, &'static str)> + '_ {
        let values = self.values.iter();
        LIMITS
            .iter()
            .zip(values)
            .map(|((_, name, _, meaning), value)| (*name, *value, *meaning))
    }

    /// Returns the soft limit on memory, in bytes.
    pub(crate) fn soft(&self) -> usize {
        self.soft
    }

    /// Changes it.
    pub(crate) fn set_soft(&mut self, value: usize) {
        self.soft = value;
    }

    /// Changes what [`changed`](Self::changed) has told.
    pub(crate) fn restore(&mut self, name: &str, value: usize) {
        match Limit::from_name(name) {
            Some(limit) => self.set(limit, value),
            None if name == SOFT => self.soft = value,
            None => {}
        }
    }

    /// Forgets what was logged of domains that are gone.
    pub(crate) fn forget(&mut self, is_gone: impl Fn(&Domid) -> bool) {
        self.logged.retain(|(domid, _), _| !is_gone(domid));
    }

    /// Iterates over what differs from the defaults.
    pub(crate) fn changed(&self) -> impl Iterator<Item = (&'static str, usize)> + '_ {
        let values = self.values.iter();
        let soft = (self.soft != SOFT_MEMORY).then_some((SOFT, self.soft));
        LIMITS
            .iter()
            .zip(values)
            .filter(|((_, _, default, _), value)| *value != default)
            .map(|((_, name, ..), value)| (*name, *value))
            .chain(soft)
    }

    /// Tells whether a message about a domain, known by its text, is due again.
    pub(crate) fn may_log(&mut self, domid: Domid, what: &'static str) -> bool {
        let now = Instant::now();
        let last = self.logged.get(&(domid, what));
        let is_due = last.is_none_or(|last| now.duration_since(*last) >= LOG_EVERY);
        if is_due {
            self.logged.insert((domid, what), now);
        }
        is_due
    }

    fn log_refusal(&mut self, domid: Domid, limit: Limit, wanted: usize, subject: &str) {
        let (name, most) = (limit.name(), self.get(limit));
        if self.may_log(domid, name) {
            log::warn!(
                "d{domid}: quota {name} refused: {wanted} wanted, {most} allowed ({subject})"
            );
        }
    }
}

fn index(limit: Limit) -> usize {
    LIMITS
        .iter()
        .position(|(known, ..)| *known == limit)
        .unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dom0_has_no_limits_and_guests_have() {
        let mut quotas = Quotas::default();
        quotas.set(Limit::Nodes, 5);
        assert!(quotas.allows(0, Limit::Nodes, 6, ""));
        assert!(quotas.allows(3, Limit::Nodes, 5, ""));
        assert!(!quotas.allows(3, Limit::Nodes, 6, ""));
        assert_eq!(quotas.changed().collect::<Vec<_>>(), [("nodes", 5)]);
    }

    #[test]
    fn names_and_limits_agree() {
        for (limit, name, ..) in LIMITS {
            assert_eq!(Limit::from_name(name), Some(limit));
            assert_eq!(limit.name(), name);
        }
        assert_eq!(Limit::from_name("what"), None);
        let (mut quotas, mut again) = (Quotas::default(), Quotas::default());
        quotas.set_soft(5);
        quotas.set(Limit::Nodes, 6);
        quotas
            .changed()
            .for_each(|(name, value)| again.restore(name, value));
        assert_eq!((again.soft(), again.get(Limit::Nodes)), (5, 6));
    }
}
