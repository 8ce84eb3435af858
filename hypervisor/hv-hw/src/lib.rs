//! The mechanisms: how the chip does it. The only hypervisor crate with unsafe code, in named modules that say why.
//!
//! It builds for two targets. On bare metal it is the hypervisor's lower half. On the host (`cargo test`) the same
//! modules stand on an arena in place of machine memory and one thread in place of a CPU, so that the story above runs
//! in tests; what only a CPU in ring 0 can do compiles there and is not called.
#![no_std]
extern crate alloc;
#[cfg(not(target_os = "none"))]
extern crate std;

pub mod direct_map;
pub mod insn;
pub mod percpu;
pub mod sync;
pub mod virt;
