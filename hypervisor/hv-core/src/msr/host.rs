//! The host's own MSRs, as far as guests see them.

use super::amd::{self, BU_CFG, BU_CFG2, DE_CFG, HARDWARE_DOMAIN, LFENCE_SERIALISES};
use super::number::{
    IA32_ARCH_CAPABILITIES, IA32_BIOS_SIGN_ID, IA32_MISC_ENABLE, IA32_PLATFORM_ID,
};
use crate::cpuid::{HostCpuid, Vendor};

/// Values of the host's own MSRs that guests see, as read or changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostMsrs {
    /// IA32_PLATFORM_ID (0x17); 0 where reading it faults.
    pub platform_id: u64,
    /// IA32_BIOS_SIGN_ID (0x8B), the microcode's revision in the upper half; AMD's PATCH_LEVEL has it in the lower.
    pub microcode_revision: u64,
    pub misc_enable: u64,
    /// IA32_ARCH_CAPABILITIES (0x10A); 0 where CPUID does not have it.
    pub arch_capabilities: u64,
    /// AMD's LFENCE waits for what is before it: always, or since DE_CFG was written.
    pub(super) lfence_waits: bool,
    /// AMD's BU_CFG and BU_CFG2, where they can be read.
    pub(super) bus_unit: [Option<u64>; 2],
    /// AMD's registers of [`HARDWARE_DOMAIN`], where they can be read: for the domain that owns the machine.
    pub(super) machine: Option<[Option<u64>; HARDWARE_DOMAIN.len()]>,
}

impl HostMsrs {
    /// Reads them by `rdmsr`, which answers `None` where the CPU, which `cpuid` describes, has no such MSR. On AMD's,
    /// DE_CFG has been written by then.
    pub fn read(cpuid: &HostCpuid, rdmsr: impl Fn(u32) -> Option<u64>) -> Self {
        let or_zero = |msr| rdmsr(msr).unwrap_or(0);
        let common = Self {
            microcode_revision: or_zero(IA32_BIOS_SIGN_ID),
            arch_capabilities: or_zero(IA32_ARCH_CAPABILITIES),
            ..Self::default()
        };
        match cpuid.vendor() {
            Vendor::Intel => Self {
                platform_id: or_zero(IA32_PLATFORM_ID),
                misc_enable: or_zero(IA32_MISC_ENABLE),
                ..common
            },
            Vendor::Amd => Self {
                lfence_waits: cpuid.has_lfence_dispatch()
                    || or_zero(DE_CFG) & LFENCE_SERIALISES != 0,
                bus_unit: [BU_CFG, BU_CFG2].map(&rdmsr),
                machine: Some(HARDWARE_DOMAIN.map(|msr| {
                    let value = rdmsr(msr)?;
                    Some(value & amd::shown_of(msr))
                })),
                ..common
            },
        }
    }

    /// The same without what only the domain that owns the machine sees.
    #[must_use]
    pub fn for_guest(self) -> Self {
        Self {
            machine: None,
            ..self
        }
    }
}
