//! dom0's memory and vCPUs.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};

use arrayvec::ArrayString;
use guest_abi::xen::{SIF_INITDOMAIN, SIF_PRIVILEGED};
use hv_core::addr::{Gfn, Gpa, Hpa, Mfn, MfnRange, PageOrder};
use hv_core::cpuid::{CpuidOptions, CpuidPolicy, TscInfo, apic_id};
use hv_core::device::ioapic::IoApic;
use hv_core::device::lapic::{Lapic, LapicConfig};
use hv_core::device::pci::PciConfig;
use hv_core::device::ports::{BITMAP_BYTES, PortMap};
use hv_core::device::posted::{BOX_BYTES, PostedInterrupts};
use hv_core::domid::DomId;
use hv_core::evtchn::EventChannels;
use hv_core::firmware::dom0_acpi::{self, Dom0AcpiPlan};
use hv_core::firmware::multiboot2::Module;
use hv_core::frame::Role;
use hv_core::image::dom0_memory::{Dom0Layout, Dom0MemoryRequest, plan_dom0};
use hv_core::image::e820::{E820Kind, E820Map};
use hv_core::image::start_info::StartInfo;
use hv_core::msr::{MsrPolicy, MsrState};
use hv_core::p2m::{P2m, P2mConfig, P2mKind, P2mMapping};
use hv_core::paging::ept::MemoryType;
use hv_core::vcpu::VcpuId;
use hv_core::vcpu::time::PvClock;
use hv_hw::direct_map::{self, DirectTables, SharedFrame};
use hv_hw::irq::{ioapic, vectors};
use hv_hw::sync::RankedLock;
use hv_hw::virt::vtx::{IoBitmap, MsrAccess, MsrBitmap, VcpuConfig, VtxVcpu};
use hv_hw::virt::{
    DescriptorTable, SEGMENT_CS, SEGMENT_LDTR, SEGMENT_TR, SEGMENT_UNUSABLE, Segment, Stage2Root,
    SystemRegs, TscView, VcpuHw,
};
use hv_hw::{info, insn};

use super::kernel::{self, Loaded};
use super::{Runners, extended, parts};
use crate::cpu::Pcpu;
use crate::domain::devices::{Devices, VirtualIoApic};
use crate::domain::{Domain, Life};
use crate::host::{self, host};
use crate::memory::{self, Tables};
use crate::pinned::Pinned;
use crate::start::{Machine, fatal};
use crate::vcpu::{Activity, Runner, Vcpu};

const MAX_VCPUS: u32 = 32;
/// 4-level EPT.
const STAGE2_BITS: u8 = 48;
/// Ports of the 2-level ABI and of FIFO alike.
const MAX_PORT: u32 = (1 << 17) - 1;

/// Everything that dom0's first vCPU finds.
struct Entry {
    rip: Gpa,
    start_info: Gpa,
}

/// Makes dom0, or ends the boot with a line that says why not.
pub(super) fn dom0(machine: &Machine, pcpu: &mut Pcpu) -> (Arc<Domain>, Runners) {
    let (file, initrd) = modules(machine);
    let loaded = kernel::load(machine, &file)
        .unwrap_or_else(|problem| fatal(format_args!("dom0's kernel cannot be loaded: {problem}")));
    return_module(&file);
    let entry_point = loaded.entry;
    let vcpus = vcpu_count(machine);
    let layout = plan(machine, &loaded, initrd.as_ref(), vcpus);
    let e820 = layout.memory_map(&machine.memory);
    take_memory(machine, &layout, loaded, initrd.as_ref());
    let start_info = write_boot_data(machine, &layout, &e820, &file, vcpus);
    let p2m = map_memory(machine, &layout, &e820);
    info!(
        "dom0: {} MiB in {} ranges, {vcpus} vCPUs, kernel at {}, entry {entry_point}",
        layout.pages() >> 8,
        layout.ranges.len(),
        layout.kernel.start.base()
    );
    let domain = Arc::new(domain(machine, &layout, e820, p2m, vcpus));
    let entry = Entry {
        rip: entry_point,
        start_info,
    };
    let runners = runners(&domain, pcpu, &entry);
    (domain, runners)
}

