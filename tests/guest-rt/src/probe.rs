//! Short sequences whose exact instruction boundaries matter: what a hypercall leaves in registers, where a single step
//! or an interrupt lands, ways to end the domain.

// UNSAFETY: sequences that a compiler must not touch.
#![expect(unsafe_code, reason = "sequences of exact instructions")]

use crate::hypercall::vmcall;
use crate::traps::{self, Fault, KERNEL_CS, NARROW_CS, TrapFrame};
use crate::{insn, memory};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use guest_abi::arch_x86::hvm::start_info::XEN_HVM_MEMMAP_TYPE_RAM;

static RIPS: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];
static RIP_COUNT: AtomicUsize = AtomicUsize::new(0);

/// Addresses at which a sequence was interrupted, relative to its first instruction's end.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted {
    /// How many times.
    pub count: usize,
    /// Address of the first one.
    pub first: u64,
    /// Address behind the sequence's interesting instruction.
    pub expected: u64,
}

/// General registers (bit by number, rax = 0; 4 = rsp unused) that a hypercall changed other than rax, and its result.
#[must_use]
pub fn changed_by_hypercall(number: u64, arg1: u64, arg2: u64) -> (u32, i64) {
    let mut after = [0u64; 16];
    let pattern = |register: u64| 0x1111_1111_1111_1111u64.wrapping_mul(register) ^ 0x5A5A;
    let mut before = [0u64; 16];
    (0..16)
        .zip(before.iter_mut())
        .for_each(|(register, slot)| *slot = pattern(register));
    before[0] = number;
    before[7] = arg1;
    before[6] = arg2;
    // SAFETY: saves and restores what the C convention asks for; the call is given no pointers.
    unsafe { hypercall_with_all(before.as_ptr(), after.as_mut_ptr()) };
    let changed = (1..16)
        .filter(|&r| r != 4 && before[r] != after[r])
        .fold(0, |mask, r| mask | 1 << r);
    (changed, after[0] as i64)
}

/// Single-steps over CPUID, which exits: where the first #DB came, and how many.
#[must_use]
pub fn single_step_over_cpuid() -> Interrupted {
    log_rips(1, || {
        let expected;
        // SAFETY: flags are put back; CPUID's results are thrown away; no stack is used below what is pushed.
        unsafe {
            asm!(
                "mov r11, rbx",
                "pushfq",
                "or qword ptr [rsp], 0x100",
                "popfq",
                "cpuid",
                "5: pushfq",
                "and qword ptr [rsp], ~0x100",
                "popfq",
                "mov rbx, r11",
                "lea {expected}, [rip + 5b]",
                expected = out(reg) expected,
                inout("eax") 0 => _, inout("ecx") 0 => _, out("edx") _, out("r11") _,
            );
        };
        expected
    })
}

/// Opens interrupts with one pending: where it came. STI holds it off for one instruction.
#[must_use]
pub fn interrupt_after_sti(vector: u8) -> Interrupted {
    log_rips(vector, || {
        let expected;
        // SAFETY: interrupts are off again after; the handler touches atomics.
        unsafe {
            asm!(
                "sti",
                "nop",
                "5: nop",
                "nop",
                "cli",
                "lea {expected}, [rip + 5b]",
                expected = out(reg) expected,
            );
        };
        expected
    })
}

/// Opens interrupts with one pending and halts at once: must come back.
pub fn halt_with_interrupt_pending(vector: u8) -> Interrupted {
    log_rips(vector, || {
        let expected;
        // SAFETY: interrupts are off again after; the handler touches atomics.
        unsafe {
            asm!("sti", "hlt", "5: cli", "lea {expected}, [rip + 5b]", expected = out(reg) expected);
        };
        expected
    })
}

/// INT3: the address that #BP reports is the one behind it.
#[must_use]
pub fn breakpoint() -> Interrupted {
    log_rips(3, || {
        let expected;
        // SAFETY: the handler comes back behind it.
        unsafe { asm!("int3", "5: lea {expected}, [rip + 5b]", expected = out(reg) expected) };
        expected
    })
}

/// The instructions that raise events of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Software {
    /// INT n.
    Interrupt,
    /// INT3.
    Breakpoint,
    /// INT1.
    Debug,
    /// INTO, which 64-bit code does not have: in compatibility mode.
    Overflow,
}

