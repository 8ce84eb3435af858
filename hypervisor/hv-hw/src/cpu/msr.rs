//! Model-specific registers that a CPU may lack: asked for safely, with #GP as an answer.
//!
//! UNSAFETY: calls assembly whose faulting instruction the #GP handler knows.
#![expect(unsafe_code)]

unsafe extern "C" {
    fn hv_rdmsr_safe(msr: u32, value: *mut u64) -> u32;
    fn hv_wrmsr_safe(msr: u32, value: u64) -> u32;
}

/// Reads `msr`, or `None` where the CPU lacks it.
#[must_use]
pub fn rdmsr_safe(msr: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: the routine follows the C calling convention, writes one u64, and survives #GP.
    let is_read = unsafe { hv_rdmsr_safe(msr, &raw mut value) } != 0;
    is_read.then_some(value)
}

/// Writes `value` to `msr`; false where the CPU refuses it.
///
/// # Safety
/// The effect must not break what Rust relies on: address translation, segment bases, control flow.
#[must_use]
pub unsafe fn wrmsr_safe(msr: u32, value: u64) -> bool {
    // SAFETY: the routine follows the C calling convention and survives #GP; the caller vouches for the effect.
    unsafe { hv_wrmsr_safe(msr, value) != 0 }
}
