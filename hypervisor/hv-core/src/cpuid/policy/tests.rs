//! Policies as toolstacks exchange them, over a recorded Skylake-X.

use alloc::vec::Vec;
use proptest::prelude::*;

use super::super::tests::{options, skylake_x};
use super::*;

fn policy() -> CpuidPolicy {
    CpuidPolicy::build(&skylake_x(), &options())
}

fn regs(leaves: &[CpuidLeaf], leaf: u32, subleaf: u32) -> CpuidRegs {
    let mut found = leaves
        .iter()
        .filter(|l| l.leaf == leaf && l.subleaf == subleaf);
    found.next().unwrap().regs
}

fn with(
    leaves: &PolicyLeaves,
    leaf: u32,
    subleaf: u32,
    change: impl FnOnce(&mut CpuidRegs),
) -> PolicyLeaves {
    let mut leaves = leaves.clone();
    let mut found = leaves
        .iter_mut()
        .filter(|l| l.leaf == leaf && l.subleaf == subleaf);
    change(&mut found.next().unwrap().regs);
    leaves
}

const NONE: u32 = CpuidLeaf::NO_SUBLEAF;

/// Everything that a vCPU can see of the policy.
fn all_of(policy: &CpuidPolicy) -> Vec<CpuidRegs> {
    let vcpu = VcpuView {
        xcr0: 7,
        ..VcpuView::default()
    };
    let leaves = (0..0x20)
        .chain(0x4000_0000..0x4000_0006)
        .chain(EXTENDED..EXTENDED + 0x10);
    leaves
        .flat_map(|leaf| (0..12).map(move |n| (leaf, n)))
        .map(|(leaf, n)| policy.query(leaf, n, &vcpu))
        .collect()
}

#[test]
fn leaves_are_sorted_end_at_d_and_have_the_shape_of_the_form() {
    for leaves in [policy().policy_leaves(), skylake_x().policy_leaves()] {
        assert!(leaves.is_sorted_by_key(|l| (l.leaf, l.subleaf)));
        assert!(leaves.iter().all(|l| is_known(l.leaf, l.subleaf)));
        assert_eq!(regs(&leaves, 0, NONE).eax, 0xd);
        assert_eq!(regs(&leaves, 0x4000_0000, NONE), CpuidRegs::default());
    }
    let leaves = policy().policy_leaves();
    assert_eq!(leaves.iter().filter(|l| l.leaf == 0xd).count(), 10);
    assert_eq!(leaves.iter().filter(|l| l.leaf == 4).count(), 5);
    assert_eq!(leaves.iter().filter(|l| l.leaf == 7).count(), 3);
    assert_eq!(leaves.iter().filter(|l| l.leaf == 0xb).count(), 2);
    assert_eq!(leaves.last().unwrap().leaf, 0x8000_0008);
}

#[test]
fn feature_words_are_those_of_the_leaves() {
    let words = skylake_x().feature_words(0xa_0000_0b0b);
    assert_eq!(
        words[..8],
        [
            0xbfeb_fbff,
            0x7ffe_fbff,
            0x2c10_0800,
            0x121,
            0xf,
            0xd39f_ffff,
            0x18,
            0x100,
        ]
    );
    assert_eq!((words[9], words[16], words[17]), (0xbc00_0400, 0xb0b, 0xa));
    let guest = policy().feature_words(0);
    assert_eq!(guest[1] >> 31, 1);
    assert_eq!(guest[0] & !words[0] & !(1 << 12 | 1 << 16 | 1 << 9), 0);
}

#[test]
fn a_policy_written_back_as_it_was_read_changes_nothing() {
    let policy = policy();
    let again = policy
        .replaced(&skylake_x(), &options(), &policy.policy_leaves())
        .unwrap();
    assert_eq!(all_of(&again), all_of(&policy));
    let untouched = policy.replaced(&skylake_x(), &options(), &[]).unwrap();
    assert_eq!(all_of(&untouched), all_of(&policy));
}

#[test]
fn what_libxl_does_to_the_default_keeps_what_we_add() {
    let policy = policy();
    let leaves = with(&policy.policy_leaves(), 1, NONE, |r| r.edx |= 1 << 28);
    let leaves = with(&leaves, 0x8000_0007, NONE, |r| r.edx = 0);
    let new = policy.replaced(&skylake_x(), &options(), &leaves).unwrap();
    let view = VcpuView::default();
    assert_eq!(new.query(0x16, 0, &view).eax, 3504);
    assert_eq!(new.query(0x8000_0007, 0, &view).edx, 0);
    assert_eq!(new.query(0x4000_0001, 0, &view).eax, 0x0004_0011);
    assert_eq!(new.xcr0_allowed(), policy.xcr0_allowed());
}

#[test]
fn a_feature_taken_away_takes_its_dependents_and_its_state() {
    const AVX: u32 = 1 << 28;
    let policy = policy();
    let leaves = with(&policy.policy_leaves(), 1, NONE, |r| r.ecx &= !AVX);
    let new = policy.replaced(&skylake_x(), &options(), &leaves).unwrap();
    let words = new.feature_words(0);
    assert_eq!(words[1] & (AVX | 1 << 12 | 1 << 29), 0);
    assert_eq!(words[5] & (1 << 5 | 1 << 16), 0);
    assert_eq!(new.xcr0_allowed(), 0x203);
    // it stays away when something else is changed
    let later = [CpuidLeaf {
        leaf: 0x8000_0002,
        subleaf: NONE,
        regs: CpuidRegs {
            eax: 7,
            ..CpuidRegs::default()
        },
    }];
    let later = new.replaced(&skylake_x(), &options(), &later).unwrap();
    assert_eq!(later.feature_words(0)[1] & AVX, 0);
    assert_eq!(later.query(0x8000_0002, 0, &VcpuView::default()).eax, 7);
}

