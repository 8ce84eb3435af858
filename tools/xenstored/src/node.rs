//! One node of the tree: what it holds, what it costs, and how it is copied while others hold it.

use std::rc::Rc;

use indexmap::IndexMap;
use xenstore::{Domid, Perm};

/// Permissions of a node; never empty, the first is the owner's.
pub(crate) type Perms = Rc<[Perm]>;

/// Bytes that a node costs besides its path, value and permissions.
pub(crate) const NODE_OVERHEAD: usize = 32;
/// Bytes that a permission costs.
pub(crate) const PERM_SIZE: usize = 8;
/// Bytes that a copy of a node takes besides its value and permissions: the node, its entry with its parent, and what
/// the allocator adds to each of its parts.
const COPY_OVERHEAD: usize = 256;
/// Bytes that each child takes in the list of a copy.
const CHILD_SIZE: usize = 64;

/// One node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Rc<[u8]>,
    pub(crate) perms: Perms,
    /// Changes with value, permissions and the list of children; unique in the tree's life.
    pub(crate) generation: u64,
    /// The tree's generation when this copy of the node was made.
    born: u64,
    pub(crate) children: IndexMap<Rc<str>, Rc<Node>>,
}

impl Node {
    /// Returns the domain that owns the node and is charged for it.
    pub(crate) fn owner(&self) -> Domid {
        self.perms.first().map_or(0, |perm| perm.domid)
    }

    /// Returns what this copy of the node takes, as who keeps it is charged.
    fn shed(&self) -> Shed {
        let own = self.value.len() + self.perms.len() * PERM_SIZE;
        let bytes = COPY_OVERHEAD + own + self.children.len() * CHILD_SIZE;
        let born = self.born;
        Shed { born, bytes }
    }
}

/// A copy of a node that a tree has given up, and that a snapshot still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shed {
    /// Snapshots of this generation and later ones hold it.
    pub(crate) born: u64,
    pub(crate) bytes: usize,
}

/// Returns the bytes that a node costs its owner.
pub(crate) fn cost(path: &str, value: &[u8], perms: usize) -> usize {
    path.len() + value.len() + perms * PERM_SIZE + NODE_OVERHEAD
}

/// Returns what a node made below `parent` gets: its parent's, but owned by an unprivileged creator.
pub(crate) fn inherited(parent: &Perms, creator: Domid) -> Perms {
    if creator == 0 {
        return Rc::clone(parent);
    }
    let mut perms = parent.to_vec();
    if let Some(owner) = perms.first_mut() {
        owner.domid = creator;
    }
    Rc::from(perms)
}

/// Makes a node without value and children.
pub(crate) fn empty_node(perms: &Perms, generation: u64) -> Node {
    Node {
        value: Rc::from([]),
        perms: Rc::clone(perms),
        generation,
        born: generation,
        children: IndexMap::new(),
    }
}

/// Makes a node ours alone, to change it; reports the copy that others go on holding.
pub(crate) fn own<'n>(
    node: &'n mut Rc<Node>,
    generation: u64,
    shed: &mut Vec<Shed>,
) -> &'n mut Node {
    let is_shared = Rc::strong_count(node) > 1;
    if is_shared {
        shed.push(node.shed());
    }
    let this = Rc::make_mut(node);
    if is_shared {
        this.born = generation;
    }
    this
}

/// Reports what others hold of a removed node and all below; `is_held`: they hold what it hung on.
pub(crate) fn shed_all(node: &Rc<Node>, is_held: bool, shed: &mut Vec<Shed>) {
    let is_held = is_held || Rc::strong_count(node) > 1;
    if is_held {
        shed.push(node.shed());
    }
    for child in node.children.values() {
        shed_all(child, is_held, shed);
    }
}

/// Visits `node`, whose path is in `path` ("" for the root), and all below.
pub(crate) fn walk_from(node: &Node, path: &mut String, visit: &mut impl FnMut(&str, &Node)) {
    visit(if path.is_empty() { "/" } else { path }, node);
    let end = path.len();
    for (name, child) in &node.children {
        path.push('/');
        path.push_str(name);
        walk_from(child, path, visit);
        path.truncate(end);
    }
}
