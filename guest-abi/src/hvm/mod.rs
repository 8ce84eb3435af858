//! public/hvm/: calls and parameters of HVM and PVH domains.

pub mod hvm_op;
pub mod hvm_vcpu;
pub mod params;
pub mod save;
