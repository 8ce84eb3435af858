//! public/elfnote.h: notes (name "Xen") by which a kernel says how it wants to be started.

/// Entry (PV).
pub const XEN_ELFNOTE_ENTRY: u32 = 1;
/// Address of the hypercall page.
pub const XEN_ELFNOTE_HYPERCALL_PAGE: u32 = 2;
/// Virtual base (PV).
pub const XEN_ELFNOTE_VIRT_BASE: u32 = 3;
/// Offset of physical addresses in the file (PV).
pub const XEN_ELFNOTE_PADDR_OFFSET: u32 = 4;
/// Version of Xen it was made for.
pub const XEN_ELFNOTE_XEN_VERSION: u32 = 5;
/// Name of the system.
pub const XEN_ELFNOTE_GUEST_OS: u32 = 6;
/// Its version.
pub const XEN_ELFNOTE_GUEST_VERSION: u32 = 7;
/// Loader.
pub const XEN_ELFNOTE_LOADER: u32 = 8;
/// PAE (PV).
pub const XEN_ELFNOTE_PAE_MODE: u32 = 9;
/// Features, as text.
pub const XEN_ELFNOTE_FEATURES: u32 = 10;
/// Reasons it may be suspended and cancelled.
pub const XEN_ELFNOTE_SUSPEND_CANCEL: u32 = 14;
/// Features, as bits of [`crate::features`].
pub const XEN_ELFNOTE_SUPPORTED_FEATURES: u32 = 17;
/// Entry of a PVH kernel: physical address, 4 or 8 bytes.
pub const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// Where a PVH kernel may be moved: alignment, minimum, maximum (`u32` each). Newer than release 4.17.
pub const XEN_ELFNOTE_PHYS32_RELOC: u32 = 19;
