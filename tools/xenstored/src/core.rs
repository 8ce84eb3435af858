//! The store without its wires: connections, what they may ask, what they are told.
//!
//! A request goes in by [`Core::handle`]; replies and events come out in each connection's [`Outbox`]; what must outlive
//! the daemon comes out as [`Record`]s. Mapping a guest's ring is left to a [`Machine`]. The requests themselves are in
//! [`crate::request`], the daemon's own commands in [`crate::control`], a restart in [`crate::restore`].

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
    time::{Duration, Instant},
};

use xenstore::{Domid, Perm, Refusal, path, wire::Message};

use crate::access::{Caller, Need};
use crate::node::Perms;
use crate::outbox::{Cause, EVENT_TIMEOUT, Outbox};
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

/// Bytes that what a guest leaves unread may take; later events are dropped.
const RING_BACKLOG: usize = 1 << 20;
/// Bytes that what dom0's kernel leaves unread may take, or a local client before it is disconnected.
const DOM0_BACKLOG: usize = 8 << 20;

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

    /// Stops blaming guests for events that have waited too long to be read, and ends what is under way for too long.
    pub(crate) fn absolve(&mut self, now: Instant) {
        self.expire(now);
        let conns = &mut self.conns;
        let Some(timeout) = self.event_timeout else {
            return;
        };
        self.unread.retain(|id| {
            let Some(conn) = conns.get_mut(id).filter(|conn| !conn.outbox.is_empty()) else {
                return false;
            };
            if conn.outbox.absolve(now, timeout) {
                let domid = conn.caller.domid;
                log::debug!("d{domid}: reads no events; those who caused them may go on");
            }
            true
        });
    }

    /// Begins to serve a domain.
    ///
    /// # Errors
    /// The machine's.
    pub(crate) fn introduce(
        &mut self,
        machine: &mut dyn Machine,
        domid: Domid,
        gfn: u64,
        port: u32,
    ) -> Result<(), Refusal> {
        machine.connect(domid, gfn, port)?;
        self.records.push(Record::Introduce { domid, gfn, port });
        let is_new = self.adopt(domid, gfn, port);
        if is_new {
            log::info!("d{domid}: introduced, gfn {gfn:#x}, port {port}");
            if domid != 0 {
                self.tell_special(INTRODUCED, domid);
            }
        } else {
            log::info!("d{domid}: introduced again, gfn {gfn:#x}, port {port}");
        }
        Ok(())
    }

    /// Enters a domain into the table, or resets its connection; tells whether it is new.
    pub(crate) fn adopt(&mut self, domid: Domid, gfn: u64, port: u32) -> bool {
        let known = self.domains.get(&domid).map(|domain| domain.conn);
        let conn = known.unwrap_or_else(|| self.open(domid, Link::Ring));
        let domain = Domain {
            conn,
            gfn,
            port,
            is_shutdown: false,
        };
        self.domains.insert(domid, domain);
        if known.is_some() {
            self.reset(conn);
            if let Some(conn) = self.conns.get_mut(&conn) {
                conn.outbox.restart(0);
            }
        }
        known.is_none()
    }

    /// Ends the service of a domain, with all that it owns.
    pub(crate) fn release(&mut self, machine: &mut dyn Machine, domid: Domid) {
        let Some(domain) = self.domains.remove(&domid) else {
            return;
        };
        log::info!("d{domid}: released");
        self.close(domain.conn);
        machine.disconnect(domid);
        self.records.push(Record::Release { domid });
        self.forget(&[domid]);
        self.tell_special(RELEASED, domid);
    }

    /// Notes that a domain has shut down, and tells of it once.
    pub(crate) fn shut_down(&mut self, domid: Domid) {
        let Some(domain) = self.domains.get_mut(&domid) else {
            return;
        };
        if !domain.is_shutdown {
            domain.is_shutdown = true;
            let is_shutdown = true;
            self.records.push(Record::Shutdown { domid, is_shutdown });
            self.tell_special(RELEASED, domid);
        }
    }

    /// Lists the domains whose end would concern us.
    pub(crate) fn concerned(&self) -> Vec<Domid> {
        let known = self.known.iter().chain(self.domains.keys());
        let all: BTreeSet<_> = known.copied().filter(|domid| *domid != 0).collect();
        all.into_iter().collect()
    }

    /// Removes what domains that are gone owned, and their rights; `gone` ascends.
    pub(crate) fn forget(&mut self, gone: &[Domid]) {
        self.quotas
            .forget(|domid| gone.binary_search(domid).is_ok());
        // Only operations on one path can fail.
        let _ = self.apply(Op::Forget {
            domids: gone.into(),
        });
        self.strip(gone);
        // They may hold the dead domain's rights in their copies.
        self.transactions.doom_all();
        self.tell(None);
    }

    /// Takes the rights that domains that are gone have besides the tree; [`Op::Forget`] stands for it in the journal.
    pub(crate) fn strip(&mut self, gone: &[Domid]) {
        let is_gone = |domid: &Domid| gone.binary_search(domid).is_ok();
        self.known.retain(|domid| !is_gone(domid));
        for perms in self.special.values_mut() {
            let kept = perms.iter().filter(|perm| !is_gone(&perm.domid));
            let kept: Vec<_> = kept.copied().collect();
            // Without an owner it is dom0's again, closed to others.
            let had_owner = perms.first().is_some_and(|perm| !is_gone(&perm.domid));
            *perms = if had_owner {
                kept.into()
            } else {
                Rc::from([Perm::none(0)])
            };
        }
        for conn in self.conns.values_mut() {
            conn.caller.target = conn.caller.target.filter(|target| !is_gone(target));
        }
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

    /// Has transactions pay for what they alone keep, now that the tree has changed; who would keep too much, keeps less.
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

    /// Notes domains that are named in permissions, of those that exist: a guest may name any number.
    pub(crate) fn note(&mut self, machine: &dyn Machine, named: impl Iterator<Item = Domid>) {
        let is_new = |domid: &Domid| *domid != 0 && !self.known.contains(domid);
        let new: BTreeSet<_> = named.filter(is_new).collect();
        let exists = |domid: &Domid| self.domains.contains_key(domid) || machine.exists(*domid);
        let found: Vec<_> = new.into_iter().filter(exists).collect();
        self.known.extend(found);
    }

    /// Queues the events for what has changed; `by` is whose request did it.
    pub(crate) fn tell(&mut self, by: Option<ConnId>) {
        let told = std::mem::take(&mut self.told);
        if told.is_empty() {
            return;
        }
        let cause = by.and_then(|id| self.cause(id));
        for change in &told {
            for watch in self.watches.matching(&change.path, change.is_exact) {
                let Some(conn) = self.conns.get_mut(&watch.conn) else {
                    continue;
                };
                let may = |perms: &Perms| conn.caller.may(perms, Need::Read);
                if change.readable_by.iter().any(may) {
                    send(conn, watch.event(&change.path), cause.clone());
                    self.news.insert(watch.conn);
                    self.unread.insert(watch.conn);
                }
            }
        }
    }

    /// Queues the events for what is no node.
    pub(crate) fn tell_special(&mut self, event: &str, domid: Domid) {
        let closed: Perms = Rc::from([Perm::none(0)]);
        let perms = self.special.get(event).unwrap_or(&closed);
        for (watch, shown) in self.watches.special(event, domid) {
            let conn = self.conns.get_mut(&watch.conn);
            if let Some(conn) = conn.filter(|conn| conn.caller.may(perms, Need::Read)) {
                send(conn, watch.event(&shown), None);
                self.news.insert(watch.conn);
                self.unread.insert(watch.conn);
            }
        }
    }

    /// Sends the event with which each new watch begins.
    fn greet(&mut self, id: ConnId, message: &Message) {
        use xenstore::{Kind, wire::strings};
        let is_watch = message.kind == Kind::Watch.number();
        let Some(conn) = self.conns.get_mut(&id).filter(|_| is_watch) else {
            return;
        };
        let mut fields = strings(&message.payload);
        let (Some(sent), Some(token)) = (fields.next(), fields.next()) else {
            return;
        };
        let sent = String::from_utf8_lossy(sent);
        let absolute = absolute_watch(conn.caller, &sent);
        let of_conn = self.watches.matching(&absolute, true);
        let new = of_conn
            .iter()
            .find(|watch| watch.conn == id && &*watch.token == token);
        if let Some(watch) = new {
            send(conn, watch.event(&absolute), None);
        }
    }

    /// Makes the mark by which a guest's request is recognised in others' queues.
    fn cause(&self, id: ConnId) -> Option<Rc<Cause>> {
        let conn = self.conns.get(&id)?;
        (!conn.caller.is_privileged()).then(|| Cause::new(&conn.outstanding))
    }
}

/// Returns the absolute form of a watched path.
pub(crate) fn absolute_watch(caller: Caller, sent: &str) -> String {
    if sent.starts_with(['/', '@']) {
        return sent.to_owned();
    }
    path::join(&path::of_domain(caller.domid), sent)
}

/// Queues an event; a reader that has left too much unread is given up.
fn send(conn: &mut Conn, payload: Vec<u8>, cause: Option<Rc<Cause>>) {
    let domid = conn.caller.domid;
    let most = match conn.link {
        Link::Ring if domid != 0 => RING_BACKLOG,
        _ => DOM0_BACKLOG,
    };
    if conn.outbox.cost() < most {
        return conn.outbox.event(payload, cause);
    }
    if !conn.is_hopeless {
        conn.is_hopeless = true;
        match conn.link {
            Link::Socket => {
                log::warn!("what a local client left unread takes {most} bytes: disconnected")
            }
            Link::Ring => {
                log::warn!("d{domid}: what it left unread takes {most} bytes: events are dropped")
            }
        }
    }
}
