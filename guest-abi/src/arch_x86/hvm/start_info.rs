//! public/arch-x86/hvm/start_info.h: what EBX points to when a PVH kernel starts.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// "xEn3" with the high bit of E set.
pub const XEN_HVM_START_MAGIC_VALUE: u32 = 0x336E_C578;
/// Memory: RAM.
pub const XEN_HVM_MEMMAP_TYPE_RAM: u32 = 1;
/// Memory: reserved.
pub const XEN_HVM_MEMMAP_TYPE_RESERVED: u32 = 2;
/// Memory: ACPI tables.
pub const XEN_HVM_MEMMAP_TYPE_ACPI: u32 = 3;
/// Memory: ACPI, to be kept.
pub const XEN_HVM_MEMMAP_TYPE_NVS: u32 = 4;
/// Memory: broken, or someone else's.
pub const XEN_HVM_MEMMAP_TYPE_UNUSABLE: u32 = 5;
/// Memory: switched off.
pub const XEN_HVM_MEMMAP_TYPE_DISABLED: u32 = 6;
/// Memory: persistent.
pub const XEN_HVM_MEMMAP_TYPE_PMEM: u32 = 7;

/// What a PVH kernel is told at entry.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct HvmStartInfo {
    /// [`XEN_HVM_START_MAGIC_VALUE`].
    pub magic: u32,
    /// 1; with 0 the fields from `memmap_paddr` on are absent.
    pub version: u32,
    /// [`crate::xen::SIF_INITDOMAIN`] and its like.
    pub flags: u32,
    /// Modules; the first is the initrd.
    pub nr_modules: u32,
    /// Address of [`HvmModlistEntry`].
    pub modlist_paddr: u64,
    /// Address of the command line, or 0.
    pub cmdline_paddr: u64,
    /// Address of the ACPI root pointer.
    pub rsdp_paddr: u64,
    /// Address of [`HvmMemmapTableEntry`].
    pub memmap_paddr: u64,
    /// How many.
    pub memmap_entries: u32,
    /// 0.
    pub reserved: u32,
}

/// A module.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct HvmModlistEntry {
    /// First byte.
    pub paddr: u64,
    /// Bytes.
    pub size: u64,
    /// Address of its command line, or 0.
    pub cmdline_paddr: u64,
    /// 0.
    pub reserved: u64,
}

/// An entry of the memory map.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct HvmMemmapTableEntry {
    /// First byte.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// [`XEN_HVM_MEMMAP_TYPE_RAM`] and its like.
    pub type_: u32,
    /// 0.
    pub reserved: u32,
}
