//! public/domctl.h, version 0x15: what a toolstack does to one domain. One 144-byte struct for all (rdi = pointer).
//!
//! A wrong `interface_version` is -EACCES. Layouts change between releases of Xen: these are 4.17's. Commands that are
//! not here are not served.

mod rights;
mod state;
mod vcpu;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use rights::{
    XenDomctlIomemPermission, XenDomctlIoportPermission, XenDomctlIrqPermission,
    XenDomctlSetVirqHandler,
};
pub use state::{
    XenCpuidLeaf, XenDomctlCpuPolicy, XenDomctlGetpageframeinfo3, XenDomctlHvmcontext,
    XenDomctlHvmcontextPartial, XenDomctlShadowOp, XenDomctlTscInfo, XenMsrEntry,
};
pub use vcpu::{
    XenDomctlGetvcpuinfo, XenDomctlMaxVcpus, XenDomctlNodeaffinity, XenDomctlSchedulerOp,
    XenDomctlSendtrigger, XenDomctlVcpuaffinity, XenDomctlVcpucontext,
};

/// The version that a caller must state.
pub const XEN_DOMCTL_INTERFACE_VERSION: u32 = 0x15;
/// Makes a domain.
pub const XEN_DOMCTL_createdomain: u32 = 1;
/// Destroys it.
pub const XEN_DOMCTL_destroydomain: u32 = 2;
/// Pauses it.
pub const XEN_DOMCTL_pausedomain: u32 = 3;
/// Undoes one pause.
pub const XEN_DOMCTL_unpausedomain: u32 = 4;
/// Describes the first domain whose id is at least the one asked for.
pub const XEN_DOMCTL_getdomaininfo: u32 = 5;
/// Pins a vCPU.
pub const XEN_DOMCTL_setvcpuaffinity: u32 = 9;
/// Logs dirty pages.
pub const XEN_DOMCTL_shadow_op: u32 = 10;
/// Sets a domain's limit of memory.
pub const XEN_DOMCTL_max_mem: u32 = 11;
/// Loads a vCPU's registers.
pub const XEN_DOMCTL_setvcpucontext: u32 = 12;
/// Saves them.
pub const XEN_DOMCTL_getvcpucontext: u32 = 13;
/// Describes a vCPU.
pub const XEN_DOMCTL_getvcpuinfo: u32 = 14;
/// Sets the number of vCPUs.
pub const XEN_DOMCTL_max_vcpus: u32 = 15;
/// Sets or reads scheduling parameters.
pub const XEN_DOMCTL_scheduler_op: u32 = 16;
/// Sets the handle.
pub const XEN_DOMCTL_setdomainhandle: u32 = 17;
/// Gives or takes interrupts.
pub const XEN_DOMCTL_irq_permission: u32 = 19;
/// Gives or takes device memory.
pub const XEN_DOMCTL_iomem_permission: u32 = 20;
/// Gives or takes ports.
pub const XEN_DOMCTL_ioport_permission: u32 = 21;
/// Shifts the wall clock.
pub const XEN_DOMCTL_settimeoffset: u32 = 24;
/// Reads a vCPU's pinning.
pub const XEN_DOMCTL_getvcpuaffinity: u32 = 25;
/// Lets a suspended domain go on.
pub const XEN_DOMCTL_resumedomain: u32 = 27;
/// Sends NMI, reset, INIT, power or sleep button.
pub const XEN_DOMCTL_sendtrigger: u32 = 28;
/// Names a port to be told of the domain's suspend.
pub const XEN_DOMCTL_subscribe: u32 = 29;
/// Saves the state of a domain's vCPUs and devices.
pub const XEN_DOMCTL_gethvmcontext: u32 = 33;
/// Loads it.
pub const XEN_DOMCTL_sethvmcontext: u32 = 34;
/// Saves one record of it.
pub const XEN_DOMCTL_gethvmcontext_partial: u32 = 55;
/// Lets a domain that shut down for it go on, with all forgotten that its old kernel had set up.
pub const XEN_DOMCTL_soft_reset: u32 = 79;
/// The same, already begun.
pub const XEN_DOMCTL_soft_reset_cont: u32 = 23;
/// Reads how the TSC behaves.
pub const XEN_DOMCTL_gettscinfo: u32 = 59;
/// Sets it.
pub const XEN_DOMCTL_settscinfo: u32 = 60;
/// Tells the types of frames.
pub const XEN_DOMCTL_getpageframeinfo3: u32 = 61;
/// Says who gets a virtual interrupt of the host's.
pub const XEN_DOMCTL_set_virq_handler: u32 = 66;
/// Sets the NUMA nodes.
pub const XEN_DOMCTL_setnodeaffinity: u32 = 68;
/// Reads them.
pub const XEN_DOMCTL_getnodeaffinity: u32 = 69;
/// Reads the CPUID and MSR policy.
pub const XEN_DOMCTL_get_cpu_policy: u32 = 82;
/// Sets it.
pub const XEN_DOMCTL_set_cpu_policy: u32 = 83;
/// Reads the size of the pool for page tables.
pub const XEN_DOMCTL_get_paging_mempool_size: u32 = 85;
/// Sets it.
pub const XEN_DOMCTL_set_paging_mempool_size: u32 = 86;

