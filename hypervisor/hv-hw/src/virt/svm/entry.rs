//! Into the guest and back: one function, in whose middle the guest runs.
//!
//! Between CLGI and STGI nothing interrupts; IF is on meanwhile, so that a host interrupt that waits takes the CPU out
//! of the guest, and off again before STGI. Extended state (x87, SSE, AVX …) is not touched: the hypervisor is built
//! without it, so the guest's stays in the registers.
// UNSAFETY: the CPU enters and leaves the guest here, with every register in other hands in between.
#![expect(unsafe_code, reason = "VMRUN")]

use core::arch::naked_asm;
use core::mem::offset_of;

use hv_core::speculation::Defences;

use super::super::GuestRegs;
use super::super::gprs::{load_gprs, save_gprs};
use super::super::guard::{Guard, load_guest_spec_ctrl, load_host_spec_ctrl, stuff_return_stack};

/// A data segment, for VERW: with a valid selector it takes the path that overwrites buffers on every CPU.
static DATA_SELECTOR: u16 = crate::cpu::DATA_SELECTOR;

/// Runs the guest of the VMCB at physical address `vmcb` with `regs`, RAX and RSP from the VMCB, until its next VM
/// exit, and updates both. `guard` is null on a CPU that has nothing to hide or to be kept from.
///
/// An NMI that ended the guest has been taken when it returns; an external interrupt still waits.
///
/// The flags carry an answer over the loads of the guest's registers, none of which is free for it: ZF is clear where
/// VERW is due. The branches between the exit and the fence may be mispredicted, and skip what they are to skip to;
/// nothing of the guest's is in the registers by then, and nothing behind the fence runs before they are known.
///
/// # Safety
/// SVM is on, the VMCB is valid and its guest reaches no memory but its own; `host` is this CPU's host VMCB, `regs` is
/// valid and so is `guard` where it is not null, and interrupts are off.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn enter(
    regs: *mut GuestRegs,
    vmcb: u64,
    host: u64,
    guard: *const Guard,
) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "push rdx",
        "push rcx",
        "clgi",
        "sti",
        "mov rax, rsi",
        "vmload rax",
        "mov r8, rcx",
        "test r8, r8",
        "jz 3f",
        // IA32_SPEC_CTRL
        "mov r9, rax",
        load_guest_spec_ctrl!(),
        "mov rax, r9",
        "test dword ptr [r8 + {defences}], {verw}",
        "3:",
        load_gprs!(),
        "jz 4f",
        "verw word ptr [rip + {selector}]",
        "4:",
        "vmrun rax",
        // RAX and RSP are the hypervisor's again
        "vmsave rax",
        "push rdi",
        "mov rdi, [rsp + 24]",
        save_gprs!(),
        "mov rax, [rsp + 8]",
        "vmload rax",
        // no value of the guest's is left for speculation in what is not loaded below
        "xor ecx, ecx",
        "xor edx, edx",
        "xor esi, esi",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "xor r11d, r11d",
        "mov r8, [rsp]",
        "test r8, r8",
        "jz 6f",
        "xor ebx, ebx",
        "xor ebp, ebp",
        "xor r12d, r12d",
        "xor r13d, r13d",
        "xor r14d, r14d",
        "xor r15d, r15d",
        load_host_spec_ctrl!(),
        // what the guest has taught the CPU of branches
        "test r9d, {barrier}",
        "jz 5f",
        "mov eax, 1",
        "xor edx, edx",
        "mov ecx, 0x49",
        "wrmsr",
        "5:",
        stuff_return_stack!(),
        "6:",
        "lfence",
        "cli",
        "stgi",
        "add rsp, 16",
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
        verw = const Defences::VERW.bits(),
        ibrs = const Defences::IBRS.bits(),
        enhanced = const Defences::IBRS_ENHANCED.bits(),
        barrier = const Defences::IBPB_ENTRY.bits(),
        stuff = const Defences::RSB_STUFF.bits(),
        selector = sym DATA_SELECTOR,
    )
}
