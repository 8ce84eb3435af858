//! Ways to run without ever coming to a boundary between two instructions at which the CPU takes an interrupt: what a
//! hypervisor must survive. None comes back.

// UNSAFETY: sequences of exact instructions, page tables and descriptor tables that serve nothing else.
#![expect(unsafe_code, reason = "sequences of exact instructions")]

use crate::hypercall::vmcall;
use crate::{insn, traps};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use guest_abi::xen::__HYPERVISOR_multicall;

#[repr(C, align(4096))]
struct Pages(UnsafeCell<[[u64; 512]; 4]>);
// SAFETY: one vCPU; written by `alias_upper_half` and by the CPU.
unsafe impl Sync for Pages {}

/// Three tables and the page that they lead to.
static PAGES: Pages = Pages(UnsafeCell::new([[0; 512]; 4]));

/// From here to the top of memory there is one page, again and again.
const ALIASES: u64 = 0xFFFF_8000_0000_0000;
/// Where a guest of the tests has nothing.
const NOWHERE: u64 = 0xC000_0000;
/// IA32_DR7: breakpoint 0 on, on writes of 8 bytes.
const WATCH_WRITES: u64 = 0x9_0403;

/// #AC in a handler's stack: 32-bit code whose handler of #AC runs in user mode on a stack that is not aligned.
pub fn alignment_checks() -> ! {
    // SAFETY: sets up all that it uses, and does not come back.
    unsafe { hold_alignment() }
}

/// A breakpoint on the frame of #DB itself.
pub fn debug_traps() -> ! {
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let handler = hold_here as *const () as u64;
    // its own stack, so that each frame is where the last was
    const IST1: u64 = 1 << 32;
    let gate = [
        handler & 0xFFFF
            | traps::KERNEL_CS << 16
            | IST1
            | 0x8E00 << 32
            | (handler >> 16 & 0xFFFF) << 48,
        handler >> 32,
    ];
    let idt = [[0; 2], gate];
    let pointer = Pointer {
        limit: 31,
        base: &raw const idt as u64,
    };
    let top = traps::double_fault_stack_top() - 8;
    insn::cli();
    // SAFETY: the gate leads to a loop; writes to a stack that is unused; does not come back.
    unsafe {
        asm!(
            "lidt [{pointer}]",
            "mov dr0, {top}",
            "mov dr7, {watch}",
            "mov qword ptr [{top}], 0",
            "2: jmp 2b",
            pointer = in(reg) &raw const pointer, top = in(reg) top, watch = in(reg) WATCH_WRITES, options(noreturn),
        )
    }
}

/// An interrupt table where nothing is.
pub fn no_interrupt_table() -> ! {
    let pointer = [0xFFFu16, 0, (NOWHERE >> 16) as u16, 0, 0];
    // SAFETY: does not come back.
    unsafe {
        asm!("lidt [{0}]", "2: mov eax, [{1}]", "ud2", "jmp 2b", in(reg) &raw const pointer, in(reg) NOWHERE,
            options(noreturn))
    }
}

/// String output of more than there is memory, behind MOV SS.
pub fn string_output() -> ! {
    alias_upper_half();
    // SAFETY: reads a page of zeroes; does not come back.
    unsafe {
        asm!("cld", "2: mov ss, {ss:x}", "rep outsb", "jmp 2b", ss = in(reg) 0x10, in("dx") 0xE9u16,
            in("rcx") u64::MAX, in("rsi") ALIASES, options(noreturn))
    }
}

/// A multicall of more calls than there are moments, behind MOV SS.
pub fn multicalls() -> ! {
    alias_upper_half();
    // SAFETY: writes results to a page of ours; does not come back.
    unsafe {
        asm!("2: mov ss, {ss:x}", vmcall!(), "jmp 2b", ss = in(reg) 0x10, in("rax") __HYPERVISOR_multicall,
            in("rdi") ALIASES, in("rsi") 1u64 << 40, options(noreturn))
    }
}

/// Maps one page to all addresses from [`ALIASES`] on.
fn alias_upper_half() {
    let pages = PAGES.0.get().cast::<[u64; 512]>();
    for table in 0..3 {
        let next = pages.wrapping_add(table + 1) as u64 | 3;
        // SAFETY: one of the four; nobody uses the table yet.
        unsafe { pages.wrapping_add(table).write([next; 512]) };
    }
    let top = (insn::cr3() & !0xFFF) as *mut u64;
    for index in 256..512 {
        // SAFETY: the upper half of the top table, which is mapped where it is, has been empty.
        unsafe { top.wrapping_add(index).write_volatile(pages as u64 | 3) };
    }
    insn::flush_tlb();
}

unsafe extern "C" {
    fn hold_alignment() -> !;
    fn hold_here();
}

global_asm!(
    ".pushsection .bss, \"aw\", @nobits",
    ".balign 16",
    "hold_stack: .skip 256",
    "hold_stack_top: .skip 16",
    ".popsection",
    ".pushsection .data, \"aw\"",
    ".balign 8",
    // flat: code and data of the kernel, code and data of its processes
    "hold_gdt: .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff, 0x00cffa000000ffff, 0x00cff2000000ffff",
    "hold_idt: .skip 17 * 8",
    "hold_gate: .quad 0",
    "hold_gdtr: .word 39",
    ".quad hold_gdt",
    "hold_idtr: .word 18 * 8 - 1",
    ".quad hold_idt",
    ".popsection",
    ".pushsection .text, \"ax\"",
    "hold_here: jmp hold_here",
    "hold_alignment:",
    "cli",
    "lgdt hold_gdtr",
    "movl $hold_handler, %eax",
    "movw %ax, hold_gate",
    "movw $0x1b, hold_gate + 2",
    "movw $0x8e00, hold_gate + 4",
    "shrl $16, %eax",
    "movw %ax, hold_gate + 6",
    "pushq $8",
    "pushq $2f",
    "lretq",
    ".code32",
    // out of long mode: paging off, then EFER.LME
    "2: movl %cr0, %eax",
    "andl $0x7fffffff, %eax",
    "movl %eax, %cr0",
    "movl $0xc0000080, %ecx",
    "rdmsr",
    "andl $0xfffffeff, %eax",
    "wrmsr",
    "movl $0x10, %eax",
    "movl %eax, %ds",
    "movl %eax, %es",
    "movl %eax, %ss",
    "movl $hold_stack_top, %esp",
    "lidt hold_idtr",
    // CR0.AM; EFLAGS.AC, and a stack that is off by one
    "movl %cr0, %eax",
    "orl $0x40000, %eax",
    "movl %eax, %cr0",
    "pushl $0x23",
    "pushl $hold_stack_top - 63",
    "pushl $0x40002",
    "pushl $0x1b",
    "pushl $3f",
    "iretl",
    "3: movl $0x23, %eax",
    "movl %eax, %ds",
    "movl hold_stack + 1, %eax",
    "jmp 3b",
    "hold_handler: jmp hold_handler",
    ".code64",
    ".popsection",
    options(att_syntax),
);