/// A software interrupt, its handler on a stack that ends at `stack_top` where one is given: the address that the
/// handler was told, and the one behind the instruction.
#[must_use]
pub fn software(instruction: Software, stack_top: Option<u64>) -> Interrupted {
    const INT_N: u8 = 0x80;
    let vector = match instruction {
        Software::Interrupt => INT_N,
        Software::Breakpoint => 3,
        Software::Debug => 1,
        Software::Overflow => 4,
    };
    traps::set_stack(vector, stack_top);
    let seen = log_rips(vector, || {
        let expected;
        match instruction {
            // SAFETY: the handler comes back behind it.
            Software::Interrupt => unsafe {
                asm!("int 0x80", "5: lea {0}, [rip + 5b]", out(reg) expected)
            },
            // SAFETY: as above.
            Software::Breakpoint => unsafe {
                asm!("int3", "5: lea {0}, [rip + 5b]", out(reg) expected)
            },
            // SAFETY: as above.
            Software::Debug => unsafe {
                asm!(".byte 0xF1", "5: lea {0}, [rip + 5b]", out(reg) expected)
            },
            Software::Overflow => {
                narrow_into();
                expected = &raw const narrow_into_end as u64;
            }
        }
        expected
    });
    traps::set_stack(vector, None);
    seen
}

/// INT1 in user mode.
#[must_use]
pub fn int1_in_user_mode() -> Interrupted {
    log_rips(1, || {
        traps::in_user_mode(user_int1, 0);
        &raw const user_int1_end as u64
    })
}

/// True where the screen's memory is memory, behind the part that a screen of text shows.
#[must_use]
pub fn is_screen_there() -> bool {
    const LAST_WORD: u64 = 0xB_8FF8;
    const PATTERN: u64 = 0x0123_4567_89AB_CDEF;
    // SAFETY: a device's memory.
    let is_written = unsafe { insn::poke(LAST_WORD, PATTERN) }.is_ok();
    is_written && insn::peek(LAST_WORD) == Ok(PATTERN)
}

/// Faults with no interrupt table: a triple fault.
pub fn triple_fault() -> ! {
    let nothing = [0u16; 5];
    // SAFETY: does not come back.
    unsafe { asm!("lidt [{}]", "ud2", in(reg) &raw const nothing, options(noreturn)) }
}

/// Sets a bit of CR4 that the guest must not be able to set.
///
/// # Errors
/// The fault it raised: always, if the hypervisor is right.
pub fn set_cr4_reserved(bit: u64) -> Result<(), Fault> {
    // SAFETY: none of these bits changes what memory means.
    unsafe { insn::set_cr4_safe(insn::cr4() | bit) }
}

/// Sets a bit of CR0 that the guest must not be able to set.
///
/// # Errors
/// The fault it raised: always, if the hypervisor is right.
pub fn set_cr0_reserved(bit: u64) -> Result<(), Fault> {
    // SAFETY: reserved bits mean nothing to the CPU.
    unsafe { insn::set_cr0_safe(insn::cr0() | bit) }
}

/// Flips CR0.NE, which VMX wants set and a guest need not know.
///
/// # Errors
/// The fault it raised.
pub fn toggle_cr0_ne() -> Result<(), Fault> {
    // SAFETY: only how x87 errors are told.
    unsafe { insn::set_cr0_safe(insn::cr0() ^ 0x20) }
}

/// Writes into the spare range ([`crate::memory::spare_range`]).
///
/// # Errors
/// The fault it raised.
///
/// # Panics
/// Where the address is outside of it: the test is wrong.
pub fn write_spare(address: u64, value: u64) -> Result<(), Fault> {
    let start = memory::spare_range().expect("a test got an address from it");
    assert!(address >= start && address < start + memory::SPARE_PAGES * memory::PAGE_SIZE);
    // SAFETY: no object of ours lies in the spare range.
    unsafe { insn::poke(address, value) }
}

/// Writes where the memory map says that nothing of the guest's is.
///
/// # Errors
/// The fault it raised.
///
/// # Panics
/// Where the map calls it RAM: the test is wrong.
pub fn write_not_given(address: u64, value: u64) -> Result<(), Fault> {
    assert_ne!(memory::type_of(address), Some(XEN_HVM_MEMMAP_TYPE_RAM));
    // SAFETY: no object of ours lies outside RAM.
    unsafe { insn::poke(address, value) }
}

