//! public/sysctl.h, version 0x15: what a toolstack asks of the host. One 136-byte struct for all (rdi = pointer).
//!
//! A wrong `interface_version` is -EACCES. Commands that are not here are not served.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::xen::XenctlBitmap;

/// The version that a caller must state.
pub const XEN_SYSCTL_INTERFACE_VERSION: u32 = 0x15;
/// Reads the hypervisor's log.
pub const XEN_SYSCTL_readconsole: u32 = 1;
/// Describes the host.
pub const XEN_SYSCTL_physinfo: u32 = 3;
/// Names the scheduler.
pub const XEN_SYSCTL_sched_id: u32 = 4;
/// Lists domains.
pub const XEN_SYSCTL_getdomaininfolist: u32 = 6;
/// Presses debug keys.
pub const XEN_SYSCTL_debug_keys: u32 = 7;
/// Reads idle times.
pub const XEN_SYSCTL_getcpuinfo: u32 = 8;
/// Reads free memory.
pub const XEN_SYSCTL_availheap: u32 = 9;
/// Describes cores and sockets.
pub const XEN_SYSCTL_cputopoinfo: u32 = 16;
/// Describes NUMA nodes.
pub const XEN_SYSCTL_numainfo: u32 = 17;
/// CPU pools.
pub const XEN_SYSCTL_cpupool_op: u32 = 18;
/// Parameters of the scheduler.
pub const XEN_SYSCTL_scheduler_op: u32 = 19;
/// NUMA nodes of PCI devices.
pub const XEN_SYSCTL_pcitopoinfo: u32 = 22;
/// Reads what CPUID of PV guests can be masked with.
pub const XEN_SYSCTL_get_cpu_levelling_caps: u32 = 25;
/// Reads feature words.
pub const XEN_SYSCTL_get_cpu_featureset: u32 = 26;
/// Reads a policy.
pub const XEN_SYSCTL_get_cpu_policy: u32 = 29;

/// Capability: HVM and PVH.
pub const XEN_SYSCTL_PHYSCAP_hvm: u32 = 1 << 0;
/// Capability: PV.
pub const XEN_SYSCTL_PHYSCAP_pv: u32 = 1 << 1;
/// Capability: devices for guests.
pub const XEN_SYSCTL_PHYSCAP_directio: u32 = 1 << 2;
/// Capability: hardware-assisted paging.
pub const XEN_SYSCTL_PHYSCAP_hap: u32 = 1 << 3;
/// Capability: shadow paging.
pub const XEN_SYSCTL_PHYSCAP_shadow: u32 = 1 << 4;
/// Capability: grant tables, version 1.
pub const XEN_SYSCTL_PHYSCAP_gnttab_v1: u32 = 1 << 8;
/// Capability: grant tables, version 2.
pub const XEN_SYSCTL_PHYSCAP_gnttab_v2: u32 = 1 << 9;
/// CPU pools: make one.
pub const XEN_SYSCTL_CPUPOOL_OP_CREATE: u32 = 1;
/// CPU pools: remove one.
pub const XEN_SYSCTL_CPUPOOL_OP_DESTROY: u32 = 2;
/// CPU pools: move a domain.
pub const XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN: u32 = 6;
/// CPU pools: describe.
pub const XEN_SYSCTL_CPUPOOL_OP_INFO: u32 = 3;
/// CPU pools: describe what is in none.
pub const XEN_SYSCTL_CPUPOOL_OP_FREEINFO: u32 = 7;

