//! MSRs that only AMD's CPUs have, as Xen answers them.
//!
//! None of them reaches the hardware: constants, values of the host's, and writes that are ignored. Faults, as whatever
//! is not here: HWCR's writes, VM_HSAVE_PA and the TSC's ratio (there is no SVM), IBS, LWP, OSVW, masks of debug
//! registers, VIRT_SPEC_CTRL (CPUID has none of them), LS_CFG, IC_CFG and their like (kernels try them out).
//!
//! Sources: Xen 4.17, `arch/x86/msr.c, guest_rdmsr`, `arch/x86/hvm/svm/svm.c, svm_msr_read_intercept`; names from AMD's
//! "BIOS and Kernel Developer's Guides".

use super::HostMsrs;

const PERFEVTSEL0: u32 = 0xc001_0000;
const PERFCTR3: u32 = 0xc001_0007;
const SYSCFG: u32 = 0xc001_0010;
const HWCR: u32 = 0xc001_0015;
const IORR_BASE0: u32 = 0xc001_0016;
const IORR_MASK0: u32 = 0xc001_0017;
const IORR_BASE1: u32 = 0xc001_0018;
const IORR_MASK1: u32 = 0xc001_0019;
const TOP_MEM: u32 = 0xc001_001a;
const TOP_MEM2: u32 = 0xc001_001d;
const NB_CFG: u32 = 0xc001_001f;
const PATCH_LOADER: u32 = 0xc001_0020;
/// Where a message of C1E goes.
const INTERRUPT_PENDING: u32 = 0xc001_0055;
const MMIO_CONF_BASE: u32 = 0xc001_0058;
const TSEG_BASE: u32 = 0xc001_0112;
const TSEG_MASK: u32 = 0xc001_0113;
const VM_CR: u32 = 0xc001_0114;
/// Of family 15h, six counters with their selectors.
const PERF_CTL0: u32 = 0xc001_0200;
const PERF_CTR5: u32 = 0xc001_020b;
pub(super) const BU_CFG: u32 = 0xc001_1023;
pub(super) const DE_CFG: u32 = 0xc001_1029;
pub(super) const BU_CFG2: u32 = 0xc001_102a;
const EX_CFG: u32 = 0xc001_102c;
/// Thresholds of the fourth machine-check bank, of family 10h.
const MC4_MISC1: u32 = 0xc000_0408;
const MC4_MISC3: u32 = 0xc000_040a;

/// What the domain that owns the machine sees of it: how memory is divided between RAM and devices.
pub(super) const HARDWARE_DOMAIN: [u32; 10] = [
    SYSCFG,
    TOP_MEM,
    TOP_MEM2,
    IORR_BASE0,
    IORR_MASK0,
    IORR_BASE1,
    IORR_MASK1,
    TSEG_BASE,
    TSEG_MASK,
    MMIO_CONF_BASE,
];

/// DE_CFG: LFENCE waits for what is before it. The hypervisor sets it on every CPU; a guest is told whether it stuck.
pub(super) const LFENCE_SERIALISES: u64 = 1 << 1;
/// HWCR: the TSC counts at the rate of P-state 0.
const TSC_FREQ_SEL: u64 = 1 << 24;
/// The firmware keeps the thresholds to itself.
const LOCKED: u64 = 1 << 61;
/// MtrrFixDramEn, MtrrVarDramEn, MtrrTom2En, Tom2ForceMemTypeWB.
const SYSCFG_SHOWN: u64 = 1 << 18 | 0b111 << 20;

/// The bits of a register in [`HARDWARE_DOMAIN`] that are shown.
pub(super) fn shown_of(msr: u32) -> u64 {
    if msr == SYSCFG {
        SYSCFG_SHOWN
    } else {
        u64::MAX
    }
}

/// What a domain reads of these MSRs.
#[derive(Clone, Copy, Debug)]
pub(super) struct AmdMsrs {
    hwcr: u64,
    lfence_waits: bool,
    bus_unit: [Option<u64>; 2],
    /// For the domain that owns the machine.
    machine: Option<[Option<u64>; HARDWARE_DOMAIN.len()]>,
}

impl AmdMsrs {
    pub(super) fn new(host: &HostMsrs, has_invariant_tsc: bool) -> Self {
        Self {
            hwcr: if has_invariant_tsc { TSC_FREQ_SEL } else { 0 },
            lfence_waits: host.lfence_waits,
            bus_unit: host.bus_unit,
            machine: host.machine,
        }
    }

    /// The value of `msr`; `None` faults.
    pub(super) fn read(&self, msr: u32) -> Option<u64> {
        let [bu_cfg, bu_cfg2] = self.bus_unit;
        match msr {
            HWCR => Some(self.hwcr),
            DE_CFG if self.lfence_waits => Some(LFENCE_SERIALISES),
            BU_CFG => bu_cfg,
            BU_CFG2 => bu_cfg2,
            // the counters too: there is no PMU
            DE_CFG
            | NB_CFG
            | INTERRUPT_PENDING
            | VM_CR
            | EX_CFG
            | PERFEVTSEL0..=PERFCTR3
            | PERF_CTL0..=PERF_CTR5 => Some(0),
            MC4_MISC1..=MC4_MISC3 => Some(LOCKED),
            _ => self.read_of_machine(msr),
        }
    }

    fn read_of_machine(&self, msr: u32) -> Option<u64> {
        let index = HARDWARE_DOMAIN.iter().position(|own| *own == msr)?;
        match self.machine {
            Some(machine) => *machine.get(index)?,
            None => matches!(msr, SYSCFG | TOP_MEM | TOP_MEM2).then_some(0),
        }
    }

    /// True where a write of `msr` does nothing; false faults.
    pub(super) fn ignores_write(&self, msr: u32) -> bool {
        match msr {
            DE_CFG
            | NB_CFG
            | VM_CR
            | EX_CFG
            | PATCH_LOADER
            | SYSCFG
            | TOP_MEM
            | TOP_MEM2
            | PERFEVTSEL0..=PERFCTR3
            | PERF_CTL0..=PERF_CTR5
            | MC4_MISC1..=MC4_MISC3 => true,
            BU_CFG | BU_CFG2 => self.read(msr).is_some(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
