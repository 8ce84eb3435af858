//! From the boot code to dom0: a checklist, one line a step.
//!
//! Each step logs what it found, with the time since entry. A step that cannot be mended ends the boot with one line
//! that names cause and remedy ([`fatal`]). Next: `loader` for what GRUB left, `ram` for memory, `platform` for the
//! rest of the machine.

mod dom0;
mod firmware;
mod loader;
mod placement;
mod platform;
mod ram;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use hv_core::addr::{Hpa, MfnRange};
use hv_core::firmware::acpi::HostAcpi;
use hv_core::firmware::framebuffer::Framebuffer;
use hv_core::firmware::multiboot2::Module;
use hv_core::image::e820::E820Map;
use hv_core::options::Options;
use hv_hw::image::ImageLayout;
use hv_hw::percpu::IrqsOff;
use hv_hw::virt::{HostProbe, Switches};
use hv_hw::{console, cpu, direct_map, info, panic, time, warn};

use crate::machine::host::Firmware;
use crate::machine::memory;

/// What the boot code knows.
#[derive(Clone, Copy, Debug)]
pub struct BootInfo {
    /// Where the loader left the multiboot2 information.
    pub multiboot: Hpa,
    /// Where the image lies.
    pub image: ImageLayout,
    /// The TSC when Rust was entered.
    pub entry_tsc: u64,
}

/// The machine, up and running on one CPU: what dom0 is made from.
#[derive(Debug)]
pub struct BootedMachine {
    /// The hypervisor's command line, as given.
    pub command_line: String,
    pub options: Options,
    /// The host's memory map, as the firmware describes it.
    pub memory: E820Map,
    /// RAM that the hypervisor keeps: its image, its heap.
    pub hypervisor: [MfnRange; 2],
    /// Frames right below the heap, which it may have while dom0's kernel is unpacked. They are not among the free
    /// ones.
    pub temporary_heap: MfnRange,
    /// RAM below 1 MiB. It is not among the free frames, so that nothing but dom0 gets it.
    pub low_ram: Vec<MfnRange>,
    /// dom0's kernel, then its initrd, out of the way of dom0's memory. Their frames are not among the free ones.
    pub modules: Vec<Module>,
    /// The host's ACPI tables.
    pub acpi: HostAcpi,
    /// The host's RSDP as bytes, which name the revision and the OEM.
    pub rsdp: Vec<u8>,
    /// What is known of EFI.
    pub(crate) firmware: Option<Firmware>,
    /// The screen that the firmware set up.
    pub screen: Option<Framebuffer>,
    /// What the CPU offers; it runs guests.
    pub probe: HostProbe,
    /// Seconds since 1970 by the real-time clock when the TSC was `wall_clock_tsc`.
    pub wall_clock_s: u64,
    pub wall_clock_tsc: u64,
}

/// Brings the machine up and runs dom0.
pub fn start(boot: BootInfo) -> ! {
    let irqs_off = cpu::init_boot_cpu();
    direct_map::begin(&boot.image);
    panic::set_image(&boot.image);
    time::set_start(boot.entry_tsc);

    let loaded = loader::read(boot.multiboot).unwrap_or_else(|problem| {
        loader::open_default_console();
        fatal(format_args!("{problem}"))
    });
    let options = loader::configure(&loaded);
    if loaded.efi.has_boot_services {
        fatal(format_args!(
            "the loader left EFI's boot services on; use one that ends them, as GRUB does for multiboot2"
        ));
    }
    let memory =
        ram::init(&boot.image, &loaded).unwrap_or_else(|problem| fatal(format_args!("{problem}")));
    keep_log(&options);
    let platform = platform::init(&loaded, &options)
        .unwrap_or_else(|problem| fatal(format_args!("{problem}")));
    let firmware = firmware::init(&loaded.efi, &loaded.memory, options.efi_runtime);
    let probe = enable_guests(&options, &irqs_off);

    let machine = BootedMachine {
        command_line: loaded.command_line,
        options,
        memory: loaded.memory,
        hypervisor: [boot.image.whole(), memory.heap],
        temporary_heap: memory.temporary_heap,
        low_ram: memory.low,
        modules: memory.modules,
        acpi: platform.acpi,
        rsdp: platform.rsdp,
        firmware,
        screen: loaded.screen,
        probe,
        wall_clock_s: platform.wall_clock_s,
        wall_clock_tsc: platform.wall_clock_tsc,
    };
    summarise(&machine);
    milestone("machine up");
    crate::boot::dom0::build_and_run(machine, irqs_off)
}

/// Notes how far the boot has come, in TSC ticks since entry: `cargo xtask bench boot` reads these lines.
pub(crate) fn milestone(what: &str) {
    info!(
        "boot: {what} ticks={}",
        time::now().saturating_sub(time::start())
    );
}

/// Ends the boot: one line with cause and remedy, on the serial port and the screen, then halt or reboot as `noreboot`
/// says.
pub(crate) fn fatal(reason: fmt::Arguments<'_>) -> ! {
    panic::fatal(reason)
}

/// Keeps as much of the log as `conring_size` asks for.
fn keep_log(options: &Options) {
    let bytes = options.conring_bytes as usize;
    let mut ring = Vec::new();
    if ring.try_reserve_exact(bytes).is_err() {
        warn!("no memory for a log of {} KiB (conring_size)", bytes >> 10);
        return;
    }
    ring.resize(bytes, 0);
    console::grow_history(ring);
}

/// Checks that this CPU can run guests, and has it do so.
fn enable_guests(options: &Options, irqs_off: &IrqsOff) -> HostProbe {
    let features = &options.features;
    let switches = Switches {
        delivery: features.apicv,
        posted_interrupts: features.posted_interrupts,
        tlb_tags: features.vpid,
        stage2_2m: features.ept_2m,
        stage2_1g: features.ept_1g,
        tsc_scaling: features.tsc_scaling,
        ..Switches::default()
    };
    let probe =
        HostProbe::read(&switches).unwrap_or_else(|refusal| fatal(format_args!("{refusal}")));
    info!("{probe}");
    let frames = memory::alloc_own_block(probe.own_frames()).unwrap_or_else(|| {
        fatal(format_args!(
            "no memory is left for the CPU's own; {MORE_MEMORY}"
        ))
    });
    if let Err(failed) = probe.enable(frames, irqs_off) {
        fatal(format_args!("{failed}"));
    }
    probe
}

/// The remedy where memory is short.
const MORE_MEMORY: &str = "give the machine more memory";

fn summarise(machine: &BootedMachine) {
    let (used, all) = hv_hw::heap::usage();
    info!(
        "up after {} ms: 1 of {} CPUs, TSC {} MHz, {} MiB RAM ({} MiB free), heap {} of {} KiB used, {} modules",
        time::uptime_ns() / 1_000_000,
        platform::enabled_cpus(&machine.acpi),
        time::tsc_khz() / 1000,
        machine.memory.ram_pages() >> 8,
        memory::free_frames() >> 8,
        used >> 10,
        all >> 10,
        machine.modules.len(),
    );
    console::poll();
}
