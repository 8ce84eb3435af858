//! Exceptions and interrupts: descriptor tables, one entry for all vectors, and three answers to an exception.
//!
//! In order: a handler set for the vector takes it; else, where the faulting instruction is in the exception table (see
//! [`crate::insn`]), the fault is noted and execution goes on behind the instruction; else the running test ends.

// UNSAFETY: loads descriptor tables and edits the frame of an interrupted instruction.
#![expect(unsafe_code, reason = "descriptor tables and exception entry")]

use crate::report;
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Registers of what was interrupted; a handler may change them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// An exception that an instruction raised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Its vector.
    pub vector: u8,
    /// Its error code, 0 where it has none.
    pub error: u32,
    /// CR2 at that time.
    pub cr2: u64,
}

/// Invalid opcode.
pub const UD: u8 = 6;
/// General protection.
pub const GP: u8 = 13;
/// Page fault.
pub const PF: u8 = 14;

/// What handles a vector.
pub type Handler = fn(&mut TrapFrame);

/// Selector of user code (64-bit), RPL 3.
pub const USER_CS: u64 = 0x2B;
/// Selector of user data, RPL 3.
pub const USER_DS: u64 = 0x23;
/// Selector of kernel code.
pub const KERNEL_CS: u64 = 0x08;
/// Selector of 32-bit kernel code.
pub const NARROW_CS: u64 = 0x40;

/// Selector of the TSS.
pub const TSS: u64 = 0x30;

/// Sets or clears the handler of a vector.
pub fn set_handler(vector: u8, handler: Option<Handler>) {
    HANDLERS[usize::from(vector)].store(handler.map_or(0, |h| h as usize), Relaxed);
}

/// Has a vector's handler run on a stack that ends at `top`, one vector at a time, or on whatever stack there is.
pub fn set_stack(vector: u8, top: Option<u64>) {
    const IST: u64 = 7 << 32;
    const IST2: u64 = 2 << 32;
    let tables = TABLES.0.get();
    // SAFETY: nobody else refers to the tables; the CPU reads them when an event comes.
    let tables = unsafe { &mut *tables };
    let gate = &mut tables.idt[usize::from(vector)][0];
    *gate = *gate & !IST | if top.is_some() { IST2 } else { 0 };
    tables.set_stack_top(11, top.unwrap_or(0));
}

/// Runs `body` and tells what fault of an instruction in the exception table it left behind, if any.
///
/// # Errors
/// The (last) fault.
pub fn guarded<R>(body: impl FnOnce() -> R) -> Result<R, Fault> {
    TAKEN.store(false, Relaxed);
    let result = body();
    if !TAKEN.load(Relaxed) {
        return Ok(result);
    }
    Err(Fault {
        vector: FAULT_VECTOR.load(Relaxed).to_le_bytes()[0],
        error: FAULT_ERROR.load(Relaxed),
        cr2: FAULT_CR2.load(Relaxed),
    })
}

/// Calls `body`; false where an unexpected exception or a panic ended it early.
pub fn protected(body: extern "C" fn()) -> bool {
    // SAFETY: the call keeps the C calling convention whichever way `body` ends; what `body` leaked is its own.
    unsafe { protected_call(body) == 0 }
}

/// Ends the running [`protected`] call, early.
pub fn abandon() -> ! {
    // SAFETY: jumps to the recovery point, which sets its own stack; there is always a protected call around a test.
    unsafe { asm!("jmp recover_point", options(noreturn)) }
}

/// Runs `code` (position-independent, ending with `int 0x81`) in user mode and returns the RAX it ended with.
pub fn in_user_mode(code: extern "C" fn(), rax: u64) -> u64 {
    // SAFETY: all memory is mapped user accessible; the gate of vector 0x81 leads back here.
    unsafe { user_call(code as usize as u64, rax) }
}

/// The end of the stack that the CPU switches to by IST 1.
#[must_use]
pub fn double_fault_stack_top() -> u64 {
    DOUBLE_FAULT_STACK.0.get() as u64 + STACK_SIZE as u64
}

