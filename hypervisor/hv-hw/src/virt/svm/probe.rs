//! What SVM offers on this CPU, what is missing where it is too little, and what makes vCPUs of it.
//!
//! Source: AMD APM vol. 2, "Determining Support for SVM", "Enabling SVM"; vol. 3, "Function 8000_000Ah".

use core::fmt;

use hv_core::addr::{MfnRange, PageOrder};
use hv_core::device::lapic::Delivery;
use hv_core::paging::stage2::Stage2Format;
use hv_core::speculation::Plan;

use super::super::backend::VendorProbe;
use super::super::{Backend, EnableFailed, ExtendedState, Features, Switches, VcpuConfig};
use super::host;
use super::vcpu::SvmVcpu;
use crate::cpu::{self, msr::rdmsr_safe};
use crate::percpu::IrqsOff;

/// VMMCALL.
const HYPERCALL: [u8; 3] = [0x0F, 0x01, 0xD9];
/// 12 KiB, as blocks come.
const IO_MAP: PageOrder = PageOrder::new(2).expect("a small order");
/// 8 KiB.
const MSR_MAP: PageOrder = PageOrder::new(1).expect("a small order");
/// The host save area, and the host's VMCB.
const OWN_FRAMES: PageOrder = PageOrder::new(1).expect("a small order");
const VM_CR: u32 = 0xC001_0114;
/// VM_CR: EFER.SVME cannot be set.
const SVMDIS: u64 = 1 << 4;

/// Why this CPU cannot run guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// CPUID does not show SVM.
    NoSvm,
    /// The firmware has switched SVM off: VM_CR.
    Disabled(u64),
    NoNestedPaging,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSvm => f.write_str(
                "this CPU has no SVM (CPUID.80000001H:ECX.SVM is 0): Hematite needs an AMD CPU of 2008 or later; in a \
                 virtual machine, enable nested virtualisation",
            ),
            Self::Disabled(value) => write!(
                f,
                "SVM is disabled by firmware: VM_CR is {value:#x} (SVMDIS set); enable SVM (AMD-V) in the firmware \
                 setup and power-cycle"
            ),
            Self::NoNestedPaging => f.write_str(
                "this CPU's SVM has no nested paging: an AMD CPU of 2008 (family 10h) or later is needed",
            ),
        }
    }
}

/// What SVM offers, after the switches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Caps {
    /// The number above the last tag in the TLB; 0 where they are not used.
    pub(super) tags: u32,
    /// The CPU says where the instruction that exited ends.
    pub(super) next_rip: bool,
    pub(super) flush_by_asid: bool,
    /// PAUSE exits in loops only.
    pub(super) pause_filter: bool,
    /// DEBUGCTL can be the guest's own.
    pub(super) branch_recording: bool,
    /// Nested leaves of 2 MiB.
    pub(super) leaves_2m: bool,
    /// Nested leaves of 1 GiB.
    pub(super) leaves_1g: bool,
    rdtscp: bool,
    xsaves: bool,
}

impl Caps {
    /// Reads them from CPUID and VM_CR.
    ///
    /// # Errors
    /// [`Refusal`] where something is missing that Hematite needs.
    fn probe(
        switches: &Switches,
        cpuid: impl Fn(u32, u32) -> [u32; 4],
        vm_cr: u64,
    ) -> Result<Self, Refusal> {
        const SVM: u32 = 1 << 2;
        const PAGES_1G: u32 = 1 << 26;
        const RDTSCP: u32 = 1 << 27;
        const XSAVES: u32 = 1 << 3;
        let has_leaf = |leaf| cpuid(0x8000_0000, 0)[0] >= leaf;
        let [_, _, ecx, edx] = cpuid(0x8000_0001, 0);
        if !has_leaf(0x8000_000A) || ecx & SVM == 0 {
            return Err(Refusal::NoSvm);
        }
        if vm_cr & SVMDIS != 0 {
            return Err(Refusal::Disabled(vm_cr));
        }
        let [_, tags, _, features] = cpuid(0x8000_000A, 0);
        let has = |bit: u32| features & (1 << bit) != 0;
        if !has(0) {
            return Err(Refusal::NoNestedPaging);
        }
        Ok(Self {
            // 0 is the host's, and one tag alone would be flushed at each turn anyway
            tags: if switches.tlb_tags && tags > 2 {
                tags
            } else {
                0
            },
            branch_recording: has(1),
            next_rip: has(3),
            flush_by_asid: has(6),
            pause_filter: has(10) && has(12),
            leaves_2m: switches.stage2_2m,
            leaves_1g: switches.stage2_2m && switches.stage2_1g && edx & PAGES_1G != 0,
            rdtscp: edx & RDTSCP != 0,
            xsaves: cpuid(0, 0)[0] >= 0xD && cpuid(0xD, 1)[0] & XSAVES != 0,
        })
    }
}

