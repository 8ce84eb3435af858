//! What is known of the machine once it is up, and the time on it.

use alloc::string::String;
use alloc::vec::Vec;

use hv_core::addr::MfnRange;
use hv_core::cpuid::{HostCpuid, Provides};
use hv_core::firmware::efi::{MemoryDescriptor, RuntimeRange, SystemTable};
use hv_core::firmware::framebuffer::Framebuffer;
use hv_core::msr::HostMsrs;
use hv_core::options::Options;
use hv_core::vcpu::time::ClockScale;
use hv_hw::time;
use hv_hw::virt::Features;

use crate::machine::machine;

/// Facts that do not change after boot.
#[derive(Debug)]
pub(crate) struct Host {
    /// What the CPU does for guests.
    pub features: Features,
    /// The bits of XCR0 that guests may have; 0 where the CPU has no XSAVE.
    pub xcr0: u64,
    /// What we do for guests, as CPUID shows it.
    pub provides: Provides,
    pub cpuid: HostCpuid,
    /// MSRs whose values guests see.
    pub msrs: HostMsrs,
    /// Rate of the TSC in kHz.
    pub tsc_khz: u32,
    /// What is known of EFI, where the machine booted through it.
    pub firmware: Option<Firmware>,
    /// The screen that the firmware set up.
    pub screen: Option<Framebuffer>,
    /// What no guest reaches: local APIC, I/O APICs, HPET, PCI configuration space in memory, code of the firmware's.
    pub kept: Vec<MfnRange>,
    /// What to write to PM1 control registers to switch the machine off.
    pub power_off: Option<PowerOff>,
    /// The command line, as given.
    pub command_line: String,
    /// The command line, understood.
    pub options: Options,
}

impl Host {
    /// The number after the last frame that the CPU addresses.
    #[must_use]
    pub(crate) fn frames_end(&self) -> u64 {
        const SIZES: u32 = 0x8000_0008;
        let [bits, ..] = self.cpuid.get(SIZES, 0).eax.to_le_bytes();
        1 << u32::from(bits.clamp(36, 52)).saturating_sub(12)
    }
}

/// EFI as it was left.
#[derive(Clone, Debug)]
pub(crate) struct Firmware {
    pub system: SystemTable,
    /// The vendor's name, UCS-2, ended.
    pub vendor: Vec<u16>,
    pub memory: Vec<MemoryDescriptor>,
    /// The version of its runtime services, where they can be called.
    pub runtime_revision: Option<u32>,
    /// The memory that they use.
    pub runtime_memory: Vec<RuntimeRange>,
}

/// How the machine is switched off (ACPI S5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PowerOff {
    /// PM1a and PM1b control ports, 0 for none.
    pub control: [u16; 2],
    /// SLP_TYPa and SLP_TYPb of \_S5.
    pub sleep_types: [u8; 2],
}

/// Records the facts. Once, at boot.
pub(crate) fn init(host: Host) {
    machine().host.call_once(|| host);
}

#[must_use]
pub(crate) fn host() -> &'static Host {
    machine()
        .host
        .get()
        .expect("the machine is known before anything runs on it")
}

/// TSC ticks ↔ ns, as guests are told it.
#[must_use]
pub(crate) fn clock() -> ClockScale {
    time::scale().expect("the TSC is measured before there is a domain")
}

/// System time: ns since the hypervisor started.
#[must_use]
pub(crate) fn now_ns() -> u64 {
    ns_at(time::now())
}

/// System time when the TSC was `tsc`.
#[must_use]
pub(crate) fn ns_at(tsc: u64) -> u64 {
    time::ticks_to_ns(tsc.saturating_sub(time::start()))
}

/// The TSC at system time `ns`.
#[must_use]
pub(crate) fn tsc_at(ns: u64) -> u64 {
    time::start().saturating_add(time::ns_to_ticks(ns))
}

/// True where writing this sleep type to PM1 control switches the machine off. Where the firmware names none, any may.
#[must_use]
pub(crate) fn is_power_off(sleep_type: u8) -> bool {
    host()
        .power_off
        .is_none_or(|off| off.sleep_types.contains(&sleep_type))
}

/// Switches the machine off, where it says how.
pub(crate) fn power_off() {
    if let Some(off) = host().power_off {
        hv_hw::shutdown::power_off(off.control, off.sleep_types);
    }
}
