//! public/grant_table.h: `grant_table_op` (rdi = sub-operation, rsi = array, rdx = elements) and the shared entries.
//!
//! The call fails (-errno) only for a bad pointer or operation; each element carries its own `status`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Maps a page that another domain granted.
pub const GNTTABOP_map_grant_ref: u32 = 0;
/// Unmaps it.
pub const GNTTABOP_unmap_grant_ref: u32 = 1;
/// Grows the table and lists its frames.
pub const GNTTABOP_setup_table: u32 = 2;
/// Dumps the table to the hypervisor's console.
pub const GNTTABOP_dump_table: u32 = 3;
/// Gives a page away.
pub const GNTTABOP_transfer: u32 = 4;
/// Copies bytes between granted or own pages.
pub const GNTTABOP_copy: u32 = 5;
/// Tells how many frames the table has.
pub const GNTTABOP_query_size: u32 = 6;
/// Unmaps and moves another mapping there.
pub const GNTTABOP_unmap_and_replace: u32 = 7;
/// Chooses the entry format.
pub const GNTTABOP_set_version: u32 = 8;
/// Lists status frames (version 2).
pub const GNTTABOP_get_status_frames: u32 = 9;
/// Tells the entry format.
pub const GNTTABOP_get_version: u32 = 10;
/// Swaps two entries.
pub const GNTTABOP_swap_grant_ref: u32 = 11;
/// Cleans caches (Arm).
pub const GNTTABOP_cache_flush: u32 = 12;

/// References that the toolstack fills.
pub const GNTTAB_NR_RESERVED_ENTRIES: u32 = 8;
/// The console ring.
pub const GNTTAB_RESERVED_CONSOLE: u32 = 0;
/// The xenstore ring.
pub const GNTTAB_RESERVED_XENSTORE: u32 = 1;

/// Type: unused.
pub const GTF_invalid: u16 = 0;
/// Type: `domid` may map or copy.
pub const GTF_permit_access: u16 = 1;
/// Type: `domid` may give a page.
pub const GTF_accept_transfer: u16 = 2;
/// Type: leads to another domain's entry (version 2).
pub const GTF_transitive: u16 = 3;
/// Mask of the type.
pub const GTF_type_mask: u16 = 3;
/// No writes.
pub const GTF_readonly: u16 = 1 << 2;
/// The hypervisor's: mapped.
pub const GTF_reading: u16 = 1 << 3;
/// The hypervisor's: mapped writable.
pub const GTF_writing: u16 = 1 << 4;

/// Map for devices.
pub const GNTMAP_device_map: u32 = 1 << 0;
/// Map for the CPU.
pub const GNTMAP_host_map: u32 = 1 << 1;
/// Map read-only.
pub const GNTMAP_readonly: u32 = 1 << 2;
/// Map for user mode (PV).
pub const GNTMAP_application_map: u32 = 1 << 3;
/// `host_addr` is a page table entry (PV).
pub const GNTMAP_contains_pte: u32 = 1 << 4;
/// Copy: the source is a reference.
pub const GNTCOPY_source_gref: u16 = 1 << 0;
/// Copy: the destination is a reference.
pub const GNTCOPY_dest_gref: u16 = 1 << 1;

/// Done.
pub const GNTST_okay: i16 = 0;
/// Some error.
pub const GNTST_general_error: i16 = -1;
/// No such domain.
pub const GNTST_bad_domain: i16 = -2;
/// No such reference, or not for this.
pub const GNTST_bad_gntref: i16 = -3;
/// No such handle.
pub const GNTST_bad_handle: i16 = -4;
/// Cannot be mapped there.
pub const GNTST_bad_virt_addr: i16 = -5;
/// Not mapped for devices there.
pub const GNTST_bad_dev_addr: i16 = -6;
/// IOMMU full.
pub const GNTST_no_device_space: i16 = -7;
/// Not allowed.
pub const GNTST_permission_denied: i16 = -8;
/// No page there.
pub const GNTST_bad_page: i16 = -9;
/// A copy crosses a page.
pub const GNTST_bad_copy_arg: i16 = -10;
/// Transfer address too large.
pub const GNTST_address_too_big: i16 = -11;
/// Try again.
pub const GNTST_eagain: i16 = -12;
/// Out of handles or other room.
pub const GNTST_no_space: i16 = -13;

