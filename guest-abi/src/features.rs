//! public/features.h: bits of the one feature submap that `XENVER_get_features` knows.

/// Bit: page tables may be written directly.
pub const XENFEAT_writable_page_tables: u32 = 0;
/// Bit: descriptor tables may be written directly.
pub const XENFEAT_writable_descriptor_tables: u32 = 1;
/// Bit: frame numbers are the guest's own (translated by the hypervisor).
pub const XENFEAT_auto_translated_physmap: u32 = 2;
/// Bit: the kernel may run in ring 0 (PV).
pub const XENFEAT_supervisor_mode_kernel: u32 = 3;
/// Bit: PAE root tables may lie above 4 GiB.
pub const XENFEAT_pae_pgdir_above_4gb: u32 = 4;
/// Bit: mmu_update can keep A and D bits.
pub const XENFEAT_mmu_pt_update_preserve_ad: u32 = 5;
/// Bit: highmem helpers.
pub const XENFEAT_highmem_assist: u32 = 6;
/// Bit: grant mappings keep available bits.
pub const XENFEAT_gnttab_map_avail_bits: u32 = 7;
/// Bit: events come by vector.
pub const XENFEAT_hvm_callback_vector: u32 = 8;
/// Bit: the PV clock is safe to use in HVM guests.
pub const XENFEAT_hvm_safe_pvclock: u32 = 9;
/// Bit: physical interrupts as events (never set here).
pub const XENFEAT_hvm_pirqs: u32 = 10;
/// Bit: the caller is dom0.
pub const XENFEAT_dom0: u32 = 11;
/// Bit: grants are mapped 1:1 (Arm).
pub const XENFEAT_grant_map_identity: u32 = 12;
/// Bit: memory_op takes virtual nodes.
pub const XENFEAT_memory_op_vnode_supported: u32 = 13;
/// Bit: Arm's SMC convention.
pub const XENFEAT_ARM_SMCCC_supported: u32 = 14;
/// Bit: `rsdp_paddr` may be anywhere.
pub const XENFEAT_linux_rsdp_unrestricted: u32 = 15;
/// Bit: guest frames are not machine frames.
pub const XENFEAT_not_direct_mapped: u32 = 16;
/// Bit: guest frames are machine frames.
pub const XENFEAT_direct_mapped: u32 = 17;
/// Submaps there are.
pub const XENFEAT_NR_SUBMAPS: u32 = 1;
