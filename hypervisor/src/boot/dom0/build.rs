//! dom0 from its parts: kernel, initrd, start info and tables in the memory that `memory` planned, then the domain,
//! made as every other is ([`crate::domain::create`]), and its vCPUs.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use guest_abi::errno::Errno;
use guest_abi::xen::{SIF_INITDOMAIN, SIF_PRIVILEGED};
use hv_core::addr::{Gpa, Hpa, MfnRange};
use hv_core::cpuid::apic_id;
use hv_core::device::ioapic::IoApic;
use hv_core::device::pci::PciConfig;
use hv_core::device::ports::PortMap;
use hv_core::device::routes::Routes;
use hv_core::domid::DomId;
use hv_core::firmware::acpi::McfgRange;
use hv_core::firmware::dom0_acpi::{self, Dom0AcpiPlan};
use hv_core::firmware::multiboot2::Module;
use hv_core::image::dom0_memory::Dom0Layout;
use hv_core::image::e820::E820Map;
use hv_core::image::initrd;
use hv_core::image::start_info::StartInfo;
use hv_hw::direct_map;
use hv_hw::irq::ioapic;
use hv_hw::virt::GuestRegs;
use hv_hw::{info, warn};

use crate::boot::dom0::memory as placed;
use crate::boot::dom0::memory::out_of_memory;
use crate::boot::dom0::{kernel, parts};
use crate::boot::{BootedMachine, fatal};
use crate::domain::create::{self, DomainConfig, DomainResources};
use crate::domain::devices::{Devices, VirtualIoApic};
use crate::domain::vcpu_state::VcpuState;
use crate::domain::{Domain, interrupts, pci};
use crate::machine::memory;
use crate::pcpu::hand_off;
use crate::runner::reset;

/// Makes dom0, its vCPUs on their way to the CPU that runs them, or ends the boot with a line that says why not.
pub(super) fn dom0(machine: &BootedMachine) -> Arc<Domain> {
    let (file, initrd) = modules(machine);
    let loaded = kernel::load(machine, &file)
        .unwrap_or_else(|problem| fatal(format_args!("dom0's kernel cannot be loaded: {problem}")));
    return_module(&file);
    if let Some(module) = &initrd {
        look_at_initrd(module);
    }
    let entry_point = loaded.entry;
    let vcpus = vcpu_count(machine);
    let layout = placed::plan(machine, &loaded, initrd.as_ref(), vcpus);
    let e820 = layout.memory_map(&machine.memory);
    placed::take(machine, &layout, loaded, initrd.as_ref());
    let start_info = write_boot_data(machine, &layout, &e820, &file, vcpus);
    let p2m = placed::map(&layout, &e820);
    info!(
        "dom0: {} MiB in {} ranges, {vcpus} vCPUs, kernel at {}, entry {entry_point}",
        layout.pages() >> 8,
        layout.ranges.len(),
        layout.kernel.start.base()
    );
    let is_charged = memory::charge_ram(DomId::DOM0, layout.pages(), layout.pages());
    assert!(is_charged, "dom0 is the first to have anything");
    let own = DomainResources {
        p2m,
        e820,
        pages: layout.pages(),
        ports: PortMap::dom0(&parts::ports(machine)),
        devices: devices(&machine.acpi.mcfg),
    };
    let count = u16::try_from(vcpus).expect("at most MAX_VCPUS");
    let domain = create::domain(DomId::DOM0, DomainConfig::dom0(count), own);
    let domain = Arc::new(domain.unwrap_or_else(|_| out_of_memory()));
    placed::set_tables_aside(&domain, layout.pages());
    pci::scan(&mut domain.devices.lock(), &domain.log);
    start(&domain, entry_point, start_info).unwrap_or_else(|_| out_of_memory());
    domain
}

/// Sends the vCPUs to their CPU; the first starts at the kernel's entry.
fn start(domain: &Arc<Domain>, entry_point: Gpa, start_info: Gpa) -> Result<(), Errno> {
    let mut regs = GuestRegs::default();
    regs.set_rbx(start_info.as_u64());
    if let Some(first) = domain.vcpus.first() {
        first.set_state(VcpuState::starting(regs, reset::pvh_entry(entry_point)));
    }
    for index in 0..domain.vcpus.len() {
        hand_off::spawn(domain, index)?;
    }
    Ok(())
}

