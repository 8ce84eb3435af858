//! The CPU policy of a domain: read and written back, made less, and what is too much.

use guest_abi::Errno;
use guest_abi::domctl::{
    XEN_DOMCTL_get_cpu_policy, XEN_DOMCTL_set_cpu_policy, XenCpuidLeaf, XenDomctlCpuPolicy,
    XenMsrEntry,
};
use guest_rt::hypercall::refused;
use guest_rt::{Stop, Test, Verdict, broken, check, check_eq};

use super::{domctl, with_domain};

pub(crate) static TESTS: &[Test] = &[
    Test::new("domctl_policy_read_and_written_back", policy_round_trip),
    Test::new("domctl_policy_without_a_feature", policy_without_feature),
    Test::new("domctl_policy_that_is_too_much_is_named", policy_too_much),
];

type Leaves = [XenCpuidLeaf; 120];

fn read_policy(domain: u16, leaves: &mut Leaves) -> Result<(u32, XenMsrEntry), Stop> {
    let mut msrs = [XenMsrEntry::default(); 2];
    let body = XenDomctlCpuPolicy {
        nr_leaves: leaves.len() as u32,
        nr_msrs: 2,
        leaves: leaves.as_mut_ptr() as u64,
        msrs: msrs.as_mut_ptr() as u64,
        ..Default::default()
    };
    let (result, _, told) = domctl(XEN_DOMCTL_get_cpu_policy, domain, body);
    check_eq!((result, told.nr_msrs), (0, 2), "get_cpu_policy");
    Ok((told.nr_leaves, msrs[0]))
}

fn write_policy(domain: u16, leaves: &[XenCpuidLeaf]) -> (i64, XenDomctlCpuPolicy) {
    let body = XenDomctlCpuPolicy {
        nr_leaves: leaves.len() as u32,
        leaves: leaves.as_ptr() as u64,
        ..Default::default()
    };
    let (result, _, told) = domctl(XEN_DOMCTL_set_cpu_policy, domain, body);
    (result, told)
}

fn policy_round_trip() -> Verdict {
    with_domain(2, |domain| {
        let mut leaves = [XenCpuidLeaf::default(); 120];
        let (count, msr) = read_policy(domain, &mut leaves)?;
        check_eq!((msr.idx, msr.val), (0xCE, 1 << 31), "the first MSR");
        let given = leaves.get(..count as usize).unwrap_or_default();
        check!(
            given.is_sorted_by_key(|leaf| (leaf.leaf, leaf.subleaf)),
            "leaves are not in order"
        );
        check_eq!(write_policy(domain, given).0, 0, "set_cpu_policy");
        let mut again = [XenCpuidLeaf::default(); 120];
        check_eq!(read_policy(domain, &mut again)?.0, count, "leaves after");
        check!(again == leaves, "written back, the policy differs");
        let few = XenDomctlCpuPolicy {
            nr_leaves: 3,
            leaves: again.as_mut_ptr() as u64,
            ..Default::default()
        };
        check_eq!(
            domctl(XEN_DOMCTL_get_cpu_policy, domain, few).0,
            refused(Errno::ENOBUFS),
            "with room for three leaves"
        );
        check_eq!(
            domctl(XEN_DOMCTL_set_cpu_policy, 0, few).0,
            refused(Errno::EINVAL),
            "of the caller's own domain"
        );
        Ok(())
    })
}

fn policy_without_feature() -> Verdict {
    const RDRAND: u32 = 1 << 30;
    const SSE3: u32 = 1;
    with_domain(1, |domain| {
        let mut leaves = [XenCpuidLeaf::default(); 120];
        let (count, _) = read_policy(domain, &mut leaves)?;
        let all = leaves.get(..count as usize).unwrap_or_default();
        let Some(one) = all.iter().find(|leaf| leaf.leaf == 1) else {
            return Err(broken!("no leaf 1"));
        };
        let less = XenCpuidLeaf {
            c: one.c & !(RDRAND | SSE3),
            ..*one
        };
        check_eq!(
            write_policy(domain, &[less]).0,
            0,
            "set_cpu_policy of leaf 1"
        );
        let before = one.c;
        read_policy(domain, &mut leaves)?;
        let after = leaves.iter().find(|leaf| leaf.leaf == 1).map(|leaf| leaf.c);
        check_eq!(after, Some(before & !(RDRAND | SSE3)), "leaf 1, ECX");
        Ok(())
    })
}

fn policy_too_much() -> Verdict {
    with_domain(1, |domain| {
        let mut leaves = [XenCpuidLeaf::default(); 120];
        read_policy(domain, &mut leaves)?;
        let too_many = XenCpuidLeaf {
            a: leaves[0].a + 1,
            ..leaves[0]
        };
        let (result, told) = write_policy(domain, &[too_many]);
        check_eq!(
            (result, told.err_leaf, told.err_subleaf, told.err_msr),
            (refused(Errno::EINVAL), 0, !0, !0),
            "one basic leaf more"
        );
        let odd = XenCpuidLeaf {
            leaf: 0x16,
            subleaf: !0,
            ..Default::default()
        };
        let (result, told) = write_policy(domain, &[odd]);
        check_eq!(
            (result, told.err_leaf, told.err_msr),
            (refused(Errno::ERANGE), 0x16, !0),
            "a leaf that the form has not"
        );
        let msr = XenMsrEntry {
            idx: 0x10,
            ..Default::default()
        };
        let body = XenDomctlCpuPolicy {
            nr_msrs: 1,
            msrs: &raw const msr as u64,
            ..Default::default()
        };
        let (result, _, told) = domctl(XEN_DOMCTL_set_cpu_policy, domain, body);
        check_eq!(
            (result, told.err_leaf, told.err_msr),
            (refused(Errno::ERANGE), !0, 0x10),
            "an MSR that the form has not"
        );
        Ok(())
    })
}
