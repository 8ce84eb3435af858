//! Which memory of the host is dom0's, and what lies where in it.
//!
//! dom0's memory is identity-mapped, so its addresses are the host's: the kernel has to lie where it was linked to
//! (16 MiB in Debian's), and whatever the hypervisor keeps is a hole. Beside what must be dom0's (low memory, the
//! kernel's place, the initrd's) it gets one large chunk upwards from the kernel, then the rest of memory below 4 GiB,
//! where every device can reach it, and only then memory above.

use super::e820::{E820Kind, E820Map};
use super::elf::Kernel;
use super::start_info::{Initrd, StartInfo};
use crate::addr::{Gpa, Hpa, Mfn, MfnRange, PAGE_SIZE};
use crate::options::Dom0Mem;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// What the plan is made from.
#[derive(Clone, Debug)]
pub struct Dom0MemoryRequest<'a> {
    pub host: &'a E820Map,
    /// What the hypervisor keeps: its image, heap, trampoline, buffers that are in use while dom0 is built.
    pub reserved: &'a [MfnRange],
    /// What the kernel takes when loaded: [`super::elf::Kernel::extent`].
    pub kernel: Range<Gpa>,
    /// Where the boot loader put the initrd, and how many bytes it has.
    pub initrd: Option<(Hpa, u64)>,
    /// Bytes of dom0's ACPI tables.
    pub acpi_size: usize,
    /// How much dom0 is to get.
    pub want: Dom0Mem,
}

/// dom0's memory. All places are in `ranges` and apart from each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dom0Layout {
    /// The frames that dom0 gets, each at its own address; ascending and apart.
    pub ranges: Vec<MfnRange>,
    /// The frames of the kernel, bss included.
    pub kernel: MfnRange,
    /// Where the initrd goes: below 4 GiB. Where the loader put it, if it can stay there; else it is to be copied
    /// before the kernel is loaded, as it may lie in the kernel's place.
    pub initrd: Option<Initrd>,
    /// Where start info goes, [`StartInfo::MAX_SIZE`] bytes below 1 GiB.
    pub start_info: Gpa,
    /// The frames of the ACPI tables, below 4 GiB.
    pub acpi: MfnRange,
}

/// Why dom0 has no place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dom0MemoryError {
    /// The kernel has to lie at this address, which is not free RAM.
    KernelPlaceTaken(Gpa),
    /// There is no place of so many bytes for something below this address.
    NoPlace {
        what: &'static str,
        size: u64,
        /// Where it has to end.
        below: u64,
    },
    /// dom0 is to get less than it needs to start, both in pages.
    TooSmall {
        /// What it is to get.
        given: u64,
        needed: u64,
    },
}

impl fmt::Display for Dom0MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KernelPlaceTaken(at) => {
                write!(
                    f,
                    "dom0's kernel has to lie at address {at}, which is not free RAM on this machine"
                )
            }
            Self::NoPlace { what, size, below } => {
                write!(
                    f,
                    "no {size} bytes of free RAM below {below:#x} for dom0's {what}"
                )
            }
            Self::TooSmall { given, needed } => write!(
                f,
                "too little memory for dom0: it gets {} MiB and needs {} MiB; see dom0_mem or add memory",
                given >> 8,
                needed.div_ceil(256)
            ),
        }
    }
}

const LOW_END: u64 = 0xa_0000;
const GIB: u64 = 1 << 30;
/// What a kernel needs beside its image and initrd to get to its first process, in pages.
const SPARE: u64 = (32 << 20) / PAGE_SIZE;

/// Decides which memory dom0 gets and what lies where.
///
/// # Errors
/// Where a part of it has no place, or the amount is too small to start in.
pub fn plan_dom0(request: &Dom0MemoryRequest<'_>) -> Result<Dom0Layout, Dom0MemoryError> {
    let mut planner = Planner::new(request);
    let amount = request
        .want
        .pages(planner.free.ram_pages(), request.host.ram_pages());
    planner.give_low_memory();
    let kernel = planner.give_kernel(&request.kernel)?;
    let initrd = request
        .initrd
        .map(|initrd| planner.give_initrd(initrd))
        .transpose()?;
    let start_info = planner.give_block("start info", StartInfo::MAX_SIZE as u64, GIB)?;
    let acpi = planner.give_block("ACPI tables", request.acpi_size as u64, 4 * GIB)?;
    let needed = planner.given.ram_pages() + SPARE;
    if amount < needed {
        return Err(Dom0MemoryError::TooSmall {
            given: amount,
            needed,
        });
    }
    planner.give_rest(amount);
    Ok(Dom0Layout {
        ranges: planner.given.ram().collect(),
        kernel,
        initrd,
        start_info: Gpa::new(start_info.start.base().as_u64()),
        acpi,
    })
}

