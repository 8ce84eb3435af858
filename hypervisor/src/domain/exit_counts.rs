//! Exits by reason, for the debug keys and the bench.

use core::sync::atomic::{AtomicU64, Ordering};

use hv_hw::virt::VmExit;

const NAMES: [&str; 27] = [
    "hypercall",
    "cpuid",
    "external interrupt",
    "hlt",
    "rdmsr",
    "wrmsr",
    "io",
    "ept violation",
    "eoi",
    "apic write",
    "control register",
    "cr8 read",
    "xsetbv",
    "interrupt window",
    "nmi window",
    "exception",
    "cache flush",
    "undefined",
    "nmi",
    "tpr below threshold",
    "other",
    "pause loop",
    "bus lock",
    "instruction timeout",
    "nothing",
    "task switch",
    "rdtsc",
];

/// How often each reason occurred.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; NAMES.len()]);

impl Counts {
    /// Counts one.
    #[inline(always)]
    pub fn count(&self, exit: &VmExit) {
        let slot = match exit {
            VmExit::Hypercall => 0,
            VmExit::Cpuid => 1,
            VmExit::ExternalInterrupt(_) => 2,
            VmExit::Hlt => 3,
            VmExit::Rdmsr => 4,
            VmExit::Wrmsr => 5,
            VmExit::Io(_) => 6,
            VmExit::Stage2Fault(_) => 7,
            VmExit::Eoi(_) => 8,
            VmExit::ApicWrite(_) => 9,
            VmExit::ControlWrite { .. } => 10,
            VmExit::Cr8Read { .. } => 11,
            VmExit::Xsetbv => 12,
            VmExit::InterruptWindow => 13,
            VmExit::NmiWindow => 14,
            VmExit::Exception { .. } => 15,
            VmExit::CacheFlush => 16,
            VmExit::Undefined(_) => 17,
            VmExit::Nmi => 18,
            VmExit::TprBelowThreshold => 19,
            VmExit::TripleFault | VmExit::HostReset | VmExit::Broken { .. } => 20,
            VmExit::PauseLoop => 21,
            VmExit::BusLock => 22,
            VmExit::InstructionTimeout => 23,
            VmExit::Nothing => 24,
            VmExit::TaskSwitch(_) => 25,
            VmExit::ReadTsc { .. } => 26,
        };
        // only the CPU that runs the vCPU counts: a plain load and store do
        let count = &self.0[slot];
        count.store(
            count.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
    }

    /// All exits.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    /// The reasons that occurred, with how often.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        NAMES
            .into_iter()
            .zip(counts)
            .filter(|(_, count)| *count != 0)
    }
}
