//! What is set once on each CPU of AMD's: bits against leaks by speculation, and an LFENCE that waits.
// UNSAFETY: writes model-specific registers.
#![expect(unsafe_code, reason = "WRMSR of configuration registers")]

use hv_core::speculation::Defences;

use super::msr::{rdmsr_safe, wrmsr_safe};
use crate::percpu::IrqsOff;

const EFER: u32 = 0xc000_0080;
/// Decode configuration.
const DE_CFG: u32 = 0xc001_1029;
/// Branch-prediction configuration.
const BP_CFG: u32 = 0xc001_102e;

/// DE_CFG: LFENCE waits for what is before it. Guests are told so (`hv_core::msr`).
const LFENCE_SERIALISES: u64 = 1 << 1;

/// What is set where it is decided on: register and bit.
const ONCE: [(Defences, u32, u64); 3] = [
    (Defences::FP_BACKUP_FIX, DE_CFG, 1 << 9),
    (Defences::SPEC_REDUCE, BP_CFG, 1 << 4),
    (Defences::AUTO_IBRS, EFER, 1 << 21),
];

/// Sets this CPU up with what of `defences` is set once; returns those that it refused. One without DE_CFG has an
/// LFENCE that waits in any case.
#[must_use]
pub fn set_up(defences: Defences, _irqs_off: &IrqsOff) -> Defences {
    let _ = set(DE_CFG, LFENCE_SERIALISES);
    let mut refused = Defences::empty();
    for (defence, msr, bit) in ONCE {
        if defences.contains(defence) && !set(msr, bit) {
            refused |= defence;
        }
    }
    refused
}

/// Sets `bit` in `msr`; false where the CPU has it not.
fn set(msr: u32, bit: u64) -> bool {
    let Some(value) = rdmsr_safe(msr) else {
        return false;
    };
    // SAFETY: the bits above change how the CPU predicts and what an LFENCE waits for, nothing that a program sees.
    value & bit != 0 || unsafe { wrmsr_safe(msr, value | bit) }
}
