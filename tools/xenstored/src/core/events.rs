//! What connections are told, and who answers for what they leave unread.

use std::{rc::Rc, time::Instant};

use xenstore::{Domid, Kind, Perm, wire::Message, wire::strings};

use super::{Conn, ConnId, Core, Link, absolute_watch};
use crate::access::Need;
use crate::node::Perms;
use crate::outbox::Cause;

/// Bytes that what a guest leaves unread may take; later events are dropped.
const RING_BACKLOG: usize = 1 << 20;
/// Bytes that what dom0's kernel leaves unread may take, or a local client before it is disconnected.
const DOM0_BACKLOG: usize = 8 << 20;

impl Core {
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
    pub(super) fn greet(&mut self, id: ConnId, message: &Message) {
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
