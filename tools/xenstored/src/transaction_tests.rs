//! Transactions against examples and copies of the whole tree.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::access::Need;

fn write(path: &str, value: &str) -> Op {
    Op::Write {
        path: path.into(),
        value: value.as_bytes().into(),
        creator: 0,
    }
}

fn rm(path: &str) -> Op {
    Op::Rm { path: path.into() }
}

fn act(tree: &mut Tree, op: &Op) {
    let _ = tree.apply(op, &mut Vec::new());
}

fn value(tree: &Tree, path: &str) -> Option<String> {
    let node = tree.get(path)?;
    Some(String::from_utf8(node.value.to_vec()).unwrap())
}

fn live(transaction: &mut Transaction) -> &mut Live {
    transaction.live.as_mut().unwrap()
}

fn read(transaction: &mut Transaction, path: &str) -> Option<String> {
    let mut quotas = Quotas::default();
    transaction
        .touch(Caller::of(0), &mut quotas, &path.into())
        .unwrap();
    value(&live(transaction).tree, path)
}

fn commit(transaction: Transaction, main: &mut Tree) -> Result<Committed, Refusal> {
    transaction.commit(main, Caller::of(0), &mut Quotas::default(), 0)
}

#[test]
fn changes_are_seen_inside_only_until_the_commit() {
    let mut main = Tree::new();
    let mut transaction = Transaction::new(&main, Instant::now());
    transaction.apply(write("/a/b", "1")).unwrap();
    assert_eq!(
        value(&live(&mut transaction).tree, "/a/b").as_deref(),
        Some("1")
    );
    assert_eq!(value(&main, "/a/b"), None);
    let told = commit(transaction, &mut main).unwrap().changes;
    assert_eq!(value(&main, "/a/b").as_deref(), Some("1"));
    assert_eq!(told.len(), 1);
}

#[test]
fn a_change_of_what_was_read_is_a_conflict_and_one_elsewhere_is_not() {
    let mut main = Tree::new();
    act(&mut main, &write("/a", "1"));
    act(&mut main, &write("/b", "1"));
    for (other, expected) in [("/a", Err(Refusal::Again)), ("/b", Ok(()))] {
        let mut transaction = Transaction::new(&main, Instant::now());
        assert_eq!(read(&mut transaction, "/a").as_deref(), Some("1"));
        transaction.apply(write("/c/d", "x")).ok();
        act(&mut main, &write(other, "1"));
        let result = commit(transaction, &mut main).map(drop);
        assert_eq!(result, expected, "{other}");
    }
}

#[test]
fn something_made_where_nothing_was_read_is_a_conflict() {
    let mut main = Tree::new();
    let mut transaction = Transaction::new(&main, Instant::now());
    assert_eq!(read(&mut transaction, "/a/b"), None);
    transaction.apply(write("/z", "")).unwrap();
    act(&mut main, &write("/a/b", ""));
    assert!(commit(transaction, &mut main).is_err());
    assert_eq!(value(&main, "/z"), None);
}

#[test]
fn a_change_below_what_was_removed_is_a_conflict() {
    let mut main = Tree::new();
    act(&mut main, &write("/a/b/c", ""));
    let mut transaction = Transaction::new(&main, Instant::now());
    transaction.apply(rm("/a")).unwrap();
    act(&mut main, &write("/a/b/c", "new"));
    assert!(commit(transaction, &mut main).is_err());
    assert_eq!(value(&main, "/a/b/c").as_deref(), Some("new"));
}

#[test]
fn the_quota_counts_what_others_made_meanwhile() {
    let mut quotas = Quotas::default();
    quotas.set(Limit::Nodes, 1);
    let guest = Caller {
        domid: 3,
        target: None,
    };
    let make = |path: &str| Op::Mkdir {
        path: path.into(),
        creator: 3,
    };
    let mut main = Tree::new();
    for root in ["/x", "/y"] {
        act(&mut main, &write(root, ""));
    }
    let mut transaction = Transaction::new(&main, Instant::now());
    transaction.apply(make("/x/1")).unwrap();
    act(&mut main, &make("/y/2"));
    let refused = transaction.commit(&mut main, guest, &mut quotas, 0);
    assert_eq!(refused.map(drop), Err(Refusal::NoSpace));
    assert!(guest.find(&main, "/x/1", Need::Read).is_err());
}

#[test]
fn what_is_made_and_removed_again_and_again_is_kept_once() {
    let mut main = Tree::new();
    for root in ["/data", "/elsewhere"] {
        act(&mut main, &write(root, ""));
    }
    let mut transaction = Transaction::new(&main, Instant::now());
    let deep = format!("/data{}", "/a".repeat(900));
    for _ in 0..200 {
        transaction.apply(write(&deep, "")).unwrap();
        transaction.apply(rm("/data/a")).unwrap();
    }
    // Paths of 906 bytes on average, noted once; and 400 operations.
    let bytes = transaction.bytes();
    assert!((1_000_000..1_600_000).contains(&bytes), "{bytes}");
    act(&mut main, &write("/elsewhere/x", ""));
    let told = commit(transaction, &mut main).unwrap().changes;
    assert!(told.len() <= 2 * 900);
}

#[test]
fn what_the_quota_refuses_is_not_kept() {
    let mut quotas = Quotas::default();
    quotas.set(Limit::TransactionNodes, 2);
    let mut transaction = Transaction::new(&Tree::new(), Instant::now());
    let mut touch = |path: &str| transaction.touch(Caller::of(3), &mut quotas, &path.into());
    for path in ["/1", "/2", "/1"] {
        assert_eq!(touch(path), Ok(()));
    }
    for path in ["/3", "/4", "/5"] {
        assert_eq!(touch(path), Err(Refusal::NoSpace));
    }
    assert_eq!(touch("/2"), Ok(()));
    assert_eq!(live(&mut transaction).touched.len(), 2);
}

