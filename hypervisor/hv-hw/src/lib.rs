//! The mechanisms: how the chip does it. The only hypervisor crate with unsafe code but for `nospec`, in named modules that say why.
//!
//! It builds for two targets. On bare metal it is the hypervisor's lower half. On the host (`cargo test`) the same
//! modules stand on an arena in place of machine memory and one thread in place of a CPU, so that the story above runs
//! in tests; what only a CPU in ring 0 can do compiles there and is not called.
#![no_std]
extern crate alloc;
#[cfg(not(target_os = "none"))]
extern crate std;

pub mod console;
pub mod cpu;
pub mod direct_map;
pub mod heap;
pub mod image;
pub mod insn;
pub mod irq;
pub mod mmio;
pub mod paging;
pub mod panic;
pub mod pci;
pub mod percpu;
pub mod port;
pub mod shutdown;
pub mod sync;
pub mod time;
pub mod virt;
