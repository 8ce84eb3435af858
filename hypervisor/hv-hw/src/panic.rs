//! How the host dies: one dump on the console, without waiting for any lock, then halt or reboot.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::console;
use crate::cpu::stacks::BOOT_STACKS;
use crate::cpu::{ExceptionFrame, exception_name};
use crate::image::ImageLayout;
use crate::shutdown;

/// Set by the first CPU that dies: a fault while dying halts at once.
static IS_DYING: AtomicBool = AtomicBool::new(false);
/// Where the image's code lies, for back traces.
static CODE: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// How many words of the stack a back trace looks at, and how many calls it shows.
const TRACE_WORDS: usize = 512;
const TRACE_CALLS: usize = 24;

/// Tells back traces where code is.
pub fn set_image(image: &ImageLayout) {
    CODE[0].store(ImageLayout::address_of(image.text.start), Ordering::Relaxed);
    CODE[1].store(ImageLayout::address_of(image.text.end), Ordering::Relaxed);
}

/// Ends the host because an invariant of ours is broken.
pub fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    let here = 0u64;
    die(format_args!("{info}"), (&raw const here).addr() as u64)
}

/// Ends the host because it cannot go on for a `reason` that a user can mend: one line with cause and remedy.
pub fn fatal(reason: fmt::Arguments<'_>) -> ! {
    console::use_text_screen();
    begin_dying();
    console::write_dying(format_args!("\nHematite cannot run: {reason}\n"));
    shutdown::after_death()
}

/// Ends the host because of an exception in its own code.
pub(crate) fn unexpected_exception(frame: &ExceptionFrame) -> ! {
    begin_dying();
    let fault_address = fault_address();
    console::write_dying(format_args!(
        "\nfatal: cpu{}: {} in {}, error code {:#x}, cr2 {fault_address:#018x}\n\
         rip {:#018x} cs {:#06x} rflags {:#010x} rsp {:#018x} ss {:#06x}\n\
         rax {:#018x} rbx {:#018x} rcx {:#018x} rdx {:#018x}\n\
         rsi {:#018x} rdi {:#018x} rbp {:#018x} r8  {:#018x}\n\
         r9  {:#018x} r10 {:#018x} r11 {:#018x} r12 {:#018x}\n\
         r13 {:#018x} r14 {:#018x} r15 {:#018x}\n",
        crate::percpu::cpu_id(),
        exception_name(frame.vector),
        if crate::efi::is_inside() {
            "a runtime service of EFI (boot with efi=no-rs to do without them)"
        } else {
            "the hypervisor"
        },
        frame.error_code,
        frame.rip,
        frame.cs,
        frame.rflags,
        frame.rsp,
        frame.ss,
        frame.rax,
        frame.rbx,
        frame.rcx,
        frame.rdx,
        frame.rsi,
        frame.rdi,
        frame.rbp,
        frame.r8,
        frame.r9,
        frame.r10,
        frame.r11,
        frame.r12,
        frame.r13,
        frame.r14,
        frame.r15,
    ));
    trace(frame.rsp);
    shutdown::after_death()
}

fn die(reason: fmt::Arguments<'_>, rsp: u64) -> ! {
    begin_dying();
    console::write_dying(format_args!(
        "\nfatal: cpu{}: {reason}\n",
        crate::percpu::cpu_id()
    ));
    trace(rsp);
    shutdown::after_death()
}

/// Makes sure that only one death is reported.
fn begin_dying() {
    if IS_DYING.swap(true, Ordering::SeqCst) {
        crate::insn::halt_for_ever();
    }
}

/// Prints what look like return addresses on the running stack.
fn trace(rsp: u64) {
    let code = CODE[0].load(Ordering::Relaxed)..CODE[1].load(Ordering::Relaxed);
    let words = BOOT_STACKS.words_from(rsp);
    let calls = words
        .iter()
        .take(TRACE_WORDS)
        .map(|word| word.load(Ordering::Relaxed));
    console::write_dying(format_args!("possible callers:"));
    for call in calls.filter(|word| code.contains(word)).take(TRACE_CALLS) {
        console::write_dying(format_args!(" {call:#x}"));
    }
    console::write_dying(format_args!("\n"));
}

/// CR2: the address of the last page fault.
#[cfg(target_os = "none")]
fn fault_address() -> u64 {
    x86_64::registers::control::Cr2::read_raw()
}

#[cfg(not(target_os = "none"))]
fn fault_address() -> u64 {
    0
}
