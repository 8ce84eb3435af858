//! Facts about the machine that dom0's making needs.

use alloc::vec;
use alloc::vec::Vec;

use hv_core::addr::{Hpa, Mfn, MfnRange};
use hv_core::cpuid::{CpuidRegs, HostCpuid, Provides, Vendor};
use hv_core::device::lapic::Delivery;
use hv_core::device::ports::MachinePorts;
use hv_core::firmware::acpi::{Block, McfgRange, Register};
use hv_core::firmware::sleep;
use hv_core::msr::HostMsrs;
use hv_core::options::Options;
use hv_core::speculation::{CpuFacts, Defences, Plan};
use hv_hw::cpu;
use hv_hw::cpu::msr::rdmsr_safe;
use hv_hw::irq::{ioapic, local};
use hv_hw::percpu::IrqsOff;
use hv_hw::virt::{ExtendedState, Features, means_that_work};
use hv_hw::{direct_map, info, port, warn};

use crate::boot::BootedMachine;
use crate::machine::host::PowerOff;

/// x87, SSE, AVX, the three of AVX-512, and protection keys: less than a frame in all.
const XCR0_SWITCHED: u64 = 0x2E7;

/// One leaf of the host's CPUID.
pub(super) fn host_cpuid(leaf: u32, subleaf: u32) -> CpuidRegs {
    let [eax, ebx, ecx, edx] = cpu::cpuid_leaf(leaf, subleaf);
    CpuidRegs { eax, ebx, ecx, edx }
}

/// Sets this CPU up as AMD's errata and its LFENCE want it, and says so; before its MSRs are recorded.
pub(super) fn mend(cpuid: &HostCpuid, irqs_off: &IrqsOff) {
    if cpuid.vendor() == Vendor::Amd {
        if !cpuid.has_lfence_dispatch() {
            cpu::amd::serialise_lfence(irqs_off);
        }
        let errata = cpu::amd::mend_errata(cpuid, irqs_off);
        if !errata.is_empty() {
            info!("AMD's errata: {errata}");
        }
    }
}

/// Decides what is done against leaks by speculation, and says so.
pub(super) fn speculation(cpuid: &HostCpuid, msrs: &HostMsrs, options: &Options) -> Plan {
    const MCU_OPT_CTRL: u32 = 0x123;
    let mcu_opt_ctrl = rdmsr_safe(MCU_OPT_CTRL).unwrap_or(0);
    let facts = CpuFacts::read(cpuid, msrs, mcu_opt_ctrl);
    let plan = Plan::decide(&means_that_work(facts), &options.spec_ctrl);
    info!("speculation: {plan}");
    if !plan.lacking.is_empty() {
        warn!(
            "spec-ctrl asks for what this CPU has not: {}",
            plan.lacking_names()
        );
    }
    plan
}

/// Sets this CPU up with what is set but once, as AMD's have it.
pub(super) fn set_up_once(cpuid: &HostCpuid, speculation: &Plan, irqs_off: &IrqsOff) {
    if cpuid.vendor() == Vendor::Amd {
        let refused = cpu::amd::set_up(speculation.defences, irqs_off);
        if !refused.is_empty() {
            warn!("the CPU refuses what it offers against leaks by speculation: {refused:?}");
        }
    }
}

/// Extended state that guests may have.
pub(super) fn extended_state(cpuid: &HostCpuid, speculation: &Plan) -> ExtendedState {
    const XSAVE: u32 = 1 << 26;
    const RDTSCP: u32 = 1 << 27;
    const RDPID: u32 = 1 << 22;
    let has_xsave = cpuid.get(1, 0).ecx & XSAVE != 0;
    let leaf_d = cpuid.get(0xD, 0);
    let offered = u64::from(leaf_d.eax) | (u64::from(leaf_d.edx) << 32);
    ExtendedState {
        xcr0: if has_xsave {
            offered & XCR0_SWITCHED
        } else {
            0
        },
        leaks_x87_pointers: cpuid.leaks_x87_pointers(),
        has_tsc_aux: cpuid.get(0x8000_0001, 0).edx & RDTSCP != 0
            || cpuid.get(7, 0).ecx & RDPID != 0,
        has_spec_ctrl: speculation.defences.contains(Defences::GUEST_CONTROLS),
    }
}

