//! Store, rings and journal together: what happens in one round of the main loop, but for the sockets.
//!
//! A round is: [`Engine::serve_rings`] (and the sockets' requests), [`Engine::write_journal`],
//! [`Engine::answer_rings`]. The order is what makes a kill at any moment harmless: nothing leaves before the journal
//! holds it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use xendev::Error;
use xenstore::Domid;

use crate::core::{ConnId, Core, Link};
use crate::devices::{Devices, State};
use crate::journal::Journal;
use crate::journal_reader::{Damage, Loaded};
use crate::quota::Quotas;
use crate::record::{Record, RingState};
use crate::ring::Broken;
use crate::rings::Rings;

/// Requests served of one connection before the others have their turn.
pub(crate) const TURN: usize = 16;

/// Everything but the sockets.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) core: Core,
    pub(crate) rings: Rings,
    journal: Option<Journal>,
    /// Domains whose rings were served in this round, or have something new to be told.
    touched: BTreeSet<Domid>,
}

/// Where the journal is, and what to do with one that is damaged.
#[derive(Clone, Debug)]
pub(crate) struct JournalOptions {
    pub(crate) path: PathBuf,
    /// Start from what can be read.
    pub(crate) recovers: bool,
}

impl Engine {
    /// Starts, from the journal if there is one; without a place for it nothing outlives the daemon.
    ///
    /// # Errors
    /// A device is missing, or the journal cannot be read or written, or not all of it where that was asked for.
    pub(crate) fn start(
        quotas: Quotas,
        devices: Box<dyn Devices>,
        journal: Option<&JournalOptions>,
        has_dom0: bool,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let records = journal.map_or(Ok(Vec::new()), load)?;
        let is_restart = !records.is_empty();
        let mut engine = Self {
            core: Core::new(quotas),
            rings: Rings::new(devices),
            journal: None,
            touched: BTreeSet::new(),
        };
        let rings = engine.replay(records);
        if has_dom0 {
            engine.attach_own(&rings)?;
        }
        engine.attach_guests(&rings);
        if is_restart {
            let domains = engine.core.domains.len();
            log::info!("restarted: the journal had {domains} domains");
            engine.check_domains();
        }
        engine.core.write_own_nodes();
        if let Some(JournalOptions { path, .. }) = journal {
            let snapshot = snapshot(&engine.core, &engine.rings);
            engine.core.records.clear();
            let created = Journal::create(path, &snapshot);
            engine.journal = Some(created.map_err(|error| in_path(path, &error))?);
        }
        Ok(engine)
    }

    /// Serves the rings that had events, each a turn.
    pub(crate) fn serve_rings(&mut self) {
        for domid in std::mem::take(&mut self.rings.active) {
            self.touched.insert(domid);
            if self.serve_ring(domid) {
                self.rings.active.insert(domid);
            }
        }
    }

    /// Tells whether some domain's request can be served at once: its turn had ended, or others have read meanwhile.
    pub(crate) fn has_more(&mut self) -> bool {
        let core = &mut self.core;
        self.rings.active.iter().any(|domid| {
            let conn = core.domains.get(domid).map(|domain| domain.conn);
            conn.is_some_and(|conn| !core.is_behind(conn) && core.may_ask(conn))
        })
    }

    /// Puts on record what the round did.
    ///
    /// A journal that cannot be written is removed with an error in the log: the store goes on without.
    pub(crate) fn write_journal(&mut self) {
        self.note_touched();
        let Some(journal) = &mut self.journal else {
            self.core.records.clear();
            return;
        };
        let mut records = std::mem::take(&mut self.core.records);
        note_rings(&self.core, &mut self.rings, &self.touched, &mut records);
        if records.is_empty() {
            return;
        }
        let (core, rings) = (&self.core, &self.rings);
        if let Err(error) = journal.write(&records, || snapshot(core, rings)) {
            log::error!("journal: {error}; a restart of this daemon would lose the guests");
            // What it holds is no longer so: a restart from it would be worse than one from nothing.
            if let Some(Err(error)) = self.journal.take().map(Journal::remove) {
                log::error!("journal: {error}; remove it before this daemon is started again");
            }
        }
    }

    /// Tells domains what was taken over, and sends what waits for them.
    ///
    /// A domain that was neither served nor has news has nothing to be told: while more waits for it than its ring
    /// holds, its next look at the ring comes with an event.
    pub(crate) fn answer_rings(&mut self) {
        self.note_touched();
        for domid in std::mem::take(&mut self.touched) {
            if let Err(broken) = self.answer_ring(domid) {
                self.give_up(domid, broken);
            }
        }
    }

    /// Takes over which domains have something new to be told; local clients are the caller's.
    fn note_touched(&mut self) {
        let (core, touched) = (&mut self.core, &mut self.touched);
        core.news.retain(|id| match core.conns.get(id) {
            Some(conn) if conn.link == Link::Ring => {
                touched.insert(conn.caller.domid);
                false
            }
            found => found.is_some(),
        });
    }

