//! Exits by reason, for the debug keys and the bench.

use hv_hw::sync::atomic::{AtomicU64, Ordering};

use hv_hw::virt::VmExit;

/// Declares what is counted: exits, their slot, its name. Each exit has one, or this does not compile.
macro_rules! slots {
    ($($($exit:pat_param)|+ => $slot:ident, $name:literal;)*) => {
        #[derive(Clone, Copy)]
        enum Slot {
            $($slot,)*
        }

        const NAMES: &[&str] = &[$($name,)*];

        impl Slot {
            #[inline(always)]
            const fn of(exit: &VmExit) -> Self {
                match exit {
                    $($($exit)|+ => Self::$slot,)*
                }
            }
        }
    };
}

slots! {
    VmExit::Hypercall => Hypercall, "hypercall";
    VmExit::Cpuid => Cpuid, "cpuid";
    VmExit::ExternalInterrupt(_) => ExternalInterrupt, "external interrupt";
    VmExit::Hlt => Hlt, "hlt";
    VmExit::Rdmsr => Rdmsr, "rdmsr";
    VmExit::Wrmsr => Wrmsr, "wrmsr";
    VmExit::Io(_) => Io, "io";
    VmExit::Stage2Fault(_) => Stage2Fault, "stage-2 fault";
    VmExit::Eoi(_) => Eoi, "eoi";
    VmExit::ApicWrite(_) => ApicWrite, "apic write";
    VmExit::ControlWrite { .. } => ControlWrite, "control register";
    VmExit::Cr8Read { .. } => Cr8Read, "cr8 read";
    VmExit::Xsetbv => Xsetbv, "xsetbv";
    VmExit::InterruptWindow => InterruptWindow, "interrupt window";
    VmExit::NmiWindow => NmiWindow, "nmi window";
    VmExit::Exception { .. } => Exception, "exception";
    VmExit::CacheFlush => CacheFlush, "cache flush";
    VmExit::Undefined(_) => Undefined, "undefined";
    VmExit::Nmi => Nmi, "nmi";
    VmExit::TprBelowThreshold => TprBelowThreshold, "tpr below threshold";
    VmExit::TripleFault | VmExit::HostReset | VmExit::Broken { .. } => Other, "other";
    VmExit::PauseLoop => PauseLoop, "pause loop";
    VmExit::BusLock => BusLock, "bus lock";
    VmExit::InstructionTimeout => InstructionTimeout, "instruction timeout";
    VmExit::Nothing => Nothing, "nothing";
    VmExit::TaskSwitch(_) => TaskSwitch, "task switch";
    VmExit::ReadTsc { .. } => ReadTsc, "rdtsc";
}

/// How often each reason occurred.
#[derive(Debug, Default)]
pub(crate) struct Counts([AtomicU64; NAMES.len()]);

impl Counts {
    #[inline(always)]
    pub(crate) fn count(&self, exit: &VmExit) {
        // only the CPU that runs the vCPU counts: a plain load and store do
        let count = &self.0[Slot::of(exit) as usize];
        count.store(
            count.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
    }

    #[must_use]
    pub(crate) fn total(&self) -> u64 {
        self.0
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    /// The reasons that occurred, with how often.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        NAMES
            .iter()
            .copied()
            .zip(counts)
            .filter(|(_, count)| *count != 0)
    }
}
