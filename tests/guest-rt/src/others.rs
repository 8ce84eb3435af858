//! Other vCPUs of this guest, started by VCPUOP_initialise: each notes the registers that it began with, and goes down
//! as often as it is let up.

// UNSAFETY: the first instructions of a vCPU have no Rust to stand on.
#![expect(unsafe_code, reason = "entry code and what it leaves behind")]

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crate::hypercall::vmcall;
use crate::insn;
use guest_abi::hvm::hvm_vcpu::{
    VCPU_HVM_MODE_32B, VCPU_HVM_MODE_64B, VcpuHvmContext, VcpuHvmX8632, VcpuHvmX8664,
};
use guest_abi::vcpu::VCPUOP_down;
use guest_abi::xen::__HYPERVISOR_vcpu_op;
use zerocopy::IntoBytes;

/// The vCPU that begins in 64-bit code, with our page tables.
pub const WIDE: u32 = 1;
/// The vCPU that begins in 32-bit code, without paging.
pub const NARROW: u32 = 2;
/// AX CX DX BX, BP SI DI at the beginning, different in each.
const GPRS: [u32; 7] = [0xA1, 0xC2, 0xD3, 0xB4, 0xB6, 0x51, 0xD1];

/// What a vCPU began with.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Begun {
    /// AX CX DX BX SP BP SI DI.
    pub gprs: [u64; 8],
    /// RFLAGS.
    pub rflags: u64,
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
}

#[repr(C, align(16))]
struct Place<T>(UnsafeCell<T>);
// SAFETY: the vCPU writes them before it counts; this one reads them behind that.
unsafe impl<T> Sync for Place<T> {}

static STACK: Place<[u64; 16]> = Place(UnsafeCell::new([0; 16]));
static BEGUN: Place<[u64; 12]> = Place(UnsafeCell::new([0; 12]));
/// How often such a vCPU has run.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// How often such a vCPU has run.
pub fn count() -> u32 {
    COUNT.load(SeqCst)
}

/// What the last that began for the first time began with.
#[must_use]
pub fn begun() -> Begun {
    // SAFETY: only a vCPU that begins writes it, and the test waits for that.
    let words = unsafe { BEGUN.0.get().read_volatile() };
    let mut begun = Begun {
        rflags: words[8],
        cr0: words[9],
        cr3: words[10],
        cr4: words[11],
        ..Default::default()
    };
    begun.gprs.copy_from_slice(&words[..8]);
    begun
}

/// Forgets what the last began with.
pub fn forget() {
    // SAFETY: no vCPU is beginning.
    unsafe { BEGUN.0.get().write_volatile([0; 12]) };
}

/// A state to begin with in 64-bit code, and what it should see.
#[must_use]
pub fn wide() -> (VcpuHvmContext, Begun) {
    const HIGH: u64 = 0x1234_5678_0000_0000;
    let [rax, rcx, rdx, rbx, rbp, rsi, rdi] = GPRS.map(|value| HIGH | u64::from(value));
    let regs = VcpuHvmX8664 {
        rax,
        rcx,
        rdx,
        rbx,
        rsp: stack_top(),
        rbp,
        rsi,
        rdi,
        rip: &raw const other_wide as u64,
        rflags: 2,
        cr0: insn::cr0(),
        cr3: insn::cr3(),
        cr4: insn::cr4(),
        efer: insn::rdmsr_safe(EFER).unwrap_or(0),
    };
    let expected = Begun {
        gprs: [rax, rcx, rdx, rbx, regs.rsp, rbp, rsi, rdi],
        rflags: 2,
        cr0: regs.cr0,
        cr3: regs.cr3,
        cr4: regs.cr4,
    };
    (context(VCPU_HVM_MODE_64B, regs.as_bytes()), expected)
}

/// A state to begin with in 32-bit code with flat segments, and what it should see.
#[must_use]
pub fn narrow() -> (VcpuHvmContext, Begun) {
    const PE_ET: u32 = 0x11;
    const CODE: u16 = 0xC9B;
    const DATA: u16 = 0xC93;
    const BUSY_TSS: u16 = 0x8B;
    let [eax, ecx, edx, ebx, ebp, esi, edi] = GPRS;
    let regs = VcpuHvmX8632 {
        eax,
        ecx,
        edx,
        ebx,
        esp: stack_top() as u32,
        ebp,
        esi,
        edi,
        eip: &raw const other_narrow as u64 as u32,
        eflags: 2,
        cr0: PE_ET,
        limits: [u32::MAX, u32::MAX, u32::MAX, u32::MAX, 0x67],
        ars: [CODE, DATA, DATA, DATA, BUSY_TSS],
        ..Default::default()
    };
    let expected = Begun {
        gprs: [eax, ecx, edx, ebx, regs.esp, ebp, esi, edi].map(u64::from),
        rflags: 2,
        cr0: PE_ET.into(),
        cr3: 0,
        cr4: 0,
    };
    (context(VCPU_HVM_MODE_32B, regs.as_bytes()), expected)
}

const EFER: u32 = 0xC000_0080;

fn stack_top() -> u64 {
    STACK.0.get().wrapping_add(1) as u64
}

fn context(mode: u32, regs: &[u8]) -> VcpuHvmContext {
    let mut context = VcpuHvmContext {
        mode,
        pad: 0,
        cpu_regs: [0; 15],
    };
    context.cpu_regs.as_mut_bytes()[..regs.len()].copy_from_slice(regs);
    context
}

unsafe extern "C" {
    static other_wide: u8;
    static other_narrow: u8;
}

global_asm!(
    ".pushsection .text, \"ax\"",
    "other_wide:",
    "movq %rax, {begun}",
    "movq %rcx, {begun} + 8",
    "movq %rdx, {begun} + 16",
    "movq %rbx, {begun} + 24",
    "movq %rsp, {begun} + 32",
    "movq %rbp, {begun} + 40",
    "movq %rsi, {begun} + 48",
    "movq %rdi, {begun} + 56",
    "pushfq",
    "popq {begun} + 64",
    "movq %cr0, %rax",
    "movq %rax, {begun} + 72",
    "movq %cr3, %rax",
    "movq %rax, {begun} + 80",
    "movq %cr4, %rax",
    "movq %rax, {begun} + 88",
    "2: lock incl {count}",
    "movl ${vcpu_op}, %eax",
    "movl ${down}, %edi",
    "movl ${wide}, %esi",
    vmcall!(),
    "jmp 2b",
    ".code32",
    "other_narrow:",
    "movl %eax, {begun}",
    "movl %ecx, {begun} + 8",
    "movl %edx, {begun} + 16",
    "movl %ebx, {begun} + 24",
    "movl %esp, {begun} + 32",
    "movl %ebp, {begun} + 40",
    "movl %esi, {begun} + 48",
    "movl %edi, {begun} + 56",
    "pushfl",
    "popl {begun} + 64",
    "movl %cr0, %eax",
    "movl %eax, {begun} + 72",
    "movl %cr3, %eax",
    "movl %eax, {begun} + 80",
    "movl %cr4, %eax",
    "movl %eax, {begun} + 88",
    "2: lock incl {count}",
    "movl ${vcpu_op}, %eax",
    "movl ${down}, %ebx",
    "movl ${narrow}, %ecx",
    vmcall!(),
    "jmp 2b",
    ".code64",
    ".popsection",
    begun = sym BEGUN,
    count = sym COUNT,
    vcpu_op = const __HYPERVISOR_vcpu_op,
    down = const VCPUOP_down,
    wide = const WIDE,
    narrow = const NARROW,
    options(att_syntax),
);
