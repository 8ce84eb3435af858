//! MSRs that belong to the guest while the hypervisor runs, and that VM entry and exit do not switch.
// UNSAFETY: reads and writes MSRs by number.
#![expect(unsafe_code, reason = "RDMSR and WRMSR")]

use x86_64::registers::model_specific::Msr;

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

/// A vCPU's IA32_TSC_AUX: 0 and without effect where the CPU has none.
#[derive(Debug)]
pub(super) struct TscAux {
    /// CPUID has RDTSCP or RDPID.
    exists: bool,
    /// Its value while it is not in the CPU.
    saved: u64,
}

impl TscAux {
    const NUMBER: u32 = 0xC000_0103;
    const LOW_HALF: u64 = 0xFFFF_FFFF;

    /// As after reset.
    pub(super) const fn new(exists: bool) -> Self {
        Self { exists, saved: 0 }
    }

    /// Puts it into the CPU.
    pub(super) fn load(&self) {
        self.write(self.saved);
    }

    /// Takes it out of the CPU.
    pub(super) fn save(&mut self) {
        self.saved = self.read();
    }

    /// Reads what is in the CPU.
    pub(super) fn read(&self) -> u64 {
        if self.exists {
            read_msr(Self::NUMBER)
        } else {
            0
        }
    }

    /// Puts a value into the CPU, which takes its low half.
    pub(super) fn write(&self, value: u64) {
        if self.exists {
            write_msr(Self::NUMBER, value & Self::LOW_HALF);
        }
    }
}
