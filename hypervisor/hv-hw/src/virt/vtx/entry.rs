//! Into the guest and back: the two halves of [`enter`], which the CPU joins.
//!
//! There are two such pairs: [`enter`] and [`landing`] on a CPU that has nothing to hide or to be kept from, and
//! [`enter_guarded`] and [`guarded_landing`] on the others (see `guard`).
//!
//! `enter` saves what Rust expects to find again, loads the guest's registers and resumes it; the VM exit lands in
//! `exit_landing` with the same stack pointer, which undoes that in reverse. Extended state (x87, SSE, AVX …) is not
//! touched: the hypervisor is built without it, so the guest's stays in the registers.
// UNSAFETY: the CPU enters and leaves the guest here, with every register in other hands in between.
#![expect(unsafe_code, reason = "VM entry and exit")]

use core::arch::naked_asm;
use core::mem::offset_of;

use hv_core::speculation::Defences;

use super::super::GuestRegs;
use super::super::gprs::{load_gprs, save_gprs};
use super::super::guard::{
    FLUSH_L1D, Guard, load_guest_spec_ctrl, load_host_spec_ctrl, stuff_return_stack,
};

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
        load_gprs!(),
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
        save_gprs!(),
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

/// The address for the host instruction pointer of every VMCS that is entered by [`enter`].
pub(super) fn landing() -> u64 {
    exit_landing as *const () as u64
}

/// A data segment, for VERW: with a valid selector it takes the path that overwrites buffers on every CPU.
static DATA_SELECTOR: u16 = crate::cpu::DATA_SELECTOR;

/// As [`enter`], with the guest's IA32_SPEC_CTRL, and L1D and buffers overwritten, as `guard` says.
///
/// The flags carry two answers over the loads of the guest's registers, none of which is free for them: ZF is clear
/// where VERW is due, which changes ZF alone, and CF says whether the VMCS was launched.
///
/// # Safety
/// As [`enter`], with `HostRip` at [`guarded_landing`], and `guard` valid.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn enter_guarded(
    regs: *mut GuestRegs,
    launched: u64,
    guard: *const Guard,
) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "push rdx",
        "mov eax, 0x6C14",
        "vmwrite rax, rsp",
        "mov r8, rdx",
        load_guest_spec_ctrl!(),
        "test dword ptr [r8 + {defences}], {flush}",
        "jz 3f",
        "mov ecx, 0x10B",
        "mov eax, {flush_l1d}",
        "xor edx, edx",
        "wrmsr",
        "3:",
        "test dword ptr [r8 + {defences}], {verw}",
        // leaves ZF alone
        "bt esi, 0",
        "mov rax, [rdi + 0x00]",
        load_gprs!(),
        "jz 4f",
        "verw word ptr [rip + {selector}]",
        "4:",
        "jnc 5f",
        "vmresume",
        "jmp 6f",
        "5: vmlaunch",
        "6:",
        // refused: the hypervisor's value again
        "pop rdi",
        "mov rax, [rdi + {host}]",
        "cmp rax, [rdi + {guest}]",
        "je 7f",
        "mov rdx, rax",
        "shr rdx, 32",
        "mov ecx, 0x48",
        "wrmsr",
        "7:",
        "mov eax, 1",
        "pop rdi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        guest = const offset_of!(Guard, guest_spec_ctrl),
        host = const offset_of!(Guard, host_spec_ctrl),
        defences = const offset_of!(Guard, defences),
        flush = const Defences::L1D_FLUSH.bits(),
        flush_l1d = const FLUSH_L1D,
        verw = const Defences::VERW.bits(),
        selector = sym DATA_SELECTOR,
    )
}

/// Where every VM exit lands that [`enter_guarded`] precedes: its second half. Never called.
///
/// The branches between here and the last fence may be mispredicted, and skip what they are to skip to; nothing of the
/// guest's is in the registers by then, and nothing behind the fence runs before they are known.
#[unsafe(naked)]
unsafe extern "sysv64" fn guarded_exit_landing() {
    naked_asm!(
        "push rdi",
        "mov rdi, [rsp + 16]",
        "mov [rdi + 0x00], rax",
        save_gprs!(),
        "pop r8",
        "xor ebx, ebx",
        "xor esi, esi",
        "xor ebp, ebp",
        "xor r10d, r10d",
        "xor r11d, r11d",
        "xor r12d, r12d",
        "xor r13d, r13d",
        "xor r14d, r14d",
        "xor r15d, r15d",
        load_host_spec_ctrl!(),
        stuff_return_stack!(),
        "test r9d, {one}",
        "jz 6f",
        "call 8f",
        "int3",
        "8:",
        "add rsp, 8",
        "6:",
        // the branch history: as many taken branches as it holds (Intel, "Branch History Injection", the software
        // sequence)
        "mov r10d, 5",
        "mov ecx, 5",
        "test r9d, {history_short} | {history_long}",
        "jz 7f",
        "test r9d, {history_long}",
        "jz 2f",
        "mov r10d, 7",
        "mov ecx, 12",
        "2:",
        "call {clear_history}",
        "7:",
        "lfence",
        "xor eax, eax",
        "xor ecx, ecx",
        "xor edx, edx",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "pop rdi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        guest = const offset_of!(Guard, guest_spec_ctrl),
        host = const offset_of!(Guard, host_spec_ctrl),
        defences = const offset_of!(Guard, defences),
        ibrs = const Defences::IBRS.bits(),
        enhanced = const Defences::IBRS_ENHANCED.bits(),
        stuff = const Defences::RSB_STUFF.bits(),
        one = const Defences::RSB_ONE.bits(),
        history_short = const Defences::BHB_SHORT.bits(),
        history_long = const Defences::BHB_LONG.bits(),
        clear_history = sym clear_history,
    )
}

/// Takes as many branches as ECX times R10D says, in calls nested ECX deep; clobbers EAX and ECX.
#[unsafe(naked)]
unsafe extern "sysv64" fn clear_history() {
    naked_asm!(
        ".balign 64",
        "2: call 3f",
        "ret",
        ".balign 64",
        "3: mov eax, r10d",
        "4: jmp 5f",
        "nop",
        "5: dec eax",
        "jnz 4b",
        "dec ecx",
        "jnz 2b",
        "ret",
    )
}

/// The address for the host instruction pointer of every VMCS that is entered by [`enter_guarded`].
pub(super) fn guarded_landing() -> u64 {
    guarded_exit_landing as *const () as u64
}
