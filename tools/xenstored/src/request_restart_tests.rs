//! What outlives the daemon: records and snapshots make the same state again, whatever was asked before.

use proptest::prelude::*;
use xenstore::wire::Message;

use super::tests::{Guests, Store};
use super::*;

/// What a guest can see of a store.
fn visible(store: &Core) -> (Vec<Record>, Vec<Vec<u8>>) {
    let unread = store
        .domains
        .values()
        .map(|d| store.conns[&d.conn].outbox.pending().to_vec());
    (store.snapshot(), unread.collect())
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
