//! Who may do what: a caller's view of a [`Tree`], with rights, path rules and quotas.
//!
//! One may be let into a node without being let into its parents. So that an error tells nothing about what the caller
//! may not see, a refusal is EACCES unless the nearest ancestor that exists would have allowed the access.

use std::rc::Rc;

use xenstore::{Access, Domid, Perm, Refusal, path};

use crate::node::{Node, PERM_SIZE, cost};
use crate::quota::{Limit, Quotas};
use crate::tree::{Op, Tree, Usage, parent_path};

/// On whose behalf a request is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) domid: Domid,
    /// The domain whose rights this one has as well (a stub domain's guest).
    pub(crate) target: Option<Domid>,
}

/// What a request needs of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Read,
    Write,
    /// Write, as the owner.
    Own,
}

impl Caller {
    /// Makes the caller that a domain without a target is.
    pub(crate) const fn of(domid: Domid) -> Self {
        Self {
            domid,
            target: None,
        }
    }

    /// Tells whether rights and quotas do not apply.
    pub(crate) const fn is_privileged(self) -> bool {
        self.domid == 0
    }

    /// Tells whether permissions allow what is needed.
    pub(crate) fn may(self, perms: &[Perm], need: Need) -> bool {
        let is_me = |perm: &Perm| perm.domid == self.domid || Some(perm.domid) == self.target;
        if self.is_privileged() || perms.first().is_some_and(is_me) {
            return true;
        }
        let entry = perms.iter().skip(1).find(|perm| is_me(perm));
        let access = entry
            .or(perms.first())
            .map_or(Access::None, |perm| perm.access);
        match need {
            Need::Read => access.may_read(),
            Need::Write => access.may_write(),
            Need::Own => false,
        }
    }

    /// Returns the absolute form of a path that a caller has sent, checked.
    ///
    /// # Errors
    /// EINVAL: bytes that no path may have, an empty component, too long, too deep.
    pub(crate) fn absolute(self, sent: &[u8], quotas: &mut Quotas) -> Result<Rc<str>, Refusal> {
        if !path::is_well_formed(sent) || path::is_special(sent) {
            return Err(Refusal::Invalid);
        }
        let sent = str::from_utf8(sent).map_err(|_| Refusal::Invalid)?;
        let absolute: Rc<str> = if sent.starts_with('/') {
            sent.into()
        } else {
            format!("{}/{sent}", path::of_domain(self.domid)).into()
        };
        let counted = without_domain(&absolute).len();
        let most = quotas.get(Limit::PathMax);
        if counted > most {
            quotas.allows(self.domid, Limit::PathMax, counted, "a path");
            return Err(Refusal::Invalid);
        }
        let depth = absolute.matches('/').count();
        if !quotas.allows(self.domid, Limit::PathDepth, depth, "a path") {
            return Err(Refusal::Invalid);
        }
        Ok(absolute)
    }

