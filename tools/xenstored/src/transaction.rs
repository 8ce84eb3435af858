//! Transactions: a snapshot to work on, and a list of what to do to the real tree at the end.
//!
//! A commit fails with EAGAIN if any node that the transaction has read or written differs, by its generation, between
//! the snapshot and the tree of then.
//!
//! What a transaction keeps is charged to its owner: its operations and the paths noted for them, the copies that its
//! changes make, and, from the moment at which the tree goes on without it, what its snapshot alone holds. One that
//! comes to keep too much, or is open for too long, is brought to the present or [given up](Transaction::give_up).

use std::{
    collections::HashMap,
    rc::Rc,
    time::{Duration, Instant},
};

use indexmap::IndexMap;
use xenstore::{Domid, Refusal};

use crate::access::Caller;
use crate::node::{Perms, Shed};
use crate::quota::{Limit, Quotas};
use crate::tree::{Change, Op, Tree, Usage, components, parent_path};

/// Bytes that a path noted in a list costs besides itself.
const ENTRY_OVERHEAD: usize = 96;

/// A transaction under way; one that was given up has nothing but its number, and can only fail.
#[derive(Debug)]
pub(crate) struct Transaction {
    live: Option<Box<Live>>,
}

#[derive(Debug)]
struct Live {
    tree: Tree,
    /// The real tree's generation that the snapshot is of.
    start: u64,
    begun: Instant,
    /// The generation in the snapshot of each node that was looked at or is to be changed.
    touched: HashMap<Rc<str>, Option<u64>>,
    ops: Vec<Op>,
    /// What operations and touched paths take to keep.
    bytes: usize,
    /// What the copies take that operations made in the working tree.
    copies: usize,
    /// What the snapshot alone holds of the past.
    past: usize,
    is_doomed: bool,
}

/// What watchers will be told: one change for each path, as they want to know what changed, not how often.
#[derive(Debug, Default)]
struct Changes {
    /// By path, and whether only watches of just that path are concerned.
    all: IndexMap<(Rc<str>, bool), [Perms; 3]>,
}

/// What a commit did.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) ops: Vec<Op>,
    pub(crate) changes: Vec<Change>,
}

impl Transaction {
    /// Starts from the tree as it is.
    pub(crate) fn new(tree: &Tree, now: Instant) -> Self {
        let live = Live {
            tree: tree.snapshot(),
            start: tree.generation(),
            begun: now,
            touched: HashMap::new(),
            ops: Vec::new(),
            bytes: 0,
            copies: 0,
            past: 0,
            is_doomed: false,
        };
        let live = Some(Box::new(live));
        Self { live }
    }

    /// Starts one whose commit will be refused with EAGAIN: it was under way when the daemon was restarted.
    pub(crate) const fn given_up() -> Self {
        Self { live: None }
    }

    /// Has the commit refused with EAGAIN; until then the transaction sees what it saw.
    pub(crate) fn doom(&mut self) {
        if let Some(live) = &mut self.live {
            live.is_doomed = true;
        }
    }

    /// Lets go of all that the transaction keeps. From now on it reads the tree as that is, its changes are well
    /// received and forgotten, and its commit is refused with EAGAIN.
    pub(crate) fn give_up(&mut self) {
        self.live = None;
    }

    /// Tells whether it was given up.
    pub(crate) fn is_given_up(&self) -> bool {
        self.live.is_none()
    }

    /// Returns the generation of the real tree whose nodes the snapshot holds; `None`: there is none.
    pub(crate) fn start(&self) -> Option<u64> {
        self.live.as_ref().map(|live| live.start)
    }