fn modules(machine: &Machine) -> (Module, Option<Module>) {
    let mut modules = machine.modules.iter().cloned();
    let Some(kernel) = modules.next() else {
        fatal(format_args!(
            "there is no dom0 kernel; add a line `module2 /boot/vmlinuz… …` to the GRUB entry"
        ))
    };
    (kernel, modules.next())
}

fn frames_of(module: &Module) -> MfnRange {
    MfnRange::covering(module.start, module.end.max(module.start + 1))
}

/// The file has done its duty.
fn return_module(module: &Module) {
    // a module that shares its last frame with another stays
    let _ = memory::free()
        .lock()
        .add_free(MfnRange::inside(module.start, module.end));
}

/// One CPU runs guests, so one vCPU unless asked for more.
fn vcpu_count(machine: &Machine) -> u32 {
    machine
        .options
        .dom0_max_vcpus
        .map_or(1, |count| count.max.max(count.min))
        .clamp(1, MAX_VCPUS)
}

fn plan(machine: &Machine, loaded: &Loaded, initrd: Option<&Module>, vcpus: u32) -> Dom0Layout {
    let mut available: Vec<MfnRange> = machine.low_ram.clone();
    available.push(loaded.frames.range());
    available.extend(initrd.map(frames_of));
    let reserved = taken(machine, &available);
    let request = Dom0MemoryRequest {
        host: &machine.memory,
        reserved: &reserved,
        kernel: loaded.extent.clone(),
        initrd: initrd.map(|module| (module.start, module.end - module.start)),
        acpi_size: dom0_acpi::size_bound(&machine.acpi, vcpus as usize),
        want: machine.options.dom0_mem,
    };
    plan_dom0(&request).unwrap_or_else(|problem| fatal(format_args!("{problem}")))
}

/// RAM that is neither free nor in `available`.
pub(super) fn taken(machine: &Machine, available: &[MfnRange]) -> Vec<MfnRange> {
    let mut open: Vec<MfnRange> = available.to_vec();
    let mut from = Mfn::new(0);
    while let Some(run) = memory::free().lock().next_free_run(from) {
        open.push(run);
        from = run.end;
    }
    open.sort_by_key(|range| range.start);
    let mut taken = Vec::new();
    for ram in machine.memory.ram() {
        let mut at = ram.start;
        for range in open.iter().filter(|range| range.overlaps(ram)) {
            if at < range.start {
                taken.push(MfnRange::new(at, range.start));
            }
            at = at.max(range.end);
        }
        if at < ram.end {
            taken.push(MfnRange::new(at, ram.end));
        }
    }
    taken
}

/// Takes all of dom0's frames and gives them to it. No domain has had them, so none is scrubbed.
fn take_memory(machine: &Machine, layout: &Dom0Layout, loaded: Loaded, initrd: Option<&Module>) {
    move_initrd(layout, initrd);
    let mut free = memory::free().lock();
    for range in machine.low_ram.iter().copied().chain(initrd.map(frames_of)) {
        let _ = free.add_free(range);
    }
    free.free(loaded.frames);
    for range in &layout.ranges {
        let range = MfnRange::new(range.start.max(Mfn::new(1)), range.end);
        let frames = free.alloc_exact(range).unwrap_or_else(|| {
            fatal(format_args!(
                "dom0's memory at {} is not free",
                range.start.base()
            ))
        });
        memory::table().give(frames.never_used(), DomId::DOM0, Role::Ram);
    }
}

/// Copies the initrd where dom0 gets it, unless it is there.
fn move_initrd(layout: &Dom0Layout, initrd: Option<&Module>) {
    if let (Some(module), Some(place)) = (initrd, layout.initrd) {
        let to = Hpa::new(place.start.as_u64());
        if to != module.start {
            direct_map::relocate(module.start, to, place.size)
                .expect("both places are RAM of the plan");
        }
    }
}

