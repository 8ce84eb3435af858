//! A xenstore with a tree, watches and transactions.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};

use xenstore::wire::{Inbox, Kind, Message, encode, strings};
use xenstore::{Refusal, Store};

type Tree = BTreeMap<String, (Vec<u8>, Vec<u8>)>;

/// A transaction under way.
#[derive(Debug)]
struct Open {
    tree: Tree,
    conflicts: bool,
}

/// What the fake xenstore holds.
#[derive(Debug, Default)]
pub(crate) struct StoreState {
    /// Value and permissions by path.
    pub(crate) tree: Tree,
    pub(crate) introduced: BTreeSet<u16>,
    pub(crate) requests: usize,
    /// Which request (from 0) is refused with EIO.
    pub(crate) fail_at: Option<usize>,
    /// At which request (from 0) the connection breaks.
    pub(crate) hang_up_at: Option<usize>,
    /// A transaction that touches a path with this in it meets a conflict, always.
    pub(crate) contended: Option<&'static str>,
    /// Every reply is followed by an event for every watch.
    pub(crate) chatters: bool,
    transactions: BTreeMap<u32, Open>,
    last_transaction: u32,
    watches: Vec<(String, String)>,
    /// Writes that follow a write: node suffix, value, node suffix below the same directory, value.
    pub(crate) reactions: Vec<[&'static str; 4]>,
}

/// A xenstore for tests, served by a thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeStore(Arc<Mutex<StoreState>>);

impl FakeStore {
    pub(crate) fn state(&self) -> MutexGuard<'_, StoreState> {
        self.0.lock().unwrap()
    }

    /// The value of a node.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        self.state()
            .tree
            .get(path)
            .map(|(value, _)| String::from_utf8_lossy(value).into_owned())
    }

    pub(crate) fn connect(&self) -> Store {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let state = self.clone();
        std::thread::spawn(move || {
            let (mut inbox, mut buffer) = (Inbox::default(), [0; 8192]);
            while let Ok(count @ 1..) = theirs.read(&mut buffer) {
                inbox.push(&buffer[..count]);
                while let Some(message) = inbox.pop().unwrap() {
                    let Some(reply) = state.state().serve(&message) else {
                        return;
                    };
                    if theirs.write_all(&reply).is_err() {
                        return;
                    }
                }
            }
        });
        Store::from_stream(ours)
    }
}

impl StoreState {
    /// Gives the reply and the events; `None` where the connection breaks instead.
    fn serve(&mut self, message: &Message) -> Option<Vec<u8>> {
        let number = self.requests;
        self.requests += 1;
        if self.hang_up_at == Some(number) {
            self.watches.clear();
            return None;
        }
        let mut events = Vec::new();
        let kind = Kind::from_number(message.kind).unwrap();
        let result = if self.fail_at == Some(number) {
            Err(Refusal::from_name(b"EIO").unwrap())
        } else {
            self.act(kind, message, &mut events)
        };
        let mut out = Vec::new();
        let (kind, payload) = match result {
            Ok(payload) => (message.kind, payload),
            Err(refusal) => (
                Kind::Error.number(),
                format!("{}\0", refusal.name()).into_bytes(),
            ),
        };
        encode(&mut out, kind, message.req_id, message.tx_id, &[&payload]).unwrap();
        if self.chatters {
            events.extend(self.watches.iter().cloned());
        }
        for (path, token) in events {
            let text = format!("{path}\0{token}\0");
            encode(
                &mut out,
                Kind::WatchEvent.number(),
                0,
                0,
                &[text.as_bytes()],
            )
            .unwrap();
        }
        Some(out)
    }

    fn act(
        &mut self,
        kind: Kind,
        message: &Message,
        events: &mut Vec<(String, String)>,
    ) -> Result<Vec<u8>, Refusal> {
        let words: Vec<String> = strings(&message.payload)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let path = words.first().cloned().unwrap_or_default();
        let ok = Ok(b"OK\0".to_vec());
        match kind {
            Kind::TransactionStart => Ok(self.start_transaction()),
            Kind::TransactionEnd => self
                .end_transaction(message.tx_id, path == "T", events)
                .and(ok),
            // one that is served already begins anew
            Kind::Introduce => {
                self.introduced.insert(path.parse().unwrap());
                ok
            }
            Kind::Release => {
                if self.introduced.remove(&path.parse().unwrap()) {
                    ok
                } else {
                    Err(Refusal::NotFound)
                }
            }
            Kind::Watch => {
                self.watches.push((path.clone(), words[1].clone()));
                events.push((path, words[1].clone()));
                ok
            }
            Kind::Unwatch => {
                self.watches
                    .retain(|watch| *watch != (path.clone(), words[1].clone()));
                ok
            }
            _ => self.act_on_tree(kind, message, &path, events),
        }
    }