/// Finds the kernel's place: where it was linked to, or else, for a kernel that can be moved, the lowest free place.
///
/// Firmware with tables at 16 MiB is seen now and then on machines that boot through EFI.
///
/// # Errors
/// [`Dom0MemoryError::KernelPlaceTaken`] where there is none.
pub fn place_kernel<'a>(
    host: &E820Map,
    reserved: &[MfnRange],
    kernel: &Kernel<'a>,
) -> Result<Kernel<'a>, Dom0MemoryError> {
    let free = free_memory(host, reserved);
    let extent = kernel.extent();
    let size = extent.end - extent.start;
    let taken = match first_taken(&free, covering(&extent)) {
        None => return Ok(kernel.clone()),
        Some(taken) => Dom0MemoryError::KernelPlaceTaken(Gpa::new(taken.base().as_u64())),
    };
    let relocation = kernel.relocation.ok_or(taken)?;
    let place = free.ram().find_map(|range| {
        let start = relocation.lowest_from(Gpa::new(range.start.base().as_u64()), size)?;
        (start + size <= Gpa::new(range.end.base().as_u64())).then_some(start)
    });
    place.and_then(|start| kernel.moved_to(start)).ok_or(taken)
}

impl Dom0Layout {
    /// How many pages dom0 gets.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.ranges.iter().map(|range| range.len()).sum()
    }

    /// dom0's memory map on this host.
    #[must_use]
    pub fn memory_map(&self, host: &E820Map) -> E820Map {
        let mut map = host.for_dom0(&self.ranges);
        mark(&mut map, self.acpi, E820Kind::AcpiTables);
        map
    }
}

/// The state of planning: what is free, and what is dom0's. Both maps know RAM only.
struct Planner {
    free: E820Map,
    given: E820Map,
    /// Where the initrd is and the kernel will be: nothing else may be put there, but both are dom0's in the end.
    busy: Vec<MfnRange>,
    kernel_end: Mfn,
}

impl Planner {
    fn new(request: &Dom0MemoryRequest<'_>) -> Self {
        let free = free_memory(request.host, request.reserved);
        let initrd = request
            .initrd
            .map(|(start, size)| MfnRange::covering(start, saturating_end(start, size)));
        Self {
            free,
            given: E820Map::default(),
            busy: initrd.into_iter().collect(),
            kernel_end: Mfn::new(0),
        }
    }

    fn give(&mut self, range: MfnRange) {
        mark(&mut self.free, range, E820Kind::Reserved);
        mark(&mut self.given, range, E820Kind::Ram);
    }

    /// Processors start below 1 MiB, so dom0 needs memory there: it gets all.
    fn give_low_memory(&mut self) {
        let low = MfnRange::inside(Hpa::new(0), Hpa::new(LOW_END));
        for range in free_parts(&self.free, low) {
            self.give(range);
        }
    }

    fn give_kernel(&mut self, extent: &Range<Gpa>) -> Result<MfnRange, Dom0MemoryError> {
        let range = covering(extent);
        if let Some(taken) = first_taken(&self.free, range) {
            return Err(Dom0MemoryError::KernelPlaceTaken(Gpa::new(
                taken.base().as_u64(),
            )));
        }
        self.give(range);
        self.kernel_end = range.end;
        Ok(range)
    }

    /// Leaves the initrd where it is, if that is free memory from which dom0 can use it.
    fn give_initrd(&mut self, (start, size): (Hpa, u64)) -> Result<Initrd, Dom0MemoryError> {
        let end = saturating_end(start, size);
        let here = MfnRange::covering(start, end);
        let can_stay = start.is_aligned(PAGE_SIZE)
            && end.as_u64() <= 4 * GIB
            && first_taken(&self.free, here).is_none();
        let range = if can_stay {
            self.give(here);
            here
        } else {
            self.give_block("initrd", size, 4 * GIB)?
        };
        Ok(Initrd {
            start: Gpa::new(range.start.base().as_u64()),
            size,
        })
    }