/// Writes ACPI tables and start info; returns where the latter is.
fn write_boot_data(
    machine: &Machine,
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
        passes_mcfg: false,
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
fn command_line(machine: &Machine, file: &Module) -> String {
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

/// Maps dom0's frames to themselves; firmware's memory too, so that tables are cached as on the bare machine.
fn map_memory(machine: &Machine, layout: &Dom0Layout, e820: &E820Map) -> P2m {
    let caps = &host().caps;
    let config = P2mConfig {
        max_order: if caps.ept_1g {
            PageOrder::SIZE_1G
        } else if caps.ept_2m {
            PageOrder::SIZE_2M
        } else {
            PageOrder::SIZE_4K
        },
        large_executable: large_pages_may_be_executed(machine),
        gfn_limit: Gfn::new(1 << (STAGE2_BITS - 12)),
    };
    let Some(mut p2m) = P2m::new(&mut Tables, config) else {
        out_of_memory()
    };
    for range in &layout.ranges {
        let start = range.start.max(Mfn::new(1));
        insert(&mut p2m, MfnRange::new(start, range.end), P2mKind::Ram);
    }
    // frame 0 has no record; Linux reserves it
    insert(
        &mut p2m,
        MfnRange::new(Mfn::new(0), Mfn::new(1)),
        P2mKind::Mmio,
    );
    let is_firmware = |kind| matches!(kind, E820Kind::AcpiTables | E820Kind::AcpiNvs);
    for entry in e820
        .entries()
        .iter()
        .filter(|entry| is_firmware(entry.kind))
    {
        let range = MfnRange::covering(Hpa::new(entry.start), Hpa::new(entry.end));
        if !p2m.is_any_mapped(&DirectTables, Gfn::new(range.start.as_u64()), range.len()) {
            insert(&mut p2m, range, P2mKind::Mmio);
        }
    }
    p2m
}

fn insert(p2m: &mut P2m, range: MfnRange, kind: P2mKind) {
    let mapping = P2mMapping::new(range.start, kind).with_memory_type(MemoryType::WriteBack);
    let gfn = Gfn::new(range.start.as_u64());
    match p2m.insert((&mut DirectTables, &mut Tables), gfn, range.len(), mapping) {
        Ok(flush) => {
            let _ = flush.completed();
        }
        Err(_) => out_of_memory(),
    }
}

fn out_of_memory() -> ! {
    fatal(format_args!(
        "no memory is left for dom0's tables; lower dom0_mem or give the machine more memory"
    ))
}

/// CPUs with the page-size-change erratum (CVE-2018-12207) may hang on an executable large page that is split:
/// IA32_ARCH_CAPABILITIES.IF_PSCHANGE_MC_NO says that this one does not.
fn large_pages_may_be_executed(machine: &Machine) -> bool {
    const IF_PSCHANGE_MC_NO: u64 = 1 << 6;
    let is_immune = host().msrs.arch_capabilities & IF_PSCHANGE_MC_NO != 0;
    machine.options.features.exec_sp.unwrap_or(is_immune)
}

fn domain(machine: &Machine, layout: &Dom0Layout, e820: E820Map, p2m: P2m, vcpus: u32) -> Domain {
    let cpuid = cpuid_policy(vcpus);
    let msrs = MsrPolicy::build(&cpuid, &host().msrs);
    let now = insn::rdtsc();
    let tsc = TscView {
        offset: now.wrapping_neg(),
    };
    let clock = PvClock {
        tsc_timestamp: 0,
        system_time_ns: host::ns_at(now),
        scale: host().clock,
        is_tsc_stable: true,
    };
    let Some(shared_info) = memory::alloc_special(DomId::DOM0) else {
        out_of_memory()
    };
    let count = u16::try_from(vcpus).expect("at most MAX_VCPUS");
    let pinned = Pinned::new(shared_info, DomId::DOM0).expect("the page was just given to dom0");
    let events = EventChannels::new(DomId::DOM0, pinned, count, MAX_PORT);
    for index in 0..count {
        events.write_time(index, &clock);
    }
    let stage2 = Stage2Root { table: p2m.root() };
    Domain {
        id: DomId::DOM0,
        is_hardware: true,
        cpuid,
        msrs,
        ports: PortMap::dom0(&parts::ports(machine)),
        e820,
        stage2,
        tsc,
        clock,
        shared_info: SharedFrame::new(shared_info).expect("the page was just given to dom0"),
        vcpus: vcpu_states(count),
        p2m: RankedLock::new(p2m),
        events: RankedLock::new(events),
        devices: RankedLock::new(devices()),
        life: RankedLock::new(Life::new()),
        pollers: AtomicU32::new(0),
        callback_vector: AtomicU8::new(0),
        debug_line: RankedLock::new(ArrayString::new()),
        has_runstate_flag: AtomicBool::new(false),
        pages: AtomicU64::new(layout.pages()),
        is_ending: AtomicBool::new(false),
    }
}

fn cpuid_policy(vcpus: u32) -> CpuidPolicy {
    let host = host();
    let extended = extended();
    let options = CpuidOptions {
        domid: DomId::DOM0.get(),
        vcpus,
        provides: parts::provides(&host.caps, extended, &host.cpuid),
        xcr0_switched: extended.xcr0,
        stage2_bits: STAGE2_BITS,
        tsc: TscInfo {
            host_khz: host.tsc_khz,
            guest_khz: host.tsc_khz,
            mode: 0,
            incarnation: 0,
            offset: 0,
            mul: host.clock.mul(),
            shift: host.clock.shift(),
        },
    };
    CpuidPolicy::build(&host.cpuid, &options)
}

/// A box for interrupts for each vCPU, a frame of them at a time.
fn vcpu_states(count: u16) -> Vec<Vcpu> {
    let Some(frame) = memory::alloc_own() else {
        out_of_memory()
    };
    let frame = SharedFrame::new(frame).expect("frames of ours are in the direct map");
    (0..count)
        .map(|index| {
            let id = VcpuId {
                domid: DomId::DOM0,
                index,
            };
            let posted = PostedInterrupts::new(frame, usize::from(index) * BOX_BYTES);
            Vcpu::new(id, apic_id(u32::from(index)), posted, index == 0)
        })
        .collect()
}

/// A virtual I/O APIC for each real one, and PCI configuration.
fn devices() -> Devices {
    let ioapics = ioapic::all()
        .iter()
        .map(|real| VirtualIoApic {
            base: Gpa::new(real.base.as_u64()),
            first_gsi: real.first_gsi,
            chip: IoApic::new(real.id, u8::try_from(real.pins).unwrap_or(u8::MAX)),
        })
        .collect();
    Devices {
        ioapics,
        pci: Some(PciConfig::new(&[])),
        ..Devices::none()
    }
}

fn runners(domain: &Arc<Domain>, pcpu: &mut Pcpu, entry: &Entry) -> Runners {
    let io_bitmap = io_bitmap(&domain.ports);
    (0..domain.vcpus.len())
        .map(|index| runner(domain, pcpu, index, io_bitmap, entry))
        .collect()
}

fn io_bitmap(ports: &PortMap) -> IoBitmap {
    let mut bits = Box::new([0; BITMAP_BYTES]);
    ports.write_bitmap(&mut bits);
    let frames = core::array::from_fn(|_| memory::alloc_own().unwrap_or_else(|| out_of_memory()));
    IoBitmap::new(frames, &bits)
}

fn runner(
    domain: &Arc<Domain>,
    pcpu: &mut Pcpu,
    index: usize,
    io_bitmap: IoBitmap,
    entry: &Entry,
) -> Runner<VtxVcpu> {
    let config = vcpu_config(domain, index, io_bitmap);
    let virtual_apic = config.virtual_apic;
    let mut hw = VtxVcpu::new(config);
    hw.load(&pcpu.irqs_off);
    if index == 0 {
        hw.set_system(&entry_state(entry.rip));
        hw.regs().set_rbx(entry.start_info.as_u64());
    }
    hw.unload(&pcpu.irqs_off);
    let vcpu = &domain.vcpus[index];
    let lapic_config = LapicConfig {
        id: vcpu.apic_id,
        is_bsp: index == 0,
        tsc_khz: host().tsc_khz,
        delivery: host().caps.apic_virtualization().delivery,
    };
    let page = SharedFrame::new(virtual_apic).expect("frames of ours are in the direct map");
    let [singleshot, apic_timer, poll_timer] = pcpu.adopt(domain.clone(), index);
    Runner {
        lapic: Lapic::new(page, lapic_config),
        hw,
        domain: domain.clone(),
        index,
        msr_state: MsrState::RESET,
        xcr0: 1,
        activity: if index == 0 {
            Activity::Ready
        } else {
            Activity::Waiting
        },
        raised: None,
        nmi_pending: false,
        singleshot,
        apic_timer,
        poll_timer,
        p2m_cache: hv_core::p2m::P2mCache::new(),
        polled: arrayvec::ArrayVec::new(),
    }
}

fn vcpu_config(domain: &Domain, index: usize, io_bitmap: IoBitmap) -> VcpuConfig {
    let frame = || memory::alloc_own().unwrap_or_else(|| out_of_memory());
    let posted = &domain.vcpus[index].posted;
    let number = u16::try_from(index).expect("at most MAX_VCPUS");
    let mut config = VcpuConfig {
        caps: host().caps,
        extended: extended(),
        vmcs: frame(),
        xsave_area: frame(),
        virtual_apic: frame(),
        posted_interrupts: posted.frame().mfn().base() + posted.offset() as u64,
        notification_vector: vectors::POSTED_INTERRUPT,
        io_bitmap,
        msr_bitmap: MsrBitmap::new(frame()),
        vpid: number + 1,
        stage2: domain.stage2,
        tsc: domain.tsc,
        cr4_owned: !domain.cpuid.cr4_allowed(),
    };
    allow_msrs(domain, &mut config);
    config
}

fn allow_msrs(domain: &Domain, config: &mut VcpuConfig) {
    for pass in domain.msrs.passthrough() {
        if pass.read {
            config.msr_bitmap.allow(pass.msr, MsrAccess::Read);
        }
        if pass.write {
            config.msr_bitmap.allow(pass.msr, MsrAccess::Write);
        }
    }
    let apic = config.caps.apic_virtualization();
    for msr in 0x800..0x840 {
        if apic.reads(msr) {
            config.msr_bitmap.allow(msr, MsrAccess::Read);
        }
        if apic.writes(msr) {
            config.msr_bitmap.allow(msr, MsrAccess::Write);
        }
    }
}

/// `public/arch-x86/hvm/start_info.h`: 32-bit protected mode without paging, flat segments.
fn entry_state(rip: Gpa) -> SystemRegs {
    const DATA: u32 = 0xC093;
    const CODE: u32 = 0xC09B;
    const BUSY_TSS: u32 = 0x8B;
    let flat = |access| Segment {
        selector: 0,
        base: 0,
        limit: u32::MAX,
        access,
    };
    let mut segments = [flat(DATA); 8];
    segments[SEGMENT_CS] = flat(CODE);
    segments[SEGMENT_LDTR] = flat(SEGMENT_UNUSABLE);
    segments[SEGMENT_TR] = Segment {
        selector: 0,
        base: 0,
        limit: 0x67,
        access: BUSY_TSS,
    };
    SystemRegs {
        cr0: 0x11,
        rip: rip.as_u64(),
        rflags: 2,
        dr7: 0x400,
        segments,
        gdtr: DescriptorTable::default(),
        idtr: DescriptorTable::default(),
        ..SystemRegs::default()
    }
}
