//! The hypervisor's core: what happens next, and every lock.
//!
//! The core logic that it follows is in `hv-core`, the hardware is behind `hv-hw`. It is in layers, each a module
//! below, which use those below them only (`cargo xtask ci --rules` checks it). Top first:
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
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![expect(
    rustdoc::private_intra_doc_links,
    reason = "who reads the core reads all of it: cargo doc --document-private-items"
)]
#![expect(
    non_upper_case_globals,
    reason = "constants of the ABI keep Xen's spelling"
)]

extern crate alloc;

mod boot;
mod console;
mod domain;
mod exit;
mod guest_mem;
mod hypercall;
mod machine;
mod main_loop;
mod pcpu;
mod power;
mod runner;
#[cfg(test)]
mod tests;

pub use boot::{BootInfo, BootedMachine, start};
