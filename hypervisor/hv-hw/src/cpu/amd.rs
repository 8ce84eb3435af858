//! What is set once on each CPU of AMD's: an LFENCE that waits, mends of errata, bits against leaks by speculation.
// UNSAFETY: writes model-specific registers.
#![expect(unsafe_code, reason = "WRMSR of configuration registers")]

use hv_core::cpuid::HostCpuid;
use hv_core::errata::{self, Outcomes};
use hv_core::msr::number::IA32_EFER;
use hv_core::speculation::Defences;

use super::msr::{rdmsr_safe, wrmsr_safe};
use crate::percpu::IrqsOff;

/// Decode configuration.
const DE_CFG: u32 = 0xc001_1029;
/// Branch-prediction configuration.
const BP_CFG: u32 = 0xc001_102e;

/// DE_CFG: LFENCE waits for what is before it. Guests are told whether it stuck (`hv_core::msr`).
const LFENCE_SERIALISES: u64 = 1 << 1;

/// What is set where it is decided on: register and bit.
const ONCE: [(Defences, u32, u64); 3] = [
    (Defences::FP_BACKUP_FIX, DE_CFG, 1 << 9),
    (Defences::SPEC_REDUCE, BP_CFG, 1 << 4),
    (Defences::AUTO_IBRS, IA32_EFER, 1 << 21),
];

/// Has LFENCE wait for what is before it, where the CPU lets that be chosen. Before `HostMsrs` are read, which have
/// what stuck.
pub fn serialise_lfence(_irqs_off: &IrqsOff) {
    set(DE_CFG, LFENCE_SERIALISES);
}

/// Mends the errata of this CPU, which `cpuid` describes; returns what became of them.
#[must_use]
pub fn mend_errata(cpuid: &HostCpuid, _irqs_off: &IrqsOff) -> Outcomes {
    errata::mend(cpuid, rdmsr_safe, |msr, value| {
        // SAFETY: the table's bits have the CPU do what its manual says, where it would not; nothing else that a
        // program sees.
        unsafe { wrmsr_safe(msr, value) }
    })
}

/// Sets this CPU up with what of `defences` is set once; returns those that it refused.
#[must_use]
pub fn set_up(defences: Defences, _irqs_off: &IrqsOff) -> Defences {
    let mut refused = Defences::empty();
    for (defence, msr, bit) in ONCE {
        if defences.contains(defence) && !set(msr, bit) {
            refused |= defence;
        }
    }
    refused
}

/// Sets `bit` in `msr`; false where the CPU has it not, or takes the write and forgets it, as emulators do.
fn set(msr: u32, bit: u64) -> bool {
    let Some(value) = rdmsr_safe(msr) else {
        return false;
    };
    if value & bit != 0 {
        return true;
    }
    // SAFETY: the bits above change how the CPU predicts and what an LFENCE waits for, nothing that a program sees.
    let is_taken = unsafe { wrmsr_safe(msr, value | bit) };
    is_taken && rdmsr_safe(msr).is_some_and(|value| value & bit != 0)
}
