//! The tree against examples and a flat map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn write(path: &str, value: &[u8], creator: Domid) -> Op {
    Op::Write {
        path: path.into(),
        value: value.into(),
        creator,
    }
}

fn run(tree: &mut Tree, op: &Op) -> Vec<Change> {
    let mut changes = Vec::new();
    let _ = tree.apply(op, &mut changes);
    changes
}

#[test]
fn a_write_makes_its_parents_which_inherit_permissions() {
    let mut tree = Tree::new();
    run(&mut tree, &write("/a", b"", 0));
    let perms: Perms = Rc::from([Perm::none(0), Perm::both(3)]);
    let op = Op::SetPerms {
        path: "/a".into(),
        perms: perms.clone(),
    };
    run(&mut tree, &op);
    run(&mut tree, &write("/a/b/c", b"x", 3));
    let made: Perms = Rc::from([Perm::none(3), Perm::both(3)]);
    assert_eq!(tree.get("/a").unwrap().perms, perms);
    assert_eq!(tree.get("/a/b").unwrap().perms, made);
    assert_eq!(tree.get("/a/b/c").unwrap().perms, made);
    assert_eq!(&*tree.get("/a/b/c").unwrap().value, b"x");
    assert_eq!(tree.usage(3).nodes, 2);
}

#[test]
fn children_keep_the_order_of_their_making() {
    let mut tree = Tree::new();
    for name in ["/z", "/a", "/m", "/b"] {
        run(&mut tree, &write(name, b"", 0));
    }
    run(&mut tree, &Op::Rm { path: "/a".into() });
    let names: Vec<_> = tree.get("/").unwrap().children.keys().cloned().collect();
    assert_eq!(names, ["z".into(), "m".into(), Rc::<str>::from("b")]);
}

#[test]
fn removal_tells_of_the_node_and_exactly_of_those_below() {
    let mut tree = Tree::new();
    run(&mut tree, &write("/a/b/c", b"", 0));
    let told = run(&mut tree, &Op::Rm { path: "/a".into() });
    let told: Vec<_> = told.iter().map(|c| (&*c.path, c.is_exact)).collect();
    assert_eq!(told, [("/a", false), ("/a/b", true), ("/a/b/c", true)]);
    let root = Op::Rm { path: "/".into() };
    assert_eq!(tree.apply(&root, &mut Vec::new()), Err(Refusal::Invalid));
}

#[test]
fn a_dead_domain_leaves_neither_nodes_nor_rights() {
    let mut tree = Tree::new();
    run(&mut tree, &write("/a/kept", b"", 0));
    run(&mut tree, &write("/a/own", b"", 0));
    for (path, perms) in [
        ("/a/kept", [Perm::none(0), Perm::read(3)]),
        ("/a/own", [Perm::none(3), Perm::read(4)]),
    ] {
        let perms = Rc::from(perms);
        let path = path.into();
        run(&mut tree, &Op::SetPerms { path, perms });
    }
    run(&mut tree, &write("/a/own/below", b"", 4));
    let told = run(
        &mut tree,
        &Op::Forget {
            domids: Rc::from([3]),
        },
    );
    assert_eq!(told.len(), 2);
    assert!(tree.get("/a/own").is_none());
    assert_eq!(*tree.get("/a/kept").unwrap().perms, [Perm::none(0)]);
    assert_eq!(tree.usage(3), Usage::default());
    assert_eq!(tree.usage(4), Usage::default());
}

#[test]
fn a_clone_does_not_see_later_changes() {
    let mut tree = Tree::new();
    run(&mut tree, &write("/a/b", b"old", 0));
    let snapshot = tree.snapshot();
    run(&mut tree, &write("/a/b", b"new", 0));
    run(&mut tree, &write("/a/c", b"", 0));
    assert_eq!(&*snapshot.get("/a/b").unwrap().value, b"old");
    assert!(snapshot.get("/a/c").is_none());
    assert_ne!(
        snapshot.get("/a").unwrap().generation,
        tree.get("/a").unwrap().generation
    );
}

/// The naive model: all paths in one map.
#[derive(Default)]
struct Model(BTreeMap<String, (Vec<u8>, Domid)>);

impl Model {
    fn write(&mut self, path: &str, value: &[u8], creator: Domid, may_replace: bool) {
        let owner_above = |model: &Self| {
            let mut at = parent_path(path).to_owned();
            while at != "/" && !model.0.contains_key(&at) {
                at = parent_path(&at).to_owned();
            }
            model.0.get(&at).map_or(0, |node| node.1)
        };
        let inherited = owner_above(self);
        let owner = if creator == 0 { inherited } else { creator };
        if let Some(node) = self.0.get_mut(path) {
            if may_replace {
                node.0 = value.to_vec();
            }
            return;
        }
        let mut end = 0;
        for name in components(path) {
            end += 1 + name.len();
            self.0
                .entry(path[..end].to_owned())
                .or_insert((Vec::new(), owner));
        }
        self.0.get_mut(path).unwrap().0 = value.to_vec();
    }

    fn rm(&mut self, path: &str) {
        let below = format!("{path}/");
        self.0
            .retain(|name, _| name != path && !name.starts_with(&below));
    }
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec("[abc]", 1..4).prop_map(|names| format!("/{}", names.join("/")))
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (any_path(), prop::collection::vec(any::<u8>(), 0..4), 0u16..3).prop_map(
            |(path, value, creator)| write(&path, &value, creator)
        ),
        1 => (any_path(), 0u16..3).prop_map(|(path, creator)| Op::Mkdir { path: path.as_str().into(), creator }),
        2 => any_path().prop_map(|path| Op::Rm { path: path.as_str().into() }),
    ]
}

proptest! {
    #[test]
    fn the_tree_and_its_accounts_agree_with_a_flat_map(ops in prop::collection::vec(any_op(), 0..60)) {
        let (mut tree, mut model) = (Tree::new(), Model::default());
        for op in &ops {
            run(&mut tree, op);
            match op {
                Op::Write { path, value, creator } => model.write(path, value, *creator, true),
                Op::Mkdir { path, creator } => model.write(path, b"", *creator, false),
                Op::Rm { path } => model.rm(path),
                _ => unreachable!(),
            }
        }
        let mut seen = BTreeMap::new();
        let mut usage: HashMap<Domid, Usage> = HashMap::new();
        tree.walk(&mut |path, node| {
            let usage = usage.entry(node.owner()).or_default();
            usage.nodes += 1;
            usage.bytes += cost(path, &node.value, node.perms.len());
            if path != "/" {
                seen.insert(path.to_owned(), (node.value.to_vec(), node.owner()));
            }
        });
        prop_assert_eq!(seen, model.0);
        for (domid, used) in usage {
            prop_assert_eq!(tree.usage(domid), used);
        }
    }
}
