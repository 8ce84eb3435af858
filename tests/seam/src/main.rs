//! A bare-metal program in the hypervisor's place that tests the seam to the CPU's vendor: it makes vCPUs as the
//! hypervisor does, runs a few instructions in each and looks at what `VcpuHw` says of it.
//!
//! What is checked is what the seam promises, on whatever CPU it runs: a check names no vendor. Entry and layout are
//! boot's. Next: `start` for the machine, `guest` for what a guest is made of, `checks` for what is checked.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod bare;
#[cfg(target_os = "none")]
mod checks;
#[cfg(target_os = "none")]
mod code;
#[cfg(target_os = "none")]
mod guest;
#[cfg(target_os = "none")]
mod layout;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod report;
#[cfg(target_os = "none")]
mod start;

/// On the host there is nothing to run.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("seam is a bare-metal binary: cargo xtask test --guest-only --filter seam");
}
