//! Domains that come, shut down and go, and what their end takes with it.

use std::{collections::BTreeSet, rc::Rc};

use xenstore::{Domid, Perm, Refusal};

use super::{Core, Domain, INTRODUCED, Link, Machine, RELEASED};
use crate::record::Record;
use crate::tree::Op;

impl Core {
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

    /// Notes domains that are named in permissions, of those that exist: a guest may name any number.
    pub(crate) fn note(&mut self, machine: &dyn Machine, named: impl Iterator<Item = Domid>) {
        let is_new = |domid: &Domid| *domid != 0 && !self.known.contains(domid);
        let new: BTreeSet<_> = named.filter(is_new).collect();
        let exists = |domid: &Domid| self.domains.contains_key(domid) || machine.exists(*domid);
        let found: Vec<_> = new.into_iter().filter(exists).collect();
        self.known.extend(found);
    }
}
