//! public/hvm/hvm_op.h: arguments of `hvm_op` (rdi = sub-operation, rsi = pointer).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Sets a parameter, see [`super::params`].
pub const HVMOP_set_param: u32 = 0;
/// Reads one.
pub const HVMOP_get_param: u32 = 1;
/// Flushes TLBs of vCPUs.
pub const HVMOP_flush_tlbs: u32 = 5;
/// A hint about shadow paging; must be -ENOSYS here, or Linux issues it at every exit of a process.
pub const HVMOP_pagetable_dying: u32 = 9;
/// Reads guest time.
pub const HVMOP_get_time: u32 = 10;
/// Writes a trace record.
pub const HVMOP_xentrace: u32 = 11;
/// Tells what kind of memory a guest frame is.
pub const HVMOP_get_mem_type: u32 = 15;
/// Sets the vector by which a vCPU hears of events.
pub const HVMOP_set_evtchn_upcall_vector: u32 = 23;
/// Sends a request to a monitor.
pub const HVMOP_guest_request_vm_event: u32 = 24;
/// Alternative p2m.
pub const HVMOP_altp2m: u32 = 25;

/// Argument of [`HVMOP_set_param`] and [`HVMOP_get_param`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenHvmParam {
    /// Whose.
    pub domid: u16,
    /// Padding.
    pub pad: u16,
    /// Which, see [`super::params`].
    pub index: u32,
    /// The value.
    pub value: u64,
}

/// Argument of [`HVMOP_pagetable_dying`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenHvmPagetableDying {
    /// Whose.
    pub domid: u16,
    /// Padding.
    pub pad: [u16; 3],
    /// Guest physical address of the root table.
    pub gpa: u64,
}

/// Argument of [`HVMOP_get_time`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenHvmGetTime {
    /// Out: ns.
    pub now: u64,
}

/// RAM that the guest may write.
pub const HVMMEM_ram_rw: u16 = 0;
/// RAM that it may not write.
pub const HVMMEM_ram_ro: u16 = 1;
/// No memory: a device's, or nothing.
pub const HVMMEM_mmio_dm: u16 = 2;

/// Argument of [`HVMOP_get_mem_type`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenHvmGetMemType {
    /// Whose.
    pub domid: u16,
    /// Out: the type.
    pub mem_type: u16,
    /// Padding.
    pub pad: [u16; 2],
    /// The guest frame.
    pub pfn: u64,
}

/// Argument of [`HVMOP_set_evtchn_upcall_vector`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenHvmEvtchnUpcallVector {
    /// Which vCPU of the caller's.
    pub vcpu: u32,
    /// 0x10 to 0xFF.
    pub vector: u8,
    /// Padding.
    pub _pad: [u8; 3],
}
