//! The machine around the CPU: ACPI, the clock, interrupt controllers, and how to reset.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use hv_core::addr::Hpa;
use hv_core::device::ioapic::rte;
use hv_core::firmware::acpi::{self, AcpiError, Fadt, HostAcpi, PhysicalMemory, Register, Rsdp};
use hv_core::firmware::madt::Madt;
use hv_core::firmware::multiboot2::BootInformation;
use hv_core::options::Options;
use hv_hw::irq::{ioapic, local, timer, vectors};
use hv_hw::mmio::{self, Registers};
use hv_hw::shutdown::{self, ResetRegister, Ways};
use hv_hw::time::calibrate::{self, Reference};
use hv_hw::time::{self, rtc};
use hv_hw::{console, direct_map, info, irq, warn};

use crate::domain::interrupts as own_irq;
use crate::machine::memory::Tables;

/// What was found.
pub(super) struct Platform {
    pub(super) acpi: HostAcpi,
    pub(super) rsdp: Vec<u8>,
    pub(super) wall_clock_s: u64,
    pub(super) wall_clock_tsc: u64,
}

/// Why the machine cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PlatformProblem {
    NoRsdp,
    Acpi(AcpiError),
    NoMadt,
    NoIoApic,
    NoClock,
    NoMemory,
}

impl fmt::Display for PlatformProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRsdp => f.write_str("no ACPI tables found; turn ACPI on in the firmware setup"),
            Self::Acpi(problem) => write!(f, "{problem}; the firmware needs an update"),
            Self::NoMadt => f.write_str("ACPI has no MADT; turn the APIC on in the firmware setup"),
            Self::NoIoApic => f.write_str("ACPI names no I/O APIC; turn the APIC on in the firmware setup"),
            Self::NoClock => {
                f.write_str("the TSC's frequency cannot be measured: neither ACPI PM timer nor HPET nor PIT counts")
            }
            Self::NoMemory => f.write_str("no memory is left to map device registers; give the machine more memory"),
        }
    }
}

/// Finds and sets up what is around the CPU.
pub(super) fn init(
    loaded: &BootInformation,
    options: &Options,
) -> Result<Platform, PlatformProblem> {
    let (rsdp, acpi) = find_acpi(loaded)?;
    let fadt = acpi.fadt;
    shutdown::set_ways(Ways {
        reset: fadt.and_then(reset_register),
        preferred: options.reboot,
    });
    calibrate_tsc(&acpi)?;
    irq::init(&mut Tables).map_err(|_| PlatformProblem::NoMemory)?;
    mmio::open_peephole(&mut Tables).map_err(|_| PlatformProblem::NoMemory)?;
    let madt = acpi.madt.as_ref().ok_or(PlatformProblem::NoMadt)?;
    add_ioapics(madt)?;
    route_console(madt, options);
    info!(
        "interrupts: local APIC {} in {} mode, timer by {}, {} lines",
        local::id(),
        if local::is_x2apic() {
            "x2APIC"
        } else {
            "xAPIC"
        },
        if timer::is_deadline() {
            "TSC deadline"
        } else {
            "count"
        },
        ioapic::gsi_end(),
    );
    let (wall_clock_s, wall_clock_tsc) = rtc::read(fadt.and_then(|fadt| fadt.century));
    info!("wall clock: {wall_clock_s} s since 1970");
    Ok(Platform {
        acpi,
        rsdp,
        wall_clock_s,
        wall_clock_tsc,
    })
}

/// How many CPUs the firmware has enabled.
pub(super) fn enabled_cpus(acpi: &HostAcpi) -> usize {
    let cpus = acpi.madt.iter().flat_map(|madt| &madt.cpus);
    cpus.filter(|cpu| cpu.is_enabled).count().max(1)
}

/// Memory for the readers of tables.
struct DirectMap;

impl PhysicalMemory for DirectMap {
    fn read(&self, at: Hpa, to: &mut [u8]) -> bool {
        direct_map::read(at, to).is_ok()
    }
}

/// The RSDP's bytes and the tables behind it.
fn find_acpi(loaded: &BootInformation) -> Result<(Vec<u8>, HostAcpi), PlatformProblem> {
    let from_tag = loaded
        .rsdp
        .as_ref()
        .and_then(|bytes| Some((bytes.clone(), Rsdp::parse(bytes)?)));
    let (bytes, rsdp) = from_tag
        .or_else(scan_bios_area)
        .ok_or(PlatformProblem::NoRsdp)?;
    let acpi = HostAcpi::discover(&DirectMap, rsdp).map_err(PlatformProblem::Acpi)?;
    for problem in &acpi.problems {
        warn!("{problem}");
    }
    info!(
        "ACPI: {} tables, {} CPUs, HPET {}, {} MCFG ranges, DMAR {}",
        acpi.tables.len(),
        enabled_cpus(&acpi),
        if acpi.hpet.is_some() { "yes" } else { "no" },
        acpi.mcfg.len(),
        if acpi.dmar.is_some() {
            "yes (noted, not used)"
        } else {
            "no"
        },
    );
    Ok((bytes, acpi))
}

