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
/// [`XEN_FW_EFI_INFO`]: EFI's version.
pub const XEN_FW_EFI_VERSION: u32 = 0;
/// [`XEN_FW_EFI_INFO`]: where the configuration tables are.
pub const XEN_FW_EFI_CONFIG_TABLE: u32 = 1;
/// [`XEN_FW_EFI_INFO`]: who made the firmware.
pub const XEN_FW_EFI_VENDOR: u32 = 2;
/// [`XEN_FW_EFI_INFO`]: what memory is, by the firmware's map.
pub const XEN_FW_EFI_MEM_INFO: u32 = 3;
/// [`XEN_FW_EFI_INFO`]: the version of runtime services.
pub const XEN_FW_EFI_RT_VERSION: u32 = 4;

/// [`XENPF_efi_runtime_call`]: reads the clock.
pub const XEN_EFI_get_time: u32 = 1;
/// [`XENPF_efi_runtime_call`]: sets the clock.
pub const XEN_EFI_set_time: u32 = 2;
/// [`XENPF_efi_runtime_call`]: reads when the machine is to wake up.
pub const XEN_EFI_get_wakeup_time: u32 = 3;
/// [`XENPF_efi_runtime_call`]: has the machine wake up.
pub const XEN_EFI_set_wakeup_time: u32 = 4;
/// [`XENPF_efi_runtime_call`]: counts on.
pub const XEN_EFI_get_next_high_monotonic_count: u32 = 5;
/// [`XENPF_efi_runtime_call`]: reads a variable.
pub const XEN_EFI_get_variable: u32 = 6;
/// [`XENPF_efi_runtime_call`]: writes a variable.
pub const XEN_EFI_set_variable: u32 = 7;
/// [`XENPF_efi_runtime_call`]: goes from variable to variable.
pub const XEN_EFI_get_next_variable_name: u32 = 8;
/// [`XENPF_efi_runtime_call`]: tells how much room there is for variables.
pub const XEN_EFI_query_variable_info: u32 = 9;
/// [`XEN_EFI_get_time`]: setting the time clears what is below the resolution.
pub const XEN_EFI_GET_TIME_SET_CLEARS_NS: u32 = 1;
/// [`XEN_EFI_get_wakeup_time`]: the machine is to wake up.
pub const XEN_EFI_GET_WAKEUP_TIME_ENABLED: u32 = 1;
/// [`XEN_EFI_get_wakeup_time`]: the time has come.
pub const XEN_EFI_GET_WAKEUP_TIME_PENDING: u32 = 2;
/// [`XEN_EFI_set_wakeup_time`]: the machine is to wake up.
pub const XEN_EFI_SET_WAKEUP_TIME_ENABLE: u32 = 1;
/// [`XEN_EFI_set_wakeup_time`]: at the time that was set before.
pub const XEN_EFI_SET_WAKEUP_TIME_ENABLE_ONLY: u32 = 2;

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

/// Body of [`XEN_FW_EFI_CONFIG_TABLE`], behind [`XenpfFirmwareInfo`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenpfEfiConfigTable {
    /// Out: where the tables are.
    pub addr: u64,
    /// Out: how many there are.
    pub nent: u32,
    /// Padding.
    pub _pad: u32,
}

/// Body of [`XEN_FW_EFI_VENDOR`], behind [`XenpfFirmwareInfo`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenpfEfiVendor {
    /// Out: the firmware's version.
    pub revision: u32,
    /// Bytes of room for the name.
    pub bufsz: u32,
    /// Where the name is to go, UCS-2.
    pub name: u64,
}

/// Body of [`XEN_FW_EFI_MEM_INFO`], behind [`XenpfFirmwareInfo`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenpfEfiMemInfo {
    /// Where.
    pub addr: u64,
    /// How many bytes; out: of those, how many are alike.
    pub size: u64,
    /// Out: EFI_MEMORY_*.
    pub attr: u64,
    /// Out: EFI_MEMORY_TYPE.
    pub type_: u32,
    /// Padding.
    pub _pad: u32,
}

/// Head of the body of [`XENPF_efi_runtime_call`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenpfEfiRuntimeCall {
    /// [`XEN_EFI_get_time`] and its like.
    pub function: u32,
    /// Flags by function.
    pub misc: u32,
    /// Out: what the firmware returned.
    pub status: u64,
}

/// Behind [`XenpfEfiRuntimeCall`]: of [`XEN_EFI_get_time`] all, of the others about time the first.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenpfEfiTime {
    /// EFI_TIME.
    pub time: [u8; 16],
    /// Out: ticks a second.
    pub resolution: u32,
    /// Out: error in 10^-12.
    pub accuracy: u32,
}

/// Behind [`XenpfEfiRuntimeCall`]: of [`XEN_EFI_get_variable`] and [`XEN_EFI_set_variable`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenpfEfiVariable {
    /// Its name, UCS-2, ended.
    pub name: u64,
    /// Bytes of data.
    pub size: u64,
    /// Where the data is or goes.
    pub data: u64,
    /// EFI_GUID of who has it.
    pub vendor_guid: [u8; 16],
}

/// Behind [`XenpfEfiRuntimeCall`]: of [`XEN_EFI_get_next_variable_name`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenpfEfiNextName {
    /// Bytes of room for a name.
    pub size: u64,
    /// The name before, and then the next.
    pub name: u64,
    /// EFI_GUID of who has it.
    pub vendor_guid: [u8; 16],
}

/// Behind [`XenpfEfiRuntimeCall`]: of [`XEN_EFI_query_variable_info`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenpfEfiVariableInfo {
    /// Of variables with these attributes.
    pub attr: u32,
    /// Padding.
    pub _pad: u32,
    /// Out: bytes of room in all.
    pub max_store_size: u64,
    /// Out: of those free.
    pub remain_store_size: u64,
    /// Out: the most bytes of one.
    pub max_size: u64,
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
