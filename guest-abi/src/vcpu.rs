//! public/vcpu.h: arguments of `vcpu_op` (rdi = sub-operation, rsi = vCPU, rdx = pointer).
//!
//! Areas registered here by *linear* address ([`VCPUOP_register_runstate_memory_area`],
//! [`VCPUOP_register_vcpu_time_memory_area`]) are translated once, at registration.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Gives a vCPU its first state (PVH guests use INIT and SIPI instead, or [`crate::hvm::hvm_vcpu`]).
pub const VCPUOP_initialise: u32 = 0;
/// Brings a vCPU up.
pub const VCPUOP_up: u32 = 1;
/// Takes a vCPU down.
pub const VCPUOP_down: u32 = 2;
/// Tells whether a vCPU is up.
pub const VCPUOP_is_up: u32 = 3;
/// Copies out a [`VcpuRunstateInfo`].
pub const VCPUOP_get_runstate_info: u32 = 4;
/// Registers where a [`VcpuRunstateInfo`] is kept up to date.
pub const VCPUOP_register_runstate_memory_area: u32 = 5;
/// Starts a periodic timer.
pub const VCPUOP_set_periodic_timer: u32 = 6;
/// Stops it.
pub const VCPUOP_stop_periodic_timer: u32 = 7;
/// Arms the singleshot timer.
pub const VCPUOP_set_singleshot_timer: u32 = 8;
/// Disarms it.
pub const VCPUOP_stop_singleshot_timer: u32 = 9;
/// Moves a vCPU's [`crate::xen::VcpuInfo`] out of the shared info page.
pub const VCPUOP_register_vcpu_info: u32 = 10;
/// Sends an NMI to a vCPU.
pub const VCPUOP_send_nmi: u32 = 11;
/// Tells the physical ids of a pinned vCPU.
pub const VCPUOP_get_physid: u32 = 12;
/// Registers a second copy of [`crate::xen::VcpuTimeInfo`].
pub const VCPUOP_register_vcpu_time_memory_area: u32 = 13;

/// Runs on a physical CPU.
pub const RUNSTATE_running: u32 = 0;
/// Wants to run, and does not.
pub const RUNSTATE_runnable: u32 = 1;
/// Waits for an event.
pub const RUNSTATE_blocked: u32 = 2;
/// Is paused or down.
pub const RUNSTATE_offline: u32 = 3;
/// In `state_entry_time`: an update is under way (only with [`crate::xen::VMASST_TYPE_runstate_update_flag`]).
pub const XEN_RUNSTATE_UPDATE: u64 = 1 << 63;
/// Flag of [`VcpuSetSingleshotTimer`]: refuse a time that has passed (-ETIME).
pub const VCPU_SSHOTTMR_future: u32 = 1 << 0;

/// Where a vCPU's time went, in ns.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct VcpuRunstateInfo {
    /// [`RUNSTATE_running`] and its like.
    pub state: i32,
    /// Padding.
    pub _pad: u32,
    /// System time when `state` was entered; bit 63 see [`XEN_RUNSTATE_UPDATE`].
    pub state_entry_time: u64,
    /// Time spent in each state, up to `state_entry_time`.
    pub time: [u64; 4],
}

/// Argument of [`VCPUOP_register_runstate_memory_area`] and [`VCPUOP_register_vcpu_time_memory_area`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct VcpuRegisterMemoryArea {
    /// Linear address in the caller's address space.
    pub addr: u64,
}

/// Argument of [`VCPUOP_set_periodic_timer`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct VcpuSetPeriodicTimer {
    /// Period in ns, at least 1 ms.
    pub period_ns: u64,
}

/// Argument of [`VCPUOP_set_singleshot_timer`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct VcpuSetSingleshotTimer {
    /// Absolute system time in ns.
    pub timeout_abs_ns: u64,
    /// [`VCPU_SSHOTTMR_future`] or 0.
    pub flags: u32,
    /// Padding.
    pub _pad: u32,
}

/// Argument of [`VCPUOP_register_vcpu_info`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct VcpuRegisterVcpuInfo {
    /// Guest frame.
    pub mfn: u64,
    /// Offset in it: 8-aligned, at most 4096 − 64.
    pub offset: u32,
    /// Reserved.
    pub rsvd: u32,
}

/// Argument of [`VCPUOP_get_physid`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct VcpuGetPhysid {
    /// Out: APIC id in the low half, ACPI id in the high half.
    pub phys_id: u64,
}
