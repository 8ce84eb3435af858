//! The toolstack's calls, made by a test in dom0's place: interface versions, refusals, and answers about the host.

use guest_abi::Errno;
use guest_abi::domctl::{XEN_SCHEDULER_CREDIT2, XenDomctlGetdomaininfo};
use guest_abi::sysctl::{
    XEN_SYSCTL_CPUPOOL_OP_CREATE, XEN_SYSCTL_CPUPOOL_OP_INFO, XEN_SYSCTL_INTERFACE_VERSION,
    XEN_SYSCTL_cpu_featureset_host, XEN_SYSCTL_cpupool_op, XEN_SYSCTL_cputopoinfo,
    XEN_SYSCTL_get_cpu_featureset, XEN_SYSCTL_getcpuinfo, XEN_SYSCTL_getdomaininfolist,
    XEN_SYSCTL_numainfo, XEN_SYSCTL_physinfo, XEN_SYSCTL_readconsole, XEN_SYSCTL_sched_id,
    XenSysctl, XenSysctlCpuFeatureset, XenSysctlCpupoolOp, XenSysctlCputopo, XenSysctlCputopoinfo,
    XenSysctlGetcpuinfo, XenSysctlGetdomaininfolist, XenSysctlMeminfo, XenSysctlNumainfo,
    XenSysctlPhysinfo, XenSysctlReadconsole, XenSysctlSchedId,
};
use guest_abi::xen::{__HYPERVISOR_sysctl, XenctlBitmap};
use guest_rt::{Test, Verdict, check, check_eq, event, hypercall, insn, skip};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) static TESTS: &[Test] = &[
    Test::new("sysctl_of_another_version_is_refused", other_version),
    Test::new("sysctl_that_is_not_there_is_refused", unknown),
    Test::new("sysctl_physinfo_adds_up", physinfo),
    Test::new("sysctl_lists_dom0", domain_list),
    Test::new("sysctl_readconsole_reads_the_log", read_console),
    Test::new("sysctl_topology_has_every_cpu", topology),
    Test::new("sysctl_has_one_pool", pool),
    Test::new("sysctl_feature_words_are_the_hosts", features),
];

fn need_dom0() -> Verdict {
    event::setup()?;
    if insn::cpuid(0x4000_0004, 0).ecx != 0 {
        skip!("not dom0");
    }
    Ok(())
}

/// sysctl with `body` at the start of its union; the result, and the body that came back.
pub(crate) fn sysctl<T: IntoBytes + FromBytes + Immutable + Copy>(cmd: u32, body: T) -> (i64, T) {
    let mut op = XenSysctl {
        cmd,
        interface_version: XEN_SYSCTL_INTERFACE_VERSION,
        u: [0; 16],
    };
    if body.write_to_prefix(op.u.as_mut_bytes()).is_err() {
        return (0, body);
    }
    let result = hypercall::with_only(__HYPERVISOR_sysctl, &mut op);
    let back = T::read_from_prefix(op.u.as_bytes()).map_or(body, |(back, _)| back);
    (result, back)
}

fn other_version() -> Verdict {
    need_dom0()?;
    let mut op = XenSysctl {
        cmd: XEN_SYSCTL_physinfo,
        interface_version: XEN_SYSCTL_INTERFACE_VERSION + 1,
        u: [0; 16],
    };
    check_eq!(
        hypercall::with_only(__HYPERVISOR_sysctl, &mut op),
        hypercall::refused(Errno::EACCES),
        "physinfo of the next version"
    );
    check_eq!(op.u, [0; 16], "what came back");
    Ok(())
}

fn unknown() -> Verdict {
    need_dom0()?;
    for cmd in [0, 5, 13, 1000] {
        check_eq!(
            sysctl(cmd, 0u64).0,
            hypercall::refused(Errno::ENOSYS),
            "sysctl {cmd}"
        );
    }
    Ok(())
}

fn physinfo() -> Verdict {
    need_dom0()?;
    let (result, info) = sysctl(XEN_SYSCTL_physinfo, XenSysctlPhysinfo::default());
    check_eq!(result, 0, "physinfo");
    check!(
        info.nr_cpus >= 1 && info.max_cpu_id + 1 >= info.nr_cpus,
        "{info:?}"
    );
    check!(
        info.threads_per_core * info.cores_per_socket <= info.nr_cpus,
        "{info:?}"
    );
    check!(info.cpu_khz > 1000, "{} kHz", info.cpu_khz);
    check!(
        info.capabilities & 1 != 0,
        "no HVM: {:#x}",
        info.capabilities
    );
    check!(
        info.free_pages < info.total_pages && info.total_pages <= info.max_mfn + 1,
        "{info:?}"
    );
    let (result, dom0) = first_domain();
    check_eq!(result, 1, "domains listed");
    check!(
        info.free_pages + dom0.tot_pages <= info.total_pages,
        "{} free, {} dom0's, {} in all",
        info.free_pages,
        dom0.tot_pages,
        info.total_pages
    );
    Ok(())
}

