//! The toolstack's calls about one domain, made by a test in dom0's place: a domain is made for each, looked at from
//! all sides, and destroyed.
//!
//! Here is what the tests share, and which calls are refused; by topic: [`policy`], [`context`], [`vcpus`].

pub(crate) mod context;
pub(crate) mod policy;
pub(crate) mod vcpus;

use guest_abi::Errno;
use guest_abi::domctl::{
    XEN_DOMCTL_CDF_hap, XEN_DOMCTL_CDF_hvm, XEN_DOMCTL_INTERFACE_VERSION, XEN_DOMCTL_createdomain,
    XEN_DOMCTL_destroydomain, XEN_DOMCTL_getvcpuinfo, XEN_DOMCTL_max_vcpus, XenDomctl,
    XenDomctlCreatedomain, XenDomctlGetvcpuinfo, XenDomctlMaxVcpus,
};
use guest_abi::xen::{
    __HYPERVISOR_domctl, __HYPERVISOR_physdev_op, __HYPERVISOR_platform_op, __HYPERVISOR_sysctl,
    XEN_X86_EMU_LAPIC,
};
use guest_rt::hypercall::{self, refused};
use guest_rt::{Stop, Test, Verdict, broken, check_eq, event, insn, skip};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) static TESTS: &[Test] = &[
    Test::new("toolstack_calls_are_not_for_guests", not_for_guests),
    Test::new("domctl_that_is_not_there_is_refused", unknown),
];

/// domctl of a domain with `body` at the start of its union; the result, the domid and the body that came back.
pub(crate) fn domctl<T: IntoBytes + FromBytes + Immutable + Copy>(
    cmd: u32,
    domain: u16,
    body: T,
) -> (i64, u16, T) {
    let mut op = XenDomctl {
        cmd,
        interface_version: XEN_DOMCTL_INTERFACE_VERSION,
        domain,
        _pad: [0; 3],
        u: [0; 16],
    };
    if body.write_to_prefix(op.u.as_mut_bytes()).is_err() {
        return (0, 0, body);
    }
    let result = hypercall::with_only(__HYPERVISOR_domctl, &mut op);
    let back = T::read_from_prefix(op.u.as_bytes()).map_or(body, |(back, _)| back);
    (result, op.domain, back)
}

/// Makes a domain with `vcpus` vCPUs, lets `look` look at it, and destroys it.
fn with_domain(vcpus: u32, look: impl FnOnce(u16) -> Verdict) -> Verdict {
    event::setup()?;
    if insn::cpuid(0x4000_0004, 0).ecx != 0 {
        skip!("not dom0");
    }
    let mut wanted = XenDomctlCreatedomain {
        flags: XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap,
        max_vcpus: vcpus,
        max_evtchn_port: 1023,
        max_grant_frames: 4,
        max_maptrack_frames: 4,
        grant_opts: 1,
        ..Default::default()
    };
    wanted.arch.emulation_flags = XEN_X86_EMU_LAPIC;
    let (result, domid, _) = domctl(XEN_DOMCTL_createdomain, 0, wanted);
    if result != 0 {
        return Err(broken!("createdomain: {result}"));
    }
    let verdict = make_vcpus(domid, vcpus).and_then(|()| look(domid));
    check_eq!(
        domctl(XEN_DOMCTL_destroydomain, domid, 0u64).0,
        0,
        "destroydomain"
    );
    verdict
}

fn make_vcpus(domain: u16, vcpus: u32) -> Result<(), Stop> {
    let max = XenDomctlMaxVcpus { max: vcpus };
    match domctl(XEN_DOMCTL_max_vcpus, domain, max).0 {
        0 => Ok(()),
        result => Err(broken!("max_vcpus: {result}")),
    }
}

fn not_for_guests() -> Verdict {
    event::setup()?;
    if insn::cpuid(0x4000_0004, 0).ecx == 0 {
        skip!("dom0");
    }
    for (number, errno) in [
        (__HYPERVISOR_domctl, Errno::EPERM),
        (__HYPERVISOR_sysctl, Errno::EPERM),
        (__HYPERVISOR_platform_op, Errno::EPERM),
        // its first argument is the operation, and there is none of that number
        (__HYPERVISOR_physdev_op, Errno::ENOSYS),
    ] {
        let mut op = [0u64; 18];
        check_eq!(
            hypercall::with_only(number, &mut op),
            refused(errno),
            "hypercall {number}"
        );
    }
    Ok(())
}

fn unknown() -> Verdict {
    with_domain(1, |domain| {
        for cmd in [0, 6, 49, 999] {
            let result = domctl(cmd, domain, 0u64).0;
            check_eq!(result, refused(Errno::ENOSYS), "domctl {cmd}");
        }
        let gone = domctl(
            XEN_DOMCTL_getvcpuinfo,
            0x7F00,
            XenDomctlGetvcpuinfo::default(),
        );
        check_eq!(
            gone.0,
            refused(Errno::ESRCH),
            "of a domain that is not there"
        );
        Ok(())
    })
}
