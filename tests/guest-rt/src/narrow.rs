//! Hypercalls of 32-bit code: compatibility mode, arguments in EBX, ECX, EDX, ESI, EDI.

// UNSAFETY: enters a 32-bit code segment and hands pointers to the hypervisor.
#![expect(
    unsafe_code,
    reason = "far jumps, and hypercalls that write through pointers"
)]

use core::arch::global_asm;

use crate::hypercall::vmcall;
use crate::traps::{KERNEL_CS, NARROW_CS};
use guest_abi::compat::Compat;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// Calls `number` with arguments that are no pointers; the result as 32-bit code sees it.
#[must_use]
pub fn plain(number: u32, args: [u32; 2]) -> i32 {
    // SAFETY: no pointers, nothing is written.
    unsafe { raw([number, args[0], args[1], 0, 0, 0]) }
}

/// Calls `number` with a sub-operation and a struct in the layout of 32-bit code, which the call may fill in.
#[must_use]
pub fn with<T: Compat>(number: u64, op: u32, arg: T) -> (i32, T) {
    let mut narrow = Place(arg.narrow());
    let pointer = core::ptr::from_mut(&mut narrow.0) as u64 as u32;
    // SAFETY: the struct is ours, and any bytes written to it are valid.
    let result = unsafe { raw([number as u32, op, pointer, 0, 0, 0]) };
    (result, T::widen(narrow.0))
}

/// The same for a structure in the third argument, and a number in the second.
#[must_use]
pub fn with_second<T: Compat>(number: u64, op: u32, second: u32, arg: T) -> (i32, T) {
    let mut narrow = Place(arg.narrow());
    let pointer = core::ptr::from_mut(&mut narrow.0) as u64 as u32;
    // SAFETY: the struct is ours, and any bytes written to it are valid.
    let result = unsafe { raw([number as u32, op, second, pointer, 0, 0]) };
    (result, T::widen(narrow.0))
}

/// An array that a struct points to: its address, which 32 bits hold.
#[must_use]
pub fn address<T: FromBytes + IntoBytes + Immutable>(of: &mut [T]) -> u64 {
    of.as_mut_ptr() as u64
}

/// A structure with nothing in it.
#[must_use]
pub fn zeroed<T: FromZeros>() -> T {
    T::new_zeroed()
}

#[repr(align(16))]
struct Place<T>(T);

/// Makes the call of these EAX, EBX, ECX, EDX, ESI, EDI.
///
/// # Safety
/// Memory that the call writes must not be Rust's, or be handed over as such.
#[must_use]
pub unsafe fn raw(registers: [u32; 6]) -> i32 {
    // SAFETY: the routine keeps the C calling convention; the caller vouches for what the hypercall does.
    unsafe { narrow_call(registers.as_ptr()) }
}

unsafe extern "C" {
    /// EAX, EBX, ECX, EDX, ESI, EDI from `registers`; the image and its stacks lie below 4 GiB.
    fn narrow_call(registers: *const u32) -> i32;
}

global_asm!(
    ".pushsection .text, \"ax\"",
    "narrow_call:",
    "pushq %rbx",
    "pushq %rbp",
    "pushq %r12",
    "pushq %r13",
    "pushq %r14",
    "pushq %r15",
    "movl (%rdi), %eax",
    "movl 4(%rdi), %ebx",
    "movl 8(%rdi), %ecx",
    "movl 12(%rdi), %edx",
    "movl 16(%rdi), %esi",
    "movl 20(%rdi), %edi",
    "pushq ${narrow}",
    "pushq $2f",
    "lretq",
    ".code32",
    "2:",
    vmcall!(),
    "ljmp ${wide}, $3f",
    ".code64",
    "3: popq %r15",
    "popq %r14",
    "popq %r13",
    "popq %r12",
    "popq %rbp",
    "popq %rbx",
    "ret",
    ".popsection",
    narrow = const NARROW_CS,
    wide = const KERNEL_CS,
    options(att_syntax),
);
