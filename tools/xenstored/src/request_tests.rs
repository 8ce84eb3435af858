//! Requests against a whole store, without wires.

use std::collections::BTreeSet;

use xenstore::wire::{Inbox, Message};

use super::*;

/// Guests that can be introduced, and those that are.
#[derive(Default)]
pub(super) struct Guests {
    missing: BTreeSet<Domid>,
    /// Neither introduced nor gone.
    pub(super) alive: BTreeSet<Domid>,
    connected: BTreeSet<Domid>,
}

impl Machine for Guests {
    fn connect(&mut self, domid: Domid, _gfn: u64, _port: u32) -> Result<(), Refusal> {
        if self.missing.contains(&domid) {
            return Err(Refusal::Invalid);
        }
        self.connected.insert(domid);
        Ok(())
    }

    fn disconnect(&mut self, domid: Domid) {
        self.connected.remove(&domid);
    }

    fn exists(&self, domid: Domid) -> bool {
        self.connected.contains(&domid) || self.alive.contains(&domid)
    }
}

pub(super) struct Store {
    pub(super) core: Core,
    pub(super) guests: Guests,
    pub(super) dom0: ConnId,
}

impl Store {
    pub(super) fn new() -> Self {
        let mut core = Core::new(Quotas::default());
        let dom0 = core.open(0, Link::Socket);
        core.write_own_nodes();
        let guests = Guests::default();
        Self { core, guests, dom0 }
    }

    /// Introduces a guest with a home that it may write to.
    pub(super) fn guest(&mut self, domid: Domid) -> ConnId {
        let home = path::of_domain(domid);
        self.ok(self.dom0, Kind::Mkdir, format!("{home}\0"));
        self.ok(self.dom0, Kind::SetPerms, format!("{home}\0n{domid}\0"));
        self.ok(self.dom0, Kind::Introduce, format!("{domid}\x00100\x005\0"));
        self.core.domains[&domid].conn
    }

    pub(super) fn ask_in(
        &mut self,
        tx: u32,
        id: ConnId,
        kind: Kind,
        payload: impl AsRef<[u8]>,
    ) -> Reply {
        let message = Message {
            kind: kind.number(),
            req_id: 9,
            tx_id: tx,
            payload: payload.as_ref().to_vec(),
        };
        let before = self.core.conns[&id].outbox.len();
        self.core.handle(&mut self.guests, id, &message);
        let outbox = &self.core.conns[&id].outbox;
        let mut inbox = Inbox::default();
        inbox.push(&outbox.pending()[before..]);
        let mut all = std::iter::from_fn(|| inbox.pop().unwrap());
        // An event that the request caused may precede its reply.
        let reply = all.find(|message| message.req_id == 9).unwrap();
        assert_eq!(reply.tx_id, tx);
        if reply.kind == Kind::Error.number() {
            return Err(Refusal::from_name(&reply.payload).unwrap());
        }
        assert_eq!(reply.kind, kind.number());
        Ok(reply.payload)
    }

    pub(super) fn ask(&mut self, id: ConnId, kind: Kind, payload: impl AsRef<[u8]>) -> Reply {
        self.ask_in(0, id, kind, payload)
    }

    pub(super) fn ok(&mut self, id: ConnId, kind: Kind, payload: impl AsRef<[u8]>) -> String {
        let reply = self.ask(id, kind, payload).unwrap();
        String::from_utf8(reply).unwrap().replace('\0', "|")
    }

    /// Takes the events that wait for a connection; replies among them are dropped.
    pub(super) fn events(&mut self, id: ConnId) -> Vec<String> {
        let outbox = &mut self.core.conns.get_mut(&id).unwrap().outbox;
        let mut inbox = Inbox::default();
        inbox.push(outbox.pending());
        outbox.take(usize::MAX);
        let all = std::iter::from_fn(|| inbox.pop().unwrap());
        all.filter(|m| m.kind == Kind::WatchEvent.number())
            .map(|m| String::from_utf8(m.payload).unwrap().replace('\0', "|"))
            .collect()
    }
}

