//! The store without its wires: connections, what they may ask, what they are told.
//!
//! A request goes in by [`Core::handle`]; replies and events come out in each connection's [`Outbox`]; what must
//! outlive the daemon comes out as [`Record`]s. Mapping a guest's ring is left to a [`Machine`]. The requests
//! themselves are in [`crate::request`], the daemon's own commands in [`crate::control`], a restart in
//! [`crate::restore`].

mod domains;
mod events;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
    time::{Duration, Instant},
};

use xenstore::{Domid, Perm, Refusal, path, wire::Message};

use crate::access::Caller;
use crate::node::Perms;
use crate::outbox::{EVENT_TIMEOUT, Outbox};
use crate::quota::{Limit, Quotas};
use crate::record::Record;
use crate::transactions::Transactions;
use crate::tree::{Change, Op, Tree};
pub(crate) use crate::watch::ConnId;
use crate::watch::Watches;

/// Event on introduction of a domain.
pub(crate) const INTRODUCED: &str = "@introduceDomain";
/// Event on a domain's shutdown and end.
pub(crate) const RELEASED: &str = "@releaseDomain";

/// What a domain's introduction means outside of the store.
pub(crate) trait Machine {
    /// Maps a domain's ring and binds its event channel, anew if it was served before; the ring starts empty.
    ///
    /// # Errors
    /// What the caller of INTRODUCE is told.
    fn connect(&mut self, domid: Domid, gfn: u64, port: u32) -> Result<(), Refusal>;

    /// Undoes it.
    fn disconnect(&mut self, domid: Domid);

    /// Tells whether there is such a domain, introduced or not.
    fn exists(&self, domid: Domid) -> bool;
}

/// How a connection reaches us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// A local client: gone with the daemon.
    Socket,
    /// A domain's ring: outlives the daemon.
    Ring,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) caller: Caller,
    pub(crate) link: Link,
    pub(crate) outbox: Outbox,
    /// Left too much unread: to be disconnected.
    pub(crate) is_hopeless: bool,
    pub(crate) last_tx: u32,
    pub(crate) outstanding: Rc<Cell<usize>>,
}

impl Conn {
    /// Tells whether so much is unread that its requests wait.
    pub(crate) fn is_behind(&self) -> bool {
        self.outbox.len() >= 2 * xenstore::wire::XENSTORE_PAYLOAD_MAX
    }
}

/// A domain that is served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Domain {
    pub(crate) conn: ConnId,
    pub(crate) gfn: u64,
    /// The domain's own end of the event channel.
    pub(crate) port: u32,
    /// Its shutdown has been told.
    pub(crate) is_shutdown: bool,
}

/// The whole state.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) tree: Tree,
    pub(crate) quotas: Quotas,
    pub(crate) watches: Watches,
    pub(crate) transactions: Transactions,
    pub(crate) conns: HashMap<ConnId, Conn>,
    pub(crate) domains: BTreeMap<Domid, Domain>,
    /// Who may hear of special events.
    pub(crate) special: BTreeMap<Rc<str>, Perms>,
    /// Domains that exist and are named in permissions, as owners or else: asked after when some domain ends.
    pub(crate) known: BTreeSet<Domid>,
    /// Connections for which something was queued since they were last looked at.
    pub(crate) news: BTreeSet<ConnId>,
    /// Connections that may have events unread.
    unread: BTreeSet<ConnId>,
    /// How long events count against who caused them; `None`: until they are read.
    pub(crate) event_timeout: Option<Duration>,
    /// For the journal, since it was last written.
    pub(crate) records: Vec<Record>,
    /// Changes that the present request made, not told yet.
    pub(crate) told: Vec<Change>,
    last_conn: ConnId,
}

impl Core {
    /// Makes a store that is empty but for its root.
    pub(crate) fn new(quotas: Quotas) -> Self {
        let closed: Perms = Rc::from([Perm::none(0)]);
        let special = [INTRODUCED, RELEASED].map(|name| (name.into(), Rc::clone(&closed)));
        Self {
            tree: Tree::new(),
            quotas,
            watches: Watches::default(),
            transactions: Transactions::default(),
            conns: HashMap::new(),
            domains: BTreeMap::new(),
            special: BTreeMap::from(special),
            known: BTreeSet::new(),
            news: BTreeSet::new(),
            unread: BTreeSet::new(),
            event_timeout: Some(EVENT_TIMEOUT),
            records: Vec::new(),
            told: Vec::new(),
            last_conn: 0,
        }
    }

    /// Writes the nodes that are there from the start; dom0's own only if it is served.
    pub(crate) fn write_own_nodes(&mut self) {
        if self.tree.get("/tool/xenstored").is_some() {
            return;
        }
        self.preset("/tool/xenstored", b"");
        if self.domains.contains_key(&0) {
            self.preset("/local/domain/0/domid", b"0");
            self.preset("/local/domain/0/name", b"Domain-0");
        }
        self.tell(None);
    }

    fn preset(&mut self, path: &str, value: &[u8]) {
        let (path, value) = (path.into(), value.into());
        let op = Op::Write {
            path,
            value,
            creator: 0,
        };
        // A write to the tree itself does not fail.
        let _ = self.apply(op);
    }