#[derive(Clone, Debug)]
enum Step {
    Begin(usize),
    Read(usize, String),
    Write(usize, String, String),
    Rm(usize, String),
    Commit(usize),
    /// Brought to the present, or given up.
    Relieve(usize),
    OutsideWrite(String, String),
    OutsideRm(String),
}

fn any_step() -> impl Strategy<Value = Step> {
    let path =
        || prop::collection::vec("[ab]", 1..4).prop_map(|names| format!("/{}", names.join("/")));
    prop_oneof![
        (0usize..2).prop_map(Step::Begin),
        (0usize..2, path()).prop_map(|(t, p)| Step::Read(t, p)),
        (0usize..2, path(), "[xyz]").prop_map(|(t, p, v)| Step::Write(t, p, v)),
        (0usize..2, path()).prop_map(|(t, p)| Step::Rm(t, p)),
        (0usize..2).prop_map(Step::Commit),
        (0usize..2).prop_map(Step::Relieve),
        (path(), "[xyz]").prop_map(|(p, v)| Step::OutsideWrite(p, v)),
        path().prop_map(Step::OutsideRm),
    ]
}

type Flat = BTreeMap<String, String>;

fn flat(tree: &Tree) -> Flat {
    let mut all = Flat::new();
    tree.walk(&mut |path, node| {
        let value = String::from_utf8(node.value.to_vec()).unwrap();
        all.insert(path.to_owned(), value);
    });
    all
}

fn flat_write(all: &mut Flat, path: &str, value: &str) {
    for (end, _) in path.match_indices('/').skip(1) {
        all.entry(path[..end].to_owned()).or_default();
    }
    all.insert(path.to_owned(), value.to_owned());
}

fn flat_rm(all: &mut Flat, path: &str) {
    let below = format!("{path}/");
    all.retain(|name, _| name != path && !name.starts_with(&below));
}

/// The model of a transaction: a whole copy, and the serial replay of its steps.
struct Model {
    copy: Flat,
    steps: Vec<(String, Option<String>)>,
    reads: Vec<(String, Option<String>)>,
}

fn flat_step(all: &mut Flat, path: &str, what: &Option<String>) {
    match what {
        Some(v) => flat_write(all, path, v),
        None => flat_rm(all, path),
    }
}

proptest! {
    /// A commit that succeeds equals running the transaction alone at that moment, with the same reads.
    #[test]
    fn commits_are_serialisable(steps in prop::collection::vec(any_step(), 0..60)) {
        let (mut main, mut model) = (Tree::new(), flat(&Tree::new()));
        let mut open: [Option<(Transaction, Model)>; 2] = [None, None];
        for step in steps {
            match step {
                Step::Begin(t) => {
                    let fresh = Model { copy: model.clone(), steps: vec![], reads: vec![] };
                    open[t] = Some((Transaction::new(&main, Instant::now()), fresh));
                }
                Step::Read(t, path) => if let Some((transaction, model)) = &mut open[t] {
                    if transaction.is_given_up() {
                        continue;
                    }
                    let seen = read(transaction, &path);
                    prop_assert_eq!(&seen, &model.copy.get(&path).cloned(), "not a snapshot");
                    // What the transaction itself wrote before says nothing about others.
                    if model.steps.is_empty() {
                        model.reads.push((path, seen));
                    }
                }
                Step::Write(t, path, v) => if let Some((transaction, model)) = &mut open[t] {
                    transaction.apply(write(&path, &v)).unwrap();
                    flat_write(&mut model.copy, &path, &v);
                    model.steps.push((path, Some(v)));
                }
                Step::Relieve(t) => if let Some((transaction, own)) = &mut open[t] {
                    transaction.relieve(&main, 0);
                    // It goes on as if it had begun now.
                    own.copy = model.clone();
                    own.steps.iter().for_each(|(path, what)| flat_step(&mut own.copy, path, what));
                }
                Step::Rm(t, path) => if let Some((transaction, model)) = &mut open[t] {
                    let is_done = transaction.apply(rm(&path)).is_ok();
                    flat_rm(&mut model.copy, &path);
                    model.steps.extend(is_done.then_some((path, None)));
                }
                Step::Commit(t) => if let Some((transaction, done)) = open[t].take() {
                    let (before, is_given_up) = (flat(&main), transaction.is_given_up());
                    if commit(transaction, &mut main).is_ok() {
                        prop_assert!(!is_given_up);
                        for (path, seen) in &done.reads {
                            prop_assert_eq!(before.get(path), seen.as_ref(), "stale read {}", path);
                        }
                        done.steps.iter().for_each(|(path, what)| flat_step(&mut model, path, what));
                    }
                }
                Step::OutsideWrite(path, v) => {
                    act(&mut main, &write(&path, &v));
                    flat_write(&mut model, &path, &v);
                }
                Step::OutsideRm(path) => {
                    act(&mut main, &rm(&path));
                    flat_rm(&mut model, &path);
                }
            }
            prop_assert_eq!(flat(&main), model.clone());
        }
    }

    /// Alone, a transaction always commits.
    #[test]
    fn without_others_nothing_conflicts(writes in prop::collection::vec(("[ab]/[ab]", "[xy]"), 0..10)) {
        let mut main = Tree::new();
        let mut transaction = Transaction::new(&main, Instant::now());
        for (path, v) in &writes {
            transaction.apply(write(&format!("/{path}"), v)).unwrap();
        }
        prop_assert!(commit(transaction, &mut main).is_ok());
    }
}