#[test]
fn nodes_are_written_read_listed_and_removed() {
    let (mut store, dom0) = (Store::new(), 1);
    assert_eq!(store.ok(dom0, Kind::Write, "/a/b\0va\0lue"), "OK|");
    assert_eq!(store.ok(dom0, Kind::Read, "/a/b\0"), "va|lue");
    assert_eq!(store.ok(dom0, Kind::Directory, "/\0"), "tool|a|");
    assert_eq!(store.ok(dom0, Kind::GetPerms, "/a\0"), "n0|");
    store.ok(dom0, Kind::Rm, "/a\0");
    assert_eq!(
        store.ask(dom0, Kind::Read, "/a/b\0"),
        Err(Refusal::NotFound)
    );
    assert_eq!(store.ok(dom0, Kind::Rm, "/a\0"), "OK|");
    assert_eq!(store.ask(dom0, Kind::Rm, "/a/b\0"), Err(Refusal::NotFound));
}

#[test]
fn malformed_payloads_are_refused() {
    let (mut store, dom0) = (Store::new(), 1);
    for (kind, payload) in [
        (Kind::Read, "/tool"),
        (Kind::Read, ""),
        (Kind::Read, "/tool\0x\0"),
        (Kind::Read, "/to ol\0"),
        (Kind::Write, "/a"),
        (Kind::SetPerms, "/tool\0"),
        (Kind::SetPerms, "/tool\0x3\0"),
        (Kind::SetPerms, "/tool\0r3"),
        (Kind::Watch, "/a\0"),
        (Kind::Watch, "/a\0t\0x\0"),
        (Kind::TransactionEnd, "X\0"),
        (Kind::Introduce, "0\x001\x001\0"),
        (Kind::Introduce, "3\x001\x000\0"),
        (Kind::Introduce, "70000\x001\x001\0"),
        (Kind::DirectoryPart, "/\0x\0"),
        (Kind::Control, "what\0"),
        (Kind::Control, "quota\0set\0nodes\x000\0"),
        (Kind::Control, "quota\0set\0what\x005\0"),
        (Kind::Control, "quota-soft\0set\0memory\x000\0"),
    ] {
        let refused = store.ask(dom0, kind, payload);
        assert_eq!(refused, Err(Refusal::Invalid), "{kind:?} {payload:?}");
    }
    let unknown = store.ask(dom0, Kind::WatchEvent, "");
    assert_eq!(unknown, Err(Refusal::NotSupported));
}

#[test]
fn a_watch_begins_with_an_event_and_tells_of_changes_below() {
    let (mut store, dom0) = (Store::new(), 1);
    store.ok(dom0, Kind::Watch, "/a\0tok\0");
    assert_eq!(store.events(dom0), ["/a|tok|"]);
    store.ok(dom0, Kind::Write, "/a/b\0x");
    store.ok(dom0, Kind::Write, "/ab\0x");
    store.ok(dom0, Kind::Rm, "/a\0");
    assert_eq!(store.events(dom0), ["/a/b|tok|", "/a|tok|"]);
    assert_eq!(
        store.ask(dom0, Kind::Watch, "/a\0tok\0"),
        Err(Refusal::Exists)
    );
    store.ok(dom0, Kind::Unwatch, "/a\0tok\0");
    assert_eq!(
        store.ask(dom0, Kind::Unwatch, "/a\0tok\0"),
        Err(Refusal::NotFound)
    );
    store.ok(dom0, Kind::Write, "/a\0x");
    assert!(store.events(dom0).is_empty());
}