    /// Finds a node for what is needed.
    ///
    /// # Errors
    /// ENOENT or EACCES.
    pub(crate) fn find<'t>(
        self,
        tree: &'t Tree,
        path: &str,
        need: Need,
    ) -> Result<&'t Node, Refusal> {
        let refusal = match tree.get(path) {
            Some(node) if self.may(&node.perms, need) => return Ok(node),
            Some(_) => Refusal::Access,
            None => Refusal::NotFound,
        };
        let (_, parent) = tree.nearest_parent(path);
        let weaker = if need == Need::Own { Need::Write } else { need };
        if self.may(&parent.perms, weaker) {
            Err(refusal)
        } else {
            Err(Refusal::Access)
        }
    }

    /// Decides on a write: the operation to carry out. `used` is what is charged to this caller so far.
    ///
    /// # Errors
    /// EACCES, or ENOSPC or ENOMEM above a quota.
    pub(crate) fn write(
        self,
        tree: &Tree,
        quotas: &mut Quotas,
        used: Usage,
        path: &Rc<str>,
        value: &[u8],
    ) -> Result<Op, Refusal> {
        let (owner, new_nodes, perms, before) = self.place(tree, path)?;
        let size = value.len() + perms * PERM_SIZE;
        self.check(quotas, Limit::NodeSize, size, path)?;
        if owner == self.domid {
            self.check(quotas, Limit::Nodes, used.nodes + new_nodes, path)?;
            let made = new_nodes.saturating_sub(1) * cost(path, b"", perms);
            let after = cost(path, value, perms) + made;
            // A node that shrinks is never refused, whatever the rest of the account.
            if after > before {
                let bytes = used.bytes + after - before;
                self.check(quotas, Limit::Memory, bytes, path)?;
            }
        }
        Ok(Op::Write {
            path: Rc::clone(path),
            value: value.into(),
            creator: self.domid,
        })
    }

    /// Decides on a new directory; `None` if it exists.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn mkdir(
        self,
        tree: &Tree,
        quotas: &mut Quotas,
        used: Usage,
        path: &Rc<str>,
    ) -> Result<Option<Op>, Refusal> {
        match self.find(tree, path, Need::Write) {
            Ok(_) => return Ok(None),
            Err(Refusal::NotFound) => {}
            Err(refusal) => return Err(refusal),
        }
        self.write(tree, quotas, used, path, b"")?;
        Ok(Some(Op::Mkdir {
            path: Rc::clone(path),
            creator: self.domid,
        }))
    }

    /// Decides on a removal; `None` if there is nothing to remove.
    ///
    /// # Errors
    /// EACCES; ENOENT if the parent does not exist either; EINVAL for the root.
    pub(crate) fn rm(self, tree: &Tree, path: &Rc<str>) -> Result<Option<Op>, Refusal> {
        match self.find(tree, path, Need::Write) {
            Ok(_) if &**path == "/" => Err(Refusal::Invalid),
            Ok(_) => Ok(Some(Op::Rm {
                path: Rc::clone(path),
            })),
            Err(Refusal::NotFound) if tree.get(parent_path(path)).is_some() => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// Decides on new permissions.
    ///
    /// # Errors
    /// EACCES unless owner, EPERM for a guest that would give a node away, ENOENT, ENOSPC.
    pub(crate) fn set_perms(
        self,
        tree: &Tree,
        quotas: &mut Quotas,
        path: &Rc<str>,
        perms: &[Perm],
    ) -> Result<Op, Refusal> {
        self.check(quotas, Limit::Permissions, perms.len(), path)?;
        let node = self.find(tree, path, Need::Own)?;
        let owner = perms.first().ok_or(Refusal::Invalid)?.domid;
        if !self.is_privileged() && owner != node.owner() {
            return Err(Refusal::NotPermitted);
        }
        let size = node.value.len() + perms.len() * PERM_SIZE;
        self.check(quotas, Limit::NodeSize, size, path)?;
        Ok(Op::SetPerms {
            path: Rc::clone(path),
            perms: perms.into(),
        })
    }

    /// Finds out about a node to be written: owner, nodes to make, number of permissions, bytes charged so far.
    fn place(self, tree: &Tree, path: &str) -> Result<(Domid, usize, usize, usize), Refusal> {
        match self.find(tree, path, Need::Write) {
            Ok(node) => {
                let before = cost(path, &node.value, node.perms.len());
                Ok((node.owner(), 0, node.perms.len(), before))
            }
            Err(Refusal::NotFound) => {
                let (known, parent) = tree.nearest_parent(path);
                let rest = path.get(known.len()..).unwrap_or_default();
                let missing = rest.split('/').filter(|name| !name.is_empty()).count();
                let owner = match self.domid {
                    0 => parent.owner(),
                    domid => domid,
                };
                Ok((owner, missing, parent.perms.len(), 0))
            }
            Err(refusal) => Err(refusal),
        }
    }

    fn check(
        self,
        quotas: &mut Quotas,
        limit: Limit,
        wanted: usize,
        path: &str,
    ) -> Result<(), Refusal> {
        if quotas.allows(self.domid, limit, wanted, path) {
            Ok(())
        } else if limit == Limit::Memory {
            Err(Refusal::NoMemory)
        } else {
            Err(Refusal::NoSpace)
        }
    }
}

/// Returns the part of a path after `/local/domain/<domid>/`; all of it elsewhere.
fn without_domain(path: &str) -> &str {
    path.strip_prefix("/local/domain/")
        .and_then(|rest| rest.split_once('/'))
        .filter(|(domid, _)| domid.parse::<Domid>().is_ok())
        .map_or(path, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Caller = Caller {
        domid: 3,
        target: None,
    };

    fn apply(tree: &mut Tree, op: &Op) {
        tree.apply(op, &mut Vec::new()).unwrap();
    }

    /// `/shared` is writable by d3, `/shown` readable, `/secret` nothing.
    fn tree() -> Tree {
        let mut tree = Tree::new();
        for (path, perms) in [
            ("/shared", vec![Perm::none(0), Perm::both(3)]),
            ("/shown", vec![Perm::none(0), Perm::read(3)]),
            ("/secret", vec![Perm::none(0)]),
            ("/open", vec![Perm::read(0), Perm::none(3)]),
        ] {
            tree.restore(path, Rc::from(*b"v"), perms.into());
        }
        tree
    }

    #[test]
    fn rights_follow_owner_then_entry_then_default() {
        let tree = tree();
        assert!(GUEST.find(&tree, "/shown", Need::Read).is_ok());
        assert_eq!(
            GUEST.find(&tree, "/shown", Need::Write).unwrap_err(),
            Refusal::Access
        );
        assert_eq!(
            GUEST.find(&tree, "/open", Need::Read).unwrap_err(),
            Refusal::Access
        );
        let other = Caller {
            domid: 4,
            target: None,
        };
        assert!(other.find(&tree, "/open", Need::Read).is_ok());
        let stub = Caller {
            domid: 4,
            target: Some(3),
        };
        assert!(stub.find(&tree, "/shared", Need::Write).is_ok());
        assert!(Caller::of(0).find(&tree, "/secret", Need::Own).is_ok());
    }

    #[test]
    fn a_hidden_place_does_not_tell_whether_a_node_exists() {
        let tree = tree();
        let missing = |path| GUEST.find(&tree, path, Need::Read).unwrap_err();
        assert_eq!(missing("/secret/x/y"), Refusal::Access);
        assert_eq!(missing("/shown/x/y"), Refusal::NotFound);
        assert_eq!(missing("/secret"), Refusal::Access);
    }

    #[test]
    fn removal_of_nothing_is_fine_below_an_existing_parent_only() {
        let tree = tree();
        assert_eq!(GUEST.rm(&tree, &"/shared/x".into()), Ok(None));
        assert_eq!(
            GUEST.rm(&tree, &"/shared/x/y".into()),
            Err(Refusal::NotFound)
        );
        assert_eq!(Caller::of(0).rm(&tree, &"/".into()), Err(Refusal::Invalid));
        assert!(matches!(GUEST.rm(&tree, &"/shared".into()), Ok(Some(_))));
    }

    #[test]
    fn a_guest_keeps_what_it_owns_and_cannot_take_what_it_does_not() {
        let (mut tree, mut quotas) = (tree(), Quotas::default());
        let op = GUEST
            .write(
                &tree,
                &mut quotas,
                tree.usage(3),
                &"/shared/own".into(),
                b"",
            )
            .unwrap();
        apply(&mut tree, &op);
        let mut set =
            |path: &str, perms: &[Perm]| GUEST.set_perms(&tree, &mut quotas, &path.into(), perms);
        assert!(set("/shared/own", &[Perm::read(3)]).is_ok());
        assert_eq!(
            set("/shared/own", &[Perm::none(4)]),
            Err(Refusal::NotPermitted)
        );
        assert_eq!(set("/shared", &[Perm::none(3)]), Err(Refusal::Access));
        let many = vec![Perm::read(3); 6];
        assert_eq!(set("/shared/own", &many), Err(Refusal::NoSpace));
    }

    #[test]
    fn quotas_count_every_node_that_a_write_makes() {
        let (mut tree, mut quotas) = (tree(), Quotas::default());
        quotas.set(Limit::Nodes, 3);
        let refused = GUEST.write(
            &tree,
            &mut quotas,
            tree.usage(3),
            &"/shared/a/b/c/d".into(),
            b"",
        );
        assert_eq!(refused, Err(Refusal::NoSpace));
        let op = GUEST
            .write(
                &tree,
                &mut quotas,
                tree.usage(3),
                &"/shared/a/b/c".into(),
                b"",
            )
            .unwrap();
        apply(&mut tree, &op);
        assert!(
            GUEST
                .write(
                    &tree,
                    &mut quotas,
                    tree.usage(3),
                    &"/shared/a/b".into(),
                    b"new value"
                )
                .is_ok()
        );
        assert_eq!(
            GUEST.mkdir(&tree, &mut quotas, tree.usage(3), &"/shared/a/b".into()),
            Ok(None)
        );
        assert_eq!(
            GUEST.mkdir(&tree, &mut quotas, tree.usage(3), &"/shared/x".into()),
            Err(Refusal::NoSpace)
        );
    }

    #[test]
    fn large_values_and_too_many_bytes_are_refused_but_shrinking_is_not() {
        let (mut tree, mut quotas) = (tree(), Quotas::default());
        let big = vec![0; 2048];
        let write = |tree: &Tree, quotas: &mut Quotas, value: &[u8]| {
            GUEST.write(tree, quotas, tree.usage(3), &"/shared/n".into(), value)
        };
        assert_eq!(write(&tree, &mut quotas, &big), Err(Refusal::NoSpace));
        let op = write(&tree, &mut quotas, &big[..1000]).unwrap();
        apply(&mut tree, &op);
        quotas.set(Limit::Memory, 500);
        assert!(write(&tree, &mut quotas, &big[..900]).is_ok());
        assert_eq!(
            write(&tree, &mut quotas, &big[..1001]),
            Err(Refusal::NoMemory)
        );
    }

    #[test]
    fn paths_are_made_absolute_and_measured_without_the_domains_own_part() {
        let mut quotas = Quotas::default();
        let mut absolute = |sent: &str| GUEST.absolute(sent.as_bytes(), &mut quotas);
        assert_eq!(
            &*absolute("device/vbd").unwrap(),
            "/local/domain/3/device/vbd"
        );
        assert_eq!(&*absolute("/").unwrap(), "/");
        assert!(absolute(&"a".repeat(2048)).is_ok());
        assert!(absolute(&format!("/{}", "a".repeat(2048))).is_err());
        assert!(absolute(&"/a".repeat(32)).is_ok());
        assert!(absolute(&"/a".repeat(33)).is_err());
        assert!(absolute(&format!("a{}", "/a".repeat(29))).is_err());
        for bad in ["", "/a/", "/a//b", "@releaseDomain", "a b"] {
            assert_eq!(absolute(bad), Err(Refusal::Invalid), "{bad}");
        }
    }
}
