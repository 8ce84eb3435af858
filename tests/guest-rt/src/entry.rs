//! From the hypervisor's first instruction to Rust: entry in 32-bit mode, registers saved before anything touches them,
//! identity page tables for the first 4 GiB (2 MiB pages, user accessible), long mode.
//!
//! Entry state as public/arch-x86/hvm/start_info.h fixes it: 32-bit, paging off, EBX = start info.

// UNSAFETY: the first instructions of a guest have no Rust to stand on.
#![expect(unsafe_code, reason = "entry code and what it leaves behind")]

use core::arch::global_asm;
use guest_abi::arch_x86::hvm::start_info::HvmStartInfo;
use guest_abi::elfnote::XEN_ELFNOTE_PHYS32_ENTRY;

/// What the CPU held when the guest's first instruction ran.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct EntryState {
    /// EAX, EBX, ECX, EDX, ESI, EDI, EBP, ESP.
    pub gprs: [u32; 8],
    /// CR0.
    pub cr0: u32,
    /// CR3.
    pub cr3: u32,
    /// CR4.
    pub cr4: u32,
    /// EFLAGS.
    pub eflags: u32,
    /// EFER, low and high half.
    pub efer: [u32; 2],
    /// DR6.
    pub dr6: u32,
    /// DR7.
    pub dr7: u32,
    /// CS, DS, ES, SS, TR, LDTR selectors.
    pub selectors: [u32; 6],
    /// TSC, low and high half.
    pub tsc: [u32; 2],
}

/// Index of EBX in [`EntryState::gprs`].
pub const EBX: usize = 1;

unsafe extern "C" {
    static entry_state: EntryState;
    static image_start: u8;
    static image_end: u8;
}

/// The registers at entry.
#[must_use]
pub fn state() -> &'static EntryState {
    // SAFETY: the entry code wrote it once, before any Rust ran.
    unsafe { &entry_state }
}

/// The start info that EBX pointed to.
#[must_use]
pub fn start_info() -> HvmStartInfo {
    let address = state().gprs[EBX] as usize as *const HvmStartInfo;
    // SAFETY: the loader put it there, below 4 GiB, which the entry code mapped; any bytes are a start info.
    unsafe { address.read_unaligned() }
}

/// First address of this kernel's image and first past it, bss included.
#[must_use]
pub fn image() -> (u64, u64) {
    (&raw const image_start as u64, &raw const image_end as u64)
}

global_asm!(
    ".pushsection .note.Xen, \"a\", @note",
    ".balign 4",
    ".long 4, 8, {phys32}",
    ".asciz \"Xen\"",
    ".quad pvh_entry",
    ".popsection",
    phys32 = const XEN_ELFNOTE_PHYS32_ENTRY,
);

global_asm!(
    ".pushsection .bss, \"aw\", @nobits",
    ".balign 4096",
    "boot_pml4: .skip 4096",
    "boot_pdpt: .skip 4096",
    "boot_pd: .skip 4 * 4096",
    "boot_stack: .skip 131072",
    "boot_stack_top:",
    ".balign 8",
    ".globl entry_state",
    "entry_state: .skip 128",
    ".popsection",
    ".pushsection .data, \"aw\"",
    ".balign 8",
    "boot_gdt: .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff",
    "boot_gdtr: .word 23",
    ".long boot_gdt",
    ".popsection",
    ".pushsection .text.entry, \"ax\"",
    ".code32",
    ".globl pvh_entry",
    "pvh_entry:",
    // registers first: none is changed before it is saved
    "movl %eax, entry_state + 0",
    "movl %ebx, entry_state + 4",
    "movl %ecx, entry_state + 8",
    "movl %edx, entry_state + 12",
    "movl %esi, entry_state + 16",
    "movl %edi, entry_state + 20",
    "movl %ebp, entry_state + 24",
    "movl %esp, entry_state + 28",
    "movl %cr0, %eax",
    "movl %eax, entry_state + 32",
    "movl %cr3, %eax",
    "movl %eax, entry_state + 36",
    "movl %cr4, %eax",
    "movl %eax, entry_state + 40",
    "movl $boot_stack_top, %esp",
    "pushfl",
    "popl entry_state + 44",
    "movl $0xc0000080, %ecx",
    "rdmsr",
    "movl %eax, entry_state + 48",
    "movl %edx, entry_state + 52",
    "movl %dr6, %eax",
    "movl %eax, entry_state + 56",
    "movl %dr7, %eax",
    "movl %eax, entry_state + 60",
    "movl %cs, %eax",
    "movl %eax, entry_state + 64",
    "movl %ds, %eax",
    "movl %eax, entry_state + 68",
    "movl %es, %eax",
    "movl %eax, entry_state + 72",
    "movl %ss, %eax",
    "movl %eax, entry_state + 76",
    "xorl %eax, %eax",
    "strw %ax",
    "movl %eax, entry_state + 80",
    "xorl %eax, %eax",
    "sldtw %ax",
    "movl %eax, entry_state + 84",
    "rdtsc",
    "movl %eax, entry_state + 88",
    "movl %edx, entry_state + 92",
    // identity tables: present, writable, user; 2 MiB leaves
    "movl $boot_pdpt + 7, %eax",
    "movl %eax, boot_pml4",
    "movl $boot_pd + 7, %eax",
    "movl %eax, boot_pdpt",
    "addl $4096, %eax",
    "movl %eax, boot_pdpt + 8",
    "addl $4096, %eax",
    "movl %eax, boot_pdpt + 16",
    "addl $4096, %eax",
    "movl %eax, boot_pdpt + 24",
    "movl $boot_pd, %edi",
    "movl $0x87, %eax",
    "movl $2048, %ecx",
    "2:",
    "movl %eax, (%edi)",
    "addl $0x200000, %eax",
    "addl $8, %edi",
    "decl %ecx",
    "jnz 2b",
    // CR4.PAE, OSFXSR, OSXMMEXCPT; EFER.LME; CR0.PG, WP, NE, ET, MP, PE
    "movl $0x620, %eax",
    "movl %eax, %cr4",
    "movl $boot_pml4, %eax",
    "movl %eax, %cr3",
    "movl $0xc0000080, %ecx",
    "rdmsr",
    "orl $0x100, %eax",
    "wrmsr",
    "movl $0x80010033, %eax",
    "movl %eax, %cr0",
    "lgdt boot_gdtr",
    "ljmp $8, $start64",
    ".code64",
    "start64:",
    "movl $16, %eax",
    "movl %eax, %ds",
    "movl %eax, %es",
    "movl %eax, %ss",
    "xorl %eax, %eax",
    "movl %eax, %fs",
    "movl %eax, %gs",
    "xorl %ebp, %ebp",
    "movl $boot_stack_top, %esp",
    "call {rust}",
    "ud2",
    ".popsection",
    rust = sym start,
    options(att_syntax),
);

unsafe extern "C" {
    safe fn guest_main();
}

extern "C" fn start() -> ! {
    crate::traps::init();
    crate::hypercall::adapt();
    crate::console::init();
    guest_main();
    crate::report::done()
}