/// Loads GDT, TSS and IDT. Once, at the start.
pub fn init() {
    let tables = TABLES.0.get();
    // SAFETY: runs once, before interrupts; nothing else refers to the tables yet.
    let tables = unsafe { &mut *tables };
    tables.fill();
    let gdtr = Pointer {
        limit: (size_of_val(&tables.gdt) - 1) as u16,
        base: &raw const tables.gdt as u64,
    };
    let idtr = Pointer {
        limit: (size_of_val(&tables.idt) - 1) as u16,
        base: &raw const tables.idt as u64,
    };
    // SAFETY: the tables are static; selectors 8 and 16 mean what they meant before.
    unsafe { asm!("lgdt [{}]", in(reg) &raw const gdtr, options(readonly, nostack)) };
    // SAFETY: every gate leads to a stub.
    unsafe { asm!("lidt [{}]", in(reg) &raw const idtr, options(readonly, nostack)) };
    // SAFETY: the descriptor names the static TSS.
    unsafe { asm!("ltr {:x}", in(reg) TSS as u16, options(nostack)) };
}

static HANDLERS: [AtomicUsize; 256] = [const { AtomicUsize::new(0) }; 256];
static TAKEN: AtomicBool = AtomicBool::new(false);
static FAULT_VECTOR: AtomicU32 = AtomicU32::new(0);
static FAULT_ERROR: AtomicU32 = AtomicU32::new(0);
static FAULT_CR2: AtomicU64 = AtomicU64::new(0);

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

#[repr(C, align(16))]
struct Tables {
    idt: [[u64; 2]; 256],
    gdt: [u64; 9],
    tss: [u32; 26],
}

struct TablesCell(UnsafeCell<Tables>);
// SAFETY: one vCPU; written by `init` only.
unsafe impl Sync for TablesCell {}

static TABLES: TablesCell = TablesCell(UnsafeCell::new(Tables {
    idt: [[0; 2]; 256],
    gdt: [0; 9],
    tss: [0; 26],
}));

const STACK_SIZE: usize = 32768;
#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; STACK_SIZE]>);
// SAFETY: only the CPU uses them, by way of the TSS.
unsafe impl Sync for Stack {}
static USER_ENTRY_STACK: Stack = Stack(UnsafeCell::new([0; STACK_SIZE]));
static DOUBLE_FAULT_STACK: Stack = Stack(UnsafeCell::new([0; STACK_SIZE]));

impl Tables {
    fn fill(&mut self) {
        let tss = &raw const self.tss as u64;
        self.gdt = [
            0,
            0x00AF_9A00_0000_FFFF,
            0x00CF_9200_0000_FFFF,
            0,
            0x00CF_F200_0000_FFFF,
            0x00AF_FA00_0000_FFFF,
            0x0000_8900_0000_0067 | (tss & 0xFF_FFFF) << 16 | (tss >> 24 & 0xFF) << 56,
            tss >> 32,
            0x00CF_9A00_0000_FFFF,
        ];
        self.set_stack(1, &USER_ENTRY_STACK);
        self.set_stack(9, &DOUBLE_FAULT_STACK);
        self.tss[25] = 0x68 << 16;
        for (vector, gate) in self.idt.iter_mut().enumerate() {
            let stub = &raw const trap_stubs as u64 + vector as u64 * 16;
            let ist = u64::from(vector == 8);
            let access = if vector == 0x81 { 0xEE00 } else { 0x8E00 };
            gate[0] = stub & 0xFFFF
                | KERNEL_CS << 16
                | ist << 32
                | access << 32
                | (stub >> 16 & 0xFFFF) << 48;
            gate[1] = stub >> 32;
        }
    }

    /// Puts the top of `stack` at 32-bit word `word` of the TSS.
    fn set_stack(&mut self, word: usize, stack: &'static Stack) {
        self.set_stack_top(word, stack.0.get() as u64 + STACK_SIZE as u64);
    }

    fn set_stack_top(&mut self, word: usize, top: u64) {
        self.tss[word] = (top & 0xFFFF_FFFF) as u32;
        self.tss[word + 1] = (top >> 32) as u32;
    }
}

unsafe extern "C" {
    static trap_stubs: u8;
    static extable_start: [u64; 2];
    static extable_end: [u64; 2];
    static recover_point: u8;
    fn protected_call(body: extern "C" fn()) -> u64;
    fn user_call(rip: u64, rax: u64) -> u64;
}