#[test]
fn guests_see_relative_paths_and_only_what_they_may_read() {
    let mut store = Store::new();
    let (dom0, guest) = (store.dom0, store.guest(3));
    store.ok(guest, Kind::Watch, "data\0t\0");
    store.ok(guest, Kind::Watch, "/\0all\0");
    store.events(guest);
    store.ok(guest, Kind::Write, "data/x\0v");
    store.ok(dom0, Kind::Write, "/secret\0v");
    assert_eq!(
        store.events(guest),
        ["data/x|t|", "/local/domain/3/data/x|all|"]
    );
    assert_eq!(store.ok(guest, Kind::GetPerms, "data/x\0"), "n3|");
    assert_eq!(
        store.ask(guest, Kind::Read, "/secret\0"),
        Err(Refusal::Access)
    );
    assert_eq!(store.ok(dom0, Kind::Read, "/local/domain/3/data/x\0"), "v");
}

#[test]
fn a_guest_that_loses_a_node_is_told() {
    let mut store = Store::new();
    let (dom0, guest) = (store.dom0, store.guest(3));
    store.ok(dom0, Kind::Write, "/x/y\0");
    store.ok(dom0, Kind::SetPerms, "/x/y\0n0\0r3\0");
    store.ok(guest, Kind::Watch, "/x/y\0t\0");
    store.events(guest);
    store.ok(dom0, Kind::SetPerms, "/x/y\0n0\0");
    assert_eq!(store.events(guest), ["/x/y|t|"]);
    store.ok(dom0, Kind::Write, "/x/y\0new");
    assert!(store.events(guest).is_empty());
}

#[test]
fn transactions_tell_watchers_at_their_end_only() {
    let (mut store, dom0) = (Store::new(), 1);
    let other = store.core.open(0, Link::Socket);
    store.ok(other, Kind::Watch, "/a\0t\0");
    store.events(other);
    let tx: u32 =
        number(one(&store.ask(dom0, Kind::TransactionStart, "\0").unwrap()).unwrap()).unwrap();
    store.ask_in(tx, dom0, Kind::Write, "/a/1\0x").unwrap();
    store.ask_in(tx, dom0, Kind::Write, "/a/1\0y").unwrap();
    assert!(store.events(other).is_empty());
    assert_eq!(
        store.ask(other, Kind::Read, "/a/1\0"),
        Err(Refusal::NotFound)
    );
    store.ask_in(tx, dom0, Kind::TransactionEnd, "T\0").unwrap();
    assert_eq!(store.events(other), ["/a/1|t|"]);
    let gone = store.ask_in(tx, dom0, Kind::TransactionEnd, "T\0");
    assert_eq!(gone, Err(Refusal::NotFound));
    let nested = store.ask_in(1, dom0, Kind::TransactionStart, "\0");
    assert_eq!(nested, Err(Refusal::Busy));
}

#[test]
fn long_directories_come_in_parts() {
    let (mut store, dom0) = (Store::new(), 1);
    let mut expected = Vec::new();
    for n in 0..900 {
        let name = format!("node{n:04}");
        store.ok(dom0, Kind::Write, format!("/d/{name}\0"));
        expected.push(name);
    }
    assert_eq!(
        store.ask(dom0, Kind::Directory, "/d\0"),
        Err(Refusal::TooBig)
    );
    let (mut names, mut offset) = (Vec::new(), 0);
    loop {
        let part = store
            .ask(dom0, Kind::DirectoryPart, format!("/d\0{offset}\0"))
            .unwrap();
        assert!(part.len() <= wire::XENSTORE_PAYLOAD_MAX);
        let (_, list) = split(&part).unwrap();
        let found = wire::strings(list).filter(|name| !name.is_empty());
        names.extend(found.map(|name| String::from_utf8(name.to_vec()).unwrap()));
        offset += list.len();
        if list.ends_with(b"\0\0") || list == b"\0" {
            break;
        }
    }
    assert_eq!(names, expected);
}

