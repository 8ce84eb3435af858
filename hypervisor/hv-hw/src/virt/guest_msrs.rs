//! MSRs that belong to the guest while the hypervisor runs, and that VM entry and exit do not switch.
// UNSAFETY: reads and writes MSRs by number.
#![expect(unsafe_code, reason = "RDMSR and WRMSR")]

use x86_64::registers::model_specific::Msr;

/// IA32_TSC_AUX, where CPUID has RDTSCP or RDPID.
pub(super) const TSC_AUX: u32 = 0xC000_0103;

/// Reads an MSR that the CPU was found to have.
pub(super) fn read_msr(msr: u32) -> u64 {
    // SAFETY: the CPU has the MSR, as the caller found.
    unsafe { Msr::new(msr).read() }
}

/// Writes an MSR that the CPU was found to have with a value that it takes.
pub(super) fn write_msr(msr: u32, value: u64) {
    // SAFETY: the value was in the MSR before or is one that it takes, and the hypervisor uses none of these MSRs.
    unsafe { Msr::new(msr).write(value) }
}
