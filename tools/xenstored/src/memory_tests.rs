//! What guests make the daemon keep, counted at the allocator, beside what they are charged for.

use super::tests::Store;
use super::*;

const MIB: u64 = 1 << 20;

/// Returns the bytes that `work` leaves allocated.
fn growth(work: impl FnOnce()) -> i64 {
    allocation_counter::measure(work).bytes_current
}

/// Fills or rewrites what a guest may have: nodes of 2 kB, up to its memory quota.
fn rewrite(store: &mut Store, guest: ConnId, version: u8) {
    for n in 0..1000 {
        let payload = [format!("n{n}\0").as_bytes(), &[version; 2000]].concat();
        if store.ask(guest, Kind::Write, payload).is_err() {
            break;
        }
    }
}

fn begin(store: &mut Store, id: ConnId) -> u32 {
    let reply = store.ask(id, Kind::TransactionStart, "\0").unwrap();
    number(one(&reply).unwrap()).unwrap()
}

#[test]
fn open_transactions_keep_no_more_than_the_quotas_say() {
    let mut store = Store::new();
    let guests = [store.guest(3), store.guest(4)];
    let allowed = 2 * store.core.quotas.get(Limit::Memory) as u64;
    let grown = growth(|| {
        for version in 0..10 {
            for guest in guests {
                rewrite(&mut store, guest, version);
                begin(&mut store, guest);
            }
        }
        for guest in guests {
            rewrite(&mut store, guest, 99);
            store.core.records = Vec::new();
        }
    });
    // The nodes themselves and what the transactions keep; a fifth for what an allocation costs besides its bytes.
    let most = i64::try_from(allowed + allowed / 5).unwrap();
    assert!(grown < most, "{grown} bytes for quotas of {allowed}");
    for guest in guests {
        let charged = store.core.charged(guest);
        assert!(charged <= store.core.quotas.get(Limit::Memory), "{charged}");
    }
}

#[test]
fn paths_that_were_read_are_charged() {
    let mut store = Store::new();
    let guest = store.guest(3);
    let quota = store.core.quotas.get(Limit::Memory);
    let mut refused = 0;
    let grown = growth(|| {
        for tx in 1..=10u32 {
            assert_eq!(begin(&mut store, guest), tx);
            for n in 0..1024 {
                let path = format!("{n:04}{}\0", "x".repeat(1990));
                let answer = store.ask_in(tx, guest, Kind::Read, path);
                refused += u32::from(answer == Err(Refusal::NoMemory));
            }
        }
        store.core.records = Vec::new();
    });
    let most = i64::try_from(quota + quota / 5).unwrap();
    assert!(grown < most, "{grown} bytes for a quota of {quota}");
    assert!(refused > 0 && store.core.charged(guest) > quota / 2);
}

/// Guests and the depths to which they write, in transactions that others' writes leave behind.
#[test]
fn small_nodes_and_their_directories_are_charged_at_what_they_take() {
    let mut store = Store::new();
    let guests: Vec<_> = (3..13).map(|domid| store.guest(domid)).collect();
    for guest in &guests {
        for n in 0..900 {
            store.ok(*guest, Kind::Write, format!("d/{n}\0v"));
        }
    }
    store.core.records = Vec::new();
    let before: usize = guests.iter().map(|id| store.core.charged(*id)).sum();
    let grown = growth(|| {
        for round in 0..10 {
            for guest in &guests {
                begin(&mut store, *guest);
                store.ok(*guest, Kind::Write, format!("d/{round}\0w"));
                let tx = u32::try_from(round + 1).unwrap();
                let _ = store.ask_in(tx, *guest, Kind::Write, format!("d/{}\0w", 800 + round));
                store.core.records = Vec::new();
            }
        }
    });
    let after: usize = guests.iter().map(|id| store.core.charged(*id)).sum();
    let charged = i64::try_from(after - before).unwrap();
    assert!(
        grown <= charged + charged / 5,
        "grew by {grown}, charged {charged}"
    );
    assert!(grown < i64::try_from(30 * MIB).unwrap());
}