fn modules(machine: &BootedMachine) -> (Module, Option<Module>) {
    let mut modules = machine.modules.iter().cloned();
    let Some(kernel) = modules.next() else {
        fatal(format_args!(
            "there is no dom0 kernel; add a line `module2 /boot/vmlinuz… …` to the GRUB entry"
        ))
    };
    (kernel, modules.next())
}

/// Warns where the second module is nothing that Linux takes for an initrd: its kernel would stop without a root file
/// system, many lines later.
fn look_at_initrd(module: &Module) {
    let mut start = [0; initrd::MAGIC_BYTES];
    let length = usize::try_from(module.end - module.start).unwrap_or(usize::MAX);
    let start = &mut start[..length.min(initrd::MAGIC_BYTES)];
    if direct_map::read(module.start, start).is_err() || !initrd::is_known(start) {
        warn!("dom0's initrd is neither a cpio archive nor in a format that Linux unpacks");
    }
}

/// The file has done its duty.
fn return_module(module: &Module) {
    // a module that shares its last frame with another stays
    let _ = memory::free()
        .lock()
        .add_free(MfnRange::inside(module.start, module.end));
}

/// One CPU runs guests, so one vCPU unless asked for more.
fn vcpu_count(machine: &BootedMachine) -> u32 {
    machine
        .options
        .dom0_max_vcpus
        .map_or(1, |count| count.max.max(count.min))
        .clamp(1, u32::from(create::MAX_VCPUS))
}

/// Writes ACPI tables and start info; returns where the latter is.
fn write_boot_data(
    machine: &BootedMachine,
    layout: &Dom0Layout,
    e820: &E820Map,
    file: &Module,
    vcpus: u32,
) -> Gpa {
    let apic_ids: Vec<u32> = (0..vcpus).map(apic_id).collect();
    let place = Gpa::new(layout.acpi.start.base().as_u64());
    let plan = Dom0AcpiPlan {
        vcpu_apic_ids: &apic_ids,
        level_irqs: parts::level_irqs(),
        passes_mcfg: true,
    };
    let acpi = dom0_acpi::build(&machine.acpi, plan, place)
        .unwrap_or_else(|problem| fatal(format_args!("{problem}")));
    put(place, &acpi.bytes);
    let command_line = command_line(machine, file);
    let info = StartInfo {
        flags: SIF_PRIVILEGED | SIF_INITDOMAIN,
        command_line: &command_line,
        initrd: layout.initrd,
        memory: e820,
        rsdp: Some(acpi.rsdp),
    };
    let bytes = info
        .build(layout.start_info)
        .unwrap_or_else(|problem| fatal(format_args!("dom0 cannot be started: {problem}")));
    put(layout.start_info, &bytes);
    layout.start_info
}

fn put(at: Gpa, bytes: &[u8]) {
    direct_map::write(Hpa::new(at.as_u64()), bytes).expect("the plan's places are RAM of dom0's");
}

/// The kernel's own words, then ours: without an IOMMU, DMA to pages of other domains has to be bounced.
fn command_line(machine: &BootedMachine, file: &Module) -> String {
    let mut line = file.command_line.clone();
    let mut add = |word: &str| {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    };
    if !file.command_line.contains("swiotlb=") {
        add("swiotlb=force");
    }
    if let Some(more) = &machine.options.dom0_append {
        add(more);
    }
    line
}

/// A virtual I/O APIC for each real one, and PCI configuration.
fn devices(mcfg: &[McfgRange]) -> Devices {
    let ioapics = ioapic::all()
        .iter()
        .map(|real| VirtualIoApic {
            base: Gpa::new(real.base.as_u64()),
            first_gsi: real.first_gsi,
            chip: IoApic::new(real.id, u8::try_from(real.pins).unwrap_or(u8::MAX)),
        })
        .collect();
    // through the ports there is one segment
    let (mcfg, others): (Vec<McfgRange>, Vec<_>) =
        mcfg.iter().copied().partition(|range| range.segment == 0);
    for range in others {
        warn!(
            "PCI segment {} is not for dom0: only segment 0 is",
            range.segment
        );
    }
    Devices {
        ioapics,
        pci: Some(PciConfig::new(&[])),
        mcfg,
        routes: Routes::new(interrupts::message_vectors()),
    }
}
