//! What a binary must have: the entry, the heap, the panic handler.

#![expect(unsafe_code, reason = "entry")]

use hv_core::addr::Hpa;
use hv_hw::cpu::stacks::{BOOT_STACKS, BootStacks};
use hv_hw::heap::Heap;

#[path = "../../../boot/src/layout.rs"]
mod layout;

core::arch::global_asm!(
    include_str!("../../../boot/src/entry.S"),
    stack = sym BOOT_STACKS,
    stack_top = const BootStacks::MAIN_TOP,
    rust_entry = sym rust_entry,
    options(att_syntax)
);

#[global_allocator]
static HEAP: Heap = Heap::new();

/// The first Rust code: `info` is the physical address of the multiboot2 information.
extern "C" fn rust_entry(info: u32) -> ! {
    crate::start::start(Hpa::new(u64::from(info)), &layout::image_layout())
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    hv_hw::panic::panicked(info)
}