#[test]
fn the_life_of_a_guest_is_told() {
    let mut store = Store::new();
    let dom0 = store.dom0;
    for event in ["@introduceDomain", "@releaseDomain"] {
        store.ok(dom0, Kind::Watch, format!("{event}\0t\0"));
    }
    store.events(dom0);
    let guest = store.guest(3);
    assert_eq!(store.events(dom0), ["@introduceDomain|t|"]);
    assert_eq!(store.ok(dom0, Kind::IsDomainIntroduced, "3\0"), "T|");
    store.core.shut_down(3);
    store.core.shut_down(3);
    assert_eq!(store.events(dom0), ["@releaseDomain|t|"]);
    store.ok(dom0, Kind::Resume, "3\0");
    store.core.shut_down(3);
    assert_eq!(store.events(dom0), ["@releaseDomain|t|"]);
    store.ok(guest, Kind::Write, "data\0x");
    store.ok(dom0, Kind::Release, "3\0");
    assert_eq!(store.events(dom0), ["@releaseDomain|t|"]);
    assert_eq!(store.ok(dom0, Kind::IsDomainIntroduced, "3\0"), "F|");
    assert!(store.guests.connected.is_empty());
    let gone = store.ask(dom0, Kind::Read, "/local/domain/3/data\0");
    assert_eq!(gone, Err(Refusal::NotFound));
    assert_eq!(
        store.ask(dom0, Kind::Release, "3\0"),
        Err(Refusal::NotFound)
    );
}

#[test]
fn a_guest_that_cannot_be_mapped_is_not_introduced() {
    let mut store = Store::new();
    store.guests.missing.insert(4);
    let refused = store.ask(store.dom0, Kind::Introduce, "4\x00100\x005\0");
    assert_eq!(refused, Err(Refusal::Invalid));
    assert_eq!(store.ok(store.dom0, Kind::IsDomainIntroduced, "4\0"), "F|");
}

#[test]
fn guests_may_not_manage_domains() {
    let mut store = Store::new();
    let guest = store.guest(3);
    for (kind, payload) in [
        (Kind::Introduce, "5\x001\x001\0"),
        (Kind::Release, "3\0"),
        (Kind::Resume, "3\0"),
        (Kind::SetTarget, "3\x000\0"),
        (Kind::IsDomainIntroduced, "0\0"),
        (Kind::Control, "quota\0"),
    ] {
        assert_eq!(
            store.ask(guest, kind, payload),
            Err(Refusal::Access),
            "{kind:?}"
        );
    }
    store.ok(guest, Kind::Watch, "@releaseDomain\0t\0");
    store.events(guest);
    store.guest(4);
    store.ok(store.dom0, Kind::Release, "4\0");
    assert!(store.events(guest).is_empty());
    let path = store.ok(guest, Kind::GetDomainPath, "3\0");
    assert_eq!(path, "/local/domain/3|");
}

#[test]
fn a_target_gives_its_rights() {
    let mut store = Store::new();
    let (dom0, _, stub) = (store.dom0, store.guest(3), store.guest(4));
    store.ok(dom0, Kind::SetTarget, "4\x003\0");
    store.ok(stub, Kind::Write, "/local/domain/3/x\0v");
    store.ok(dom0, Kind::Release, "3\0");
    store.guest(3);
    let refused = store.ask(stub, Kind::Read, "/local/domain/3\0");
    assert_eq!(refused, Err(Refusal::Access));
}

#[test]
fn reset_drops_watches_and_transactions() {
    let mut store = Store::new();
    let guest = store.guest(3);
    store.ok(guest, Kind::Watch, "a\0t\0");
    store.ok(guest, Kind::TransactionStart, "\0");
    store.ok(guest, Kind::ResetWatches, "\0");
    let end = store.ask_in(1, guest, Kind::TransactionEnd, "T\0");
    assert_eq!(end, Err(Refusal::NotFound));
    store.events(guest);
    store.ok(guest, Kind::Write, "a\0");
    assert!(store.events(guest).is_empty());
}