    /// Returns how long it has been under way.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        let begun = self.live.as_ref().map_or(now, |live| live.begun);
        now.saturating_duration_since(begun)
    }

    /// Returns the tree as the transaction sees it; `main` is the real one.
    pub(crate) fn tree<'t>(&'t self, main: &'t Tree) -> &'t Tree {
        self.live.as_ref().map_or(main, |live| &live.tree)
    }

    /// Returns what a domain's nodes use as the transaction sees it.
    pub(crate) fn usage(&self, main: &Tree, domid: Domid) -> Usage {
        let live = self.live.as_ref();
        live.map_or(main.usage(domid), |live| live.tree.usage_above(main, domid))
    }

    /// Returns the bytes that it keeps.
    pub(crate) fn bytes(&self) -> usize {
        let live = self.live.as_ref();
        live.map_or(0, |live| live.bytes + live.copies + live.past)
    }

    /// Returns the bytes of them that the snapshot alone holds of the past.
    pub(crate) fn past(&self) -> usize {
        self.live.as_ref().map_or(0, |live| live.past)
    }

    /// Returns what it takes to note that `path` is touched.
    pub(crate) fn cost_of_touch(&self, path: &str) -> usize {
        match &self.live {
            Some(live) if !live.touched.contains_key(path) => path.len() + ENTRY_OVERHEAD,
            _ => 0,
        }
    }

    /// Notes that the snapshot alone holds what the real tree has left behind.
    pub(crate) fn keep(&mut self, shed: Shed) {
        if let Some(live) = &mut self.live {
            live.past = live.past.saturating_add(shed.bytes);
        }
    }

    /// Notes that a node is looked at, or is to be changed.
    ///
    /// # Errors
    /// ENOSPC: a guest's transaction touches too many nodes, or the same too often.
    pub(crate) fn touch(
        &mut self,
        caller: Caller,
        quotas: &mut Quotas,
        path: &Rc<str>,
    ) -> Result<(), Refusal> {
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let touched = live.touched.len() + usize::from(!live.touched.contains_key(path));
        let count = touched.max(live.ops.len() + 1);
        if !quotas.allows(caller.domid, Limit::TransactionNodes, count, path) {
            return Err(Refusal::NoSpace);
        }
        live.note(path);
        Ok(())
    }

    /// Carries out an operation within the transaction.
    ///
    /// # Errors
    /// As [`Tree::apply`].
    pub(crate) fn apply(&mut self, op: Op) -> Result<(), Refusal> {
        match &mut self.live {
            Some(live) => live.apply(op),
            None => Ok(()),
        }
    }

    /// Brings the snapshot to the present, so that nothing of the past is kept; gives the transaction up where that
    /// would be a conflict, or would free less than `least` bytes for the work of doing all again.
    pub(crate) fn relieve(&mut self, main: &Tree, least: usize) {
        let is_moved = match &mut self.live {
            Some(live) if live.past >= least => live.rebase(main).is_ok(),
            _ => false,
        };
        if !is_moved {
            self.give_up();
        }
    }

    /// Brings the changes into `main`; `besides` is what the caller is charged for besides its nodes, in bytes.
    ///
    /// # Errors
    /// EAGAIN after a conflict, ENOSPC or ENOMEM if a guest's nodes exceed its quota meanwhile; `main` is as it was.
    pub(crate) fn commit(
        self,
        main: &mut Tree,
        caller: Caller,
        quotas: &mut Quotas,
        besides: usize,
    ) -> Result<Committed, Refusal> {
        let live = self.live.ok_or(Refusal::Again)?;
        let (next, changes) = live.replay(main)?;
        let (before, after) = (
            main.usage(caller.domid),
            next.usage_above(main, caller.domid),
        );
        let mut allows = |limit, wanted| quotas.allows(caller.domid, limit, wanted, "a commit");
        if after.nodes > before.nodes && !allows(Limit::Nodes, after.nodes) {
            return Err(Refusal::NoSpace);
        }
        if after.bytes > before.bytes && !allows(Limit::Memory, after.bytes + besides) {
            return Err(Refusal::NoMemory);
        }
        main.adopt(next);
        Ok(Committed {
            ops: live.ops,
            changes: changes.into_vec(),
        })
    }
}

