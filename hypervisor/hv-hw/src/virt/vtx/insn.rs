//! The VMX instructions, one function each.
// UNSAFETY: inline assembly of privileged instructions that no crate offers.
#![expect(unsafe_code, reason = "VMX instructions")]

use core::arch::asm;

use hv_core::addr::Hpa;

use super::fields::Field;

/// A VMX instruction failed: CF or ZF was set after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct VmFailed;

fn check(failed: u8) -> Result<(), VmFailed> {
    if failed == 0 { Ok(()) } else { Err(VmFailed) }
}

/// Enters VMX operation.
///
/// # Safety
/// CR4.VMXE is set, `region` is a frame of the VMM's own that starts with the VMCS revision identifier and stays so
/// until VMXOFF.
pub(super) unsafe fn vmxon(region: Hpa) -> Result<(), VmFailed> {
    let operand = region.as_u64();
    let failed: u8;
    // SAFETY: the caller vouches for the region and the mode.
    unsafe {
        asm!("vmxon [{}]", "setbe {}", in(reg) &operand, out(reg_byte) failed, options(nostack))
    };
    check(failed)
}

/// Makes `vmcs` not current and not active, writing what the CPU caches of it to memory.
///
/// # Safety
/// The CPU is in VMX operation and `vmcs` is a VMCS region of the caller's.
pub(super) unsafe fn vmclear(vmcs: Hpa) -> Result<(), VmFailed> {
    let operand = vmcs.as_u64();
    let failed: u8;
    // SAFETY: the caller vouches for the region and the mode.
    unsafe {
        asm!("vmclear [{}]", "setbe {}", in(reg) &operand, out(reg_byte) failed, options(nostack))
    };
    check(failed)
}

/// Makes `vmcs` current.
///
/// # Safety
/// The CPU is in VMX operation and `vmcs` is a cleared VMCS region of the caller's, active on no other CPU.
pub(super) unsafe fn vmptrld(vmcs: Hpa) -> Result<(), VmFailed> {
    let operand = vmcs.as_u64();
    let failed: u8;
    // SAFETY: the caller vouches for the region and the mode.
    unsafe {
        asm!("vmptrld [{}]", "setbe {}", in(reg) &operand, out(reg_byte) failed, options(nostack))
    };
    check(failed)
}

/// Reads a field of the current VMCS, which the CPU must have: else the value is anything.
///
/// To the compiler the VMCS is memory, which whatever changes it claims to write ([`vmwrite`], [`vmptrld`], the entry):
/// so it may leave out a read that nobody uses, and join two with nothing between them.
///
/// # Safety
/// A VMCS is current on this CPU.
#[inline(always)]
pub(super) unsafe fn vmread(field: Field) -> u64 {
    let value: u64;
    // SAFETY: reads CPU-internal state only; on failure the register keeps what it had.
    unsafe {
        asm!("vmread {}, {}", lateout(reg) value, in(reg) field as u64, options(pure, readonly, nostack))
    };
    value
}

/// Writes a field of the current VMCS.
///
/// # Safety
/// A VMCS is current on this CPU, and the value keeps what the VMM relies on (host state, controls, bitmaps).
#[inline(always)]
pub(super) unsafe fn vmwrite(field: Field, value: u64) {
    // SAFETY: writes CPU-internal state; the caller vouches for the value.
    unsafe { asm!("vmwrite {}, {}", in(reg) field as u64, in(reg) value, options(nostack)) };
}

/// Drops cached translations derived from the EPT pointer `eptp`.
///
/// # Safety
/// The CPU is in VMX operation and has INVEPT single-context.
pub(super) unsafe fn invept_single(eptp: u64) {
    let descriptor = [eptp, 0];
    // SAFETY: dropping cached translations is always sound; the type is supported as the caller says.
    unsafe {
        asm!("invept {}, [{}]", in(reg) 1u64, in(reg) &raw const descriptor, options(nostack))
    };
}

/// Drops cached translations tagged with `vpid`.
///
/// # Safety
/// The CPU is in VMX operation and has INVVPID single-context; `vpid` is not 0.
pub(super) unsafe fn invvpid_single(vpid: u16) {
    let descriptor = [u64::from(vpid), 0];
    // SAFETY: dropping cached translations is always sound; the type is supported as the caller says.
    unsafe {
        asm!("invvpid {}, [{}]", in(reg) 1u64, in(reg) &raw const descriptor, options(nostack))
    };
}
