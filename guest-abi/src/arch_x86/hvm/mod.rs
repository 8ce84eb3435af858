//! public/arch-x86/hvm/: entry of PVH kernels.

pub mod start_info;
