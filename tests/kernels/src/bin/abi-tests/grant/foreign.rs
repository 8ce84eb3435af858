//! Pages and tables that are nobody's, or the caller's own, are not mapped as another domain's.

use guest_abi::Errno;
use guest_abi::memory::{
    XENMAPSPACE_gmfn_foreign, XENMEM_acquire_resource, XENMEM_add_to_physmap_batch,
    XENMEM_resource_grant_table, XenAddToPhysmapBatch, XenMemAcquireResource,
};
use guest_abi::xen::DOMID_SELF;
use guest_rt::hypercall::{memory as call, refused};
use guest_rt::{Test, Verdict, check, check_eq, insn};

use super::{OWN, hole, page, table};

pub(crate) static TESTS: &[Test] = &[
    Test::new("foreign_pages_of_no_other_domain", foreign),
    Test::new("resource_of_no_other_domain", resource),
];

fn foreign() -> Verdict {
    table()?;
    let (own, at) = (page(1)?, hole(2)?);
    for (foreign_domid, expected) in [
        (DOMID_SELF, Errno::EINVAL),
        (OWN, Errno::EINVAL),
        (0x7000, Errno::ESRCH),
        (0x7FF1, Errno::ESRCH),
    ] {
        let (idx, gpfn, mut error) = (own >> 12, at >> 12, 77i32);
        let arg = XenAddToPhysmapBatch {
            domid: DOMID_SELF,
            space: XENMAPSPACE_gmfn_foreign as u16,
            size: 1,
            foreign_domid,
            idxs: &raw const idx as u64,
            gpfns: &raw const gpfn as u64,
            errs: &raw mut error as u64,
        };
        let result = call(XENMEM_add_to_physmap_batch, arg).0;
        check!(
            result < 0 || error == expected.to_i32(),
            "page of {foreign_domid:#x}: {result}, {error}"
        );
        check_eq!(insn::peek(at), Ok(u64::MAX), "the place after");
    }
    Ok(())
}

fn resource() -> Verdict {
    table()?;
    let arg = |domid| XenMemAcquireResource {
        domid,
        type_: XENMEM_resource_grant_table,
        ..Default::default()
    };
    for (domid, expected) in [(OWN, Errno::EPERM), (0x7000, Errno::ESRCH)] {
        check_eq!(
            call(XENMEM_acquire_resource, arg(domid)).0,
            refused(expected),
            "grant table of {domid:#x}"
        );
    }
    let padded = XenMemAcquireResource {
        pad: 1,
        ..arg(0x7000)
    };
    check_eq!(
        call(XENMEM_acquire_resource, padded).0,
        refused(Errno::EINVAL),
        "padding that is not 0"
    );
    Ok(())
}