/// The number of domains that one call lists into one record, and the record.
fn first_domain() -> (i64, XenDomctlGetdomaininfo) {
    let mut info = XenDomctlGetdomaininfo {
        domain: 0xFFFF,
        ..Default::default()
    };
    let arg = XenSysctlGetdomaininfolist {
        max_domains: 1,
        buffer: &raw mut info as u64,
        ..Default::default()
    };
    let (result, arg) = sysctl(XEN_SYSCTL_getdomaininfolist, arg);
    if result != 0 {
        return (result, info);
    }
    (i64::from(arg.num_domains), info)
}

fn domain_list() -> Verdict {
    need_dom0()?;
    let (result, dom0) = first_domain();
    check_eq!(result, 1, "domains listed");
    check_eq!(dom0.domain, 0, "domid");
    check!(dom0.flags & 1 << 1 != 0, "no HVM: {:#x}", dom0.flags);
    check!(dom0.flags & 1 << 5 != 0, "not running: {:#x}", dom0.flags);
    check_eq!(dom0.flags & 0x8D, 0, "dying, shut down, paused, xenstore's");
    check!(
        dom0.tot_pages > 1000 && dom0.nr_online_vcpus >= 1,
        "{dom0:?}"
    );
    check!(dom0.cpu_time > 0, "no CPU time");
    let (_, later) = first_domain();
    check!(later.cpu_time > dom0.cpu_time, "CPU time stands still");
    let beyond = XenSysctlGetdomaininfolist {
        first_domain: 0x7FE0,
        max_domains: 8,
        buffer: 0,
        ..Default::default()
    };
    let (result, beyond) = sysctl(XEN_SYSCTL_getdomaininfolist, beyond);
    check_eq!((result, beyond.num_domains), (0, 0), "domains from 0x7FE0");
    let nowhere = XenSysctlGetdomaininfolist {
        max_domains: 1,
        buffer: 0xFFFF_8000_0000_0000,
        ..Default::default()
    };
    check_eq!(
        sysctl(XEN_SYSCTL_getdomaininfolist, nowhere).0,
        hypercall::refused(Errno::EFAULT),
        "a list to nowhere"
    );
    Ok(())
}

