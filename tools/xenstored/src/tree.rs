//! The tree of nodes: values, permissions, children in the order of their making.
//!
//! Nodes are shared: a [`Tree::snapshot`] costs one reference count, and a change copies only the nodes on its way, and
//! only while somebody else holds them. So a transaction works on a snapshot, and so does the attempt to commit it.
//! What is left behind by such a copy is reported as [`Shed`], so that it can be charged to who keeps it.
//! Rights and quotas are asked one floor up ([`crate::access`]); here an [`Op`] is carried out.

use std::{collections::HashMap, rc::Rc};

use xenstore::{Domid, Perm, Refusal};

use crate::node::{
    NODE_OVERHEAD, Node, PERM_SIZE, Perms, Shed, cost, empty_node, inherited, own, shed_all,
    walk_from,
};

/// Bytes that an operation costs besides what it carries.
const OP_OVERHEAD: usize = 128;

/// What a domain's nodes use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) nodes: usize,
    pub(crate) bytes: usize,
}

impl Usage {
    fn plus(self, change: Sum) -> Self {
        Self {
            nodes: self.nodes.saturating_add_signed(change.nodes),
            bytes: self.bytes.saturating_add_signed(change.bytes),
        }
    }
}

/// What was charged to an owner, and discharged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    nodes: isize,
    bytes: isize,
}

/// The tree, with the use of each owner.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Rc<Node>,
    /// What each owner's nodes use; in a snapshot, what has changed of that since it was taken.
    usage: HashMap<Domid, Sum>,
    generation: u64,
    /// What changes have left to snapshots, since it was last taken.
    shed: Vec<Shed>,
}

/// A change to the tree. It says all that is needed to repeat it, in a transaction's commit and after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Sets the value; makes what is missing on the way.
    Write {
        path: Rc<str>,
        value: Rc<[u8]>,
        creator: Domid,
    },
    /// Makes the node and what is missing on the way.
    Mkdir { path: Rc<str>, creator: Domid },
    /// Removes the node and all below.
    Rm { path: Rc<str> },
    /// Sets the permissions.
    SetPerms { path: Rc<str>, perms: Perms },
    /// Removes all that dead domains (in ascending order) owned, and their entries in the permissions of others.
    Forget { domids: Rc<[Domid]> },
}

impl Op {
    /// Returns the bytes that it takes to keep.
    pub(crate) fn size(&self) -> usize {
        let own = match self {
            Self::Write { path, value, .. } => path.len() + value.len(),
            Self::Mkdir { path, .. } | Self::Rm { path } => path.len(),
            Self::SetPerms { path, perms } => path.len() + perms.len() * PERM_SIZE,
            Self::Forget { domids } => domids.len() * size_of::<Domid>(),
        };
        own + OP_OVERHEAD
    }
}

/// What watchers may be told of one change.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) path: Rc<str>,
    /// Only watches of just this path are concerned: it went with an ancestor.
    pub(crate) is_exact: bool,
    /// Who may read one of these may be told.
    pub(crate) readable_by: [Perms; 3],
}

impl Tree {
    /// Makes a tree of a root, owned by dom0 and closed to others.
    pub(crate) fn new() -> Self {
        let root = Rc::new(empty_node(&Rc::from([Perm::none(0)]), 0));
        let mut tree = Self {
            root,
            usage: HashMap::new(),
            generation: 0,
            shed: Vec::new(),
        };
        tree.charge(0, 1, isize_of(cost("/", b"", 1)));
        tree
    }

    /// Makes a tree that starts as this one is, and goes its own way.
    pub(crate) fn snapshot(&self) -> Self {
        Self {
            root: Rc::clone(&self.root),
            usage: HashMap::new(),
            generation: self.generation,
            shed: Vec::new(),
        }
    }

