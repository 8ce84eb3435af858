//! The story: what happens next.
//!
//! Four flows run through this crate: a VM exit ([`vcpu::run`]), a hypercall ([`hypercall`]), a device's interrupt
//! ([`irq`]) and the boot ([`mod@start`], then [`dom0`]). The rules that they follow are in `hv-core`, the hardware is behind
//! `hv-hw`; every lock is taken here.
#![no_std]
#![forbid(unsafe_code)]
#![expect(
    non_upper_case_globals,
    reason = "constants of the ABI keep Xen's spelling"
)]

extern crate alloc;

pub mod console;
pub mod cpu;
pub mod cpu_main;
mod debug_keys;
pub mod dom0;
pub mod domain;
pub mod host;
pub mod hypercall;
pub mod irq;
pub mod memory;
mod msi;
pub mod pinned;
mod shutdown;
pub mod start;
pub mod vcpu;
mod wallclock;

pub use start::{BootInfo, Machine, start};
