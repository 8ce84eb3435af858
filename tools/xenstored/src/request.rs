//! The requests of the wire: decoded, checked, carried out; one function for each.
//!
//! Payloads are described in Xen's `docs/misc/xenstore.txt`. What comes from a guest is believed in nothing: missing
//! strings, extra bytes and unknown numbers are EINVAL.

use std::{rc::Rc, time::Instant};

use guest_abi::xen::DOMID_SELF;
use xenstore::{Access, Domid, Kind, Perm, Refusal, path, wire};

use crate::access::{Caller, Need};
use crate::core::{ConnId, Core, Link, Machine, absolute_watch};
use crate::node::Node;
use crate::quota::{Limit, Quotas};
use crate::record::Record;
use crate::transaction::{Transaction, mentioned};
use crate::tree::{Op, Tree, Usage};

/// First of the ids that are no domain's.
const DOMID_FIRST_RESERVED: Domid = 0x7FF0;

type Reply = Result<Vec<u8>, Refusal>;

impl Core {
    /// Serves one request and returns its reply's payload.
    pub(crate) fn serve(
        &mut self,
        machine: &mut dyn Machine,
        id: ConnId,
        message: &wire::Message,
    ) -> Reply {
        let kind = Kind::from_number(message.kind).ok_or(Refusal::NotSupported)?;
        let caller = self.conns.get(&id).ok_or(Refusal::Invalid)?.caller;
        if needs_privilege(kind) && !caller.is_privileged() {
            return Err(Refusal::Access);
        }
        let (tx, payload) = (message.tx_id, message.payload.as_slice());
        match kind {
            Kind::Read => Ok(self.node(id, tx, payload)?.value.to_vec()),
            Kind::Directory => self.directory(id, tx, payload),
            Kind::DirectoryPart => self.directory_part(id, tx, payload),
            Kind::GetPerms => self.get_perms(id, tx, payload),
            Kind::Write => self.write(machine, id, tx, payload),
            Kind::Mkdir => self.change(machine, (id, tx), one(payload)?, Caller::mkdir),
            Kind::Rm => self.change(
                machine,
                (id, tx),
                one(payload)?,
                |caller, tree, _, _, path| caller.rm(tree, path),
            ),
            Kind::SetPerms => self.set_perms(machine, id, tx, payload),
            Kind::Watch => self.watch(id, payload),
            Kind::Unwatch => self.unwatch(id, payload),
            Kind::ResetWatches => {
                self.reset(id);
                done()
            }
            Kind::TransactionStart => self.start(id, tx),
            Kind::TransactionEnd => self.end(machine, id, tx, payload),
            Kind::Introduce => self.introduce_request(machine, payload),
            Kind::Release => {
                let domid = self.served(one(payload)?)?;
                self.release(machine, domid);
                done()
            }
            Kind::Resume => self.resume(payload),
            Kind::SetTarget => self.set_target(payload),
            Kind::IsDomainIntroduced => self.is_introduced(payload),
            Kind::GetDomainPath => {
                let domid = domid(one(payload)?)?;
                Ok(format!("{}\0", path::of_domain(domid)).into_bytes())
            }
            Kind::Control => self.control(payload),
            Kind::WatchEvent | Kind::Error => Err(Refusal::NotSupported),
        }
    }

    /// Finds the one node that a payload names, to read it.
    fn node(&mut self, id: ConnId, tx: u32, payload: &[u8]) -> Result<&Node, Refusal> {
        self.find(id, tx, one(payload)?)
    }

    fn find(&mut self, id: ConnId, tx: u32, sent: &[u8]) -> Result<&Node, Refusal> {
        let caller = self.conns.get(&id).ok_or(Refusal::Invalid)?.caller;
        let path = caller.absolute(sent, &mut self.quotas)?;
        let tree = if tx == 0 {
            &self.tree
        } else {
            self.touch(id, tx, caller, &path)?;
            let transaction = self.transactions.get(id, tx);
            transaction.ok_or(Refusal::NotFound)?.tree(&self.tree)
        };
        caller.find(tree, &path, Need::Read)
    }

    /// Notes that a transaction looks at a node, if the caller may have that kept.
    fn touch(
        &mut self,
        id: ConnId,
        tx: u32,
        caller: Caller,
        path: &Rc<str>,
    ) -> Result<(), Refusal> {
        let used = self.charged(id);
        let transaction = self.transactions.get_mut(id, tx);
        let transaction = transaction.ok_or(Refusal::NotFound)?;
        let cost = transaction.cost_of_touch(path);
        let quotas = &mut self.quotas;
        if cost > 0 && !quotas.allows(caller.domid, Limit::Memory, used + cost, path) {
            return Err(Refusal::NoMemory);
        }
        transaction.touch(caller, quotas, path)
    }