extern "C" fn trap_entry(frame: &mut TrapFrame) {
    let handler = HANDLERS[(frame.vector & 0xFF) as usize].load(Relaxed);
    if handler != 0 {
        // SAFETY: only `set_handler` stores there, and only values made from a `Handler`.
        let handler = unsafe { core::mem::transmute::<usize, Handler>(handler) };
        handler(frame);
    } else if let Some(fixup) = fixup_of(frame.rip).filter(|_| frame.vector < 32) {
        FAULT_VECTOR.store(frame.vector as u32, Relaxed);
        FAULT_ERROR.store(frame.error as u32, Relaxed);
        FAULT_CR2.store(crate::insn::cr2(), Relaxed);
        TAKEN.store(true, Relaxed);
        frame.rip = fixup;
    } else {
        report::note_unexpected(frame);
        frame.rip = &raw const recover_point as u64;
        frame.cs = KERNEL_CS;
        frame.ss = 0x10;
        frame.rflags = 2;
    }
}

fn fixup_of(rip: u64) -> Option<u64> {
    let start = &raw const extable_start;
    let entries = (&raw const extable_end as usize - start as usize) / size_of::<[u64; 2]>();
    // SAFETY: the linker script puts the table, of whole entries, between the two symbols.
    let table = unsafe { core::slice::from_raw_parts(start, entries) };
    table
        .iter()
        .find(|entry| entry[0] == rip)
        .map(|entry| entry[1])
}

global_asm!(
    ".pushsection .text, \"ax\"",
    ".balign 16",
    "trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    // the CPU pushes an error code for these
    ".if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)",
    "pushq $0",
    ".endif",
    "pushq $vector",
    "jmp trap_common",
    ".set vector, vector + 1",
    ".endr",
    "trap_common:",
    "pushq %rax",
    "pushq %rbx",
    "pushq %rcx",
    "pushq %rdx",
    "pushq %rsi",
    "pushq %rdi",
    "pushq %rbp",
    "pushq %r8",
    "pushq %r9",
    "pushq %r10",
    "pushq %r11",
    "pushq %r12",
    "pushq %r13",
    "pushq %r14",
    "pushq %r15",
    "cld",
    // the return from user mode: RAX as it is, and back to who went there
    "cmpq $0x81, 120(%rsp)",
    "je user_return",
    "movq %rsp, %rdi",
    "call {trap_entry}",
    "popq %r15",
    "popq %r14",
    "popq %r13",
    "popq %r12",
    "popq %r11",
    "popq %r10",
    "popq %r9",
    "popq %r8",
    "popq %rbp",
    "popq %rdi",
    "popq %rsi",
    "popq %rdx",
    "popq %rcx",
    "popq %rbx",
    "popq %rax",
    "addq $16, %rsp",
    "iretq",
    "protected_call:",
    "pushq %rbx",
    "pushq %rbp",
    "pushq %r12",
    "pushq %r13",
    "pushq %r14",
    "pushq %r15",
    "movq %rsp, recover_rsp(%rip)",
    "subq $8, %rsp",
    "call *%rdi",
    "xorl %eax, %eax",
    "jmp 2f",
    ".globl recover_point",
    "recover_point:",
    "movl $1, %eax",
    "2:",
    "movq recover_rsp(%rip), %rsp",
    "popq %r15",
    "popq %r14",
    "popq %r13",
    "popq %r12",
    "popq %rbp",
    "popq %rbx",
    "ret",
    "user_call:",
    "pushq %rbx",
    "pushq %rbp",
    "pushq %r12",
    "pushq %r13",
    "pushq %r14",
    "pushq %r15",
    "movq %rsp, user_rsp(%rip)",
    "movq %rsi, %rax",
    "pushq ${user_ds}",
    "leaq -256(%rsp), %rbx",
    "pushq %rbx",
    "pushq $2",
    "pushq ${user_cs}",
    "pushq %rdi",
    "iretq",
    "user_return:",
    "movq 112(%rsp), %rax",
    "movq user_rsp(%rip), %rsp",
    "movl $16, %ecx",
    "movl %ecx, %ds",
    "movl %ecx, %es",
    // null since the event, with which 32-bit code cannot be gone back to
    "movl %ecx, %ss",
    "popq %r15",
    "popq %r14",
    "popq %r13",
    "popq %r12",
    "popq %rbp",
    "popq %rbx",
    "ret",
    ".popsection",
    ".pushsection .bss, \"aw\", @nobits",
    ".balign 8",
    "recover_rsp: .skip 8",
    "user_rsp: .skip 8",
    ".popsection",
    trap_entry = sym trap_entry,
    user_cs = const USER_CS,
    user_ds = const USER_DS,
    options(att_syntax),
);
