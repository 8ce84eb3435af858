//! The bare-metal binary: multiboot2 header and entry, the heap and the panic handler that a binary must name.
//!
//! `entry.S` comes first; then [`rust_entry`] hands over to `hypervisor::start`, which never returns.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(target_os = "none", expect(unsafe_code))]

#[cfg(target_os = "none")]
mod layout;

#[cfg(target_os = "none")]
mod bare {
    use hv_core::addr::Hpa;
    use hv_hw::cpu::stacks::{BOOT_STACKS, BootStacks};
    use hv_hw::heap::Heap;
    use hypervisor::BootInfo;

    core::arch::global_asm!(
        include_str!("entry.S"),
        stack = sym BOOT_STACKS,
        stack_top = const BootStacks::MAIN_TOP,
        rust_entry = sym rust_entry,
        options(att_syntax)
    );

    #[global_allocator]
    static HEAP: Heap = Heap::new();

    /// The first Rust code: `info` is the physical address of the multiboot2 information.
    extern "C" fn rust_entry(info: u32) -> ! {
        let entry_tsc = hv_hw::insn::rdtsc();
        hypervisor::start(BootInfo {
            multiboot: Hpa::new(u64::from(info)),
            image: crate::layout::image_layout(),
            entry_tsc,
        })
    }

    #[panic_handler]
    fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
        hv_hw::panic::panicked(info)
    }
}

/// On the host there is nothing to run.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("boot is a bare-metal binary: cargo xtask build");
}
