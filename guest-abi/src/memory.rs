//! public/memory.h: arguments of `memory_op` (rdi = sub-operation, rsi = pointer).
//!
//! The sub-operation is in the low [`MEMOP_EXTENT_SHIFT`] bits of rdi; the bits above are where a continuation goes on.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bits of rdi that name the sub-operation; those above are the first extent still to do.
pub const MEMOP_EXTENT_SHIFT: u32 = 6;
/// Mask of the sub-operation in rdi.
pub const MEMOP_CMD_MASK: u64 = (1 << MEMOP_EXTENT_SHIFT) - 1;

/// Adds pages, wherever.
pub const XENMEM_increase_reservation: u32 = 0;
/// Gives pages back.
pub const XENMEM_decrease_reservation: u32 = 1;
/// Returns the highest machine frame that is RAM.
pub const XENMEM_maximum_ram_page: u32 = 2;
/// Returns a domain's pages.
pub const XENMEM_current_reservation: u32 = 3;
/// Returns a domain's limit of pages.
pub const XENMEM_maximum_reservation: u32 = 4;
/// Lists the frames of the machine-to-physical table (PV).
pub const XENMEM_machphys_mfn_list: u32 = 5;
/// Backs guest frames with zeroed pages.
pub const XENMEM_populate_physmap: u32 = 6;
/// Puts a special page at a guest frame.
pub const XENMEM_add_to_physmap: u32 = 7;
/// Copies out the caller's memory map.
pub const XENMEM_memory_map: u32 = 9;
/// Copies out the host's memory map.
pub const XENMEM_machine_memory_map: u32 = 10;
/// Exchanges pages (PV).
pub const XENMEM_exchange: u32 = 11;
/// Tells where the machine-to-physical table is (PV).
pub const XENMEM_machphys_mapping: u32 = 12;
/// Stores a domain's memory map.
pub const XENMEM_set_memory_map: u32 = 13;
/// Returns a domain's highest guest frame.
pub const XENMEM_maximum_gpfn: u32 = 14;
/// Takes a page out of a guest frame.
pub const XENMEM_remove_from_physmap: u32 = 15;
/// Sets the target of populate-on-demand.
pub const XENMEM_set_pod_target: u32 = 16;
/// Reads it.
pub const XENMEM_get_pod_target: u32 = 17;
/// Returns pages saved by sharing.
pub const XENMEM_get_sharing_freed_pages: u32 = 18;
/// Returns pages shared.
pub const XENMEM_get_sharing_shared_pages: u32 = 19;
/// Many [`XENMEM_add_to_physmap`] in one.
pub const XENMEM_add_to_physmap_batch: u32 = 23;
/// Reserves host pages for a domain.
pub const XENMEM_claim_pages: u32 = 24;
/// Copies out the virtual NUMA layout.
pub const XENMEM_get_vnumainfo: u32 = 26;
/// Lists regions that devices must see 1:1.
pub const XENMEM_reserved_device_memory_map: u32 = 27;
/// Maps pages that belong to a domain's resources.
pub const XENMEM_acquire_resource: u32 = 28;

/// Flag of [`XenMemoryReservation`]: populate on demand.
pub const XENMEMF_populate_on_demand: u32 = 1 << 16;
/// Flag of [`XenMemoryReservation`]: the node asked for or none.
pub const XENMEMF_exact_node_request: u32 = 1 << 17;
/// Flag of [`XenMemoryReservation`]: the node is a virtual one.
pub const XENMEMF_vnode: u32 = 1 << 18;

/// Space: the shared info page.
pub const XENMAPSPACE_shared_info: u32 = 0;
/// Space: a frame of the grant table.
pub const XENMAPSPACE_grant_table: u32 = 1;
/// Space: another frame of the same guest, which moves.
pub const XENMAPSPACE_gmfn: u32 = 2;
/// Space: a run of such frames.
pub const XENMAPSPACE_gmfn_range: u32 = 3;
/// Space: a frame of another domain (batch only).
pub const XENMAPSPACE_gmfn_foreign: u32 = 4;
/// Space: device memory (Arm).
pub const XENMAPSPACE_dev_mmio: u32 = 5;
/// Index bit of [`XENMAPSPACE_grant_table`]: status frames.
pub const XENMAPIDX_grant_table_status: u64 = 0x8000_0000;

/// Resource: an ioreq server's pages.
pub const XENMEM_resource_ioreq_server: u16 = 0;
/// Resource: grant table frames.
pub const XENMEM_resource_grant_table: u16 = 1;
/// Resource: trace buffer.
pub const XENMEM_resource_vmtrace_buf: u16 = 2;
/// Id of a grant table resource: entries.
pub const XENMEM_resource_grant_table_id_shared: u32 = 0;
/// Id of a grant table resource: status.
pub const XENMEM_resource_grant_table_id_status: u32 = 1;

