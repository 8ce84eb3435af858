//! Transactions: a snapshot to work on, and a list of what to do to the real tree at the end.
//!
//! A commit fails with EAGAIN if any node that the transaction has read or written differs, by its generation, between
//! the snapshot and the tree of then. If nothing changed at all meanwhile, the working copy simply becomes the tree.

use std::{collections::HashSet, rc::Rc};

use indexmap::IndexMap;
use xenstore::{Domid, Refusal};

use crate::access::Caller;
use crate::quota::{Limit, Quotas};
use crate::tree::{Change, Op, Perms, Tree, components, parent_path};

/// Bytes that a path noted in a list costs besides itself.
const ENTRY_OVERHEAD: usize = 32;

/// A transaction under way.
#[derive(Debug)]
pub(crate) struct Transaction {
    base: Tree,
    tree: Tree,
    touched: HashSet<Rc<str>>,
    ops: Vec<Op>,
    changes: Changes,
    /// What operations take to keep, with the paths noted for them.
    bytes: usize,
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
    pub(crate) fn new(tree: &Tree) -> Self {
        Self {
            base: tree.clone(),
            tree: tree.clone(),
            touched: HashSet::new(),
            ops: Vec::new(),
            changes: Changes::default(),
            bytes: 0,
            is_doomed: false,
        }
    }

    /// Starts one whose commit will be refused with EAGAIN: it was under way when the daemon was restarted.
    pub(crate) fn doomed(tree: &Tree) -> Self {
        let mut transaction = Self::new(tree);
        transaction.doom();
        transaction
    }

    /// Has the commit refused with EAGAIN.
    pub(crate) fn doom(&mut self) {
        self.is_doomed = true;
    }

    /// Returns the tree as the transaction sees it.
    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Returns the bytes that wait for the commit.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
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
        let touched = self.touched.len() + usize::from(!self.touched.contains(path));
        let count = touched.max(self.ops.len() + 1);
        if !quotas.allows(caller.domid, Limit::TransactionNodes, count, path) {
            return Err(Refusal::NoSpace);
        }
        self.touched.insert(Rc::clone(path));
        Ok(())
    }

    /// Carries out an operation within the transaction.
    ///
    /// # Errors
    /// As [`Tree::apply`].
    pub(crate) fn apply(&mut self, op: Op) -> Result<(), Refusal> {
        self.touch_for(&op);
        self.bytes += op.size() + self.changes.apply(&mut self.tree, &op)?;
        self.ops.push(op);
        Ok(())
    }

    /// Brings the changes into `main`.
    ///
    /// # Errors
    /// EAGAIN after a conflict, ENOSPC if a guest's nodes exceed its quota meanwhile; `main` is as it was.
    pub(crate) fn commit(
        mut self,
        main: &mut Tree,
        caller: Caller,
        quotas: &mut Quotas,
    ) -> Result<Committed, Refusal> {
        if self.is_doomed {
            return Err(Refusal::Again);
        }
        if self.ops.is_empty() && !self.conflicts(main) {
            return Ok(self.committed());
        }
        if main.generation() == self.base.generation() {
            *main = self.tree.clone();
            return Ok(self.committed());
        }
        if self.conflicts(main) {
            return Err(Refusal::Again);
        }
        let mut next = main.clone();
        self.changes = Changes::default();
        for op in &self.ops {
            // What it touches is as it was when this worked, so it works again.
            let result = self.changes.apply(&mut next, op);
            result.map_err(|_| Refusal::Again)?;
        }
        let nodes = next.usage(caller.domid).nodes;
        let has_grown = nodes > main.usage(caller.domid).nodes;
        if has_grown && !quotas.allows(caller.domid, Limit::Nodes, nodes, "a commit") {
            return Err(Refusal::NoSpace);
        }
        *main = next;
        Ok(self.committed())
    }

    fn committed(self) -> Committed {
        Committed {
            ops: self.ops,
            changes: self.changes.into_vec(),
        }
    }

    fn conflicts(&self, main: &Tree) -> bool {
        let generation = |tree: &Tree, path: &str| tree.get(path).map(|node| node.generation);
        main.generation() != self.base.generation()
            && self
                .touched
                .iter()
                .any(|path| generation(&self.base, path) != generation(main, path))
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
        if !self.touched.contains(path) {
            self.touched.insert(path.into());
            self.bytes += path.len() + ENTRY_OVERHEAD;
        }
    }
}

impl Changes {
    /// Carries out `op` and adds what it changed; returns the bytes that this takes.
    ///
    /// # Errors
    /// As [`Tree::apply`].
    fn apply(&mut self, tree: &mut Tree, op: &Op) -> Result<usize, Refusal> {
        let (mut new, mut bytes) = (Vec::new(), 0);
        tree.apply(op, &mut new)?;
        for change in new {
            let cost = change.path.len() + ENTRY_OVERHEAD;
            let known = self
                .all
                .insert((change.path, change.is_exact), change.readable_by);
            bytes += if known.is_none() { cost } else { 0 };
        }
        Ok(bytes)
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
