//! public/version.h: arguments of `xen_version` (rdi = sub-operation, rsi = pointer).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Returns `major << 16 | minor`; takes no pointer.
pub const XENVER_version: u32 = 0;
/// Copies out [`XEN_EXTRAVERSION_LEN`] bytes of text.
pub const XENVER_extraversion: u32 = 1;
/// Copies out a [`XenCompileInfo`].
pub const XENVER_compile_info: u32 = 2;
/// Copies out [`XEN_CAPABILITIES_INFO_LEN`] bytes of text.
pub const XENVER_capabilities: u32 = 3;
/// Copies out [`XEN_CHANGESET_INFO_LEN`] bytes of text.
pub const XENVER_changeset: u32 = 4;
/// Copies out a [`XenPlatformParameters`].
pub const XENVER_platform_parameters: u32 = 5;
/// Fills a [`XenFeatureInfo`].
pub const XENVER_get_features: u32 = 6;
/// Returns 4096; takes no pointer.
pub const XENVER_pagesize: u32 = 7;
/// Copies out the caller's 16-byte handle.
pub const XENVER_guest_handle: u32 = 8;
/// Copies out [`XEN_COMMANDLINE_LEN`] bytes of text.
pub const XENVER_commandline: u32 = 9;
/// Fills a [`XenBuildId`].
pub const XENVER_build_id: u32 = 10;

/// Bytes of the extra version.
pub const XEN_EXTRAVERSION_LEN: usize = 16;
/// Bytes of the capabilities.
pub const XEN_CAPABILITIES_INFO_LEN: usize = 1024;
/// Bytes of the changeset.
pub const XEN_CHANGESET_INFO_LEN: usize = 64;
/// Bytes of the command line.
pub const XEN_COMMANDLINE_LEN: usize = 1024;

/// Who built it, where, when, with what: NUL-terminated texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct XenCompileInfo {
    /// Compiler.
    pub compiler: [u8; 64],
    /// User.
    pub compile_by: [u8; 16],
    /// Host's domain.
    pub compile_domain: [u8; 32],
    /// Date.
    pub compile_date: [u8; 32],
}

/// What [`XENVER_platform_parameters`] copies out.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenPlatformParameters {
    /// Start of the hypervisor's part of a PV guest's address space.
    pub virt_start: u64,
}

/// Argument of [`XENVER_get_features`]; `submap` comes back.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenFeatureInfo {
    /// Which 32 features.
    pub submap_idx: u32,
    /// Out: their bits, see [`crate::features`].
    pub submap: u32,
}

/// Head of the argument of [`XENVER_build_id`]; the bytes follow.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenBuildId {
    /// In: room for the id. The call returns its length.
    pub len: u32,
}
