//! Memory, from a map to an allocator: modules moved out of dom0's way, heap, frame table, final page tables.
//!
//! dom0's memory is identity-mapped and its kernel wants host physical 16 MiB and up, where GRUB may have put the
//! modules; so those below [`DOM0_LOW_END`] go to the top of RAM below 4 GiB, and the heap goes there too.

use alloc::vec::Vec;
use core::fmt;

use hv_core::addr::{Hpa, Mfn, MfnRange, PAGE_SIZE};
use hv_core::firmware::multiboot2::{BootInformation, Module};
use hv_core::frame::{FrameInfo, FrameTable};
use hv_core::image::e820::{E820Kind, E820Map};
use hv_hw::image::ImageLayout;
use hv_hw::{direct_map, heap, info, paging};

use crate::boot::placement::{gaps, highest_hole};
use crate::machine::memory::{self, Tables};

/// Modules that begin below this address are moved.
const DOM0_LOW_END: Hpa = Hpa::new(256 << 20);
/// RAM below this address is for dom0 alone.
const LOW_END: Hpa = Hpa::new(1 << 20);
/// What the boot code's page tables reach.
const BOOT_MAP_END: Hpa = Hpa::new(1 << 32);
/// The least RAM that boots a dom0.
const LEAST_PAGES: u64 = (128 << 20) / PAGE_SIZE;
/// The heap's size: a part of RAM, within bounds.
const HEAP_PART: u64 = 64;
const LEAST_HEAP_PAGES: u64 = (8 << 20) / PAGE_SIZE;
const MOST_HEAP_PAGES: u64 = (64 << 20) / PAGE_SIZE;

/// Sizes of the temporary heap that are tried, for the unpacking of dom0's kernel: Debian's take 124 MiB.
const TEMPORARY_PAGES: [u64; 5] = [
    (192 << 20) / PAGE_SIZE,
    (128 << 20) / PAGE_SIZE,
    (64 << 20) / PAGE_SIZE,
    (16 << 20) / PAGE_SIZE,
    0,
];

/// Why memory cannot be set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MemoryProblem {
    /// Pages of RAM in all.
    TooLittle(u64),
    /// There is no module.
    NoKernel,
    /// No room for this many pages of what is named.
    NoRoom(u64, &'static str),
    /// The memory map has too many ranges.
    TooManyRanges,
}

impl fmt::Display for MemoryProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLittle(pages) => write!(
                f,
                "the machine has {} MiB of RAM, Hematite and dom0 need {} MiB at least",
                pages >> 8,
                LEAST_PAGES >> 8
            ),
            Self::NoKernel => f.write_str(
                "there is no dom0 kernel; add a line `module2 /boot/vmlinuz… …` to the GRUB entry",
            ),
            Self::NoRoom(pages, what) => write!(
                f,
                "no {} KiB of consecutive RAM below 4 GiB are free for {what}; give the machine more memory",
                pages * 4
            ),
            Self::TooManyRanges => write!(
                f,
                "the firmware's memory map has more than {} separate ranges of RAM",
                hv_core::frame::MAX_RAM_RANGES
            ),
        }
    }
}

/// What became of memory.
pub(super) struct Memory {
    /// The heap, with the frame table in it.
    pub(super) heap: MfnRange,
    /// Frames right below the heap, for what unpacking a kernel takes.
    pub(super) temporary_heap: MfnRange,
    /// RAM below 1 MiB.
    pub(super) low: Vec<MfnRange>,
    /// The modules where they are now.
    pub(super) modules: Vec<Module>,
}

/// Sets everything up; afterwards frames can be allocated and all memory is mapped.
pub(super) fn init(image: &ImageLayout, loaded: &BootInformation) -> Result<Memory, MemoryProblem> {
    let ram: Vec<MfnRange> = loaded.memory.ram().collect();
    let pages = loaded.memory.ram_pages();
    log_map(&loaded.memory);
    if loaded.modules.is_empty() {
        return Err(MemoryProblem::NoKernel);
    }
    if pages < LEAST_PAGES {
        return Err(MemoryProblem::TooLittle(pages));
    }
    let modules = move_modules(&ram, image, &loaded.modules)?;
    let heap_pages = (pages / HEAP_PART).clamp(LEAST_HEAP_PAGES, MOST_HEAP_PAGES);
    let (heap, temporary_heap) = give_heap(&ram, image, &modules, heap_pages)?;
    make_allocator(
        &ram,
        &busy(image, &modules, &[heap, temporary_heap]),
        heap_pages,
    )?;
    map_all(image, &loaded.memory)?;
    free_high(&ram, &busy(image, &modules, &[heap, temporary_heap]))?;
    info!(
        "memory: {} MiB RAM, heap at {:?}, {} MiB free",
        pages >> 8,
        heap.start.base(),
        memory::free_frames() >> 8
    );
    let low = below(&ram, Mfn::containing(LOW_END));
    Ok(Memory {
        heap,
        temporary_heap,
        low,
        modules,
    })
}

fn log_map(map: &E820Map) {
    for entry in map.entries() {
        info!(
            "memory map: {:#014x}..{:#014x} {:?}",
            entry.start, entry.end, entry.kind
        );
    }
}

