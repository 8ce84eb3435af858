//! public/arch-x86/: what is particular to x86.

pub mod cpuid;
pub mod hvm;
pub mod xen;