/// Scheduler's parameters: set.
pub const XEN_SYSCTL_SCHEDOP_putinfo: u32 = 0;
/// Scheduler's parameters: read.
pub const XEN_SYSCTL_SCHEDOP_getinfo: u32 = 1;
/// Feature words: what CPUID says.
pub const XEN_SYSCTL_cpu_featureset_raw: u32 = 0;
/// Feature words: what the hypervisor uses.
pub const XEN_SYSCTL_cpu_featureset_host: u32 = 1;
/// Feature words: a PV guest's default.
pub const XEN_SYSCTL_cpu_featureset_pv: u32 = 2;
/// Feature words: an HVM guest's default.
pub const XEN_SYSCTL_cpu_featureset_hvm: u32 = 3;
/// Feature words: a PV guest's most.
pub const XEN_SYSCTL_cpu_featureset_pv_max: u32 = 4;
/// Feature words: an HVM guest's most.
pub const XEN_SYSCTL_cpu_featureset_hvm_max: u32 = 5;
/// Policy: what CPUID says.
pub const XEN_SYSCTL_cpu_policy_raw: u32 = 0;
/// Policy: what the hypervisor uses.
pub const XEN_SYSCTL_cpu_policy_host: u32 = 1;
/// Policy: a PV guest's most.
pub const XEN_SYSCTL_cpu_policy_pv_max: u32 = 2;
/// Policy: an HVM guest's most.
pub const XEN_SYSCTL_cpu_policy_hvm_max: u32 = 3;
/// Policy: a PV guest's default.
pub const XEN_SYSCTL_cpu_policy_pv_default: u32 = 4;
/// Policy: an HVM guest's default.
pub const XEN_SYSCTL_cpu_policy_hvm_default: u32 = 5;

/// The one argument of `sysctl`; `u` holds one of the structs below at its start, and is copied back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct XenSysctl {
    /// [`XEN_SYSCTL_physinfo`] and its like.
    pub cmd: u32,
    /// [`XEN_SYSCTL_INTERFACE_VERSION`].
    pub interface_version: u32,
    /// By `cmd`.
    pub u: [u64; 16],
}

/// Body of [`XEN_SYSCTL_readconsole`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenSysctlReadconsole {
    /// Not 0: clear after reading.
    pub clear: u8,
    /// Not 0: start at `index`.
    pub incremental: u8,
    /// Padding.
    pub pad0: u8,
    /// Padding.
    pub pad1: u8,
    /// In: where to start. Out: where it ended.
    pub index: u32,
    /// Linear address of the buffer.
    pub buffer: u64,
    /// In: room. Out: bytes.
    pub count: u32,
    /// Padding.
    pub _pad: u32,
}

/// Body of [`XEN_SYSCTL_physinfo`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenSysctlPhysinfo {
    /// Out: threads.
    pub threads_per_core: u32,
    /// Out: cores.
    pub cores_per_socket: u32,
    /// Out: CPUs online.
    pub nr_cpus: u32,
    /// Out: highest CPU id.
    pub max_cpu_id: u32,
    /// Out: NUMA nodes.
    pub nr_nodes: u32,
    /// Out: highest node id.
    pub max_node_id: u32,
    /// Out: TSC frequency.
    pub cpu_khz: u32,
    /// Out: [`XEN_SYSCTL_PHYSCAP_hvm`] and its like.
    pub capabilities: u32,
    /// Out: 0.
    pub arch_capabilities: u32,
    /// Padding.
    pub pad: u32,
    /// Out: pages.
    pub total_pages: u64,
    /// Out: free pages.
    pub free_pages: u64,
    /// Out: free pages still to be cleared.
    pub scrub_pages: u64,
    /// Out: claimed pages.
    pub outstanding_pages: u64,
    /// Out: highest frame.
    pub max_mfn: u64,
    /// Out: feature words.
    pub hw_cap: [u32; 8],
}

/// Body of [`XEN_SYSCTL_sched_id`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenSysctlSchedId {
    /// Out: [`crate::domctl::XEN_SCHEDULER_CREDIT2`] and its like.
    pub sched_id: u32,
}

/// Body of [`XEN_SYSCTL_getdomaininfolist`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenSysctlGetdomaininfolist {
    /// First domid of interest.
    pub first_domain: u16,
    /// Padding.
    pub _pad0: u16,
    /// Room.
    pub max_domains: u32,
    /// Linear address of [`crate::domctl::XenDomctlGetdomaininfo`].
    pub buffer: u64,
    /// Out: domains told.
    pub num_domains: u32,
    /// Padding.
    pub _pad1: u32,
}

/// Body of [`XEN_SYSCTL_debug_keys`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenSysctlDebugKeys {
    /// Linear address of the keys.
    pub keys: u64,
    /// How many.
    pub nr_keys: u32,
    /// Padding.
    pub _pad: u32,
}

/// Body of [`XEN_SYSCTL_getcpuinfo`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenSysctlGetcpuinfo {
    /// Room.
    pub max_cpus: u32,
    /// Padding.
    pub _pad0: u32,
    /// Linear address of `u64`: idle ns of each CPU.
    pub info: u64,
    /// Out: CPUs told.
    pub nr_cpus: u32,
    /// Padding.
    pub _pad1: u32,
}

