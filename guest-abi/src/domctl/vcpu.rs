//! Bodies of the commands about vCPUs: their registers, where they run, how they are scheduled.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::xen::XenctlBitmap;

/// Body of [`super::XEN_DOMCTL_setvcpucontext`] and [`super::XEN_DOMCTL_getvcpucontext`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlVcpucontext {
    /// Which vCPU.
    pub vcpu: u32,
    /// Padding.
    pub _pad: u32,
    /// Linear address of the registers.
    pub ctxt: u64,
}

/// Body of [`super::XEN_DOMCTL_getvcpuinfo`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlGetvcpuinfo {
    /// Which vCPU.
    pub vcpu: u32,
    /// Out: online.
    pub online: u8,
    /// Out: waits for an event.
    pub blocked: u8,
    /// Out: runs.
    pub running: u8,
    /// Padding.
    pub _pad0: u8,
    /// Out: CPU time in ns.
    pub cpu_time: u64,
    /// Out: physical CPU.
    pub cpu: u32,
    /// Padding.
    pub _pad1: u32,
}

/// Body of [`super::XEN_DOMCTL_setvcpuaffinity`] and [`super::XEN_DOMCTL_getvcpuaffinity`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlVcpuaffinity {
    /// Which vCPU.
    pub vcpu: u32,
    /// [`super::XEN_VCPUAFFINITY_HARD`] and its like.
    pub flags: u32,
    /// CPUs it may run on.
    pub cpumap_hard: XenctlBitmap,
    /// CPUs it had better run on.
    pub cpumap_soft: XenctlBitmap,
}

/// Body of [`super::XEN_DOMCTL_setnodeaffinity`] and [`super::XEN_DOMCTL_getnodeaffinity`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlNodeaffinity {
    /// Nodes.
    pub nodemap: XenctlBitmap,
}

/// Body of [`super::XEN_DOMCTL_max_vcpus`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlMaxVcpus {
    /// vCPUs.
    pub max: u32,
}

/// Body of [`super::XEN_DOMCTL_scheduler_op`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlSchedulerOp {
    /// [`super::XEN_SCHEDULER_CREDIT2`] and its like.
    pub sched_id: u32,
    /// [`super::XEN_DOMCTL_SCHEDOP_putinfo`] and its like.
    pub cmd: u32,
    /// Credit and credit2: weight, cap as two `u16` in the first word.
    pub u: [u32; 4],
}

/// Body of [`super::XEN_DOMCTL_sendtrigger`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlSendtrigger {
    /// [`super::XEN_DOMCTL_SENDTRIGGER_NMI`] and its like.
    pub trigger: u32,
    /// Which vCPU.
    pub vcpu: u32,
}
