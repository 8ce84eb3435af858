//! What is told of a domain's vCPUs, where they may run and with which weight, and the rights that no domain gets.

use core::hint::black_box;
use guest_abi::Errno;
use guest_abi::domctl::{
    XEN_DOMCTL_SCHEDOP_getinfo, XEN_DOMCTL_SCHEDOP_putinfo, XEN_DOMCTL_getdomaininfo,
    XEN_DOMCTL_getvcpuaffinity, XEN_DOMCTL_getvcpuinfo, XEN_DOMCTL_ioport_permission,
    XEN_DOMCTL_scheduler_op, XEN_DOMCTL_sendtrigger, XEN_DOMCTL_setvcpuaffinity,
    XEN_SCHEDULER_CREDIT2, XEN_VCPUAFFINITY_HARD, XenDomctlGetdomaininfo, XenDomctlGetvcpuinfo,
    XenDomctlIoportPermission, XenDomctlSchedulerOp, XenDomctlSendtrigger, XenDomctlVcpuaffinity,
};
use guest_abi::xen::XenctlBitmap;
use guest_rt::hypercall::refused;
use guest_rt::{Test, Verdict, check, check_eq};

use super::{domctl, with_domain};

pub(crate) static TESTS: &[Test] = &[
    Test::new("domctl_vcpus_are_told_and_pinned", vcpus),
    Test::new("domctl_scheduler_weight_and_cap", weight),
    Test::new("domctl_rights_are_not_given", rights),
];

fn vcpus() -> Verdict {
    with_domain(2, |domain| {
        told(domain)?;
        pinned(domain)?;
        let power = XenDomctlSendtrigger {
            trigger: 3,
            vcpu: 0,
        };
        check_eq!(
            domctl(XEN_DOMCTL_sendtrigger, domain, power).0,
            refused(Errno::EOPNOTSUPP),
            "the power button"
        );
        Ok(())
    })
}

/// What is told of two vCPUs in a new domain, and that nothing is of a third.
fn told(domain: u16) -> Verdict {
    let (result, _, info) = domctl(
        XEN_DOMCTL_getdomaininfo,
        domain,
        XenDomctlGetdomaininfo::default(),
    );
    check_eq!(
        (result, info.domain, info.max_vcpu_id),
        (0, domain, 1),
        "info"
    );
    check!(info.flags & 1 << 3 != 0, "not paused: {:#x}", info.flags);
    let beyond = XenDomctlGetvcpuinfo {
        vcpu: 2,
        ..Default::default()
    };
    check_eq!(
        domctl(XEN_DOMCTL_getvcpuinfo, domain, beyond).0,
        refused(Errno::EINVAL),
        "vCPU 2"
    );
    Ok(())
}

/// The hard affinity of vCPU 1: everywhere, then CPU 0 alone, and not a CPU that is not there.
fn pinned(domain: u16) -> Verdict {
    let mut map = 1u64;
    let mut affinity = XenDomctlVcpuaffinity {
        vcpu: 1,
        flags: XEN_VCPUAFFINITY_HARD,
        ..Default::default()
    };
    affinity.cpumap_hard = XenctlBitmap {
        bitmap: &raw mut map as u64,
        nr_bits: 64,
        _pad: 0,
    };
    check_eq!(
        domctl(XEN_DOMCTL_getvcpuaffinity, domain, affinity).0,
        0,
        "getvcpuaffinity"
    );
    check_eq!(map, !0, "hard affinity to begin with");
    map = black_box(1);
    check_eq!(
        domctl(XEN_DOMCTL_setvcpuaffinity, domain, affinity).0,
        0,
        "setvcpuaffinity to CPU 0"
    );
    black_box(&map);
    map = black_box(0);
    let _ = domctl(XEN_DOMCTL_getvcpuaffinity, domain, affinity);
    check_eq!(map, 1, "hard affinity");
    map = black_box(1 << 63);
    black_box(&map);
    check_eq!(
        domctl(XEN_DOMCTL_setvcpuaffinity, domain, affinity).0,
        refused(Errno::EINVAL),
        "setvcpuaffinity to CPU 63"
    );
    Ok(())
}

fn weight() -> Verdict {
    with_domain(1, |domain| {
        let mut op = XenDomctlSchedulerOp {
            sched_id: XEN_SCHEDULER_CREDIT2,
            cmd: XEN_DOMCTL_SCHEDOP_getinfo,
            ..Default::default()
        };
        let (result, _, told) = domctl(XEN_DOMCTL_scheduler_op, domain, op);
        check_eq!(
            (result, told.u[0]),
            (0, 256),
            "weight and cap to begin with"
        );
        op.cmd = XEN_DOMCTL_SCHEDOP_putinfo;
        op.u[0] = 512;
        check_eq!(
            domctl(XEN_DOMCTL_scheduler_op, domain, op).0,
            0,
            "weight 512"
        );
        op.u[0] = 50 << 16;
        check_eq!(domctl(XEN_DOMCTL_scheduler_op, domain, op).0, 0, "cap 50");
        op.cmd = XEN_DOMCTL_SCHEDOP_getinfo;
        let (_, _, told) = domctl(XEN_DOMCTL_scheduler_op, domain, op);
        check_eq!(told.u[0], 512 | 50 << 16, "weight and cap after");
        op.cmd = 7;
        check_eq!(
            domctl(XEN_DOMCTL_scheduler_op, domain, op).0,
            refused(Errno::EOPNOTSUPP),
            "another operation"
        );
        op.sched_id = 5;
        check_eq!(
            domctl(XEN_DOMCTL_scheduler_op, domain, op).0,
            refused(Errno::EINVAL),
            "another scheduler"
        );
        Ok(())
    })
}

fn rights() -> Verdict {
    with_domain(1, |domain| {
        let mut ports = XenDomctlIoportPermission {
            first_port: 0x3F8,
            nr_ports: 8,
            allow_access: 1,
            _pad: [0; 3],
        };
        check_eq!(
            domctl(XEN_DOMCTL_ioport_permission, domain, ports).0,
            refused(Errno::EOPNOTSUPP),
            "giving ports"
        );
        ports.allow_access = 0;
        check_eq!(
            domctl(XEN_DOMCTL_ioport_permission, domain, ports).0,
            0,
            "taking ports"
        );
        Ok(())
    })
}