    /// Asks the hypervisor about the domains that we know, and acts on those that have ended.
    pub(crate) fn check_domains(&mut self) {
        let mut gone = Vec::new();
        for domid in self.core.concerned() {
            match self.rings.devices.state(domid) {
                State::Alive => {}
                State::ShutDown => self.core.shut_down(domid),
                State::Gone if self.core.domains.contains_key(&domid) => {
                    self.core.release(&mut self.rings, domid);
                }
                State::Gone => gone.push(domid),
            }
        }
        // One look at the tree for all: a guest can name any number of domains in its permissions.
        if !gone.is_empty() {
            self.core.forget(&gone);
        }
    }

    /// Replays the journal; returns how far each ring was.
    fn replay(&mut self, records: Vec<Record>) -> BTreeMap<Domid, RingState> {
        let mut rings = BTreeMap::new();
        for record in records {
            match &record {
                Record::Ring(ring) => _ = rings.insert(ring.domid, ring.clone()),
                Record::Introduce { domid, .. } | Record::Release { domid } => {
                    rings.remove(domid);
                }
                _ => {}
            }
            self.core.replay(record);
        }
        self.core.replayed();
        rings
    }

    fn attach_own(&mut self, rings: &BTreeMap<Domid, RingState>) -> Result<(), Error> {
        let sent = self.rings.attach_own()?;
        if !self.core.domains.contains_key(&0) {
            self.core.adopt(0, 0, 0);
            let (domid, gfn, port) = (0, 0, 0);
            self.core
                .records
                .push(Record::Introduce { domid, gfn, port });
        }
        self.take_up(0, sent, rings.get(&0));
        Ok(())
    }

    fn attach_guests(&mut self, rings: &BTreeMap<Domid, RingState>) {
        let guests = self.core.domains.iter().filter(|(domid, _)| **domid != 0);
        let guests: Vec<_> = guests.map(|(domid, d)| (*domid, d.gfn, d.port)).collect();
        for (domid, gfn, port) in guests {
            match self.rings.attach(domid, gfn, port) {
                Ok(sent) => self.take_up(domid, sent, rings.get(&domid)),
                Err(error) => log::warn!("d{domid}: cannot be served any more: {error}"),
            }
        }
    }

    /// Goes on with a ring where the journal ended; `sent` is where its producer of replies stands.
    fn take_up(&mut self, domid: Domid, sent: u32, journalled: Option<&RingState>) {
        let domain = self.core.domains.get(&domid);
        let conn = domain.and_then(|domain| self.core.conns.get_mut(&domain.conn));
        let (Some(conn), Some(served)) = (conn, self.rings.served.get_mut(&domid)) else {
            return;
        };
        if let Some(state) = journalled {
            served.ring.resume(state.requests, &state.partial);
        }
        let gone = sent.wrapping_sub(conn.outbox.position());
        match usize::try_from(gone) {
            Ok(gone) if gone <= conn.outbox.len() => conn.outbox.take(gone),
            _ => conn.outbox.restart(sent),
        }
        served.noted = (served.ring.progress().0, conn.outbox.end());
    }

    /// Serves one ring for a turn; true if it has more to ask.
    fn serve_ring(&mut self, domid: Domid) -> bool {
        match self.serve_turn(domid) {
            Ok(has_more) => has_more,
            Err(broken) => {
                self.give_up(domid, broken);
                false
            }
        }
    }

    fn serve_turn(&mut self, domid: Domid) -> Result<bool, Broken> {
        self.reconnect(domid);
        for _ in 0..TURN {
            let Some((ring, conn)) = self.ring(domid) else {
                return Ok(false);
            };
            if !ring.has_request() {
                ring.take()?;
            }
            if !ring.has_request() {
                return Ok(false);
            }
            if self.core.is_behind(conn) {
                // Its next look at the ring, which we are told of, makes room.
                return Ok(false);
            }
            if !self.core.may_ask(conn) {
                return Ok(true);
            }
            let next = self.ring(domid).map(|(ring, _)| ring.next()).transpose()?;
            if let Some(message) = next.flatten() {
                self.core.handle(&mut self.rings, conn, &message);
            }
        }
        Ok(self.ring(domid).is_some_and(|(ring, _)| ring.has_request()))
    }

    /// Starts a connection anew if its domain asks for that.
    fn reconnect(&mut self, domid: Domid) {
        let Some((ring, conn)) = self.ring(domid) else {
            return;
        };
        if !ring.wants_reconnect() {
            return;
        }
        ring.restart();
        if self.core.quotas.may_log(domid, "reconnects") {
            log::info!("d{domid}: reconnects");
        }
        self.core.reset(conn);
        if let Some(conn) = self.core.conns.get_mut(&conn) {
            conn.outbox.restart(0);
        }
        if let Some(served) = self.rings.served.get(&domid) {
            self.rings.devices.notify(served.port);
        }
    }