fn read_log(text: &mut [u8], incremental: u8, index: u32) -> (i64, usize, u32) {
    let arg = XenSysctlReadconsole {
        incremental,
        index,
        buffer: text.as_mut_ptr() as u64,
        count: text.len() as u32,
        ..Default::default()
    };
    let (result, arg) = sysctl(XEN_SYSCTL_readconsole, arg);
    (result, arg.count as usize, arg.index)
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

fn read_console() -> Verdict {
    need_dom0()?;
    let mut text = [0; 4096];
    let (result, count, index) = read_log(&mut text, 0, 0);
    check_eq!(result, 0, "readconsole");
    let head = text.get(..count).unwrap_or_default();
    check!(contains(head, b"Hematite"), "no greeting in {count} bytes");
    check_eq!(index as usize, count, "the index behind the first bytes");
    // reading on: other bytes than those read first
    let mut more = [0; 64];
    let (result, count, next) = read_log(&mut more, 1, index);
    check_eq!(result, 0, "readconsole from an index");
    check_eq!(next, index + count as u32, "the next index");
    // up to the end, where nothing is left
    let mut at = next;
    for _ in 0..1000 {
        let (_, count, next) = read_log(&mut text, 1, at);
        at = next;
        if count == 0 {
            break;
        }
    }
    let (_, count, end) = read_log(&mut text, 1, at);
    check_eq!((count, end), (0, at), "at the end");
    Ok(())
}

fn topology() -> Verdict {
    need_dom0()?;
    let (result, size) = sysctl(XEN_SYSCTL_cputopoinfo, XenSysctlCputopoinfo::default());
    check_eq!(result, 0, "size of cputopoinfo");
    check!(size.num_cpus >= 1, "{} CPUs", size.num_cpus);
    let mut cpus = [[!0u32; 3]; 4];
    let arg = XenSysctlCputopoinfo {
        num_cpus: 1,
        cputopo: cpus.as_mut_ptr() as u64,
        ..Default::default()
    };
    let (result, arg) = sysctl(XEN_SYSCTL_cputopoinfo, arg);
    check_eq!((result, arg.num_cpus), (0, 1), "cputopoinfo");
    check_eq!(size_of::<XenSysctlCputopo>(), 12, "bytes of an element");
    check_eq!(cpus, [[0; 3], [!0; 3], [!0; 3], [!0; 3]], "CPU 0 alone");
    let mut node = XenSysctlMeminfo::default();
    let mut distance = 0u32;
    let arg = XenSysctlNumainfo {
        num_nodes: 8,
        meminfo: &raw mut node as u64,
        distance: &raw mut distance as u64,
        ..Default::default()
    };
    let (result, arg) = sysctl(XEN_SYSCTL_numainfo, arg);
    check_eq!((result, arg.num_nodes), (0, 1), "numainfo");
    check!(
        node.memfree < node.memsize && distance == 10,
        "{node:?} {distance}"
    );
    let mut idle = !0u64;
    let arg = XenSysctlGetcpuinfo {
        max_cpus: 1,
        info: &raw mut idle as u64,
        ..Default::default()
    };
    let (result, arg) = sysctl(XEN_SYSCTL_getcpuinfo, arg);
    check_eq!((result, arg.nr_cpus), (0, 1), "getcpuinfo");
    check!(idle != !0, "no idle time");
    Ok(())
}

fn pool() -> Verdict {
    need_dom0()?;
    let (result, scheduler) = sysctl(XEN_SYSCTL_sched_id, XenSysctlSchedId::default());
    check_eq!(
        (result, scheduler.sched_id),
        (0, XEN_SCHEDULER_CREDIT2),
        "scheduler"
    );
    let mut map = 0u64;
    let arg = XenSysctlCpupoolOp {
        op: XEN_SYSCTL_CPUPOOL_OP_INFO,
        cpupool_id: 0,
        cpumap: XenctlBitmap {
            bitmap: &raw mut map as u64,
            nr_bits: 64,
            _pad: 0,
        },
        ..Default::default()
    };
    let (result, told) = sysctl(XEN_SYSCTL_cpupool_op, arg);
    check_eq!((result, told.cpupool_id), (0, 0), "pool");
    check!(
        told.n_dom >= 1 && map & 1 != 0,
        "{} domains, CPUs {map:#x}",
        told.n_dom
    );
    let next = XenSysctlCpupoolOp {
        cpupool_id: 1,
        ..arg
    };
    check_eq!(
        sysctl(XEN_SYSCTL_cpupool_op, next).0,
        hypercall::refused(Errno::ENOENT),
        "a second pool"
    );
    let create = XenSysctlCpupoolOp {
        op: XEN_SYSCTL_CPUPOOL_OP_CREATE,
        ..arg
    };
    check_eq!(
        sysctl(XEN_SYSCTL_cpupool_op, create).0,
        hypercall::refused(Errno::EOPNOTSUPP),
        "making a pool"
    );
    Ok(())
}

fn features() -> Verdict {
    need_dom0()?;
    let mut words = [0u32; 32];
    let arg = XenSysctlCpuFeatureset {
        index: XEN_SYSCTL_cpu_featureset_host,
        nr_features: 32,
        features: words.as_mut_ptr() as u64,
    };
    let (result, told) = sysctl(XEN_SYSCTL_get_cpu_featureset, arg);
    check_eq!((result, told.nr_features), (0, 18), "host's words");
    let [edx, ecx, ..] = words;
    let ours = insn::cpuid(1, 0);
    // bits that the guest's CPUID shows and that nobody emulates: FPU, TSC, MSR, PAE, SSE, SSE2
    let plain = 0x0600_0071;
    check_eq!(edx & plain, ours.edx & plain, "word 0");
    check!(
        ecx & 1 << 31 == 0 || ours.ecx & 1 << 31 != 0,
        "word 1: {ecx:#x}"
    );
    let few = XenSysctlCpuFeatureset {
        nr_features: 2,
        ..arg
    };
    let (result, told) = sysctl(XEN_SYSCTL_get_cpu_featureset, few);
    check_eq!(
        (result, told.nr_features),
        (hypercall::refused(Errno::ENOBUFS), 2),
        "with room for two"
    );
    Ok(())
}