/// What we do for guests, as CPUID shows it.
pub(super) fn provides(features: &Features, speculation: &Plan, cpuid: &HostCpuid) -> Provides {
    const INVARIANT_TSC: u32 = 1 << 8;
    const MISC_ENABLE: u32 = 0x1A0;
    const FAST_STRINGS: u64 = 1;
    let mut provides = Provides::empty();
    provides.set(Provides::RDTSCP, features.rdtscp);
    provides.set(Provides::INVPCID, features.invpcid);
    provides.set(Provides::XSAVES, features.xsaves);
    let offers = |what| speculation.defences.contains(what);
    provides.set(Provides::SPEC_CTRL, offers(Defences::GUEST_CONTROLS));
    provides.set(Provides::IBPB, offers(Defences::GUEST_IBPB));
    let delivers = features.delivery == Delivery::ByCpu;
    provides.set(Provides::APIC_ACCESS_VIRT, delivers);
    provides.set(Provides::X2APIC_VIRT, delivers);
    provides.set(
        Provides::INVARIANT_TSC,
        cpuid.get(0x8000_0007, 0).edx & INVARIANT_TSC != 0,
    );
    // A CPU without the MSR has nothing that switches them off: AMD's have none, whatever an emulator answers.
    provides.set(
        Provides::FAST_STRINGS,
        cpuid.vendor() == Vendor::Amd
            || rdmsr_safe(MISC_ENABLE).is_none_or(|value| value & FAST_STRINGS != 0),
    );
    provides
}

/// Devices that the hypervisor keeps to itself.
pub(super) fn kept(machine: &BootedMachine) -> Vec<MfnRange> {
    let page = |address: Hpa| {
        let mfn = Mfn::containing(address);
        MfnRange::new(mfn, mfn + 1)
    };
    let mut kept: Vec<MfnRange> = ioapic::all()
        .iter()
        .map(|ioapic| page(ioapic.base))
        .collect();
    kept.push(page(local::page()));
    kept.extend(machine.acpi.hpet.iter().map(|hpet| page(hpet.address)));
    kept.extend(machine.acpi.mcfg.iter().filter_map(McfgRange::frames));
    // what the hypervisor executes nobody else writes
    let firmware = machine.firmware.iter();
    let memory = firmware.flat_map(|firmware| &firmware.runtime_memory);
    kept.extend(
        memory
            .filter(|range| range.is_code)
            .map(|range| range.frames),
    );
    kept
}

/// ISA lines that PCI devices use: those that the firmware set in the edge/level control registers. Where it uses any,
/// Linux may also choose those to which chipsets of that kind can route PCI and no ISA device is wired.
pub(super) fn level_irqs() -> u16 {
    const MASTER: u16 = 0x4D0;
    const SLAVE: u16 = 0x4D1;
    const ROUTABLE: u16 = 1 << 5 | 1 << 10 | 1 << 11;
    match u16::from_le_bytes([port::read8(MASTER), port::read8(SLAVE)]) {
        // no such registers
        0 | u16::MAX => 0,
        set => set | ROUTABLE,
    }
}

/// Ports of the machine that dom0 does not have to itself.
pub(super) fn ports(machine: &BootedMachine) -> MachinePorts {
    let fadt = machine.acpi.fadt.as_ref();
    let first = |block: Option<Block>| block.and_then(Block::ports).map(|(port, _)| port);
    let uart = console_port(machine);
    MachinePorts {
        uart,
        pm1a_control: first(fadt.and_then(|fadt| fadt.pm1a_control)),
        pm1b_control: first(fadt.and_then(|fadt| fadt.pm1b_control)),
        reset: fadt.and_then(|fadt| match fadt.reset {
            Some((Register::Port(port), _)) => Some(port),
            _ => None,
        }),
    }
}

fn console_port(machine: &BootedMachine) -> Option<u16> {
    let options = &machine.options;
    if !hv_hw::console::has_serial() {
        None
    } else if options.console.com2 && !options.console.com1 {
        Some(options.com2.io_base)
    } else {
        Some(options.com1.io_base)
    }
}

/// The bytes of the DSDT.
fn dsdt(machine: &BootedMachine) -> Option<Vec<u8>> {
    const MOST_BYTES: u32 = 4 << 20;
    let at = machine.acpi.fadt.as_ref()?.dsdt;
    let mut header = [0; 8];
    direct_map::read(at, &mut header).ok()?;
    let [_, _, _, _, length @ ..] = header;
    let length = u32::from_le_bytes(length).min(MOST_BYTES);
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    direct_map::read(at, &mut bytes).ok()?;
    Some(bytes)
}

/// How the machine is switched off.
pub(super) fn power_off(machine: &BootedMachine) -> Option<PowerOff> {
    let ports = ports(machine);
    let control = [ports.pm1a_control?, ports.pm1b_control.unwrap_or(0)];
    let sleep_types = sleep::soft_off(&dsdt(machine)?)?;
    Some(PowerOff {
        control,
        sleep_types,
    })
}
