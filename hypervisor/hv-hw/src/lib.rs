//! The hardware layer: how the CPU does it. The only hypervisor crate with unsafe code but for `nospec`, in named
//! modules that say why.
//!
//! It builds for two targets. On bare metal it is the hypervisor's lower half. On the host (`cargo test`) the same
//! modules stand on a board of tests (`hosted`: an arena for memory, a thread for each CPU), so that the core above
//! runs in tests; what only a CPU in ring 0 can do compiles there and is not called.
#![no_std]
extern crate alloc;
#[cfg(not(target_os = "none"))]
extern crate std;

pub mod console;
pub mod cpu;
pub mod direct_map;
pub mod efi;
pub mod heap;
#[cfg(not(target_os = "none"))]
pub mod hosted;
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

/// Defines functions that find what there is once on the machine of the CPU that runs. On bare metal there is one
/// machine; on the host each board of tests has its own.
#[macro_export]
macro_rules! once_a_machine {
    ($($(#[$about:meta])* $vis:vis fn $name:ident() -> $part:ty = $new:expr;)+) => {$(
        $(#[$about])*
        #[cfg(target_os = "none")]
        #[inline]
        $vis fn $name() -> &'static $part {
            static PART: $part = $new;
            &PART
        }
        $(#[$about])*
        #[cfg(not(target_os = "none"))]
        $vis fn $name() -> &'static $part {
            $crate::hosted::board().part(|| $new)
        }
    )+};
}