/// VMCALL in user mode; what it returned.
#[must_use]
pub fn hypercall_from_user_mode(number: u64) -> i64 {
    traps::in_user_mode(user_vmcall, number) as i64
}

/// xen_version, version, by its stub in a page of RAM that the hypercall page MSR filled.
#[must_use]
pub fn version_through_page(page: u64) -> i64 {
    const STUB: u64 = 17 * 32;
    let result: u64;
    // SAFETY: the stub changes rax only, and returns; the call writes no memory.
    unsafe {
        asm!("call {0}", in(reg) page + STUB, in("rdi") 0, in("rsi") 0, out("rax") result, in("rdx") 0, in("r10") 0,
            in("r8") 0);
    };
    result as i64
}

fn log_rips(vector: u8, sequence: impl FnOnce() -> u64) -> Interrupted {
    RIP_COUNT.store(0, SeqCst);
    traps::set_handler(vector, Some(note_rip));
    let expected = sequence();
    traps::set_handler(vector, None);
    Interrupted {
        count: RIP_COUNT.load(SeqCst),
        first: RIPS[0].load(SeqCst),
        expected,
    }
}

fn note_rip(frame: &mut TrapFrame) {
    let index = RIP_COUNT.fetch_add(1, SeqCst);
    RIPS[index % RIPS.len()].store(frame.rip, SeqCst);
    if frame.vector >= 32 {
        let _ = crate::insn::wrmsr_safe(crate::event::X2APIC_EOI, 0);
    }
}

unsafe extern "C" {
    fn hypercall_with_all(before: *const u64, after: *mut u64);
    safe fn user_vmcall();
    safe fn user_int1();
    safe fn narrow_into();
    static user_int1_end: u8;
    static narrow_into_end: u8;
}

global_asm!(
    ".pushsection .text, \"ax\"",
    "user_vmcall:",
    vmcall!(),
    "int $0x81",
    "user_int1: .byte 0xf1",
    "user_int1_end: int $0x81",
    "narrow_into:",
    "pushq %rbx",
    "pushq %rbp",
    "pushq ${narrow}",
    "pushq $2f",
    "lretq",
    ".code32",
    // OF
    "2: movb $0x7f, %al",
    "addb $1, %al",
    "into",
    "narrow_into_end: ljmp ${kernel}, $3f",
    ".code64",
    "3: popq %rbp",
    "popq %rbx",
    "ret",
    "hypercall_with_all:",
    "pushq %rbx",
    "pushq %rbp",
    "pushq %r12",
    "pushq %r13",
    "pushq %r14",
    "pushq %r15",
    "pushq %rsi",
    "movq %rdi, %rax",
    "movq 8(%rax), %rcx",
    "movq 16(%rax), %rdx",
    "movq 24(%rax), %rbx",
    "movq 40(%rax), %rbp",
    "movq 48(%rax), %rsi",
    "movq 56(%rax), %rdi",
    "movq 64(%rax), %r8",
    "movq 72(%rax), %r9",
    "movq 80(%rax), %r10",
    "movq 88(%rax), %r11",
    "movq 96(%rax), %r12",
    "movq 104(%rax), %r13",
    "movq 112(%rax), %r14",
    "movq 120(%rax), %r15",
    "movq (%rax), %rax",
    vmcall!(),
    "xchgq %rax, (%rsp)",
    "movq %rcx, 8(%rax)",
    "movq %rdx, 16(%rax)",
    "movq %rbx, 24(%rax)",
    "movq %rbp, 40(%rax)",
    "movq %rsi, 48(%rax)",
    "movq %rdi, 56(%rax)",
    "movq %r8, 64(%rax)",
    "movq %r9, 72(%rax)",
    "movq %r10, 80(%rax)",
    "movq %r11, 88(%rax)",
    "movq %r12, 96(%rax)",
    "movq %r13, 104(%rax)",
    "movq %r14, 112(%rax)",
    "movq %r15, 120(%rax)",
    "popq (%rax)",
    "popq %r15",
    "popq %r14",
    "popq %r13",
    "popq %r12",
    "popq %rbp",
    "popq %rbx",
    "ret",
    ".popsection",
    narrow = const NARROW_CS,
    kernel = const KERNEL_CS,
    options(att_syntax),
);
