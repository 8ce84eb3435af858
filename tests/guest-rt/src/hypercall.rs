//! Hypercalls: VMCALL with rax = number, rdi, rsi, rdx, r10, r8; the result as the guest sees it, a signed number.
//!
//! On AMD's CPUs the instruction is VMMCALL. The kernel is written with VMCALL, and [`adapt`] changes each before
//! anything else runs: a call is one instruction on either, wherever it stands.

// UNSAFETY: VMCALL, and pointers handed to the hypervisor; its own code is changed.
#![expect(unsafe_code, reason = "hypercalls write through pointers")]

use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
use guest_abi::Errno;
use guest_abi::arch_x86::cpuid::{
    XEN_CPUID_FIRST_LEAF, XEN_CPUID_SIGNATURE_EBX, XEN_CPUID_SIGNATURE_ECX,
};
use guest_abi::xen::{
    __HYPERVISOR_event_channel_op, __HYPERVISOR_hvm_op, __HYPERVISOR_memory_op,
    __HYPERVISOR_multicall, __HYPERVISOR_sched_op, __HYPERVISOR_vcpu_op, __HYPERVISOR_xen_version,
    MulticallEntry,
};
use zerocopy::{FromBytes, IntoBytes};

/// Whether there is a hypervisor that speaks this ABI.
#[must_use]
pub fn present() -> bool {
    match PRESENT.load(Relaxed) {
        0 => {
            let leaf = crate::insn::cpuid(XEN_CPUID_FIRST_LEAF, 0);
            let is_xen = leaf.ebx == XEN_CPUID_SIGNATURE_EBX && leaf.ecx == XEN_CPUID_SIGNATURE_ECX;
            PRESENT.store(1 + u8::from(is_xen), Relaxed);
            is_xen
        }
        known => known == 2,
    }
}

static PRESENT: AtomicU8 = AtomicU8::new(0);

/// VMCALL, in a list of those that [`adapt`] changes: for `asm!` and `global_asm!`.
macro_rules! vmcall {
    () => {
        "771: vmcall\n.pushsection .hypercalls, \"a\"\n.quad 771b\n.popsection"
    };
}
pub(crate) use vmcall;

unsafe extern "C" {
    static hypercalls_start: u64;
    static hypercalls_end: u64;
}

/// The instruction of a hypercall on this CPU: kernels choose by the vendor.
#[must_use]
pub fn instruction() -> [u8; 3] {
    if crate::insn::is_amd() {
        [0x0F, 0x01, 0xD9]
    } else {
        [0x0F, 0x01, 0xC1]
    }
}

/// Makes every hypercall of the kernel this CPU's. Once, before the first.
pub(crate) fn adapt() {
    let [.., last] = instruction();
    let start = &raw const hypercalls_start;
    let count = (&raw const hypercalls_end as usize - start as usize) / size_of::<u64>();
    // SAFETY: the linker script puts a table of whole addresses between the two symbols.
    let sites = unsafe { core::slice::from_raw_parts(start, count) };
    for site in sites {
        let end = (*site as *mut u8).wrapping_add(2);
        // SAFETY: the last byte of an instruction of ours, in a page that can be written; nobody runs it now.
        unsafe { end.write_volatile(last) };
    }
}

/// What a refusal looks like to the guest.
#[must_use]
pub const fn refused(errno: Errno) -> i64 {
    errno.to_rax() as i64
}

/// Calls `number` with any arguments.
///
/// # Safety
/// Memory that the call writes must not be Rust's, or be handed over as such.
#[must_use]
pub unsafe fn raw(number: u64, args: [u64; 5]) -> i64 {
    let result: u64;
    // SAFETY: the ABI changes no register but rax; the caller vouches for memory.
    unsafe {
        asm!(
            vmcall!(),
            inout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            options(nostack)
        );
    };
    result as i64
}

/// Calls `number` with arguments that are no pointers.
#[must_use]
pub fn plain(number: u64, args: [u64; 2]) -> i64 {
    // SAFETY: no pointers, nothing is written.
    unsafe { raw(number, [args[0], args[1], 0, 0, 0]) }
}

