//! What VT-x offers on this CPU, and what makes vCPUs of it.

use core::fmt;

use hv_core::addr::{MfnRange, PageOrder};
use hv_core::paging::stage2::Stage2Format;
use hv_core::speculation::Plan;

use super::super::backend::VendorProbe;
use super::super::{Backend, EnableFailed, ExtendedState, Features, Switches, VcpuConfig};
use super::caps::{Caps, Refusal};
use super::host;
use super::setup::Setup;
use super::vcpu::VtxVcpu;
use crate::cpu::{self, msr::rdmsr_safe};
use crate::percpu::IrqsOff;

/// VMCALL.
const HYPERCALL: [u8; 3] = [0x0F, 0x01, 0xC1];
/// A frame for each half of the ports.
const IO_BITMAP: PageOrder = PageOrder::new(1).expect("a small order");

/// What VT-x offers on this CPU.
#[derive(Clone, Copy, Debug)]
pub struct VtxProbe {
    caps: Caps,
}

impl VendorProbe for VtxProbe {
    type Refusal = Refusal;
    type Backend = Vtx;

    fn read(switches: &Switches) -> Result<Self, Refusal> {
        let has_vmx = cpu::cpuid()
            .get_feature_info()
            .is_some_and(|features| features.has_vmx());
        // a capability MSR that the CPU lacks stands for nothing offered
        let caps = Caps::probe(has_vmx, switches, |msr| rdmsr_safe(msr).unwrap_or(0))?;
        Ok(Self { caps })
    }

    fn features(&self) -> Features {
        Features {
            stage2: Stage2Format::Ept,
            stage2_2m: self.caps.ept_2m,
            stage2_1g: self.caps.ept_1g,
            rdtscp: self.caps.has_rdtscp(),
            invpcid: self.caps.has_invpcid(),
            xsaves: self.caps.has_xsaves(),
            delivery: self.caps.apic_virtualization().delivery,
            io_bitmap: IO_BITMAP,
            msr_bitmap: PageOrder::SIZE_4K,
            hypercall: HYPERCALL,
        }
    }

    fn own_frames(&self) -> PageOrder {
        PageOrder::SIZE_4K
    }

    fn enable(&self, frames: MfnRange, irqs_off: &IrqsOff) -> Result<(), EnableFailed> {
        host::enable(&self.caps, frames.start, irqs_off).map_err(|_| {
            EnableFailed(
                "the CPU refused VMXON though its capabilities allow it; another hypervisor or the firmware may hold VT-x",
            )
        })
    }

    fn backend(self, extended: ExtendedState, speculation: Plan) -> Vtx {
        Vtx {
            caps: self.caps,
            extended,
            speculation,
        }
    }
}

impl fmt::Display for VtxProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VMX enabled; VT-x: {}", self.caps)
    }
}

/// VT-x as the side of a CPU vendor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vtx {
    pub(super) caps: Caps,
    pub(super) extended: ExtendedState,
    pub(super) speculation: Plan,
}

impl Backend for Vtx {
    type Vcpu = VtxVcpu;

    fn vcpu(&self, config: VcpuConfig<'_>) -> VtxVcpu {
        VtxVcpu::new(Setup::new(self, &config))
    }
}