impl fmt::Display for Caps {
    /// The optional features in use, as one line of the boot log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NPT")?;
        for (present, name) in [
            (self.leaves_2m, "2M"),
            (self.leaves_1g, "1G"),
            (self.next_rip, "nRIP"),
            (self.flush_by_asid, "flush-by-ASID"),
            (self.pause_filter, "PAUSE-loop-exits"),
            (self.branch_recording, "LBR"),
        ] {
            if present {
                write!(f, " {name}")?;
            }
        }
        match self.tags {
            0 => f.write_str(", no ASIDs"),
            tags => write!(f, ", {} ASIDs", tags - 1),
        }
    }
}

/// What SVM offers on this CPU.
#[derive(Clone, Copy, Debug)]
pub struct SvmProbe {
    caps: Caps,
}

impl VendorProbe for SvmProbe {
    type Refusal = Refusal;
    type Backend = Svm;

    fn read(switches: &Switches) -> Result<Self, Refusal> {
        // a CPU without the MSR has nothing that switches SVM off
        let vm_cr = rdmsr_safe(VM_CR).unwrap_or(0);
        Caps::probe(switches, cpu::cpuid_leaf, vm_cr).map(|caps| Self { caps })
    }

    fn features(&self) -> Features {
        Features {
            stage2: Stage2Format::Npt,
            stage2_2m: self.caps.leaves_2m,
            stage2_1g: self.caps.leaves_1g,
            rdtscp: self.caps.rdtscp,
            // with nested paging it needs nothing of us
            invpcid: true,
            xsaves: self.caps.xsaves,
            delivery: Delivery::BySoftware,
            io_bitmap: IO_MAP,
            msr_bitmap: MSR_MAP,
            hypercall: HYPERCALL,
        }
    }

    fn own_frames(&self) -> PageOrder {
        OWN_FRAMES
    }

    fn enable(&self, frames: MfnRange, irqs_off: &IrqsOff) -> Result<(), EnableFailed> {
        host::enable(frames, irqs_off);
        Ok(())
    }

    fn backend(self, extended: ExtendedState, speculation: Plan) -> Svm {
        Svm {
            caps: self.caps,
            extended,
            speculation,
        }
    }
}

impl fmt::Display for SvmProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SVM enabled; AMD-V: {}", self.caps)
    }
}

/// SVM as the side of a CPU vendor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Svm {
    pub(super) caps: Caps,
    pub(super) extended: ExtendedState,
    pub(super) speculation: Plan,
}

impl Backend for Svm {
    type Vcpu = SvmVcpu;

    fn vcpu(&self, config: VcpuConfig<'_>) -> SvmVcpu {
        SvmVcpu::new(self, &config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CPU with SVM and `features` in 8000_000A.
    fn cpu(features: u32) -> impl Fn(u32, u32) -> [u32; 4] {
        move |leaf, _| match leaf {
            0x8000_0000 => [0x8000_0020, 0, 0, 0],
            0x8000_0001 => [0, 0, 1 << 2, (1 << 26) | (1 << 27)],
            0x8000_000A => [1, 64, 0, features],
            _ => [0; 4],
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let switches = Switches::default();
        let probe = |cpu: &dyn Fn(u32, u32) -> [u32; 4], vm_cr| Caps::probe(&switches, cpu, vm_cr);
        assert_eq!(probe(&|_, _| [0; 4], 0), Err(Refusal::NoSvm));
        assert_eq!(probe(&cpu(1), SVMDIS), Err(Refusal::Disabled(SVMDIS)));
        assert_eq!(probe(&cpu(2), 0), Err(Refusal::NoNestedPaging));
        assert!(probe(&cpu(1), 0).is_ok());
    }

    #[test]
    fn switches_take_away_what_they_name() {
        let all = Caps::probe(&Switches::default(), cpu(!0), 0).expect("all is there");
        assert!(all.leaves_2m && all.leaves_1g && all.next_rip && all.tags == 64);
        let switches = Switches {
            tlb_tags: false,
            stage2_2m: false,
            ..Switches::default()
        };
        let some = Caps::probe(&switches, cpu(!0), 0).expect("all is there");
        assert!(!some.leaves_2m && !some.leaves_1g && some.tags == 0);
    }
}
