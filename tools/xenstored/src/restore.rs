//! From records to a state, and back: what a restart of the daemon does.
//!
//! [`Core::snapshot`] and [`Core::replay`] are each other's inverse as far as guests can see. Sockets are not restored:
//! their clients see the connection closed. A guest's transaction under way is restored without its content, such that
//! its commit says EAGAIN.

use std::rc::Rc;

use crate::core::Core;
use crate::record::{Record, RingState};
use crate::transaction::{Transaction, mentioned};
use crate::tree::Op;

impl Core {
    /// Takes up one record; what concerns rings is the caller's.
    pub(crate) fn replay(&mut self, record: Record) {
        match record {
            Record::Op(op) => {
                self.known
                    .extend(mentioned(std::slice::from_ref(&op)).filter(|domid| *domid != 0));
                // It worked when it was written.
                let _ = self.tree.apply(&op, &mut Vec::new());
                if let Op::Forget { domids } = &op {
                    self.strip(domids);
                }
            }
            Record::Node { path, value, perms } => {
                let named = perms.iter().map(|perm| perm.domid);
                self.known.extend(named.filter(|domid| *domid != 0));
                self.tree.restore(&path, value, perms);
            }
            Record::Introduce { domid, gfn, port } => {
                self.adopt(domid, gfn, port);
            }
            Record::Release { domid } => {
                if let Some(domain) = self.domains.remove(&domid) {
                    self.close(domain.conn);
                }
            }
            Record::Special { name, perms } => {
                self.special.insert(name, perms);
            }
            Record::Quota { name, value } => {
                self.quotas.restore(&name, value);
            }
            Record::Ring(ring) => self.replay_ring(ring),
            of_domain => self.replay_of_domain(of_domain),
        }
    }

    /// Ends the replay: nothing of it is news, for watchers or for the journal.
    pub(crate) fn replayed(&mut self) {
        self.told.clear();
        self.records.clear();
    }

    /// Returns the records that make this state from nothing.
    pub(crate) fn snapshot(&self) -> Vec<Record> {
        let mut all = Vec::new();
        let changed = self.quotas.changed();
        all.extend(changed.map(|(name, value)| Record::Quota {
            name: name.into(),
            value,
        }));
        self.tree.walk(&mut |path, node| {
            all.push(Record::Node {
                path: path.into(),
                value: Rc::clone(&node.value),
                perms: Rc::clone(&node.perms),
            });
        });
        for (name, perms) in &self.special {
            let (name, perms) = (Rc::clone(name), Rc::clone(perms));
            all.push(Record::Special { name, perms });
        }
        for (&domid, domain) in &self.domains {
            let (gfn, port) = (domain.gfn, domain.port);
            all.push(Record::Introduce { domid, gfn, port });
            self.snapshot_domain(domid, &mut all);
        }
        all
    }

    fn snapshot_domain(&self, domid: xenstore::Domid, all: &mut Vec<Record>) {
        let Some(domain) = self.domains.get(&domid) else {
            return;
        };
        let Some(conn) = self.conns.get(&domain.conn) else {
            return;
        };
        let is_shutdown = domain.is_shutdown;
        all.push(Record::Shutdown { domid, is_shutdown });
        if let Some(target) = conn.caller.target {
            all.push(Record::Target { domid, target });
        }
        for watch in self.watches.of(domain.conn) {
            all.push(Record::Watch {
                domid,
                path: Rc::clone(&watch.path),
                token: Rc::clone(&watch.token),
                cut: watch.cut,
                depth: watch.depth,
            });
        }
        let open = self.transactions.of(domain.conn);
        all.extend(open.map(|(tx, _)| Record::Begin { domid, tx }));
    }

    fn replay_ring(&mut self, ring: RingState) {
        let Some(domain) = self.domains.get(&ring.domid) else {
            return;
        };
        let Some(conn) = self.conns.get_mut(&domain.conn) else {
            return;
        };
        let mut waiting = conn.outbox.pending().to_vec();
        waiting.extend_from_slice(&ring.queued);
        let wanted = ring.end.wrapping_sub(ring.sent);
        let gone = waiting
            .len()
            .saturating_sub(usize::try_from(wanted).unwrap_or(usize::MAX));
        conn.outbox.restore(waiting.split_off(gone), ring.end);
    }

    fn replay_of_domain(&mut self, record: Record) {
        match record {
            Record::Shutdown { domid, is_shutdown } => {
                if let Some(domain) = self.domains.get_mut(&domid) {
                    domain.is_shutdown = is_shutdown;
                }
            }
            Record::Target { domid, target } => {
                if let Some(conn) = self.conn_of(domid) {
                    conn.caller.target = Some(target);
                }
            }
            Record::Watch {
                domid,
                path,
                token,
                cut,
                depth,
            } => {
                if let Some(id) = self.domains.get(&domid).map(|domain| domain.conn) {
                    self.watches.add(id, &path, &token, cut, depth);
                }
            }
            Record::Unwatch { domid, path, token } => {
                if let Some(id) = self.domains.get(&domid).map(|domain| domain.conn) {
                    self.watches.remove(id, &path, &token);
                }
            }
            Record::Reset { domid } => {
                if let Some(id) = self.domains.get(&domid).map(|domain| domain.conn) {
                    self.reset(id);
                }
            }
            Record::Begin { domid, tx } => {
                if let Some(conn) = self.conn_of(domid) {
                    conn.last_tx = conn.last_tx.max(tx);
                }
                if let Some(id) = self.domains.get(&domid).map(|domain| domain.conn) {
                    let transaction = Transaction::given_up();
                    self.transactions.insert(id, tx, transaction);
                }
            }
            Record::End { domid, tx } => {
                if let Some(id) = self.domains.get(&domid).map(|domain| domain.conn) {
                    self.transactions.remove(id, tx);
                }
            }
            _ => {}
        }
    }

    fn conn_of(&mut self, domid: xenstore::Domid) -> Option<&mut crate::core::Conn> {
        let id = self.domains.get(&domid)?.conn;
        self.conns.get_mut(&id)
    }
}