/// Creation flag: HVM or PVH.
pub const XEN_DOMCTL_CDF_hvm: u32 = 1 << 0;
/// Creation flag: hardware-assisted paging.
pub const XEN_DOMCTL_CDF_hap: u32 = 1 << 1;
/// Creation flag: integrity checks over sleep.
pub const XEN_DOMCTL_CDF_s3_integrity: u32 = 1 << 2;
/// Creation flag: shadow paging detail.
pub const XEN_DOMCTL_CDF_oos_off: u32 = 1 << 3;
/// Creation flag: holds xenstore.
pub const XEN_DOMCTL_CDF_xs_domain: u32 = 1 << 4;
/// Creation flag: may have devices.
pub const XEN_DOMCTL_CDF_iommu: u32 = 1 << 5;
/// Creation flag: nested virtualisation.
pub const XEN_DOMCTL_CDF_nested_virt: u32 = 1 << 6;
/// Creation flag: performance counters.
pub const XEN_DOMCTL_CDF_vpmu: u32 = 1 << 7;
/// Mask of the grant table version in `grant_opts`.
pub const XEN_DOMCTL_GRANT_version_mask: u32 = 0xF;

/// State flag: being destroyed.
pub const XEN_DOMINF_dying: u32 = 1 << 0;
/// State flag: HVM or PVH.
pub const XEN_DOMINF_hvm_guest: u32 = 1 << 1;
/// State flag: shut down; the reason is in bits 23:16.
pub const XEN_DOMINF_shutdown: u32 = 1 << 2;
/// State flag: paused by the toolstack.
pub const XEN_DOMINF_paused: u32 = 1 << 3;
/// State flag: every vCPU waits.
pub const XEN_DOMINF_blocked: u32 = 1 << 4;
/// State flag: some vCPU runs.
pub const XEN_DOMINF_running: u32 = 1 << 5;
/// State flag: being debugged.
pub const XEN_DOMINF_debugged: u32 = 1 << 6;
/// State flag: holds xenstore.
pub const XEN_DOMINF_xs_domain: u32 = 1 << 7;
/// State flag: hardware-assisted paging.
pub const XEN_DOMINF_hap: u32 = 1 << 8;
/// Where the shutdown reason starts in the state flags.
pub const XEN_DOMINF_shutdownshift: u32 = 16;

/// Frame type of [`XEN_DOMCTL_getpageframeinfo3`]: no RAM there.
pub const XEN_DOMCTL_PFINFO_XTAB: u32 = 0xF << 28;
/// Log-dirty: off.
pub const XEN_DOMCTL_SHADOW_OP_OFF: u32 = 0;
/// Log-dirty: on.
pub const XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY: u32 = 2;
/// Log-dirty: read and clear.
pub const XEN_DOMCTL_SHADOW_OP_CLEAN: u32 = 11;
/// Log-dirty: read.
pub const XEN_DOMCTL_SHADOW_OP_PEEK: u32 = 12;
/// Scheduler: credit.
pub const XEN_SCHEDULER_CREDIT: u32 = 5;
/// Scheduler: credit2.
pub const XEN_SCHEDULER_CREDIT2: u32 = 6;
/// Scheduling parameters: set the domain's.
pub const XEN_DOMCTL_SCHEDOP_putinfo: u32 = 0;
/// Scheduling parameters: read the domain's.
pub const XEN_DOMCTL_SCHEDOP_getinfo: u32 = 1;
/// Pinning: the hard mask.
pub const XEN_VCPUAFFINITY_HARD: u32 = 1 << 0;
/// Pinning: the soft mask.
pub const XEN_VCPUAFFINITY_SOFT: u32 = 1 << 1;
/// Trigger: NMI.
pub const XEN_DOMCTL_SENDTRIGGER_NMI: u32 = 0;
/// Trigger: reset.
pub const XEN_DOMCTL_SENDTRIGGER_RESET: u32 = 1;
/// Trigger: INIT.
pub const XEN_DOMCTL_SENDTRIGGER_INIT: u32 = 2;
/// Trigger: power button.
pub const XEN_DOMCTL_SENDTRIGGER_POWER: u32 = 3;
/// Trigger: sleep button.
pub const XEN_DOMCTL_SENDTRIGGER_SLEEP: u32 = 4;