    /// Its number, as the reply has it.
    fn start_transaction(&mut self) -> Vec<u8> {
        self.last_transaction += 1;
        let open = Open {
            tree: self.tree.clone(),
            conflicts: false,
        };
        self.transactions.insert(self.last_transaction, open);
        format!("{}\0", self.last_transaction).into_bytes()
    }

    /// Forgets the transaction; where `commits`, its tree becomes everybody's, unless there was a conflict.
    fn end_transaction(
        &mut self,
        id: u32,
        commits: bool,
        events: &mut Vec<(String, String)>,
    ) -> Result<(), Refusal> {
        let Open { tree, conflicts } = self.transactions.remove(&id).unwrap();
        if !commits {
            return Ok(());
        }
        if conflicts {
            return Err(Refusal::Again);
        }
        let old = std::mem::replace(&mut self.tree, tree);
        let now = &self.tree;
        let changed: Vec<String> = now
            .iter()
            .filter(|(path, value)| old.get(*path) != Some(value))
            .map(|(path, _)| path.clone())
            .chain(old.keys().filter(|path| !now.contains_key(*path)).cloned())
            .collect();
        for path in changed {
            self.changed(&path, events);
        }
        Ok(())
    }

    /// Requests about a node, in a transaction or outside.
    fn act_on_tree(
        &mut self,
        kind: Kind,
        message: &Message,
        path: &str,
        events: &mut Vec<(String, String)>,
    ) -> Result<Vec<u8>, Refusal> {
        let tree = match message.tx_id {
            0 => &mut self.tree,
            id => {
                let open = self.transactions.get_mut(&id).unwrap();
                open.conflicts |= self.contended.is_some_and(|part| path.contains(part));
                &mut open.tree
            }
        };
        let reply = on_tree(tree, kind, path, &message.payload)?;
        if message.tx_id == 0 && matches!(kind, Kind::Write | Kind::Rm | Kind::Mkdir) {
            self.changed(path, events);
        }
        Ok(reply)
    }

    fn changed(&mut self, path: &str, events: &mut Vec<(String, String)>) {
        for (watched, token) in &self.watches {
            if path == watched
                || path.starts_with(&format!("{watched}/"))
                || watched.starts_with(&format!("{path}/"))
            {
                events.push((path.to_owned(), token.clone()));
            }
        }
        let value = self
            .tree
            .get(path)
            .map(|(value, _)| value.clone())
            .unwrap_or_default();
        let hit = self
            .reactions
            .iter()
            .find(|[suffix, wanted, ..]| path.ends_with(suffix) && value == wanted.as_bytes());
        if let Some([suffix, _, node, value]) = hit.copied() {
            let target = format!("{}{node}", path.strip_suffix(suffix).unwrap());
            self.tree
                .insert(target.clone(), (value.as_bytes().to_vec(), Vec::new()));
            self.changed(&target, events);
        }
    }
}

fn on_tree(tree: &mut Tree, kind: Kind, path: &str, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
    let ok = Ok(b"OK\0".to_vec());
    match kind {
        Kind::Read => tree
            .get(path)
            .map(|(value, _)| value.clone())
            .ok_or(Refusal::NotFound),
        Kind::Write | Kind::Mkdir => {
            let value = if kind == Kind::Write {
                payload[path.len() + 1..].to_vec()
            } else {
                Vec::new()
            };
            let perms = tree
                .get(path)
                .map(|(_, perms)| perms.clone())
                .unwrap_or_default();
            for (at, _) in path.match_indices('/').skip(1) {
                tree.entry(path[..at].to_owned()).or_default();
            }
            if kind == Kind::Write || !tree.contains_key(path) {
                tree.insert(path.to_owned(), (value, perms));
            }
            ok
        }
        Kind::Rm => {
            let below = format!("{path}/");
            tree.retain(|name, _| name != path && !name.starts_with(&below));
            ok
        }
        Kind::SetPerms => {
            tree.get_mut(path).ok_or(Refusal::NotFound)?.1 = payload[path.len() + 1..].to_vec();
            ok
        }
        Kind::Directory => {
            let below = format!("{path}/");
            if !tree.contains_key(path) {
                return Err(Refusal::NotFound);
            }
            let names = tree
                .keys()
                .filter_map(|name| name.strip_prefix(&below))
                .filter(|name| !name.contains('/'));
            Ok(names.flat_map(|name| name.bytes().chain([0])).collect())
        }
        _ => Err(Refusal::from_name(b"ENOSYS").unwrap()),
    }
}