    /// Changes the node at `sent` as `decide` says, in the tree or in a transaction.
    fn change(
        &mut self,
        machine: &dyn Machine,
        (id, tx): (ConnId, u32),
        sent: &[u8],
        decide: impl FnOnce(Caller, &Tree, &mut Quotas, Usage, &Rc<str>) -> Result<Option<Op>, Refusal>,
    ) -> Reply {
        let caller = self.conns.get(&id).ok_or(Refusal::Invalid)?.caller;
        let path = caller.absolute(sent, &mut self.quotas)?;
        if tx == 0 {
            let mut used = self.tree.usage(caller.domid);
            used.bytes += self.charged_besides(id);
            if let Some(op) = decide(caller, &self.tree, &mut self.quotas, used, &path)? {
                let named: Vec<_> = mentioned(std::slice::from_ref(&op)).collect();
                self.apply(op)?;
                self.note(machine, named.into_iter());
            }
            return done();
        }
        self.touch(id, tx, caller, &path)?;
        let (total, main) = (self.charged(id), &self.tree);
        let transaction = self.transactions.get_mut(id, tx);
        let transaction = transaction.ok_or(Refusal::NotFound)?;
        if transaction.is_given_up() {
            // What it has made before is gone, so nothing can be told of rights; it cannot succeed in any case.
            return done();
        }
        let (tree, used) = (
            transaction.tree(main),
            transaction.usage(main, caller.domid),
        );
        if let Some(op) = decide(caller, tree, &mut self.quotas, used, &path)? {
            let total = total + op.size();
            if !(self.quotas).allows(caller.domid, Limit::Memory, total, &path) {
                return Err(Refusal::NoMemory);
            }
            transaction.apply(op)?;
        }
        done()
    }

    fn write(&mut self, machine: &dyn Machine, id: ConnId, tx: u32, payload: &[u8]) -> Reply {
        let (path, value) = split(payload)?;
        self.change(
            machine,
            (id, tx),
            path,
            |caller, tree, quotas, used, path| {
                caller.write(tree, quotas, used, path, value).map(Some)
            },
        )
    }

    fn directory(&mut self, id: ConnId, tx: u32, payload: &[u8]) -> Reply {
        let node = self.node(id, tx, payload)?;
        let names: usize = node.children.keys().map(|name| name.len() + 1).sum();
        if names > wire::XENSTORE_PAYLOAD_MAX {
            return Err(Refusal::TooBig);
        }
        Ok(list(node))
    }

    fn directory_part(&mut self, id: ConnId, tx: u32, payload: &[u8]) -> Reply {
        let (path, rest) = split(payload)?;
        let offset: usize = number(one(rest)?)?;
        let node = self.find(id, tx, path)?;
        let mut reply = format!("{}\0", node.generation).into_bytes();
        let all = list(node);
        let rest = all.get(offset..).unwrap_or_default();
        let room = wire::XENSTORE_PAYLOAD_MAX - reply.len() - 1;
        if rest.len() <= room {
            reply.extend_from_slice(rest);
            // An empty name ends the last part.
            reply.push(0);
            return Ok(reply);
        }
        let fits = rest.get(..room).unwrap_or_default();
        let whole = fits.iter().rposition(|byte| *byte == 0);
        let whole = whole.map_or(0, |end| end + 1);
        reply.extend_from_slice(rest.get(..whole).unwrap_or_default());
        Ok(reply)
    }

    fn get_perms(&mut self, id: ConnId, tx: u32, payload: &[u8]) -> Reply {
        let perms = self.node(id, tx, payload)?.perms.iter();
        Ok(perms
            .flat_map(|perm| format!("{perm}\0").into_bytes())
            .collect())
    }

    fn set_perms(&mut self, machine: &dyn Machine, id: ConnId, tx: u32, payload: &[u8]) -> Reply {
        let (path, rest) = split(payload)?;
        let perms: Option<Vec<_>> = wire::strings(rest).map(Perm::parse).collect();
        let perms = perms.ok_or(Refusal::Invalid)?;
        if perms.is_empty() || !payload.ends_with(b"\0") {
            return Err(Refusal::Invalid);
        }
        if path::is_special(path) {
            return self.set_special(machine, id, path, &perms);
        }
        self.change(machine, (id, tx), path, |caller, tree, quotas, _, path| {
            caller.set_perms(tree, quotas, path, &perms).map(Some)
        })
    }

    fn set_special(
        &mut self,
        machine: &dyn Machine,
        id: ConnId,
        name: &[u8],
        perms: &[Perm],
    ) -> Reply {
        let caller = self.conns.get(&id).ok_or(Refusal::Invalid)?.caller;
        let name = str::from_utf8(name).map_err(|_| Refusal::Invalid)?;
        let old = self.special.get_mut(name).ok_or(Refusal::Invalid)?;
        if !caller.may(old, Need::Own) {
            return Err(Refusal::Access);
        }
        *old = perms.into();
        let (name, perms) = (name.into(), Rc::clone(old));
        self.records.push(Record::Special { name, perms });
        let named: Vec<_> = perms_of(&self.special).collect();
        self.note(machine, named.into_iter());
        done()
    }