/// The parts of `ranges` below `end`.
fn below(ranges: &[MfnRange], end: Mfn) -> Vec<MfnRange> {
    let cut = ranges
        .iter()
        .map(|range| MfnRange::new(range.start.min(end), range.end.min(end)));
    cut.filter(|range| !range.is_empty()).collect()
}

/// What must not be overwritten or handed out.
fn busy(image: &ImageLayout, modules: &[Module], more: &[MfnRange]) -> Vec<MfnRange> {
    let modules = modules.iter().map(Module::frames);
    modules
        .chain([image.whole()])
        .chain(more.iter().copied())
        .collect()
}

/// Moves the modules that lie where dom0's memory will be.
fn move_modules(
    ram: &[MfnRange],
    image: &ImageLayout,
    modules: &[Module],
) -> Result<Vec<Module>, MemoryProblem> {
    let mut modules = modules.to_vec();
    for i in 0..modules.len() {
        let module = modules[i].clone();
        let bytes = module.end - module.start;
        info!(
            "module {i}: {:?}..{:?}, {} KiB, \"{}\"",
            module.start,
            module.end,
            bytes >> 10,
            module.command_line
        );
        if module.start >= DOM0_LOW_END {
            continue;
        }
        let pages = module.frames().len();
        let no_room = MemoryProblem::NoRoom(pages, "a module");
        let taken = busy(image, &modules, &[]);
        let to = highest_hole(ram, &taken, pages, Mfn::containing(BOOT_MAP_END)).ok_or(no_room)?;
        let to = to.start.base();
        direct_map::relocate(module.start, to, bytes).map_err(|_| no_room)?;
        modules[i] = Module {
            start: to,
            end: to + bytes,
            ..module
        };
    }
    Ok(modules)
}

/// Gives the heap its memory, `pages` pages and room for the frame table, and sets memory below it aside for the
/// kernel's unpacking.
fn give_heap(
    ram: &[MfnRange],
    image: &ImageLayout,
    modules: &[Module],
    pages: u64,
) -> Result<(MfnRange, MfnRange), MemoryProblem> {
    let records = FrameTable::records_needed(ram) * size_of::<FrameInfo>();
    let table_pages = (records as u64).div_ceil(PAGE_SIZE) + 1;
    let size = pages + table_pages;
    let taken = busy(image, modules, &[]);
    let end = Mfn::containing(BOOT_MAP_END);
    let hole = TEMPORARY_PAGES
        .into_iter()
        .find_map(|temporary| highest_hole(ram, &taken, temporary + size, end));
    let hole = hole.ok_or(MemoryProblem::NoRoom(size, "the heap"))?;
    let start = Mfn::new(hole.end.as_u64() - size);
    let heap = MfnRange::new(start, hole.end);
    heap::give(heap);
    Ok((heap, MfnRange::new(hole.start, start)))
}

/// Makes the frame table and frees the RAM that the boot code's page tables reach, less the first MiB.
fn make_allocator(
    ram: &[MfnRange],
    busy: &[MfnRange],
    heap_pages: u64,
) -> Result<(), MemoryProblem> {
    let count = FrameTable::records_needed(ram);
    let mut records = Vec::new();
    records
        .try_reserve_exact(count)
        .map_err(|_| MemoryProblem::NoRoom(memory_pages(count), "the frame table"))?;
    records.resize_with(count, FrameInfo::default);
    let table = FrameTable::new(records.leak(), ram).map_err(|_| MemoryProblem::TooManyRanges)?;
    let heap_bytes = usize::try_from(heap_pages * PAGE_SIZE).unwrap_or(usize::MAX);
    memory::init(table, heap_bytes);
    let reachable = MfnRange::new(Mfn::containing(LOW_END), Mfn::containing(BOOT_MAP_END));
    free_within(ram, busy, reachable)
}

fn memory_pages(records: usize) -> u64 {
    (records as u64 * size_of::<FrameInfo>() as u64).div_ceil(PAGE_SIZE)
}

/// Switches to the final page tables, which reach all memory.
fn map_all(image: &ImageLayout, map: &E820Map) -> Result<(), MemoryProblem> {
    let is_cached = |kind| {
        matches!(
            kind,
            E820Kind::Ram | E820Kind::AcpiTables | E820Kind::AcpiNvs
        )
    };
    let entries = map.entries().iter().filter(|entry| is_cached(entry.kind));
    let cached =
        entries.map(|entry| MfnRange::covering(Hpa::new(entry.start), Hpa::new(entry.end)));
    paging::init(&mut Tables, image, cached).map_err(|_| MemoryProblem::NoRoom(1, "page tables"))
}

/// Frees the RAM above 4 GiB.
fn free_high(ram: &[MfnRange], busy: &[MfnRange]) -> Result<(), MemoryProblem> {
    let end = Mfn::containing(direct_map::extent());
    free_within(ram, busy, MfnRange::new(Mfn::containing(BOOT_MAP_END), end))
}

/// Frees what of `ram` is in `window` and not busy.
fn free_within(ram: &[MfnRange], busy: &[MfnRange], window: MfnRange) -> Result<(), MemoryProblem> {
    let mut outcome = Ok(());
    for range in ram {
        let part = MfnRange::new(range.start.max(window.start), range.end.min(window.end));
        gaps(part, busy, |gap| {
            if memory::free().lock().add_free(gap).is_err() {
                outcome = Err(MemoryProblem::TooManyRanges);
            }
        });
    }
    outcome
}
