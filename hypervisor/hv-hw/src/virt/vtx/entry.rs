//! Into the guest and back: the two halves of [`enter`], which the CPU joins.
//!
//! `enter` saves what Rust expects to find again, loads the guest's registers and resumes it; the VM exit lands in
//! `exit_landing` with the same stack pointer, which undoes that in reverse. Extended state (x87, SSE, AVX …) is not
//! touched: the hypervisor is built without it, so the guest's stays in the registers.
// UNSAFETY: the CPU enters and leaves the guest here, with every register in other hands in between.
#![expect(unsafe_code, reason = "VM entry and exit")]

use core::arch::naked_asm;
use core::mem::offset_of;

use super::super::GuestRegs;

/// Enters the guest of the current VMCS with `regs` and returns, after its VM exit, 0 with `regs` updated; 1 where the
/// VM entry instruction failed.
///
/// # Safety
/// A VMCS is current, its host state is this CPU's with `HostRip` at [`landing`], `regs` is valid, interrupts are
/// off, and `launched` says whether this VMCS was launched since its last VMCLEAR.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn enter(regs: *mut GuestRegs, launched: u64) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        // HostRsp: where exit_landing finds the pointer to the registers
        "mov eax, 0x6C14",
        "vmwrite rax, rsp",
        "test esi, esi",
        "mov rax, [rdi + 0x00]",
        "mov rcx, [rdi + 0x08]",
        "mov rdx, [rdi + 0x10]",
        "mov rbx, [rdi + 0x18]",
        "mov rbp, [rdi + 0x28]",
        "mov rsi, [rdi + 0x30]",
        "mov r8,  [rdi + 0x40]",
        "mov r9,  [rdi + 0x48]",
        "mov r10, [rdi + 0x50]",
        "mov r11, [rdi + 0x58]",
        "mov r12, [rdi + 0x60]",
        "mov r13, [rdi + 0x68]",
        "mov r14, [rdi + 0x70]",
        "mov r15, [rdi + 0x78]",
        "mov rdi, [rdi + 0x38]",
        // the loads leave the flags of the test alone
        "jz 2f",
        "vmresume",
        "jmp 3f",
        "2: vmlaunch",
        "3:",
        "mov eax, 1",
        "pop rdi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// Where every VM exit lands: the second half of [`enter`]. Never called.
#[unsafe(naked)]
unsafe extern "sysv64" fn exit_landing() {
    naked_asm!(
        "push rdi",
        "mov rdi, [rsp + 8]",
        "mov [rdi + 0x00], rax",
        "mov [rdi + 0x08], rcx",
        "mov [rdi + 0x10], rdx",
        "mov [rdi + 0x18], rbx",
        "mov [rdi + 0x28], rbp",
        "mov [rdi + 0x30], rsi",
        "pop rax",
        "mov [rdi + 0x38], rax",
        "mov [rdi + 0x40], r8",
        "mov [rdi + 0x48], r9",
        "mov [rdi + 0x50], r10",
        "mov [rdi + 0x58], r11",
        "mov [rdi + 0x60], r12",
        "mov [rdi + 0x68], r13",
        "mov [rdi + 0x70], r14",
        "mov [rdi + 0x78], r15",
        // no value of the guest's is left for speculation in what Rust did not save itself
        "xor eax, eax",
        "xor ecx, ecx",
        "xor edx, edx",
        "xor esi, esi",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "xor r11d, r11d",
        "pop rdi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// The address for the host instruction pointer of every VMCS.
pub(super) fn landing() -> u64 {
    exit_landing as *const () as u64
}

const _: () = assert!(
    offset_of!(GuestRegs, gpr) == 0,
    "the offsets above count from the first register"
);