    fn watch(&mut self, id: ConnId, payload: &[u8]) -> Reply {
        let fields: Vec<_> = wire::strings(payload).collect();
        let (sent, token, depth) = match fields.as_slice() {
            [path, token] => (*path, *token, None),
            [path, token, depth] => (*path, *token, Some(number::<u32>(depth)?)),
            _ => return Err(Refusal::Invalid),
        };
        let conn = self.conns.get(&id).ok_or(Refusal::Invalid)?;
        let (caller, link) = (conn.caller, conn.link);
        let (path, cut) = watched(caller, sent, &mut self.quotas)?;
        let count = self.watches.usage(id).nodes + 1;
        let total = self.charged(id) + path.len() + token.len();
        let quotas = &mut self.quotas;
        if !quotas.allows(caller.domid, Limit::Watches, count, &path) {
            return Err(Refusal::TooBig);
        }
        if !quotas.allows(caller.domid, Limit::Memory, total, &path) {
            return Err(Refusal::NoMemory);
        }
        if !self.watches.add(id, &path, token, cut, depth) {
            return Err(Refusal::Exists);
        }
        if link == Link::Ring {
            self.records.push(Record::Watch {
                domid: caller.domid,
                path,
                token: token.into(),
                cut,
                depth,
            });
        }
        done()
    }

    fn unwatch(&mut self, id: ConnId, payload: &[u8]) -> Reply {
        let fields: Vec<_> = wire::strings(payload).collect();
        let [sent, token, ..] = fields.as_slice() else {
            return Err(Refusal::Invalid);
        };
        let conn = self.conns.get(&id).ok_or(Refusal::Invalid)?;
        let sent = str::from_utf8(sent).map_err(|_| Refusal::NotFound)?;
        let path = absolute_watch(conn.caller, sent);
        let watch = self.watches.remove(id, &path, token);
        let watch = watch.ok_or(Refusal::NotFound)?;
        if conn.link == Link::Ring {
            self.records.push(Record::Unwatch {
                domid: conn.caller.domid,
                path: watch.path,
                token: watch.token,
            });
        }
        done()
    }

    fn start(&mut self, id: ConnId, tx: u32) -> Reply {
        let conn = self.conns.get_mut(&id).ok_or(Refusal::Invalid)?;
        if tx != 0 {
            return Err(Refusal::Busy);
        }
        let (domid, count) = (conn.caller.domid, self.transactions.of(id).count() + 1);
        let quotas = &mut self.quotas;
        if !quotas.allows(domid, Limit::Transactions, count, "a transaction") {
            return Err(Refusal::NoSpace);
        }
        loop {
            conn.last_tx = conn.last_tx.checked_add(1).unwrap_or(1);
            if self.transactions.get(id, conn.last_tx).is_none() {
                break;
            }
        }
        let tx = conn.last_tx;
        let transaction = Transaction::new(&self.tree, Instant::now());
        self.transactions.insert(id, tx, transaction);
        if conn.link == Link::Ring {
            self.records.push(Record::Begin { domid, tx });
        }
        Ok(format!("{tx}\0").into_bytes())
    }

    fn end(&mut self, machine: &dyn Machine, id: ConnId, tx: u32, payload: &[u8]) -> Reply {
        let is_commit = match one(payload)? {
            b"T" => true,
            b"F" => false,
            _ => return Err(Refusal::Invalid),
        };
        let conn = self.conns.get(&id).ok_or(Refusal::Invalid)?;
        let (caller, link) = (conn.caller, conn.link);
        let transaction = self.transactions.remove(id, tx);
        let transaction = transaction.ok_or(Refusal::NotFound)?;
        if link == Link::Ring {
            let domid = caller.domid;
            self.records.push(Record::End { domid, tx });
        }
        if is_commit {
            let besides = self.charged_besides(id);
            let (main, quotas) = (&mut self.tree, &mut self.quotas);
            let committed = transaction.commit(main, caller, quotas, besides)?;
            self.settle();
            self.note(machine, mentioned(&committed.ops));
            self.told.extend(committed.changes);
            self.records
                .extend(committed.ops.into_iter().map(Record::Op));
        }
        done()
    }

