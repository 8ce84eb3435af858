//! The general-purpose registers in the assembly of VM entry and exit, where each vendor's is the same.
//!
//! The offsets are those of [`GuestRegs`].

use core::mem::offset_of;

use super::GuestRegs;

/// Assembly of VM entry, with the address of the [`GuestRegs`] in RDI: loads all but RAX and RSP, RDI last. Leaves the
/// flags alone.
macro_rules! load_gprs {
    () => {
        concat!(
            "mov rcx, [rdi + 0x08]\n",
            "mov rdx, [rdi + 0x10]\n",
            "mov rbx, [rdi + 0x18]\n",
            "mov rbp, [rdi + 0x28]\n",
            "mov rsi, [rdi + 0x30]\n",
            "mov r8,  [rdi + 0x40]\n",
            "mov r9,  [rdi + 0x48]\n",
            "mov r10, [rdi + 0x50]\n",
            "mov r11, [rdi + 0x58]\n",
            "mov r12, [rdi + 0x60]\n",
            "mov r13, [rdi + 0x68]\n",
            "mov r14, [rdi + 0x70]\n",
            "mov r15, [rdi + 0x78]\n",
            "mov rdi, [rdi + 0x38]",
        )
    };
}
pub(super) use load_gprs;

/// Assembly of VM exit, with the address of the [`GuestRegs`] in RDI and the guest's RDI on the stack, which it takes
/// off: saves all but RAX and RSP. Changes RAX.
macro_rules! save_gprs {
    () => {
        concat!(
            "mov [rdi + 0x08], rcx\n",
            "mov [rdi + 0x10], rdx\n",
            "mov [rdi + 0x18], rbx\n",
            "mov [rdi + 0x28], rbp\n",
            "mov [rdi + 0x30], rsi\n",
            "pop rax\n",
            "mov [rdi + 0x38], rax\n",
            "mov [rdi + 0x40], r8\n",
            "mov [rdi + 0x48], r9\n",
            "mov [rdi + 0x50], r10\n",
            "mov [rdi + 0x58], r11\n",
            "mov [rdi + 0x60], r12\n",
            "mov [rdi + 0x68], r13\n",
            "mov [rdi + 0x70], r14\n",
            "mov [rdi + 0x78], r15",
        )
    };
}
pub(super) use save_gprs;

const _: () = assert!(
    offset_of!(GuestRegs, gpr) == 0,
    "the offsets above count from the first register"
);