    /// Gives a block of whole pages: the lowest place after the kernel, else the lowest above 1 MiB.
    fn give_block(
        &mut self,
        what: &'static str,
        size: u64,
        below: u64,
    ) -> Result<MfnRange, Dom0MemoryError> {
        let no_place = Dom0MemoryError::NoPlace { what, size, below };
        let pages = size.max(1).div_ceil(PAGE_SIZE);
        let mut free = self.free.clone();
        for &range in &self.busy {
            mark(&mut free, range, E820Kind::Reserved);
        }
        let limit = Mfn::containing(Hpa::new(below));
        let fits_from = |least: Mfn| {
            free.ram()
                .map(|range| range.start.max(least)..range.end.min(limit))
                .find_map(|place| {
                    let end = place.start.checked_add(pages)?;
                    (end <= place.end).then_some(MfnRange::new(place.start, end))
                })
        };
        let low_end = Mfn::containing(Hpa::new(1 << 20));
        let range = fits_from(self.kernel_end)
            .or_else(|| fits_from(low_end))
            .ok_or(no_place)?;
        self.give(range);
        Ok(range)
    }

    /// Gives memory until dom0 has so many pages, or until there is no more.
    fn give_rest(&mut self, amount: u64) {
        let boundary = Mfn::containing(Hpa::new(4 * GIB));
        let mut parts: Vec<MfnRange> = self
            .free
            .ram()
            .flat_map(|r| {
                [
                    MfnRange::new(r.start, r.end.min(boundary)),
                    MfnRange::new(r.start.max(boundary), r.end),
                ]
            })
            .filter(|part| !part.is_empty())
            .collect();
        let kernel_end = self.kernel_end;
        // upwards from the kernel, then downwards from it, then what is above 4 GiB
        parts.sort_by_key(|part| match part.start {
            high if high >= boundary => (2, high.as_u64()),
            above if above >= kernel_end => (0, above.as_u64()),
            below => (1, u64::MAX - below.as_u64()),
        });
        let mut left = amount.saturating_sub(self.given.ram_pages());
        for part in parts {
            let count = part.len().min(left);
            self.give(MfnRange::new(part.start, part.start + count));
            left -= count;
        }
    }
}

/// The whole frames of RAM less what is reserved.
fn free_memory(host: &E820Map, reserved: &[MfnRange]) -> E820Map {
    let mut free = E820Map::default();
    for range in host.ram() {
        mark(&mut free, range, E820Kind::Ram);
    }
    for &range in reserved {
        mark(&mut free, range, E820Kind::Reserved);
    }
    free
}

fn covering(extent: &Range<Gpa>) -> MfnRange {
    MfnRange::covering(
        Hpa::new(extent.start.as_u64()),
        Hpa::new(extent.end.as_u64()),
    )
}

fn free_parts(free: &E820Map, within: MfnRange) -> Vec<MfnRange> {
    let cut = |r: MfnRange| MfnRange::new(r.start.max(within.start), r.end.min(within.end));
    free.ram()
        .map(cut)
        .filter(|part| !part.is_empty())
        .collect()
}

/// The first frame of `range` that is not free.
fn first_taken(free: &E820Map, range: MfnRange) -> Option<Mfn> {
    let mut at = range.start;
    for part in free_parts(free, range) {
        if part.start > at {
            break;
        }
        at = part.end;
    }
    (at < range.end).then_some(at)
}

fn mark(map: &mut E820Map, range: MfnRange, kind: E820Kind) {
    map.set(range.start.base().as_u64(), range.end.base().as_u64(), kind);
}

/// The end of `size` bytes from `start`, where no RAM is any longer if they are too many.
fn saturating_end(start: Hpa, size: u64) -> Hpa {
    const NO_RAM: u64 = 1 << 52;
    Hpa::new(start.as_u64().saturating_add(size).min(NO_RAM))
}

#[cfg(test)]
mod tests;
