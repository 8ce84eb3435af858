//! Privileged instructions that the `x86_64` crate lacks, one function each.
//!
//! UNSAFETY: inline assembly is the only way to reach them.
//!
//! They compile on the host too, where nothing calls them. Functions are safe where every argument leaves memory and
//! control flow as Rust expects them, whatever the instruction does to the machine; the others say what they need.
#![expect(unsafe_code)]

use core::arch::asm;

/// Reads the time-stamp counter, in ticks since reset. Not ordered against the instructions around it.
#[inline]
#[must_use]
pub fn rdtsc() -> u64 {
    // SAFETY: RDTSC only writes EDX:EAX; the hypervisor runs in ring 0, where CR4.TSD does not forbid it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Reads model-specific register `msr`.
///
/// # Safety
/// The CPU must have the MSR, or the #GP it raises must be caught (see `cpu::msr::rdmsr_safe`).
#[inline]
#[must_use]
pub unsafe fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller vouches for the MSR; RDMSR writes EDX:EAX only.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Has all stores before it be visible to others before anything after it is done, also WRMSR to the local APIC, which
/// waits for no store (MFENCE, then LFENCE).
#[inline]
pub fn store_fence() {
    // SAFETY: orders memory accesses, and has no other effect.
    unsafe { asm!("mfence", "lfence", options(nostack, preserves_flags)) };
}

/// Writes `value` to model-specific register `msr`.
///
/// # Safety
/// The CPU must have the MSR and accept the value, and the effect must not break what Rust relies on (address
/// translation, segment bases, control flow).
#[inline]
pub unsafe fn wrmsr(msr: u32, value: u64) {
    let (low, high) = halves(value);
    // SAFETY: the caller vouches for the MSR, the value and the effect.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") low, in("edx") high, options(nostack, preserves_flags));
    }
}

/// Writes modified cache lines back to memory and empties the caches.
#[inline]
pub fn wbinvd() {
    // SAFETY: it changes no memory as programs see it.
    unsafe {
        asm!("wbinvd", options(nostack, preserves_flags));
    }
}

/// Stops this CPU permanently: only NMI, SMI and reset get through.
pub fn halt_for_ever() -> ! {
    loop {
        // SAFETY: with IF=0 the CPU only sleeps; nothing of Rust's changes.
        unsafe {
            asm!("cli", "hlt", options(nomem, nostack));
        }
    }
}

/// The low and high 32 bits, as instructions take them in EAX and EDX.
#[expect(
    clippy::cast_possible_truncation,
    reason = "each half is what is wanted"
)]
const fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}