    /// Becomes what `next`, a snapshot of this very state, was made into.
    pub(crate) fn adopt(&mut self, next: Self) {
        (self.root, self.generation) = (next.root, next.generation);
        self.shed.extend(next.shed);
        for (owner, change) in next.usage {
            self.charge(owner, change.nodes, change.bytes);
        }
    }

    /// Takes the report of what was left to snapshots since the last one.
    pub(crate) fn take_shed(&mut self) -> Vec<Shed> {
        std::mem::take(&mut self.shed)
    }

    /// Returns a number that grows with each change.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Finds a node.
    pub(crate) fn get(&self, path: &str) -> Option<&Node> {
        components(path).try_fold(&*self.root, |node, name| {
            node.children.get(name).map(|child| &**child)
        })
    }

    /// Finds the nearest ancestor that exists, and its path.
    pub(crate) fn nearest_parent<'p>(&self, path: &'p str) -> (&'p str, &Node) {
        let (mut node, mut end) = (&*self.root, 0);
        for name in components(parent_path(path)) {
            let Some(child) = node.children.get(name) else {
                break;
            };
            (node, end) = (child, end + 1 + name.len());
        }
        match path.get(..end) {
            None | Some("") => ("/", node),
            Some(found) => (found, node),
        }
    }

    /// Returns what the nodes of a domain use.
    pub(crate) fn usage(&self, domid: Domid) -> Usage {
        let sum = self.usage.get(&domid).copied().unwrap_or_default();
        Usage::default().plus(sum)
    }

    /// Returns what the nodes of a domain use in this snapshot of `main`, by what `main` is now.
    pub(crate) fn usage_above(&self, main: &Self, domid: Domid) -> Usage {
        let change = self.usage.get(&domid).copied().unwrap_or_default();
        main.usage(domid).plus(change)
    }

    /// Lists the domains that own nodes.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (Domid, Usage)> + '_ {
        let all = self.usage.iter();
        all.map(|(domid, sum)| (*domid, Usage::default().plus(*sum)))
    }

    /// Carries out `op` and appends what watchers may be told.
    ///
    /// # Errors
    /// ENOENT, or EINVAL for the removal of the root; nothing has changed.
    pub(crate) fn apply(&mut self, op: &Op, changes: &mut Vec<Change>) -> Result<(), Refusal> {
        match op {
            Op::Write {
                path,
                value,
                creator,
            } => self.write(path, value, *creator, changes),
            Op::Mkdir { path, creator } => {
                if self.get(path).is_none() {
                    self.write(path, &Rc::from([]), *creator, changes);
                }
            }
            Op::Rm { path } => self.remove(path, changes)?,
            Op::SetPerms { path, perms } => self.set_perms(path, perms, changes)?,
            Op::Forget { domids } => self.forget(domids, changes),
        }
        Ok(())
    }

    /// Puts a node with all it has: from a snapshot, parents first.
    pub(crate) fn restore(&mut self, path: &str, value: Rc<[u8]>, perms: Perms) {
        let path: Rc<str> = Rc::from(path);
        let mut untold = Vec::new();
        self.write(&path, &value, 0, &mut untold);
        // It was just written, so it is there.
        let _ = self.set_perms(&path, &perms, &mut untold);
    }

    /// Calls `visit` for each node with its path, parents first.
    pub(crate) fn walk(&self, visit: &mut impl FnMut(&str, &Node)) {
        walk_from(&self.root, &mut String::new(), visit);
    }

    /// Calls `visit` with the relative path of each node below `path`.
    pub(crate) fn walk_below(&self, path: &str, visit: &mut impl FnMut(&str)) {
        let Some(node) = self.get(path) else { return };
        walk_from(node, &mut String::new(), &mut |name, _| {
            if let Some(name) = name.strip_prefix('/').filter(|name| !name.is_empty()) {
                visit(name);
            }
        });
    }

    fn write(
        &mut self,
        path: &Rc<str>,
        value: &Rc<[u8]>,
        creator: Domid,
        changes: &mut Vec<Change>,
    ) {
        let Some(old) = self.get(path) else {
            return self.create(path, value, creator, changes);
        };
        let (owner, perms) = (old.owner(), Rc::clone(&old.perms));
        let growth = isize_of(value.len()) - isize_of(old.value.len());
        let parent = self.parent_perms(path);
        self.charge(owner, 0, growth);
        let generation = self.next_generation();
        if let Some(node) = self.get_mut(path) {
            node.value = Rc::clone(value);
            node.generation = generation;
        }
        changes.push(change(path, false, [perms.clone(), perms, parent]));
    }

    fn create(
        &mut self,
        path: &Rc<str>,
        value: &Rc<[u8]>,
        creator: Domid,
        changes: &mut Vec<Change>,
    ) {
        let (known, parent) = self.nearest_parent(path);
        let (known, parent_perms) = (known.len(), Rc::clone(&parent.perms));
        let perms = inherited(&parent_perms, creator);
        let owner = perms.first().map_or(0, |perm| perm.domid);
        let generation = self.next_generation();
        let mut made = Vec::new();
        let mut node = &mut self.root;
        let mut end = 0;
        for name in components(path) {
            end += 1 + name.len();
            let this = own(node, generation, &mut self.shed);
            if end > known {
                this.generation = generation;
                made.push(end);
            }
            node = this
                .children
                .entry(Rc::from(name))
                .or_insert_with(|| Rc::new(empty_node(&perms, generation)));
        }
        own(node, generation, &mut self.shed).value = Rc::clone(value);
        for end in made {
            let is_last = end == path.len();
            let value = if is_last { value.len() } else { 0 };
            let bytes = end + value + perms.len() * PERM_SIZE + NODE_OVERHEAD;
            self.charge(owner, 1, isize_of(bytes));
        }
        let near = if parent_path(path).len() == known {
            parent_perms
        } else {
            Rc::clone(&perms)
        };
        changes.push(change(path, false, [perms.clone(), perms, near]));
    }

    fn remove(&mut self, path: &Rc<str>, changes: &mut Vec<Change>) -> Result<(), Refusal> {
        let (_, name) = path.rsplit_once('/').ok_or(Refusal::Invalid)?;
        if name.is_empty() {
            return Err(Refusal::Invalid);
        }
        if self.get(path).is_none() {
            return Err(Refusal::NotFound);
        }
        let generation = self.next_generation();
        let parent = self.get_mut(parent_path(path)).ok_or(Refusal::NotFound)?;
        parent.generation = generation;
        let perms = Rc::clone(&parent.perms);
        let node = parent
            .children
            .shift_remove(name)
            .ok_or(Refusal::NotFound)?;
        let own = Rc::clone(&node.perms);
        changes.push(change(path, false, [own.clone(), own, perms]));
        self.discharge(&node, path);
        shed_all(&node, false, &mut self.shed);
        gone_below(&node, path, changes);
        Ok(())
    }

    fn set_perms(
        &mut self,
        path: &Rc<str>,
        perms: &Perms,
        changes: &mut Vec<Change>,
    ) -> Result<(), Refusal> {
        let old = self.get(path).ok_or(Refusal::NotFound)?;
        let (before, value) = (Rc::clone(&old.perms), Rc::clone(&old.value));
        let parent = self.parent_perms(path);
        let (from, to) = (old.owner(), perms.first().map_or(0, |perm| perm.domid));
        self.charge(from, -1, -isize_of(cost(path, &value, before.len())));
        self.charge(to, 1, isize_of(cost(path, &value, perms.len())));
        let generation = self.next_generation();
        if let Some(node) = self.get_mut(path) {
            node.perms = Rc::clone(perms);
            node.generation = generation;
        }
        changes.push(change(path, false, [before, Rc::clone(perms), parent]));
        Ok(())
    }

    fn forget(&mut self, domids: &[Domid], changes: &mut Vec<Change>) {
        let (mut owned, mut mentions) = (Vec::new(), Vec::new());
        find_domains(
            &self.root,
            &mut String::new(),
            domids,
            &mut owned,
            &mut mentions,
        );
        for path in owned {
            // Found a moment ago, and no path found is below another; the root is not removed.
            let _ = self.remove(&Rc::from(path), changes);
        }
        for (path, perms) in mentions {
            let _ = self.set_perms(&Rc::from(path), &perms, &mut Vec::new());
        }
    }

    fn parent_perms(&self, path: &str) -> Perms {
        let parent = self.get(parent_path(path)).unwrap_or(&self.root);
        Rc::clone(&parent.perms)
    }

    /// Finds a node to change it, copying what others share on the way.
    fn get_mut(&mut self, path: &str) -> Option<&mut Node> {
        let (generation, shed) = (self.generation, &mut self.shed);
        let root = own(&mut self.root, generation, shed);
        components(path).try_fold(root, |node, name| {
            let child = node.children.get_mut(name)?;
            Some(own(child, generation, shed))
        })
    }

    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// Takes a removed node and all below off their owners' accounts.
    fn discharge(&mut self, node: &Node, path: &str) {
        let mut path = path.to_owned();
        let mut gone = Vec::new();
        walk_from(node, &mut path, &mut |path, node| {
            gone.push((node.owner(), cost(path, &node.value, node.perms.len())));
        });
        for (owner, bytes) in gone {
            self.charge(owner, -1, -isize_of(bytes));
        }
    }

    fn charge(&mut self, owner: Domid, nodes: isize, bytes: isize) {
        let sum = self.usage.entry(owner).or_default();
        sum.nodes = sum.nodes.saturating_add(nodes);
        sum.bytes = sum.bytes.saturating_add(bytes);
        if *sum == Sum::default() {
            self.usage.remove(&owner);
        }
    }
}

