//! What bounds a guest: quotas, the age of transactions, what others have not read.

use std::time::Duration;

use xenstore::wire::Message;

use super::tests::Store;
use super::*;

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