/// The one argument of `domctl`; `u` holds one of the structs below at its start, and is copied back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct XenDomctl {
    /// [`XEN_DOMCTL_createdomain`] and its like.
    pub cmd: u32,
    /// [`XEN_DOMCTL_INTERFACE_VERSION`].
    pub interface_version: u32,
    /// Which domain; of createdomain, in and out.
    pub domain: u16,
    /// Padding.
    pub _pad: [u16; 3],
    /// By `cmd`.
    pub u: [u64; 16],
}

/// x86's part of [`XenDomctlCreatedomain`] and [`XenDomctlGetdomaininfo`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenArchDomainconfig {
    /// [`crate::xen::XEN_X86_EMU_LAPIC`] and its like.
    pub emulation_flags: u32,
    /// Bit 0: unknown MSRs read as 0.
    pub misc_flags: u32,
}

/// Body of [`XEN_DOMCTL_createdomain`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlCreatedomain {
    /// Security label.
    pub ssidref: u32,
    /// UUID.
    pub handle: [u8; 16],
    /// [`XEN_DOMCTL_CDF_hvm`] and its like.
    pub flags: u32,
    /// Bit 0: page tables not shared with the IOMMU.
    pub iommu_opts: u32,
    /// vCPUs.
    pub max_vcpus: u32,
    /// Highest event port.
    pub max_evtchn_port: u32,
    /// Grant table frames; negative for the default.
    pub max_grant_frames: i32,
    /// Frames that track mappings; negative for the default.
    pub max_maptrack_frames: i32,
    /// Version in [`XEN_DOMCTL_GRANT_version_mask`].
    pub grant_opts: u32,
    /// Trace buffer bytes a vCPU.
    pub vmtrace_size: u32,
    /// CPU pool.
    pub cpupool_id: u32,
    /// x86's part.
    pub arch: XenArchDomainconfig,
}

/// Body of [`XEN_DOMCTL_getdomaininfo`], and element of sysctl's list.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlGetdomaininfo {
    /// Out: domid.
    pub domain: u16,
    /// Padding.
    pub pad1: u16,
    /// Out: [`XEN_DOMINF_dying`] and its like.
    pub flags: u32,
    /// Out: pages it has.
    pub tot_pages: u64,
    /// Out: pages it may have.
    pub max_pages: u64,
    /// Out: pages claimed.
    pub outstanding_pages: u64,
    /// Out: pages shared.
    pub shr_pages: u64,
    /// Out: pages paged out.
    pub paged_pages: u64,
    /// Out: frame of the shared info page.
    pub shared_info_frame: u64,
    /// Out: CPU time in ns.
    pub cpu_time: u64,
    /// Out: vCPUs online.
    pub nr_online_vcpus: u32,
    /// Out: highest vCPU id.
    pub max_vcpu_id: u32,
    /// Out: security label.
    pub ssidref: u32,
    /// Out: UUID.
    pub handle: [u8; 16],
    /// Out: CPU pool.
    pub cpupool: u32,
    /// Out: width of guest physical addresses.
    pub gpaddr_bits: u8,
    /// Padding.
    pub pad2: [u8; 7],
    /// Out: x86's part.
    pub arch_config: XenArchDomainconfig,
}

/// Body of [`XEN_DOMCTL_max_mem`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlMaxMem {
    /// KiB.
    pub max_memkb: u64,
}

/// Body of [`XEN_DOMCTL_setdomainhandle`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlSetdomainhandle {
    /// UUID.
    pub handle: [u8; 16],
}

/// Body of [`XEN_DOMCTL_settimeoffset`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlSettimeoffset {
    /// Seconds added to the wall clock.
    pub time_offset_seconds: i64,
}

/// Body of [`XEN_DOMCTL_subscribe`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlSubscribe {
    /// The caller's port.
    pub port: u32,
}

/// Body of [`XEN_DOMCTL_get_paging_mempool_size`] and its setter.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlPagingMempool {
    /// Bytes.
    pub size: u64,
}