/// Returns the path of a node's parent; the root is its own.
pub(crate) fn parent_path(path: &str) -> &str {
    xenstore::path::parent(path).unwrap_or("/")
}

/// Iterates over the names of an absolute path.
pub(crate) fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

fn change(path: &Rc<str>, is_exact: bool, readable_by: [Perms; 3]) -> Change {
    Change {
        path: Rc::clone(path),
        is_exact,
        readable_by,
    }
}

/// Tells of everything below a removed node.
fn gone_below(node: &Node, path: &str, changes: &mut Vec<Change>) {
    for (name, child) in &node.children {
        let below = format!("{path}/{name}");
        let (own, parent) = (Rc::clone(&child.perms), Rc::clone(&node.perms));
        changes.push(change(
            &Rc::from(below.as_str()),
            true,
            [own.clone(), own, parent],
        ));
        gone_below(child, &below, changes);
    }
}

/// Collects the topmost nodes that some domains own, and the others that name them in their permissions.
fn find_domains(
    node: &Node,
    path: &mut String,
    domids: &[Domid],
    owned: &mut Vec<String>,
    mentions: &mut Vec<(String, Perms)>,
) {
    if domids.binary_search(&node.owner()).is_ok() && !path.is_empty() {
        return owned.push(path.clone());
    }
    let is_one = |perm: &Perm| domids.binary_search(&perm.domid).is_ok();
    if node.perms.iter().skip(1).any(is_one) {
        let kept = |(index, perm): &(usize, &Perm)| *index == 0 || !is_one(perm);
        let perms = node.perms.iter().enumerate().filter(kept);
        let name = if path.is_empty() { "/" } else { path.as_str() };
        mentions.push((name.to_owned(), perms.map(|(_, perm)| *perm).collect()));
    }
    let end = path.len();
    for (name, child) in &node.children {
        path.push('/');
        path.push_str(name);
        find_domains(child, path, domids, owned, mentions);
        path.truncate(end);
    }
}

/// Sizes here are bounded by memory.
fn isize_of(size: usize) -> isize {
    isize::try_from(size).unwrap_or(isize::MAX)
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