#[test]
fn without_xsave_there_is_no_leaf_d() {
    let policy = policy();
    let leaves = with(&policy.policy_leaves(), 1, NONE, |r| r.ecx &= !(1 << 26));
    let new = policy.replaced(&skylake_x(), &options(), &leaves).unwrap();
    assert_eq!(
        new.query(0xd, 0, &VcpuView::default()),
        CpuidRegs::default()
    );
    assert!(!new.xcr0_is_valid(1));
}

#[test]
fn fewer_leaves_hide_what_is_behind_them() {
    let policy = policy();
    let leaves = with(&policy.policy_leaves(), 0, NONE, |r| r.eax = 6);
    let leaves = with(&leaves, EXTENDED, NONE, |r| r.eax = EXTENDED + 1);
    let new = policy.replaced(&skylake_x(), &options(), &leaves).unwrap();
    let view = VcpuView::default();
    for leaf in [7, 0xb, 0xd, 0x16, EXTENDED + 2, EXTENDED + 8] {
        assert_eq!(new.query(leaf, 0, &view), CpuidRegs::default(), "{leaf:#x}");
    }
    assert_eq!(new.query(0, 0, &view).eax, 6);
    assert_ne!(new.query(4, 0, &view), CpuidRegs::default());
    assert_eq!(
        new.policy_leaves().iter().filter(|l| l.leaf == 7).count(),
        0
    );
}

#[test]
fn too_much_and_unknown_leaves_are_named() {
    let policy = policy();
    let refused = |leaf, subleaf, change: fn(&mut CpuidRegs)| {
        let leaves = with(&policy.policy_leaves(), leaf, subleaf, change);
        let refused = LeafRefused::TooMuch { leaf, subleaf };
        let result = policy.replaced(&skylake_x(), &options(), &leaves);
        assert_eq!(result.map(|_| ()), Err(refused));
    };
    refused(0, NONE, |r| r.eax = 0xe);
    refused(7, 0, |r| r.eax = 3);
    refused(EXTENDED, NONE, |r| r.eax = 0x8000_0021);
    for (leaf, subleaf) in [
        (0xe, NONE),
        (0x16, NONE),
        (7, 3),
        (4, 6),
        (0xd, 63),
        (1, 0),
        (0x4000_0001, NONE),
        (0x8000_0022, NONE),
    ] {
        let odd = [CpuidLeaf {
            leaf,
            subleaf,
            regs: CpuidRegs::default(),
        }];
        let result = policy.replaced(&skylake_x(), &options(), &odd);
        assert_eq!(
            result.map(|_| ()),
            Err(LeafRefused::Unknown { leaf, subleaf })
        );
    }
}

proptest! {
    /// Whatever a toolstack writes, no feature appears that the domain may not have, and what it may set in XCR0 agrees
    /// with what it sees.
    #[test]
    fn no_policy_adds_a_feature(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<[u32; 4]>()), 0..40)) {
        let most = policy();
        let mut leaves = most.policy_leaves();
        for (index, [eax, ebx, ecx, edx]) in changes {
            let at = index.index(leaves.len());
            let leaf = &mut leaves[at];
            // those that are audited stay
            if !matches!(leaf.leaf, 0 | EXTENDED) && (leaf.leaf, leaf.subleaf) != (7, 0) {
                leaf.regs = CpuidRegs { eax, ebx, ecx, edx };
            }
        }
        let new = most.replaced(&skylake_x(), &options(), &leaves).unwrap();
        for (word, bound) in new.feature_words(0).into_iter().zip(most.feature_words(0)) {
            prop_assert_eq!(word & !bound, 0);
        }
        prop_assert_eq!(new.xcr0_allowed() & !most.xcr0_allowed(), 0);
        prop_assert!(new.physical_bits() <= most.physical_bits());
        prop_assert_eq!(new.xcr0_allowed() & 4 != 0, new.feature_words(0)[1] >> 28 & 1 != 0);
        // written back, it is the same again
        let again = new.replaced(&skylake_x(), &options(), &new.policy_leaves()).unwrap();
        prop_assert_eq!(all_of(&again), all_of(&new));
    }

    #[test]
    fn any_leaves_are_taken_or_refused(leaves in proptest::collection::vec(any::<[u32; 6]>(), 0..8)) {
        let leaves: Vec<CpuidLeaf> = leaves.into_iter().map(|[leaf, subleaf, eax, ebx, ecx, edx]| CpuidLeaf {
            leaf: leaf & 0x8000_003f,
            subleaf: if subleaf & 1 == 0 { NONE } else { subleaf >> 24 & 0x7f },
            regs: CpuidRegs { eax, ebx, ecx, edx },
        }).collect();
        let _ = policy().replaced(&skylake_x(), &options(), &leaves);
    }
}