    /// Adds a connection of a domain.
    pub(crate) fn open(&mut self, domid: Domid, link: Link) -> ConnId {
        self.last_conn += 1;
        let conn = Conn {
            caller: Caller::of(domid),
            link,
            outbox: Outbox::default(),
            is_hopeless: false,
            last_tx: 0,
            outstanding: Rc::default(),
        };
        self.conns.insert(self.last_conn, conn);
        self.last_conn
    }

    /// Removes a connection with its watches and transactions.
    pub(crate) fn close(&mut self, id: ConnId) {
        self.watches.remove_all(id);
        self.transactions.remove_all(id);
        self.conns.remove(&id);
        self.news.remove(&id);
        self.unread.remove(&id);
    }

    /// Serves a request: its reply and what it causes are queued.
    pub(crate) fn handle(&mut self, machine: &mut dyn Machine, id: ConnId, message: &Message) {
        let result = self.serve(machine, id, message);
        // A domain may have released itself.
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        self.news.insert(id);
        match result {
            Ok(payload) => {
                conn.outbox.reply(message, &payload);
                self.greet(id, message);
            }
            Err(refusal) => conn.outbox.refuse(message, refusal),
        }
        self.tell(Some(id));
    }

    /// Tells whether a connection has so much unread that its requests wait.
    pub(crate) fn is_behind(&self, id: ConnId) -> bool {
        self.conns.get(&id).is_none_or(Conn::is_behind)
    }

    /// Tells whether a connection's next request may be served, for all that others have not read.
    pub(crate) fn may_ask(&mut self, id: ConnId) -> bool {
        let Some(conn) = self.conns.get(&id) else {
            return false;
        };
        let (domid, wanted) = (conn.caller.domid, conn.outstanding.get() + 1);
        let why = "its next request waits";
        self.quotas.allows(domid, Limit::Outstanding, wanted, why)
    }

    /// Drops a connection's watches and transactions.
    pub(crate) fn reset(&mut self, id: ConnId) {
        self.watches.remove_all(id);
        self.transactions.remove_all(id);
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        if conn.link == Link::Ring {
            let domid = conn.caller.domid;
            self.records.push(Record::Reset { domid });
        }
    }

    /// Carries out an operation outside of transactions.
    ///
    /// # Errors
    /// As [`Tree::apply`].
    pub(crate) fn apply(&mut self, op: Op) -> Result<(), Refusal> {
        self.tree.apply(&op, &mut self.told)?;
        self.settle();
        self.records.push(Record::Op(op));
        Ok(())
    }

    /// Has transactions pay for what they alone keep, now that the tree has changed; who would keep too much, keeps
    /// less.
    pub(crate) fn settle(&mut self) {
        let shed = self.tree.take_shed();
        if shed.is_empty() {
            return;
        }
        for id in self.transactions.charge(&shed) {
            self.relieve(id);
        }
    }

    /// Brings a connection's transactions to the present, or gives them up, until it keeps no more than its quota.
    ///
    /// dom0's nodes are free; of the past, its connections keep no more than a guest may.
    fn relieve(&mut self, id: ConnId) {
        let Some(caller) = self.conns.get(&id).map(|conn| conn.caller) else {
            return;
        };
        let most = self.quotas.get(Limit::Memory);
        let why = "the tree has changed too much since its transactions began";
        loop {
            let kept = if caller.is_privileged() {
                self.transactions.past(id)
            } else {
                self.charged(id)
            };
            if kept <= most {
                return;
            }
            self.quotas.allows(caller.domid, Limit::Memory, kept, why);
            if !self.transactions.relieve(id, &self.tree, most / 16) {
                return;
            }
        }
    }

    /// Gives up transactions that are under way for too long: what they keep shall not be kept for ever.
    fn expire(&mut self, now: Instant) {
        let most = self.quotas.get(Limit::TransactionAge);
        let most_time = Duration::from_secs(u64::try_from(most).unwrap_or(u64::MAX));
        for (id, tx) in self.transactions.older_than(most_time, now) {
            let domid = self.conns.get(&id).map_or(0, |conn| conn.caller.domid);
            let why = "a transaction under way is given up";
            if !(self.quotas).allows(domid, Limit::TransactionAge, most.saturating_add(1), why) {
                self.transactions.give_up(id, tx);
            }
        }
    }

    /// Returns what a connection uses: the nodes of its domain, and all that it is charged for in bytes.
    pub(crate) fn charged(&self, id: ConnId) -> usize {
        let domid = self.conns.get(&id).map(|conn| conn.caller.domid);
        let nodes = domid.map_or(0, |domid| self.tree.usage(domid).bytes);
        nodes + self.charged_besides(id)
    }

    /// Returns what a guest is charged for besides its nodes, in bytes: watches, and what its transactions keep.
    pub(crate) fn charged_besides(&self, id: ConnId) -> usize {
        match self.conns.get(&id) {
            Some(conn) if !conn.caller.is_privileged() => {
                self.watches.usage(id).bytes + self.transactions.bytes(id)
            }
            _ => 0,
        }
    }
}

/// Returns the absolute form of a watched path.
pub(crate) fn absolute_watch(caller: Caller, sent: &str) -> String {
    if sent.starts_with(['/', '@']) {
        return sent.to_owned();
    }
    path::join(&path::of_domain(caller.domid), sent)
}
