//! public/platform.h: `platform_op`, one 136-byte struct for all (rdi = pointer), dom0 only.
//!
//! A wrong `interface_version` is -EACCES.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The version that a caller must state.
pub const XENPF_INTERFACE_VERSION: u32 = 0x0300_0001;
/// Sets the wall clock, old form.
pub const XENPF_settime32: u32 = 17;
/// Loads microcode.
pub const XENPF_microcode_update: u32 = 35;
/// Reports a chipset quirk.
pub const XENPF_platform_quirk: u32 = 39;
/// Reads a CPU's version.
pub const XENPF_get_cpu_version: u32 = 48;
/// Calls an EFI runtime service.
pub const XENPF_efi_runtime_call: u32 = 49;
/// Reads what the firmware told.
pub const XENPF_firmware_info: u32 = 50;
/// Enters an ACPI sleep state.
pub const XENPF_enter_acpi_sleep: u32 = 51;
/// Reads idle times.
pub const XENPF_getidletime: u32 = 53;
/// Uploads power management data of a CPU.
pub const XENPF_set_processor_pminfo: u32 = 54;
/// Describes a physical CPU.
pub const XENPF_get_cpuinfo: u32 = 55;
/// Brings a physical CPU up.
pub const XENPF_cpu_online: u32 = 56;
/// Takes it down.
pub const XENPF_cpu_offline: u32 = 57;
/// Adds a physical CPU.
pub const XENPF_cpu_hotadd: u32 = 58;
/// Adds memory.
pub const XENPF_mem_hotadd: u32 = 59;
/// Parks cores.
pub const XENPF_core_parking: u32 = 60;
/// Reads and writes MSRs on the list of allowed ones.
pub const XENPF_resource_op: u32 = 61;
/// Sets the wall clock.
pub const XENPF_settime64: u32 = 62;
/// Reads a symbol of the hypervisor's.
pub const XENPF_get_symbol: u32 = 63;
/// Copies out [`crate::xen::Dom0VgaConsoleInfo`]; returns its bytes. Newer than release 4.17; Linux asks all the same.
pub const XENPF_get_dom0_console: u32 = 64;

/// Firmware information about EFI.
pub const XEN_FW_EFI_INFO: u32 = 4;
/// Flag of [`XenpfPcpuinfo`]: online.
pub const XEN_PCPU_FLAGS_ONLINE: u32 = 1;
/// Flag of [`XenpfPcpuinfo`]: there is no such CPU.
pub const XEN_PCPU_FLAGS_INVALID: u32 = 2;

/// The one argument of `platform_op`; `u` holds one of the structs below at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct XenPlatformOp {
    /// [`XENPF_settime64`] and its like.
    pub cmd: u32,
    /// [`XENPF_INTERFACE_VERSION`].
    pub interface_version: u32,
    /// By `cmd`.
    pub u: [u8; 128],
}

/// Body of [`XENPF_settime32`]: the wall clock at a system time.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenpfSettime32 {
    /// Seconds.
    pub secs: u32,
    /// ns.
    pub nsecs: u32,
    /// System time in ns.
    pub system_time: u64,
}

/// Body of [`XENPF_settime64`]: the wall clock at a system time.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenpfSettime64 {
    /// Seconds.
    pub secs: u64,
    /// ns.
    pub nsecs: u32,
    /// Must be 0.
    pub mbz: u32,
    /// System time in ns.
    pub system_time: u64,
}

/// Head of the body of [`XENPF_firmware_info`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenpfFirmwareInfo {
    /// [`XEN_FW_EFI_INFO`] and its like.
    pub type_: u32,
    /// Which of the type.
    pub index: u32,
}

/// Body of [`XENPF_get_cpuinfo`]; all but the first comes back.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenpfPcpuinfo {
    /// CPU asked about.
    pub xen_cpuid: u32,
    /// Out: highest CPU present.
    pub max_present: u32,
    /// Out: [`XEN_PCPU_FLAGS_ONLINE`] and its like.
    pub flags: u32,
    /// Out: its APIC id.
    pub apic_id: u32,
    /// Out: its ACPI id.
    pub acpi_id: u32,
}
