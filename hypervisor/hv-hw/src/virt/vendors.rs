//! The CPU vendors' sides, and which of them this machine has: the one list of them.

use core::fmt;

use hv_core::addr::{MfnRange, PageOrder};
use hv_core::speculation::Plan;

use super::backend::VendorProbe;
use super::{Backend, EnableFailed, ExtendedState, Features, Switches, svm, vtx};
use crate::cpu;
use crate::percpu::IrqsOff;

/// Does something with the side of this machine's vendor, whichever it is.
pub trait WithBackend {
    /// Does it, for ever.
    fn run<B: Backend>(self, backend: B) -> !;
}

/// Declares the vendors' sides, and passes on to the one that is there.
macro_rules! vendors {
    ($($name:ident: $probe:ty, $refusal:ty;)*) => {
        /// What this machine's CPUs offer to run guests.
        #[derive(Clone, Copy, Debug)]
        pub enum HostProbe {
            $($name($probe),)*
        }

        /// Why this CPU cannot run guests.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Refusal {
            $($name($refusal),)*
        }

        $(
            impl From<$refusal> for Refusal {
                fn from(refusal: $refusal) -> Self {
                    Self::$name(refusal)
                }
            }
        )*

        impl fmt::Display for Refusal {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name(refusal) => refusal.fmt(f),)*
                }
            }
        }

        impl fmt::Display for HostProbe {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name(probe) => probe.fmt(f),)*
                }
            }
        }

        impl HostProbe {
            /// Says what guests may have of it.
            #[must_use]
            pub fn features(&self) -> Features {
                match self {
                    $(Self::$name(probe) => probe.features(),)*
                }
            }

            /// Frames that each CPU needs for itself.
            #[must_use]
            pub fn own_frames(&self) -> PageOrder {
                match self {
                    $(Self::$name(probe) => probe.own_frames(),)*
                }
            }

            /// Has guests run on this CPU from now on. `frames` belong to the CPU from here on.
            ///
            /// # Errors
            /// [`EnableFailed`] where the CPU refuses.
            pub fn enable(&self, frames: MfnRange, irqs_off: &IrqsOff) -> Result<(), EnableFailed> {
                match self {
                    $(Self::$name(probe) => probe.enable(frames, irqs_off),)*
                }
            }

            /// Makes what makes vCPUs, by what was decided on extended state and against leaks by speculation, and has
            /// `user` go on with it.
            pub fn run(self, extended: ExtendedState, speculation: Plan, user: impl WithBackend) -> ! {
                match self {
                    $(Self::$name(probe) => user.run(probe.backend(extended, speculation)),)*
                }
            }
        }
    };
}

vendors! {
    Vtx: vtx::VtxProbe, vtx::Refusal;
    Svm: svm::SvmProbe, svm::Refusal;
}

impl HostProbe {
    /// Reads what this CPU offers, less what `switches` switches off.
    ///
    /// # Errors
    /// [`Refusal`] where something is missing that Hematite needs: what its vendor's CPUs have it by.
    pub fn read(switches: &Switches) -> Result<Self, Refusal> {
        let is_amd = cpu::cpuid()
            .get_vendor_info()
            .is_some_and(|vendor| ["AuthenticAMD", "HygonGenuine"].contains(&vendor.as_str()));
        if is_amd {
            Ok(Self::Svm(svm::SvmProbe::read(switches)?))
        } else {
            Ok(Self::Vtx(vtx::VtxProbe::read(switches)?))
        }
    }
}
