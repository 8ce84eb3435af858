//! What a binary must have: the entry, the heap, the panic handler.
//!
//! UNSAFETY: assembly enters here, and the linker script's symbols say where the image lies.

#![expect(unsafe_code, reason = "entry and image")]

use hv_core::addr::{Hpa, Mfn, MfnRange};
use hv_hw::cpu::stacks::{BOOT_STACKS, BootStacks};
use hv_hw::heap::Heap;
use hv_hw::image::ImageLayout;

core::arch::global_asm!(
    include_str!("../../../boot/src/entry.S"),
    stack = sym BOOT_STACKS,
    stack_top = const BootStacks::MAIN_TOP,
    rust_entry = sym rust_entry,
    options(att_syntax)
);

unsafe extern "C" {
    static text_start: u8;
    static text_end: u8;
    static rodata_start: u8;
    static rodata_end: u8;
    static data_start: u8;
    static data_end: u8;
}

#[global_allocator]
static HEAP: Heap = Heap::new();

/// The first Rust code: `info` is the physical address of the multiboot2 information.
extern "C" fn rust_entry(info: u32) -> ! {
    crate::start::start(Hpa::new(u64::from(info)), &image_layout())
}

/// Where the linker put what, in host physical memory.
fn image_layout() -> ImageLayout {
    ImageLayout {
        text: frames(&raw const text_start, &raw const text_end),
        rodata: frames(&raw const rodata_start, &raw const rodata_end),
        data: frames(&raw const data_start, &raw const data_end),
    }
}

/// The frames between two symbols of the image.
fn frames(start: *const u8, end: *const u8) -> MfnRange {
    let frame = |symbol: *const u8| {
        Mfn::containing(Hpa::new(symbol.addr() as u64 - ImageLayout::VIRTUAL_OFFSET))
    };
    MfnRange::new(frame(start), frame(end))
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    hv_hw::panic::panicked(info)
}