    /// Publishes what was taken over and sends what waits; then looks once more at what the domain did meanwhile.
    ///
    /// A domain sends no event for bytes that it believes we are still reading, nor for room that it believes we have
    /// seen: each index is read again after the store of the one that the domain compares it with.
    fn answer_ring(&mut self, domid: Domid) -> Result<(), Broken> {
        let domain = self.core.domains.get(&domid);
        let conn = domain.and_then(|domain| self.core.conns.get_mut(&domain.conn));
        let (Some(conn), Some(served)) = (conn, self.rings.served.get_mut(&domid)) else {
            return Ok(());
        };
        let mut is_news = served.ring.publish();
        let outbox = &mut conn.outbox;
        while !outbox.is_empty() {
            let count = served.ring.put(outbox.position(), outbox.pending())?;
            if count == 0 {
                break;
            }
            outbox.take(count);
            is_news = true;
        }
        if is_news {
            self.rings.devices.notify(served.port);
        }
        // One that is behind has a full ring to read, and tells us when it has.
        if served.ring.has_more() && !conn.is_behind() {
            self.rings.active.insert(domid);
        }
        Ok(())
    }

    /// Stops serving a domain that broke the rules; its nodes stay.
    fn give_up(&mut self, domid: Domid, broken: Broken) {
        let why = match broken {
            Broken::Indices => "its ring's indices are impossible",
            Broken::TooLong => "a request is longer than 4096 bytes",
        };
        if self.core.quotas.may_log(domid, why) {
            log::error!("d{domid}: {why}: not served until it reconnects");
        }
        let Some(conn) = self.core.domains.get(&domid).map(|domain| domain.conn) else {
            return;
        };
        self.core.reset(conn);
        if let Some(conn) = self.core.conns.get_mut(&conn) {
            let end = conn.outbox.end();
            conn.outbox.restart(end);
        }
    }

    fn ring(&mut self, domid: Domid) -> Option<(&mut crate::ring::Ring, ConnId)> {
        let conn = self.core.domains.get(&domid)?.conn;
        let served = self.rings.served.get_mut(&domid)?;
        Some((&mut served.ring, conn))
    }
}

/// Reads the journal, and says what of it is lost.
fn load(options: &JournalOptions) -> Result<Vec<Record>, String> {
    let path = &options.path;
    let loaded = Journal::load(path).map_err(|error| in_path(path, &error))?;
    let Loaded { records, damage } = loaded;
    if damage.is_loss() && !options.recovers {
        return Err(in_path(path, &damage));
    }
    if damage.is_loss() {
        log::error!("journal: {damage}; all else is back");
    } else if damage != Damage::default() {
        log::warn!("journal: {damage}");
    }
    Ok(records)
}

fn in_path(path: &Path, why: &dyn std::fmt::Display) -> String {
    format!("{}: {why}", path.display())
}

fn snapshot(core: &Core, rings: &Rings) -> Vec<Record> {
    let mut all = core.snapshot();
    all.extend(ring_states(core, rings));
    all
}

/// Adds a record for each of the rings that were touched and have moved since the last one.
fn note_rings(
    core: &Core,
    rings: &mut Rings,
    touched: &BTreeSet<Domid>,
    records: &mut Vec<Record>,
) {
    for domid in touched {
        let Some(served) = rings.served.get_mut(domid) else {
            continue;
        };
        let conn = core.domains.get(domid).map(|domain| domain.conn);
        let Some(conn) = conn.and_then(|conn| core.conns.get(&conn)) else {
            continue;
        };
        let (outbox, (requests, partial)) = (&conn.outbox, served.ring.progress());
        let now = (requests, outbox.end());
        if now == served.noted {
            continue;
        }
        let new = usize::try_from(outbox.end().wrapping_sub(served.noted.1));
        let pending = outbox.pending();
        // After a reset the stream starts anew, and all of it is new.
        let old = new.map_or(0, |new| pending.len().saturating_sub(new));
        records.push(Record::Ring(RingState {
            domid: *domid,
            requests,
            partial: partial.to_vec(),
            sent: outbox.position(),
            end: outbox.end(),
            queued: pending.get(old..).unwrap_or_default().to_vec(),
        }));
        served.noted = now;
    }
}

/// Returns a record for each ring that tells all of it.
fn ring_states<'s>(core: &'s Core, rings: &'s Rings) -> impl Iterator<Item = Record> + 's {
    rings.served.iter().filter_map(|(domid, served)| {
        let conn = core.conns.get(&core.domains.get(domid)?.conn)?;
        let (requests, partial) = served.ring.progress();
        Some(Record::Ring(RingState {
            domid: *domid,
            requests,
            partial: partial.to_vec(),
            sent: conn.outbox.position(),
            end: conn.outbox.end(),
            queued: conn.outbox.pending().to_vec(),
        }))
    })
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
