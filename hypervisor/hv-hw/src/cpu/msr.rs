//! Model-specific registers that a CPU may lack: asked for safely, with #GP as an answer.
//!
//! UNSAFETY: calls assembly whose faulting instruction the #GP handler knows.
#![expect(unsafe_code)]

unsafe extern "C" {
    fn hv_rdmsr_safe(msr: u32, value: *mut u64) -> u32;
}

/// Reads `msr`, or `None` where the CPU lacks it.
#[must_use]
pub fn rdmsr_safe(msr: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: the routine follows the C calling convention, writes one u64, and survives #GP.
    let is_read = unsafe { hv_rdmsr_safe(msr, &raw mut value) } != 0;
    is_read.then_some(value)
}