/// Body of [`XEN_SYSCTL_availheap`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenSysctlAvailheap {
    /// Address bits at least.
    pub min_bitwidth: u32,
    /// Address bits at most.
    pub max_bitwidth: u32,
    /// Node, or -1.
    pub node: i32,
    /// Padding.
    pub _pad: u32,
    /// Out: free bytes.
    pub avail_bytes: u64,
}

/// Element of [`XenSysctlCputopoinfo`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenSysctlCputopo {
    /// Core.
    pub core: u32,
    /// Socket.
    pub socket: u32,
    /// NUMA node.
    pub node: u32,
}

/// Body of [`XEN_SYSCTL_cputopoinfo`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenSysctlCputopoinfo {
    /// In: room. Out: CPUs.
    pub num_cpus: u32,
    /// Padding.
    pub _pad: u32,
    /// Linear address of [`XenSysctlCputopo`], or 0.
    pub cputopo: u64,
}

/// Element of [`XenSysctlNumainfo`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenSysctlMeminfo {
    /// Bytes.
    pub memsize: u64,
    /// Free bytes.
    pub memfree: u64,
}

/// Body of [`XEN_SYSCTL_numainfo`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenSysctlNumainfo {
    /// In: room. Out: nodes.
    pub num_nodes: u32,
    /// Padding.
    pub _pad: u32,
    /// Linear address of [`XenSysctlMeminfo`], or 0.
    pub meminfo: u64,
    /// Linear address of `u32` distances, or 0.
    pub distance: u64,
}

/// Body of [`XEN_SYSCTL_cpupool_op`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenSysctlCpupoolOp {
    /// [`XEN_SYSCTL_CPUPOOL_OP_INFO`] and its like.
    pub op: u32,
    /// Pool; out, of INFO: the pool told.
    pub cpupool_id: u32,
    /// Scheduler.
    pub sched_id: u32,
    /// Domain to move.
    pub domid: u32,
    /// CPU to move.
    pub cpu: u32,
    /// Out: domains in it.
    pub n_dom: u32,
    /// Out: CPUs in it.
    pub cpumap: XenctlBitmap,
}

/// Body of [`XEN_SYSCTL_scheduler_op`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenSysctlSchedulerOp {
    /// Pool.
    pub cpupool_id: u32,
    /// [`crate::domctl::XEN_SCHEDULER_CREDIT2`] and its like.
    pub sched_id: u32,
    /// 0 set, 1 read.
    pub cmd: u32,
    /// Padding.
    pub _pad: u32,
    /// Credit2: rate limit in µs in the first word.
    pub u: [u32; 4],
}

/// Body of [`XEN_SYSCTL_pcitopoinfo`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenSysctlPcitopoinfo {
    /// In: devices. Out: devices told.
    pub num_devs: u32,
    /// Padding.
    pub _pad: u32,
    /// Linear address of [`crate::physdev::PhysdevPciDevice`].
    pub devs: u64,
    /// Linear address of `u32` nodes.
    pub nodes: u64,
}

/// Body of [`XEN_SYSCTL_get_cpu_levelling_caps`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenSysctlCpuLevellingCaps {
    /// Out: masks there are.
    pub caps: u32,
}

/// Body of [`XEN_SYSCTL_get_cpu_featureset`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenSysctlCpuFeatureset {
    /// 0 raw, 1 host, 2 PV, 3 HVM, 4 PV max, 5 HVM max.
    pub index: u32,
    /// In: room. Out: words.
    pub nr_features: u32,
    /// Linear address of `u32` words, or 0.
    pub features: u64,
}

/// Body of [`XEN_SYSCTL_get_cpu_policy`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenSysctlCpuPolicy {
    /// 0 raw, 1 host, 2 PV max, 3 HVM max, 4 PV default, 5 HVM default.
    pub index: u32,
    /// In: room. Out: leaves.
    pub nr_leaves: u32,
    /// In: room. Out: MSRs.
    pub nr_msrs: u32,
    /// Padding.
    pub _rsvd: u32,
    /// Linear address of [`crate::domctl::XenCpuidLeaf`].
    pub leaves: u64,
    /// Linear address of [`crate::domctl::XenMsrEntry`].
    pub msrs: u64,
}