/// Looks for the RSDP where a BIOS leaves it: the start of the EBDA, then 0xE0000 to 0xFFFFF.
fn scan_bios_area() -> Option<(Vec<u8>, Rsdp)> {
    const BIOS_AREA: Hpa = Hpa::new(0xe_0000);
    const BIOS_AREA_BYTES: usize = 0x2_0000;
    const EBDA_BYTES: usize = 1024;
    let mut low = vec![0; 0x500];
    direct_map::read(Hpa::new(0), &mut low).ok()?;
    let ebda = acpi::ebda_start(&low).map(|start| (start, EBDA_BYTES));
    ebda.into_iter()
        .chain([(BIOS_AREA, BIOS_AREA_BYTES)])
        .find_map(|(start, bytes)| {
            let mut area = vec![0; bytes];
            direct_map::read(start, &mut area).ok()?;
            let (at, rsdp) = Rsdp::scan(&area)?;
            let rest = area.get(at..)?;
            Some((rest.get(..36).unwrap_or(rest).to_vec(), rsdp))
        })
}

/// The FADT's reset register where it is a port, as it is on every PC.
fn reset_register(fadt: Fadt) -> Option<ResetRegister> {
    match fadt.reset? {
        (Register::Port(port), value) => Some(ResetRegister { port, value }),
        _ => None,
    }
}

fn calibrate_tsc(acpi: &HostAcpi) -> Result<(), PlatformProblem> {
    let mut references = Vec::new();
    let pm_timer = acpi
        .fadt
        .and_then(|fadt| fadt.pm_timer)
        .and_then(|block| block.ports());
    references.extend(pm_timer.map(|(port, _)| Reference::PmTimer(port)));
    references.extend(acpi.hpet.and_then(|hpet| open_hpet(hpet.address)));
    references.push(Reference::Pit);
    let frequency = calibrate::tsc_frequency(&references).ok_or(PlatformProblem::NoClock)?;
    time::set_tsc_khz(frequency.khz);
    match frequency.claimed_khz {
        Some(claimed) if claimed != frequency.khz => info!(
            "TSC: {} kHz by {}; CPUID claims {claimed} kHz, which is not so",
            frequency.khz, frequency.source
        ),
        _ => info!("TSC: {} kHz by {}", frequency.khz, frequency.source),
    }
    Ok(())
}

fn open_hpet(address: Hpa) -> Option<Reference> {
    const BYTES: u64 = 0x400;
    const PERIOD: usize = 0x04;
    const CONFIGURATION: usize = 0x10;
    const ENABLE: u32 = 1;
    let registers = Registers::map(&mut Tables, address, BYTES).ok()?;
    let femtoseconds = registers.read32(PERIOD);
    if !(1..=100_000_000).contains(&femtoseconds) {
        return None;
    }
    let configuration = registers.read32(CONFIGURATION);
    registers.write32(CONFIGURATION, configuration | ENABLE);
    Some(Reference::Hpet(registers, femtoseconds))
}

fn add_ioapics(madt: &Madt) -> Result<(), PlatformProblem> {
    if madt.io_apics.is_empty() {
        return Err(PlatformProblem::NoIoApic);
    }
    for found in &madt.io_apics {
        match ioapic::add(&mut Tables, found.address, found.id, found.gsi_base) {
            Some(pins) => info!(
                "I/O APIC {} at {}: GSI {} and up, {pins} pins",
                found.id, found.address, found.gsi_base
            ),
            None => warn!("I/O APIC {} at {} is left unused", found.id, found.address),
        }
    }
    Ok(())
}

/// Routes the serial port's interrupt to this CPU, permanently; from then on printing waits for nothing.
fn route_console(madt: &Madt, options: &Options) {
    let port = if options.console.com1 {
        options.com1
    } else {
        options.com2
    };
    if port.irq == 0 || !console::has_serial() {
        return;
    }
    let line = madt.isa_interrupt(port.irq);
    let apic_id = own_irq::boot_apic_id();
    let entry = rte::fixed(vectors::SERIAL, apic_id, line.trigger(), line.polarity());
    if !own_irq::keep_for_console(line.gsi, entry) {
        warn!(
            "the serial port's interrupt {} has no I/O APIC; the console is polled",
            line.gsi
        );
        return;
    }
    console::enable_interrupt();
}