/// Calls `number` with a sub-operation and a struct that the call may fill in.
#[must_use]
pub fn with<T: IntoBytes + FromBytes>(number: u64, op: u32, arg: &mut T) -> i64 {
    // SAFETY: the struct is ours, and any bytes written to it are valid.
    unsafe {
        raw(
            number,
            [u64::from(op), core::ptr::from_mut(arg) as u64, 0, 0, 0],
        )
    }
}

/// Calls `number` with a struct that the call may fill in, and nothing else.
#[must_use]
pub fn with_only<T: IntoBytes + FromBytes>(number: u64, arg: &mut T) -> i64 {
    // SAFETY: the struct is ours, and any bytes written to it are valid.
    unsafe { raw(number, [core::ptr::from_mut(arg) as u64, 0, 0, 0, 0]) }
}

/// Calls `number` with a pointer, as third argument, that must be refused.
#[must_use]
pub fn with_bad_pointer(number: u64, op: u64, second: u64, pointer: u64) -> i64 {
    // SAFETY: tests give addresses at which nothing of ours lies.
    unsafe { raw(number, [op, second, pointer, 0, 0]) }
}

/// Calls `number` with an operation, a length in bytes and a buffer to fill.
#[must_use]
pub fn with_buffer(number: u64, op: u64, length: u64, buffer: &mut [u64]) -> i64 {
    assert!(length <= size_of_val(buffer) as u64);
    // SAFETY: the buffer is ours, as long as said, and any bytes written to it are valid.
    unsafe { raw(number, [op, length, buffer.as_mut_ptr() as u64, 0, 0]) }
}

/// Calls `number` with an operation and an array of `count` structs at an address.
#[must_use]
pub fn with_array(number: u64, op: u32, array: u64, count: u64) -> i64 {
    // SAFETY: tests give addresses of structs of theirs, of which any bytes are valid.
    unsafe { raw(number, [u64::from(op), array, count, 0, 0]) }
}

/// multicall.
#[must_use]
pub fn multicall(calls: &mut [MulticallEntry]) -> i64 {
    // SAFETY: the entries are ours; tests put calls in them that write no memory.
    unsafe {
        raw(
            __HYPERVISOR_multicall,
            [calls.as_mut_ptr() as u64, calls.len() as u64, 0, 0, 0],
        )
    }
}

/// event_channel_op.
#[must_use]
pub fn event_channel<T: IntoBytes + FromBytes>(op: u32, mut arg: T) -> (i64, T) {
    (with(__HYPERVISOR_event_channel_op, op, &mut arg), arg)
}

/// memory_op.
#[must_use]
pub fn memory<T: IntoBytes + FromBytes>(op: u32, mut arg: T) -> (i64, T) {
    (with(__HYPERVISOR_memory_op, op, &mut arg), arg)
}

/// hvm_op.
#[must_use]
pub fn hvm<T: IntoBytes + FromBytes>(op: u32, mut arg: T) -> (i64, T) {
    (with(__HYPERVISOR_hvm_op, op, &mut arg), arg)
}

/// sched_op.
#[must_use]
pub fn sched<T: IntoBytes + FromBytes>(op: u32, mut arg: T) -> i64 {
    with(__HYPERVISOR_sched_op, op, &mut arg)
}

/// vcpu_op with a struct.
#[must_use]
pub fn vcpu<T: IntoBytes + FromBytes>(op: u32, vcpu: u32, mut arg: T) -> (i64, T) {
    let pointer = &raw mut arg as u64;
    // SAFETY: the struct is ours, and any bytes written to it are valid.
    let result = unsafe {
        raw(
            __HYPERVISOR_vcpu_op,
            [u64::from(op), u64::from(vcpu), pointer, 0, 0],
        )
    };
    (result, arg)
}

/// vcpu_op without one.
#[must_use]
pub fn vcpu_plain(op: u32, vcpu: u32) -> i64 {
    plain(__HYPERVISOR_vcpu_op, [u64::from(op), u64::from(vcpu)])
}

/// xen_version into `buffer`.
#[must_use]
pub fn version_text(op: u32, buffer: &mut [u8]) -> i64 {
    // SAFETY: tests give buffers of the length that the operation writes.
    unsafe {
        raw(
            __HYPERVISOR_xen_version,
            [u64::from(op), buffer.as_mut_ptr() as u64, 0, 0, 0],
        )
    }
}
