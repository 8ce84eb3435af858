//! Bodies of the commands by which a domain is saved and restored: its memory, its state, its policies.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Body of [`super::XEN_DOMCTL_getpageframeinfo3`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlGetpageframeinfo3 {
    /// Frames.
    pub num: u64,
    /// Linear address of `u64` frame numbers, replaced by types.
    pub array: u64,
}

/// Body of [`super::XEN_DOMCTL_shadow_op`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlShadowOp {
    /// [`super::XEN_DOMCTL_SHADOW_OP_CLEAN`] and its like.
    pub op: u32,
    /// Flags by operation.
    pub mode: u32,
    /// Shadow memory in MiB.
    pub mb: u32,
    /// Padding.
    pub _pad: u32,
    /// Linear address of the bitmap.
    pub dirty_bitmap: u64,
    /// Pages that it has room for; out: pages told.
    pub pages: u64,
    /// Out: faults and pages counted.
    pub stats: [u32; 2],
}

/// Body of [`super::XEN_DOMCTL_gethvmcontext`] and [`super::XEN_DOMCTL_sethvmcontext`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlHvmcontext {
    /// Bytes; with no buffer, out: bytes needed.
    pub size: u32,
    /// Padding.
    pub _pad: u32,
    /// Linear address of the records, or 0.
    pub buffer: u64,
}

/// Body of [`super::XEN_DOMCTL_gethvmcontext_partial`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlHvmcontextPartial {
    /// Type of the record.
    pub type_: u32,
    /// Which of the type.
    pub instance: u32,
    /// Bytes of the buffer.
    pub bufsz: u64,
    /// Linear address of the buffer.
    pub buffer: u64,
}

/// Body of [`super::XEN_DOMCTL_gettscinfo`] and [`super::XEN_DOMCTL_settscinfo`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlTscInfo {
    /// 0 default, 1 always emulate, 2 never.
    pub tsc_mode: u32,
    /// Guest's TSC frequency.
    pub gtsc_khz: u32,
    /// Counts restores.
    pub incarnation: u32,
    /// Padding.
    pub pad: u32,
    /// Guest's age in ns.
    pub elapsed_nsec: u64,
}

/// Body of [`super::XEN_DOMCTL_get_cpu_policy`] and [`super::XEN_DOMCTL_set_cpu_policy`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenDomctlCpuPolicy {
    /// Leaves there is room for, or written.
    pub nr_leaves: u32,
    /// MSRs there is room for, or written.
    pub nr_msrs: u32,
    /// Linear address of [`XenCpuidLeaf`].
    pub leaves: u64,
    /// Linear address of [`XenMsrEntry`].
    pub msrs: u64,
    /// Out, set: the leaf that was refused.
    pub err_leaf: u32,
    /// Out, set: its sub-leaf.
    pub err_subleaf: u32,
    /// Out, set: the MSR that was refused.
    pub err_msr: u32,
    /// Padding.
    pub _pad: u32,
}

/// A leaf of a policy (public/arch-x86/xen.h).
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenCpuidLeaf {
    /// Leaf.
    pub leaf: u32,
    /// Sub-leaf, all ones where there is none.
    pub subleaf: u32,
    /// EAX.
    pub a: u32,
    /// EBX.
    pub b: u32,
    /// ECX.
    pub c: u32,
    /// EDX.
    pub d: u32,
}

/// An MSR of a policy (public/arch-x86/xen.h).
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenMsrEntry {
    /// Number.
    pub idx: u32,
    /// 0.
    pub flags: u32,
    /// Value.
    pub val: u64,
}
