//! The machine, set up as the hypervisor does as far as a vCPU needs it.

use alloc::string::String;
use alloc::vec;

use hv_core::addr::{Hpa, Mfn, MfnRange, PAGE_SIZE};
use hv_core::cpuid::{CpuidRegs, HostCpuid};
use hv_core::firmware::multiboot2::{self, BootInformation};
use hv_core::image::e820::E820Kind;
use hv_core::options::Options;
use hv_core::speculation::{Defences, Plan, Weakness};
use hv_hw::image::ImageLayout;
use hv_hw::percpu::IrqsOff;
use hv_hw::time::{self, calibrate};
use hv_hw::virt::{Backend, ExtendedState, Features, HostProbe, Switches, WithBackend};
use hv_hw::{console, cpu, direct_map, heap, info, insn, irq, paging, panic, shutdown};

use crate::memory::Frames;
use crate::{checks, report};

/// Where the heap begins, behind the image.
const HEAP_START: Mfn = Mfn::containing(Hpa::new(16 << 20));
const HEAP_PAGES: u64 = (16 << 20) / PAGE_SIZE;
/// What the boot code's page tables reach.
const BOOT_MAP_END: Mfn = Mfn::containing(Hpa::new(1 << 32));

/// What checks have to work with.
pub(crate) struct Bench<B: Backend> {
    pub(crate) backend: B,
    pub(crate) features: Features,
    pub(crate) extended: ExtendedState,
    pub(crate) frames: Frames,
    pub(crate) irqs_off: IrqsOff,
}

/// Sets the machine up and runs all checks.
pub(crate) fn start(multiboot: Hpa, image: &ImageLayout) -> ! {
    let irqs_off = cpu::init_boot_cpu();
    direct_map::begin(image);
    panic::set_image(image);
    time::set_start(insn::rdtsc());
    let loaded = read(multiboot);
    let (options, _) = Options::parse(&loaded.command_line);
    console::use_serial(Some(&options.com1));
    console::set_sync(true);
    shutdown::set_noreboot(true);
    let mut frames = set_up_memory(image, &loaded);
    let clock = calibrate::tsc_frequency(&[calibrate::Reference::Pit]).expect("a PC has a PIT");
    time::set_tsc_khz(clock.khz);
    irq::init(&mut frames).expect("memory for the APIC's page");

    let probe = HostProbe::read(&switches(&options))
        .unwrap_or_else(|refusal| panic::fatal(format_args!("{refusal}")));
    info!("{probe}");
    let own = frames.block(probe.own_frames());
    if let Err(failed) = probe.enable(own, &irqs_off) {
        panic::fatal(format_args!("{failed}"));
    }
    let extended = extended_state();
    let run = Run {
        features: probe.features(),
        extended,
        frames,
        irqs_off,
        command_line: loaded.command_line,
    };
    probe.run(extended, unprotected(), run)
}

/// Copies the information at `at` out of the memory that is reused soon, and reads it.
fn read(at: Hpa) -> BootInformation {
    let mut first = [0; 8];
    direct_map::read(at, &mut first).expect("GRUB's information is in memory");
    let mut bytes = vec![0; multiboot2::total_size(first).expect("a size")];
    direct_map::read(at, &mut bytes).expect("GRUB's information is in memory");
    multiboot2::parse(&bytes).expect("GRUB's information is well-formed")
}

/// Gives the heap its memory and switches to the final page tables; what remains of the first large range of RAM is
/// for the checks.
fn set_up_memory(image: &ImageLayout, loaded: &BootInformation) -> Frames {
    let heap = MfnRange::new(HEAP_START, HEAP_START + HEAP_PAGES);
    let ram = loaded
        .memory
        .ram()
        .find(|range| range.start <= heap.start && heap.end < range.end)
        .expect("RAM from 16 MiB on");
    heap::give(heap);
    let mut frames = Frames::new(MfnRange::new(heap.end, ram.end.min(BOOT_MAP_END)));
    let cached = loaded.memory.entries().iter();
    let cached = cached.filter(|entry| entry.kind == E820Kind::Ram);
    let cached = cached.map(|e| MfnRange::covering(Hpa::new(e.start), Hpa::new(e.end)));
    paging::init(&mut frames, image, cached).expect("memory for page tables");
    frames
}

fn switches(options: &Options) -> Switches {
    let features = &options.features;
    Switches {
        delivery: features.apicv,
        posted_interrupts: features.posted_interrupts,
        tlb_tags: features.vpid,
        ..Switches::default()
    }
}

/// What is switched of x87, SSE and AVX, where the CPU has XSAVE.
fn extended_state() -> ExtendedState {
    const SWITCHED: u32 = 7;
    const XSAVE: u32 = 1 << 26;
    const RDTSCP: u32 = 1 << 27;
    let cpuid = HostCpuid::read(|leaf, subleaf| {
        let [eax, ebx, ecx, edx] = cpu::cpuid_leaf(leaf, subleaf);
        CpuidRegs { eax, ebx, ecx, edx }
    });
    let has_xsave = cpuid.get(1, 0).ecx & XSAVE != 0;
    ExtendedState {
        xcr0: if has_xsave {
            u64::from(cpuid.get(0xD, 0).eax & SWITCHED)
        } else {
            0
        },
        leaks_x87_pointers: cpuid.leaks_x87_pointers(),
        has_tsc_aux: cpuid.get(0x8000_0001, 0).edx & RDTSCP != 0,
        has_spec_ctrl: false,
    }
}

/// Nothing against speculation: there is nobody to be protected.
fn unprotected() -> Plan {
    Plan {
        defences: Defences::empty(),
        unprotected: Weakness::all(),
        lacking: Defences::empty(),
    }
}

struct Run {
    features: Features,
    extended: ExtendedState,
    frames: Frames,
    irqs_off: IrqsOff,
    command_line: String,
}

impl WithBackend for Run {
    fn run<B: Backend>(self, backend: B) -> ! {
        let mut bench = Bench {
            backend,
            features: self.features,
            extended: self.extended,
            frames: self.frames,
            irqs_off: self.irqs_off,
        };
        for group in checks::groups() {
            report::run_all(&mut bench, &self.command_line, group);
        }
        info!("--- done");
        insn::halt_for_ever()
    }
}