impl Live {
    fn apply(&mut self, op: Op) -> Result<(), Refusal> {
        self.touch_for(&op);
        self.tree.apply(&op, &mut Vec::new())?;
        self.copies += bytes_of(&self.tree.take_shed());
        self.bytes += op.size();
        self.ops.push(op);
        Ok(())
    }

    /// Does all operations again on `main` as it is.
    ///
    /// # Errors
    /// EAGAIN: what the transaction saw is not so any more.
    fn replay(&self, main: &Tree) -> Result<(Tree, Changes), Refusal> {
        if self.is_doomed || self.conflicts(main) {
            return Err(Refusal::Again);
        }
        let (mut next, mut changes) = (main.snapshot(), Changes::default());
        for op in &self.ops {
            // What it touches is as it was when this worked, so it works again.
            let result = changes.apply(&mut next, op);
            result.map_err(|_| Refusal::Again)?;
        }
        Ok((next, changes))
    }

    fn rebase(&mut self, main: &Tree) -> Result<(), Refusal> {
        let (mut next, _) = self.replay(main)?;
        self.copies = bytes_of(&next.take_shed());
        (self.tree, self.start, self.past) = (next, main.generation(), 0);
        Ok(())
    }

    fn conflicts(&self, main: &Tree) -> bool {
        let has_changed = |(path, generation): (&Rc<str>, &Option<u64>)| {
            main.get(path).map(|node| node.generation) != *generation
        };
        main.generation() != self.start && self.touched.iter().any(has_changed)
    }

    /// Notes all nodes that an operation depends on or changes.
    fn touch_for(&mut self, op: &Op) {
        match op {
            Op::Write { path, .. } | Op::Mkdir { path, .. } | Op::SetPerms { path, .. } => {
                if self.tree.get(path).is_none() {
                    let (known, _) = self.tree.nearest_parent(path);
                    let mut end = known.trim_end_matches('/').len();
                    self.note(known);
                    for name in components(path.get(end..).unwrap_or_default()) {
                        end += 1 + name.len();
                        self.note(path.get(..end).unwrap_or_default());
                    }
                }
                self.note(path);
            }
            Op::Rm { path } => {
                self.note(parent_path(path));
                self.note(path);
                let mut below = Vec::new();
                self.tree
                    .walk_below(path, &mut |name| below.push(format!("{path}/{name}")));
                below.iter().for_each(|path| self.note(path));
            }
            Op::Forget { .. } => {}
        }
    }

    /// Notes one node, at its cost.
    fn note(&mut self, path: &str) {
        if !self.touched.contains_key(path) {
            // Not changed so far by the transaction itself, or it would have been noted then.
            let generation = self.tree.get(path).map(|node| node.generation);
            self.touched.insert(path.into(), generation);
            self.bytes += path.len() + ENTRY_OVERHEAD;
        }
    }
}

fn bytes_of(shed: &[Shed]) -> usize {
    shed.iter().map(|shed| shed.bytes).sum()
}

impl Changes {
    /// Carries out `op` and adds what it changed.
    ///
    /// # Errors
    /// As [`Tree::apply`].
    fn apply(&mut self, tree: &mut Tree, op: &Op) -> Result<(), Refusal> {
        let mut new = Vec::new();
        tree.apply(op, &mut new)?;
        let new = new.into_iter();
        self.all
            .extend(new.map(|change| ((change.path, change.is_exact), change.readable_by)));
        Ok(())
    }

    /// Returns the changes in the order in which their paths were first changed.
    fn into_vec(self) -> Vec<Change> {
        let all = self.all.into_iter();
        let changes = all.map(|((path, is_exact), readable_by)| Change {
            path,
            is_exact,
            readable_by,
        });
        changes.collect()
    }
}

/// Returns the domains whose accounts a list of operations may have made.
pub(crate) fn mentioned(ops: &[Op]) -> impl Iterator<Item = Domid> + '_ {
    ops.iter().flat_map(|op| match op {
        Op::SetPerms { perms, .. } => perms.iter().map(|perm| perm.domid).collect(),
        _ => Vec::new(),
    })
}

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
