//! All transactions under way: whose they are, and who pays when the tree goes on without a snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::node::Shed;
use crate::transaction::Transaction;
use crate::tree::Tree;
use crate::watch::ConnId;

/// The transactions, by connection and number.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    all: BTreeMap<(ConnId, u32), Transaction>,
    /// Those that hold a snapshot, by the tree's generation at its taking.
    by_start: BTreeSet<(u64, ConnId, u32)>,
}

impl Transactions {
    /// Adds one.
    pub(crate) fn insert(&mut self, conn: ConnId, tx: u32, transaction: Transaction) {
        if let Some(start) = transaction.start() {
            self.by_start.insert((start, conn, tx));
        }
        self.all.insert((conn, tx), transaction);
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, conn: ConnId, tx: u32) -> Option<Transaction> {
        let gone = self.all.remove(&(conn, tx))?;
        if let Some(start) = gone.start() {
            self.by_start.remove(&(start, conn, tx));
        }
        Some(gone)
    }

    /// Removes all of a connection.
    pub(crate) fn remove_all(&mut self, conn: ConnId) {
        let all: Vec<_> = self.of(conn).map(|(tx, _)| tx).collect();
        for tx in all {
            self.remove(conn, tx);
        }
    }

    /// Finds one.
    pub(crate) fn get(&self, conn: ConnId, tx: u32) -> Option<&Transaction> {
        self.all.get(&(conn, tx))
    }

    /// Finds one, to work in it.
    pub(crate) fn get_mut(&mut self, conn: ConnId, tx: u32) -> Option<&mut Transaction> {
        self.all.get_mut(&(conn, tx))
    }

    /// Lists those of a connection, by number.
    pub(crate) fn of(&self, conn: ConnId) -> impl Iterator<Item = (u32, &Transaction)> {
        let own = self.all.range((conn, 0)..=(conn, u32::MAX));
        own.map(|((_, tx), transaction)| (*tx, transaction))
    }

    /// Returns the bytes that a connection's transactions keep.
    pub(crate) fn bytes(&self, conn: ConnId) -> usize {
        self.of(conn).map(|(_, one)| one.bytes()).sum()
    }

    /// Returns the bytes of them that snapshots alone hold of the past.
    pub(crate) fn past(&self, conn: ConnId) -> usize {
        self.of(conn).map(|(_, one)| one.past()).sum()
    }

    /// Has all commits fail.
    pub(crate) fn doom_all(&mut self) {
        self.all.values_mut().for_each(Transaction::doom);
    }

    /// Charges what the tree has left behind to the transactions that hold it; returns whose they are.
    pub(crate) fn charge(&mut self, shed: &[Shed]) -> BTreeSet<ConnId> {
        let mut charged = BTreeSet::new();
        for shed in shed {
            for (_, conn, tx) in self.by_start.range((shed.born, 0, 0)..) {
                if let Some(transaction) = self.all.get_mut(&(*conn, *tx)) {
                    transaction.keep(*shed);
                    charged.insert(*conn);
                }
            }
        }
        charged
    }

    /// Frees what that transaction of a connection holds of the past which holds most of it; false if none does.
    pub(crate) fn relieve(&mut self, conn: ConnId, main: &Tree, least: usize) -> bool {
        let heaviest = self.of(conn).max_by_key(|(_, one)| one.past());
        let Some((tx, _)) = heaviest.filter(|(_, one)| one.past() > 0) else {
            return false;
        };
        if let Some(mut transaction) = self.remove(conn, tx) {
            transaction.relieve(main, least);
            self.insert(conn, tx, transaction);
        }
        true
    }

    /// Lists those older than `most`.
    pub(crate) fn older_than(&self, most: Duration, now: Instant) -> Vec<(ConnId, u32)> {
        let held = self.by_start.iter().map(|(_, conn, tx)| (*conn, *tx));
        held.filter(|(conn, tx)| self.get(*conn, *tx).is_some_and(|one| one.age(now) > most))
            .collect()
    }

    /// Gives one up: it can only fail.
    pub(crate) fn give_up(&mut self, conn: ConnId, tx: u32) {
        if let Some(mut transaction) = self.remove(conn, tx) {
            transaction.give_up();
            self.insert(conn, tx, transaction);
        }
    }
}
