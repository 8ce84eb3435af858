//! The hypervisor's core: what happens next, and every lock.
//!
//! The rules that it follows are in `hv-core`, the hardware is behind `hv-hw`. It is in layers, each a module below, which
//! use those below them only (`cargo xtask ci --rules` checks it). Top first:
//!
//! | layer | is |
//! |---|---|
//! | [`boot`] | from the loader's facts to a running dom0 |
//! | [`main_loop`] | what a CPU does for ever: choose a vCPU, run it, account for it |
//! | [`exit`] | a VM exit, a file a reason |
//! | [`hypercall`] | one table, a file a hypercall |
//! | [`runner`] | a vCPU as the CPU that runs it has it: registers, injection, its guest's memory |
//! | [`pcpu`] | a physical CPU: its timers, its interrupts, the vCPUs that are sent to it |
//! | [`console`] | who is typing to whom, debug keys |
//! | `power` | the end of the machine |
//! | [`guest_mem`] | guest memory: physical and linear addresses, a software TLB |
//! | [`domain`] | a domain and what belongs to it |
//! | [`machine`] | facts, frames and CPUs of the machine |
//!
//! Four flows run through them: a VM exit ([`main_loop::run_loop`]), a hypercall ([`hypercall`]), a device's interrupt
//! ([`pcpu::irq`]) and the boot ([`mod@boot`], then `boot::dom0`).
#![no_std]
#![forbid(unsafe_code)]
#![expect(
    non_upper_case_globals,
    reason = "constants of the ABI keep Xen's spelling"
)]

extern crate alloc;

pub mod boot;
pub mod console;
pub mod domain;
pub mod exit;
pub mod guest_mem;
pub mod hypercall;
pub mod machine;
pub mod main_loop;
pub mod pcpu;
mod power;
pub mod runner;

pub use boot::{BootInfo, Machine, start};