/// A version 1 entry, shared with the hypervisor.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct GrantEntryV1 {
    /// Type and state.
    pub flags: u16,
    /// Who may.
    pub domid: u16,
    /// Guest frame granted.
    pub frame: u32,
}

/// Element of [`GNTTABOP_map_grant_ref`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct GnttabMapGrantRef {
    /// Guest physical address to map at.
    pub host_addr: u64,
    /// [`GNTMAP_host_map`] and its like.
    pub flags: u32,
    /// The reference.
    pub ref_: u32,
    /// Who granted.
    pub dom: u16,
    /// Out: [`GNTST_okay`] and its like.
    pub status: i16,
    /// Out: handle of the mapping.
    pub handle: u32,
    /// Out: address for devices.
    pub dev_bus_addr: u64,
}

/// Element of [`GNTTABOP_unmap_grant_ref`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct GnttabUnmapGrantRef {
    /// Where it was mapped.
    pub host_addr: u64,
    /// Where it was mapped for devices, or 0.
    pub dev_bus_addr: u64,
    /// Handle of the mapping.
    pub handle: u32,
    /// Out: [`GNTST_okay`] and its like.
    pub status: i16,
    /// Padding.
    pub _pad: u16,
}

/// `gnttab_unmap_and_replace`.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct GnttabUnmapAndReplace {
    /// Where it was mapped.
    pub host_addr: u64,
    /// Where to map the page that takes its place.
    pub new_addr: u64,
    /// Handle of the mapping.
    pub handle: u32,
    /// Out: [`GNTST_okay`] and its like.
    pub status: i16,
    /// Padding.
    pub _pad: u16,
}

/// Argument of [`GNTTABOP_setup_table`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct GnttabSetupTable {
    /// Whose.
    pub dom: u16,
    /// Padding.
    pub _pad0: u16,
    /// Frames wanted.
    pub nr_frames: u32,
    /// Out: [`GNTST_okay`] and its like.
    pub status: i16,
    /// Padding.
    pub _pad1: [u16; 3],
    /// Linear address of `u64` frames.
    pub frame_list: u64,
}

/// One side of a [`GnttabCopy`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct GnttabCopyPtr {
    /// Reference or guest frame, by the flags; a reference is in the low half.
    pub u: u64,
    /// Whose.
    pub domid: u16,
    /// Offset in the page.
    pub offset: u16,
    /// Padding.
    pub _pad: u32,
}

/// Element of [`GNTTABOP_copy`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct GnttabCopy {
    /// From.
    pub source: GnttabCopyPtr,
    /// To.
    pub dest: GnttabCopyPtr,
    /// Bytes.
    pub len: u16,
    /// [`GNTCOPY_source_gref`] and its like.
    pub flags: u16,
    /// Out: [`GNTST_okay`] and its like.
    pub status: i16,
    /// Padding.
    pub _pad: u16,
}

/// Argument of [`GNTTABOP_query_size`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct GnttabQuerySize {
    /// Whose.
    pub dom: u16,
    /// Padding.
    pub _pad0: u16,
    /// Out: frames now.
    pub nr_frames: u32,
    /// Out: frames at most.
    pub max_nr_frames: u32,
    /// Out: [`GNTST_okay`] and its like.
    pub status: i16,
    /// Padding.
    pub _pad1: u16,
}

/// Argument of [`GNTTABOP_set_version`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct GnttabSetVersion {
    /// In and out: 1 or 2.
    pub version: u32,
}

/// Argument of [`GNTTABOP_get_version`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct GnttabGetVersion {
    /// Whose.
    pub dom: u16,
    /// Padding.
    pub _pad: u16,
    /// Out: 1 or 2.
    pub version: u32,
}
