//! Single operations between two RDTSC, with as few instructions of ours between as can be.
//!
//! On silicon the fences keep the operation inside; in Bochs each costs one tick, as every instruction does.

// UNSAFETY: exact sequences of instructions.
#![expect(unsafe_code, reason = "sequences of exact instructions")]

use crate::hypercall::vmcall;
use core::arch::asm;

/// What a timed hypercall returned, and its ticks.
#[derive(Clone, Copy, Debug)]
pub struct Timed {
    /// rax.
    pub result: i64,
    /// From before VMCALL to after.
    pub ticks: u64,
}

/// Times one instruction. `$insn` may use eax, ecx and edx, which are set to `$eax`, `$ecx` and `$edx` before.
macro_rules! time_insn {
    ($insn:literal, $eax:expr, $ecx:expr, $edx:expr) => {{
        let ticks: u32;
        // SAFETY: the instruction's registers are declared; rbx, which CPUID changes, is kept in r11.
        unsafe {
            asm!(
                "mov r11, rbx",
                "lfence",
                "rdtsc",
                "mov r8d, eax",
                "mov eax, r9d",
                "mov edx, r10d",
                $insn,
                "lfence",
                "rdtsc",
                "sub eax, r8d",
                "mov rbx, r11",
                out("eax") ticks,
                inout("ecx") $ecx => _,
                out("edx") _,
                out("r8") _,
                in("r9") u64::from($eax),
                in("r10") u64::from($edx),
                out("r11") _,
                options(nostack)
            );
        }
        u64::from(ticks)
    }};
}

/// Nothing.
#[must_use]
pub fn nothing() -> u64 {
    time_insn!("", 0u32, 0u32, 0u32)
}

/// CPUID.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> u64 {
    time_insn!("cpuid", leaf, subleaf, 0u32)
}

/// RDMSR of a register that can be read.
#[must_use]
pub fn rdmsr(msr: u32) -> u64 {
    time_insn!("rdmsr", 0u32, msr, 0u32)
}

/// WRMSR of a register that can be written.
#[must_use]
pub fn wrmsr(msr: u32, value: u64) -> u64 {
    time_insn!("wrmsr", value as u32, msr, (value >> 32) as u32)
}

/// INVD.
#[must_use]
pub fn invd() -> u64 {
    time_insn!("invd", 0u32, 0u32, 0u32)
}

/// IN, a byte.
#[must_use]
pub fn inb(port: u16) -> u64 {
    time_insn!("in al, dx", 0u32, 0u32, u32::from(port))
}

/// OUT, a byte.
#[must_use]
pub fn outb(port: u16, value: u8) -> u64 {
    time_insn!("out dx, al", u32::from(value), 0u32, u32::from(port))
}

/// WBINVD.
#[must_use]
pub fn wbinvd() -> u64 {
    time_insn!("wbinvd", 0u32, 0u32, 0u32)
}

/// PAUSE.
#[must_use]
pub fn pause() -> u64 {
    time_insn!("pause", 0u32, 0u32, 0u32)
}

/// MOV CR3 of what it holds.
#[must_use]
pub fn reload_cr3() -> u64 {
    time_insn!("mov rax, cr3\nmov cr3, rax", 0u32, 0u32, 0u32)
}

/// CR4.PGE flipped twice.
#[must_use]
pub fn toggle_cr4_pge() -> u64 {
    time_insn!(
        "mov rax, cr4\nxor rax, 0x80\nmov cr4, rax\nxor rax, 0x80\nmov cr4, rax",
        0u32,
        0u32,
        0u32
    )
}

/// VMCALL with three arguments; pointers among them must be to what the call may write.
#[must_use]
pub fn hypercall(number: u64, first: u64, second: u64, third: u64) -> Timed {
    let ticks: u32;
    let result: u64;
    // SAFETY: the ABI changes rax only; callers pass pointers to structs of theirs.
    unsafe {
        asm!(
            "lfence",
            "rdtsc",
            "mov r8d, eax",
            "mov rax, r9",
            "mov rdx, r11",
            vmcall!(),
            "mov r9, rax",
            "lfence",
            "rdtsc",
            "sub eax, r8d",
            out("eax") ticks,
            out("edx") _,
            out("r8") _,
            inout("r9") number => result,
            in("r10") 0,
            in("r11") third,
            in("rdi") first,
            in("rsi") second,
            options(nostack)
        );
    }
    Timed {
        result: result as i64,
        ticks: u64::from(ticks),
    }
}