/// Argument of increase and decrease_reservation, populate_physmap, claim_pages.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenMemoryReservation {
    /// Linear address of `nr_extents` guest frame numbers (`u64`), or 0.
    pub extent_start: u64,
    /// How many.
    pub nr_extents: u64,
    /// log2 of an extent's pages.
    pub extent_order: u32,
    /// Address bits in 7:0, node + 1 in 15:8, [`XENMEMF_populate_on_demand`] and its like.
    pub mem_flags: u32,
    /// Whose memory.
    pub domid: u16,
    /// Padding.
    pub _pad: [u8; 6],
}

/// Argument of [`XENMEM_add_to_physmap`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenAddToPhysmap {
    /// Whose guest frame.
    pub domid: u16,
    /// Pages, for [`XENMAPSPACE_gmfn_range`].
    pub size: u16,
    /// [`XENMAPSPACE_shared_info`] and its like.
    pub space: u32,
    /// Which page of the space.
    pub idx: u64,
    /// Where to put it.
    pub gpfn: u64,
}

/// Argument of [`XENMEM_add_to_physmap_batch`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenAddToPhysmapBatch {
    /// Whose guest frames.
    pub domid: u16,
    /// [`XENMAPSPACE_gmfn_foreign`] and its like.
    pub space: u16,
    /// Entries of the three arrays.
    pub size: u16,
    /// For [`XENMAPSPACE_gmfn_foreign`]: whose pages.
    pub foreign_domid: u16,
    /// Linear address of `u64` indices.
    pub idxs: u64,
    /// Linear address of `u64` guest frames.
    pub gpfns: u64,
    /// Linear address of `i32` results: 0 or -errno.
    pub errs: u64,
}

/// Argument of [`XENMEM_remove_from_physmap`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenRemoveFromPhysmap {
    /// Whose guest frame.
    pub domid: u16,
    /// Padding.
    pub _pad: [u8; 6],
    /// Which.
    pub gpfn: u64,
}

/// Argument of [`XENMEM_memory_map`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenMemoryMap {
    /// In: entries there is room for. Out: entries written.
    pub nr_entries: u32,
    /// Padding.
    pub _pad: u32,
    /// Linear address of [`E820Entry`].
    pub buffer: u64,
}

/// Argument of [`XENMEM_set_memory_map`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenForeignMemoryMap {
    /// Whose.
    pub domid: u16,
    /// Padding.
    pub _pad: [u8; 6],
    /// The map.
    pub map: XenMemoryMap,
}

/// An entry of a memory map as BIOS lays it out (public/hvm/e820.h): 20 bytes, packed.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C, packed)]
pub struct E820Entry {
    /// First byte.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// [`crate::arch_x86::hvm::start_info::XEN_HVM_MEMMAP_TYPE_RAM`] and its like.
    pub type_: u32,
}

/// Argument of [`XENMEM_set_pod_target`] and [`XENMEM_get_pod_target`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenPodTarget {
    /// In, for set: the target.
    pub target_pages: u64,
    /// Out: pages the domain has.
    pub tot_pages: u64,
    /// Out: pages in the cache.
    pub pod_cache_pages: u64,
    /// Out: entries without a page.
    pub pod_entries: u64,
    /// Whose.
    pub domid: u16,
    /// Padding.
    pub _pad: [u8; 6],
}

/// Argument of [`XENMEM_acquire_resource`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenMemAcquireResource {
    /// Whose resource.
    pub domid: u16,
    /// [`XENMEM_resource_grant_table`] and its like.
    pub type_: u16,
    /// Which of the type.
    pub id: u32,
    /// In: frames to map. Out, where `frame_list` is 0: frames there are.
    pub nr_frames: u32,
    /// Must be 0.
    pub pad: u32,
    /// First frame of the resource.
    pub frame: u64,
    /// Linear address of `u64`: the caller's guest frames to map at, or 0.
    pub frame_list: u64,
}

/// Argument of [`XENMEM_reserved_device_memory_map`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenReservedDeviceMemoryMap {
    /// Bit 0: all regions.
    pub flags: u32,
    /// In: room. Out: entries.
    pub nr_entries: u32,
    /// Linear address of the entries.
    pub buffer: u64,
    /// Device: segment, bus, function packed as in physdev.h.
    pub dev: u32,
    /// Padding.
    pub _pad: u32,
}
