//! Requests against a whole store, without wires.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;
use xenstore::wire::{Inbox, Message};

use super::*;

/// Guests that can be introduced, and those that are.
#[derive(Default)]
struct Guests {
    missing: BTreeSet<Domid>,
    /// Neither introduced nor gone.
    alive: BTreeSet<Domid>,
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
    guests: Guests,
    dom0: ConnId,
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
    fn events(&mut self, id: ConnId) -> Vec<String> {
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
fn the_rights_of_a_guest_that_is_gone_do_not_come_back_with_a_restart() {
    let mut store = Store::new();
    let (dom0, _, _) = (store.dom0, store.guest(3), store.guest(4));
    store.ok(dom0, Kind::SetTarget, "4\x003\0");
    store.ok(dom0, Kind::SetPerms, "@releaseDomain\0n0\0r3\0");
    store.ok(dom0, Kind::SetPerms, "@introduceDomain\0r3\0");
    store.ok(dom0, Kind::Release, "3\0");
    let mut again = Core::new(Quotas::default());
    let records = std::mem::take(&mut store.core.records);
    records.into_iter().for_each(|record| again.replay(record));
    assert_eq!(visible(&again), visible(&store.core));
    assert_eq!(again.concerned(), [4]);
    let stub = again.domains[&4].conn;
    assert_eq!(again.conns[&stub].caller.target, None);
    for event in ["@introduceDomain", "@releaseDomain"] {
        assert_eq!(*again.special[event], [xenstore::Perm::none(0)], "{event}");
    }
}

#[test]
fn quotas_bound_a_guests_watches_transactions_and_nodes() {
    let mut store = Store::new();
    let (dom0, guest) = (store.dom0, store.guest(3));
    for (name, value) in [("watches", 2), ("transactions", 1), ("nodes", 3)] {
        store.ok(
            dom0,
            Kind::Control,
            format!("quota\0set\0{name}\0{value}\0"),
        );
    }
    store.ok(guest, Kind::Watch, "a\0t\0");
    store.ok(guest, Kind::Watch, "b\0t\0");
    assert_eq!(
        store.ask(guest, Kind::Watch, "c\0t\0"),
        Err(Refusal::TooBig)
    );
    store.ok(guest, Kind::TransactionStart, "\0");
    assert_eq!(
        store.ask(guest, Kind::TransactionStart, "\0"),
        Err(Refusal::NoSpace)
    );
    store.ok(guest, Kind::Write, "a\0");
    store.ok(guest, Kind::Write, "b\0");
    assert_eq!(store.ask(guest, Kind::Write, "c\0"), Err(Refusal::NoSpace));
    let usage = store.ok(dom0, Kind::Control, "quota\x003\0");
    assert!(
        usage.contains("nodes           :        3\nwatches         :        2"),
        "{usage}"
    );
    assert_eq!(store.ok(dom0, Kind::Control, "check\0"), "OK|");
}

#[test]
fn a_transaction_cannot_grow_without_bound() {
    let mut store = Store::new();
    let (dom0, guest) = (store.dom0, store.guest(3));
    store.ok(dom0, Kind::Control, "quota\0set\0transaction-nodes\x0010\0");
    store.ok(guest, Kind::TransactionStart, "\0");
    let write = |store: &mut Store| {
        store.ask_in(1, guest, Kind::Write, [&b"a\0"[..], &[b'x'; 1000]].concat())
    };
    for _ in 0..10 {
        write(&mut store).unwrap();
    }
    assert_eq!(write(&mut store), Err(Refusal::NoSpace));
    store.ok(
        dom0,
        Kind::Control,
        "quota\0set\0transaction-nodes\x00100\0",
    );
    store.ok(dom0, Kind::Control, "quota\0set\0memory\x0015000\0");
    while write(&mut store).is_ok() {}
    assert_eq!(write(&mut store), Err(Refusal::NoMemory));
}

/// Writes (or writes again) as much as a guest may have, in each of some guests.
fn storm(store: &mut Store, guests: &[ConnId]) {
    for guest in guests {
        for n in 0..800 {
            let payload = [format!("n{n}\0").as_bytes(), &[b'x'; 2000]].concat();
            store.ask(*guest, Kind::Write, payload).unwrap();
        }
    }
}

#[test]
fn others_may_write_as_they_like_while_a_transaction_is_open() {
    let mut store = Store::new();
    let (dom0, guest) = (store.dom0, store.guest(3));
    let others = [store.guest(4), store.guest(5), store.guest(6)];
    storm(&mut store, &others);
    for id in [dom0, guest] {
        store.ok(id, Kind::TransactionStart, "\0");
        store.ask_in(1, id, Kind::Write, "a\x00before").unwrap();
    }
    storm(&mut store, &others);
    for id in [dom0, guest] {
        let kept = store.core.transactions.bytes(id);
        assert!(kept <= store.core.quotas.get(Limit::Memory), "{kept}");
        assert_eq!(
            store.ask_in(1, id, Kind::Read, "a\0"),
            Ok(b"before".to_vec())
        );
        store.ask_in(1, id, Kind::TransactionEnd, "T\0").unwrap();
    }
    assert_eq!(store.ok(guest, Kind::Read, "a\0"), "before");
}

#[test]
fn a_transaction_that_cannot_be_brought_to_the_present_is_repeated_not_broken() {
    let mut store = Store::new();
    let guest = store.guest(3);
    let others = [store.guest(4), store.guest(5)];
    storm(&mut store, &others);
    store.ok(guest, Kind::TransactionStart, "\0");
    store.ask_in(1, guest, Kind::Mkdir, "new\0").unwrap();
    // What it depends on is no longer so.
    store.ok(guest, Kind::Write, "new/elsewhere\0");
    storm(&mut store, &others);
    assert_eq!(store.core.transactions.bytes(guest), 0);
    // Its owner, who knows nothing of that, finds no contradiction to what it did before.
    for (kind, payload) in [(Kind::SetPerms, "new\0n3\0"), (Kind::Rm, "new/x/y\0")] {
        store.ask_in(1, guest, kind, payload).unwrap();
    }
    let end = store.ask_in(1, guest, Kind::TransactionEnd, "T\0");
    assert_eq!(end, Err(Refusal::Again));
    assert_eq!(store.ok(guest, Kind::GetPerms, "new\0"), "n3|");
}

#[test]
fn a_guests_transaction_is_given_up_after_a_minute_and_dom0s_is_not() {
    let mut store = Store::new();
    let (dom0, guest) = (store.dom0, store.guest(3));
    for id in [dom0, guest] {
        store.ok(id, Kind::TransactionStart, "\0");
        store.ask_in(1, id, Kind::Write, "a\0x").unwrap();
    }
    let now = Instant::now();
    store.core.absolve(now + Duration::from_secs(59));
    assert!(store.core.transactions.bytes(guest) > 0);
    store.core.absolve(now + Duration::from_secs(62));
    assert_eq!(store.core.transactions.bytes(guest), 0);
    for (id, result) in [(guest, Err(Refusal::Again)), (dom0, Ok(b"OK\0".to_vec()))] {
        assert_eq!(store.ask_in(1, id, Kind::TransactionEnd, "T\0"), result);
    }
}

/// Each domain that is asked after when some domain ends costs a hypercall.
#[test]
fn domains_that_a_guest_names_and_that_are_not_there_are_not_asked_after() {
    let mut store = Store::new();
    let (guest, dom0) = (store.guest(3), store.dom0);
    store.guests.alive.insert(7);
    store.ok(guest, Kind::Write, "a\0");
    store.ok(guest, Kind::TransactionStart, "\0");
    for domid in (5..65000).step_by(16).chain([7]) {
        let tx = u32::from(domid % 64 == 5);
        let perms = format!("a\0n3\0r{domid}\0");
        store.ask_in(tx, guest, Kind::SetPerms, perms).unwrap();
        store.core.records.clear();
    }
    store.ok(dom0, Kind::SetPerms, "@releaseDomain\0n0\0r9\0");
    let _ = store.ask_in(1, guest, Kind::TransactionEnd, "T\0");
    assert_eq!(store.core.concerned(), [3, 7]);
}

#[test]
fn what_a_reader_leaves_unread_is_bounded_for_dom0s_kernel_too() {
    let mut store = Store::new();
    let kernel = store.core.open(0, Link::Ring);
    let guest = store.guest(3);
    for id in [kernel, guest] {
        for token in 0..100 {
            let path = if id == guest { "d" } else { "/" };
            store.ok(id, Kind::Watch, format!("{path}\0{token}\0"));
        }
    }
    // 200 events each: 50 MB in all, were they kept.
    for count in 0..1000 {
        let message = Message {
            kind: Kind::Write.number(),
            req_id: 1,
            tx_id: 0,
            payload: format!("/local/domain/3/d/{count}\0").into_bytes(),
        };
        store.core.handle(&mut store.guests, store.dom0, &message);
        store.core.records.clear();
    }
    let unread = |id| store.core.conns[&id].outbox.cost();
    assert!(unread(kernel) < 9 << 20, "{}", unread(kernel));
    assert!(unread(guest) < (1 << 20) + 100_000, "{}", unread(guest));
}

#[test]
fn a_guest_whose_events_nobody_reads_must_wait_until_they_are_read() {
    let mut store = Store::new();
    let (dom0, guest) = (store.dom0, store.guest(3));
    store.ok(dom0, Kind::Watch, "/local\0t\0");
    for n in 0..20 {
        assert!(store.core.may_ask(guest), "{n}");
        store.ok(guest, Kind::Write, format!("n{n}\0"));
        store
            .core
            .conns
            .get_mut(&guest)
            .unwrap()
            .outbox
            .take(usize::MAX);
    }
    assert!(!store.core.may_ask(guest));
    store.events(dom0);
    assert!(store.core.may_ask(guest));
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

/// What a guest can see of a store.
fn visible(store: &Core) -> (Vec<Record>, Vec<Vec<u8>>) {
    let unread = store
        .domains
        .values()
        .map(|d| store.conns[&d.conn].outbox.pending().to_vec());
    (store.snapshot(), unread.collect())
}

#[test]
fn records_and_snapshots_restore_what_guests_see() {
    let mut store = Store::new();
    let (dom0, guest) = (store.dom0, store.guest(3));
    store.guest(4);
    store.ok(guest, Kind::Watch, "data\0t\0");
    store.ok(guest, Kind::Watch, "gone\0t\0");
    store.ok(guest, Kind::Unwatch, "gone\0t\0");
    store.ok(guest, Kind::Write, "data/x\0v");
    store.ok(guest, Kind::TransactionStart, "\0");
    store.ask_in(1, guest, Kind::Write, "data/y\0v").unwrap();
    store.ok(dom0, Kind::Control, "quota\0set\0nodes\x00500\0");
    store.ok(dom0, Kind::SetPerms, "@releaseDomain\0n0\0r3\0");
    store.ok(dom0, Kind::Release, "4\0");
    let outbox = &store.core.conns[&guest].outbox;
    let ring = crate::record::RingState {
        domid: 3,
        end: outbox.end(),
        sent: outbox.position(),
        queued: outbox.pending().to_vec(),
        ..Default::default()
    };
    let mut records = std::mem::take(&mut store.core.records);
    records.push(Record::Ring(ring.clone()));
    let mut snapshot = store.core.snapshot();
    snapshot.push(Record::Ring(ring));
    for source in [records, snapshot] {
        let mut again = Core::new(Quotas::default());
        source.into_iter().for_each(|record| again.replay(record));
        again.replayed();
        assert_eq!(visible(&again), visible(&store.core));
        // The transaction under way can only fail, and says so in the way that makes clients repeat it.
        let mut restored = Store {
            dom0: again.open(0, Link::Socket),
            core: again,
            guests: Guests::default(),
        };
        let guest = restored.core.domains[&3].conn;
        let end = restored.ask_in(1, guest, Kind::TransactionEnd, "T\0");
        assert_eq!(end, Err(Refusal::Again));
        restored.events(guest);
        restored.ok(guest, Kind::Write, "data/z\0v");
        assert_eq!(restored.events(guest), ["data/z|t|"]);
    }
}

/// Who asks (dom0, a guest, another guest), in which transaction, what.
fn any_request() -> impl Strategy<Value = (usize, u32, Kind, Vec<u8>)> {
    let path = || "(/local/domain/[34])?(/|/[ab]|[ab])(/[ab]){0,2}|@releaseDomain";
    let kinds = prop::sample::select(Kind::ALL);
    let payload = prop_oneof![
        path().prop_map(|path| format!("{path}\0")),
        (path(), "[xy]{0,3}").prop_map(|(path, value)| format!("{path}\0{value}")),
        (path(), "[tu]").prop_map(|(path, token)| format!("{path}\0{token}\0")),
        (path(), "[nrwb][034]", "[nrwb][034]")
            .prop_map(|(path, one, other)| format!("{path}\0{one}\0{other}\0")),
        "[TF]\0",
        "[34]\0",
        "[34]\0[34]\0",
        "[34]\0[0-9]\0[1-9]\0",
        Just("\0".to_owned()),
    ];
    let payload = prop_oneof![
        8 => payload.prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..12),
    ];
    (0usize..3, 0u32..3, kinds, payload)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is asked, the accounts agree, and records and snapshot make the same state again.
    #[test]
    fn any_requests_keep_the_store_consistent(requests in prop::collection::vec(any_request(), 0..80)) {
        let mut store = Store::new();
        for (who, tx_id, kind, payload) in requests {
            let guest = |domid| store.core.domains.get(&domid).map(|domain| domain.conn);
            let id = [Some(store.dom0), guest(3), guest(4)][who];
            let Some(id) = id else {
                store.guest(if who == 1 { 3 } else { 4 });
                continue;
            };
            let message = Message { kind: kind.number(), req_id: 9, tx_id, payload };
            store.core.handle(&mut store.guests, id, &message);
        }
        prop_assert_eq!(store.ok(store.dom0, Kind::Control, "check\0"), "OK|");
        // What is unread is a ring's record, and nobody writes that here.
        for conn in store.core.conns.values_mut() {
            conn.outbox.take(usize::MAX);
        }
        let expected = visible(&store.core);
        for source in [std::mem::take(&mut store.core.records), store.core.snapshot()] {
            let mut again = Core::new(Quotas::default());
            source.into_iter().for_each(|record| again.replay(record));
            prop_assert_eq!(visible(&again), expected.clone());
        }
    }
}
