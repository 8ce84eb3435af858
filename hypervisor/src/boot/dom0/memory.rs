//! dom0's memory: planned, taken, and mapped to itself, so that devices reach it without an IOMMU.

use alloc::vec::Vec;

use hv_core::addr::{Gfn, Hpa, Mfn, MfnRange, PAGE_SIZE, PageOrder};
use hv_core::domid::DomId;
use hv_core::firmware::dom0_acpi;
use hv_core::firmware::multiboot2::Module;
use hv_core::frame::Role;
use hv_core::image::dom0_memory::{Dom0Layout, Dom0MemoryRequest, plan_dom0};
use hv_core::image::e820::{E820Kind, E820Map};
use hv_core::p2m::{P2m, P2mConfig, P2mKind, P2mMapping};
use hv_core::paging::stage2::MemoryType;
use hv_hw::direct_map::{self, DirectTables};
use hv_hw::info;

use crate::boot::dom0::kernel::Loaded;
use crate::boot::{BootedMachine, fatal};
use crate::domain::{Domain, create, space};
use crate::machine::memory::{self, Tables};

/// Decides where dom0's memory lies.
pub(super) fn plan(
    machine: &BootedMachine,
    loaded: &Loaded,
    initrd: Option<&Module>,
    vcpus: u32,
) -> Dom0Layout {
    let mut available: Vec<MfnRange> = machine.low_ram.clone();
    available.push(loaded.frames.range());
    available.extend(initrd.map(Module::frames));
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
pub(super) fn taken(machine: &BootedMachine, available: &[MfnRange]) -> Vec<MfnRange> {
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
pub(super) fn take(
    machine: &BootedMachine,
    layout: &Dom0Layout,
    loaded: Loaded,
    initrd: Option<&Module>,
) {
    move_initrd(layout, initrd);
    let mut free = memory::free().lock();
    for range in machine
        .low_ram
        .iter()
        .copied()
        .chain(initrd.map(Module::frames))
    {
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
    // what its balloon gives up it can have back only while nobody else has it
    free.hand_out_last(layout.ranges.clone());
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

/// Maps dom0's frames to themselves; firmware's memory too, so that tables are cached as on the bare machine.
pub(super) fn map(layout: &Dom0Layout, e820: &E820Map) -> P2m {
    // buffers that its devices read past the caches
    let config = P2mConfig {
        heeds_pat: true,
        ..create::p2m_config()
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

/// Sets frames aside for dom0's page tables: what splits all its `pages` pages of memory, and 2 MiB for devices and
/// others' pages. Where little was left free, no more than half of it.
pub(super) fn set_tables_aside(domain: &Domain, pages: u64) {
    const MORE: u64 = (2 << 20) / PAGE_SIZE;
    let splitting = pages / PageOrder::SIZE_2M.frames() + pages / PageOrder::SIZE_1G.frames() + 1;
    let frames = (splitting + MORE).min(memory::free_frames() / 2);
    match space::set_table_pool(domain, frames) {
        Ok(()) => info!("dom0: {frames} frames set aside for its page tables"),
        Err(_) => out_of_memory(),
    }
}

pub(super) fn out_of_memory() -> ! {
    fatal(format_args!(
        "no memory is left for dom0's tables; lower dom0_mem or give the machine more memory"
    ))
}