    fn introduce_request(&mut self, machine: &mut dyn Machine, payload: &[u8]) -> Reply {
        let fields: Vec<_> = wire::strings(payload).collect();
        let [domid_text, gfn, port, ..] = fields.as_slice() else {
            return Err(Refusal::Invalid);
        };
        let (domid, port) = (domid(domid_text)?, number(port)?);
        // Some send a frame above 2^63 as a negative number.
        let gfn = number::<u64>(gfn).or_else(|_| number::<i64>(gfn).map(i64::cast_unsigned))?;
        if domid == 0 || domid >= DOMID_FIRST_RESERVED || port == 0 {
            return Err(Refusal::Invalid);
        }
        self.introduce(machine, domid, gfn, port)?;
        done()
    }

    fn resume(&mut self, payload: &[u8]) -> Reply {
        let domid = self.served(one(payload)?)?;
        if let Some(domain) = self.domains.get_mut(&domid) {
            domain.is_shutdown = false;
            let is_shutdown = false;
            self.records.push(Record::Shutdown { domid, is_shutdown });
        }
        done()
    }

    fn set_target(&mut self, payload: &[u8]) -> Reply {
        let (domid_text, rest) = split(payload)?;
        let (domid, target) = (self.served(domid_text)?, self.served(one(rest)?)?);
        let conn = self.domains.get(&domid).map(|domain| domain.conn);
        let conn = conn.and_then(|id| self.conns.get_mut(&id));
        conn.ok_or(Refusal::NotFound)?.caller.target = Some(target);
        self.records.push(Record::Target { domid, target });
        done()
    }

    fn is_introduced(&mut self, payload: &[u8]) -> Reply {
        let asked: u32 = number(one(payload)?)?;
        let known = Domid::try_from(asked).is_ok_and(|domid| self.domains.contains_key(&domid));
        let is_introduced = asked == u32::from(DOMID_SELF) || known;
        Ok(if is_introduced { b"T\0" } else { b"F\0" }.to_vec())
    }

    /// Reads the id of a guest that is served.
    fn served(&self, text: &[u8]) -> Result<Domid, Refusal> {
        match domid(text)? {
            0 => Err(Refusal::Invalid),
            domid if self.domains.contains_key(&domid) => Ok(domid),
            _ => Err(Refusal::NotFound),
        }
    }
}

/// Requests that are the toolstack's alone.
const fn needs_privilege(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Control
            | Kind::Introduce
            | Kind::Release
            | Kind::Resume
            | Kind::SetTarget
            | Kind::IsDomainIntroduced
    )
}

#[expect(clippy::unnecessary_wraps, reason = "the reply of most requests")]
fn done() -> Reply {
    Ok(b"OK\0".to_vec())
}

/// Reads a payload that is one string, with its NUL at the end.
fn one(payload: &[u8]) -> Result<&[u8], Refusal> {
    let text = payload.strip_suffix(b"\0").ok_or(Refusal::Invalid)?;
    if text.contains(&0) {
        return Err(Refusal::Invalid);
    }
    Ok(text)
}

/// Cuts the first string off a payload.
fn split(payload: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let end = payload.iter().position(|byte| *byte == 0);
    let (text, rest) = end
        .and_then(|end| payload.split_at_checked(end))
        .ok_or(Refusal::Invalid)?;
    Ok((text, rest.get(1..).unwrap_or_default()))
}

pub(crate) fn number<T: std::str::FromStr>(text: &[u8]) -> Result<T, Refusal> {
    let text = str::from_utf8(text).map_err(|_| Refusal::Invalid)?;
    text.parse().map_err(|_| Refusal::Invalid)
}

fn domid(text: &[u8]) -> Result<Domid, Refusal> {
    number(text)
}

fn list(node: &Node) -> Vec<u8> {
    let names = node.children.keys();
    names
        .flat_map(|name| name.bytes().chain(std::iter::once(0)))
        .collect()
}

/// Returns a watched path in its absolute form, and how much of it the watcher left out.
fn watched(caller: Caller, sent: &[u8], quotas: &mut Quotas) -> Result<(Rc<str>, usize), Refusal> {
    if path::is_special(sent) {
        let text = str::from_utf8(sent).map_err(|_| Refusal::Invalid)?;
        let is_valid = path::is_valid(sent);
        return if is_valid {
            Ok((text.into(), 0))
        } else {
            Err(Refusal::Invalid)
        };
    }
    let absolute = caller.absolute(sent, quotas)?;
    let cut = absolute.len() - sent.len();
    Ok((absolute, cut))
}

fn perms_of(
    special: &std::collections::BTreeMap<Rc<str>, crate::node::Perms>,
) -> impl Iterator<Item = Domid> + '_ {
    let all = special.values().flat_map(|perms| perms.iter());
    all.filter(|perm| perm.access != Access::None)
        .map(|perm| perm.domid)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "request_bounds_tests.rs"]
mod bounds_tests;

#[cfg(test)]
#[path = "request_restart_tests.rs"]
mod restart_tests;

#[cfg(test)]
#[path = "memory_tests.rs"]
mod memory_tests;
