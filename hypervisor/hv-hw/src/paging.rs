//! The hypervisor's own address space: what the boot code's tables grow into.
//!
//! UNSAFETY: loads CR3.
//!
//! | linear address | what | permissions |
//! |---|---|---|
//! | `0xffff_8000_0000_0000` + HPA | direct map of all memory except the image | read, write; device memory uncached |
//! | `0xffff_ff00_0000_0000` … | device registers, see [`crate::mmio`] | read, write, uncached |
//! | `0xffff_ffff_8000_0000` + HPA | the image | text executes, rodata reads, data writes; no page under a stack |
//!
//! Nothing is both writable and executable, and the lower half stays empty; but for the firmware's own memory, on
//! tables that are in use while it runs ([`crate::efi`]).
#![expect(unsafe_code)]

use hv_core::addr::{Hpa, Mfn, MfnRange, PAGE_SIZE, PageOrder};
use hv_core::mem::{TableFrames, TableMem};
use hv_core::paging::PageTable;
use hv_core::paging::host::{Host, HostAttr, HostPage};

use crate::cpu::stacks::BOOT_STACKS;
use crate::direct_map::{self, DirectTables};
use crate::image::ImageLayout;
use crate::sync::{RankedLock, rank};

/// The tables in use once [`init`] is done.
static SPACE: RankedLock<Option<PageTable<Host>>, { rank::HOST_PAGING }> = RankedLock::new(None);

/// There was no frame for a page table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfFrames;

/// Builds the final tables and switches to them. `memory` is the RAM and firmware memory (ascending, cached); what lies
/// between is mapped uncached, so that no address below the map's end faults.
///
/// # Errors
/// [`OutOfFrames`]; the boot tables then stay in use.
pub fn init(
    frames: &mut impl TableFrames,
    image: &ImageLayout,
    memory: impl Iterator<Item = MfnRange> + Clone,
) -> Result<(), OutOfFrames> {
    let order = largest_leaf();
    let mut table = PageTable::new(frames, order).ok_or(OutOfFrames)?;
    let end = memory
        .clone()
        .map(|range| range.end)
        .max()
        .unwrap_or_default();
    let end = end.max(Mfn::containing(Hpa::new(1 << 32)));
    map_direct(&mut table, frames, (Mfn::default(), end), HostAttr::DEVICE)?;
    for range in memory {
        map_direct(
            &mut table,
            frames,
            (range.start, range.end),
            HostAttr::DATA.global(),
        )?;
    }
    let whole = image.whole();
    unmap(
        &mut table,
        frames,
        HostPage::containing(direct_map::BASE + whole.start.base().as_u64()),
        whole.len(),
    )?;
    for (part, attr) in [
        (image.text, HostAttr::CODE),
        (image.rodata, HostAttr::READ_ONLY),
        (image.data, HostAttr::DATA),
    ] {
        let first = HostPage::containing(ImageLayout::address_of(part.start));
        map(
            &mut table,
            frames,
            (first, part.len()),
            (part.start, attr.global()),
        )?;
    }
    for guard in BOOT_STACKS.guards() {
        unmap(&mut table, frames, HostPage::containing(guard), 1)?;
    }
    activate(&table);
    direct_map::set_extent(end.base());
    *SPACE.lock() = Some(table);
    Ok(())
}

/// Maps `count` frames from `mfn` at linear address `address` as device registers.
pub(crate) fn map_device(
    frames: &mut impl TableFrames,
    address: u64,
    (mfn, count): (Mfn, u64),
) -> Result<(), OutOfFrames> {
    let mut space = SPACE.lock();
    let table = space.as_mut().ok_or(OutOfFrames)?;
    map(
        table,
        frames,
        (HostPage::containing(address), count),
        (mfn, HostAttr::DEVICE.global()),
    )
}

/// Has the page at `address`, which [`map_device`] has mapped, show device memory in frame `mfn` from now on. Other
/// CPUs may know it otherwise: each does this before it looks, and nobody else does meanwhile.
pub(crate) fn show_device(address: u64, mfn: Mfn) -> Result<(), OutOfFrames> {
    let mut space = SPACE.lock();
    let table = space.as_mut().ok_or(OutOfFrames)?;
    let page = HostPage::containing(address);
    let attr = HostAttr::DEVICE.global();
    let flush = table
        .map((&mut DirectTables, &mut NoFrames), page, 1, (mfn, attr))
        .map_err(|_incomplete| OutOfFrames)?;
    x86_64::instructions::tlb::flush(x86_64::VirtAddr::new(page.base()));
    // a small leaf took the place of a small leaf, so no table is detached, and the page's users drop theirs themselves
    let _ = flush.completed();
    Ok(())
}

/// For changes that need no table.
struct NoFrames;

impl TableFrames for NoFrames {
    fn alloc_table(&mut self) -> Option<Mfn> {
        None
    }
    fn free_table(&mut self, _: Mfn) {}
}

fn map_direct(
    table: &mut PageTable<Host>,
    frames: &mut impl TableFrames,
    (start, end): (Mfn, Mfn),
    attr: HostAttr,
) -> Result<(), OutOfFrames> {
    let first = HostPage::containing(direct_map::BASE + start.base().as_u64());
    map(table, frames, (first, end - start), (start, attr))
}

fn map(
    table: &mut PageTable<Host>,
    frames: &mut impl TableFrames,
    (first, count): (HostPage, u64),
    (mfn, attr): (Mfn, HostAttr),
) -> Result<(), OutOfFrames> {
    let flush = table
        .map((&mut DirectTables, frames), first, count, (mfn, attr))
        .map_err(|_incomplete| OutOfFrames)?;
    flush_own(table, frames, flush);
    Ok(())
}

fn unmap(
    table: &mut PageTable<Host>,
    frames: &mut impl TableFrames,
    first: HostPage,
    count: u64,
) -> Result<(), OutOfFrames> {
    let flush = table
        .unmap((&mut DirectTables, frames), first, count)
        .map_err(|_incomplete| OutOfFrames)?;
    flush_own(table, frames, flush);
    Ok(())
}

/// Settles what an edit owes. Edits happen at boot, on the only CPU that runs, and never change a mapping in use:
/// dropping this CPU's translations is enough.
fn flush_own(
    table: &mut PageTable<Host>,
    frames: &mut impl TableFrames,
    flush: hv_core::paging::flush::PendingFlush,
) {
    x86_64::instructions::tlb::flush_all();
    let done = flush.completed();
    table.reclaim(&DirectTables, frames, &done);
}

/// Has the upper half of `table` be the hypervisor's own; `None` before there is one.
pub(crate) fn lend_upper_half(table: &PageTable<Host>) -> Option<()> {
    const ENTRIES: core::ops::Range<usize> = 256..512;
    let own = SPACE.lock().as_ref()?.root();
    for index in ENTRIES {
        let entry = DirectTables.read(own, index);
        DirectTables.write(table.root(), index, entry);
    }
    Some(())
}

/// Translates through the table `root`, whose upper half is [lent](lend_upper_half), and returns what was in use.
pub(crate) fn switch_to(root: Mfn) -> Mfn {
    use x86_64::registers::control::Cr3;
    use x86_64::structures::paging::PhysFrame;
    let (own, flags) = Cr3::read();
    let root = PhysFrame::containing_address(x86_64::PhysAddr::new(root.base().as_u64()));
    // SAFETY: the hypervisor is in the upper half, which both have alike.
    unsafe { Cr3::write(root, flags) };
    Mfn::containing(Hpa::new(own.start_address().as_u64()))
}

/// The largest leaf that this CPU has.
fn largest_leaf() -> PageOrder {
    let has_1g = crate::cpu::cpuid()
        .get_extended_processor_and_feature_identifiers()
        .is_some_and(|features| features.has_1gib_pages());
    if has_1g {
        PageOrder::SIZE_1G
    } else {
        PageOrder::SIZE_2M
    }
}

/// Translates through `table` from now on.
fn activate(table: &PageTable<Host>) {
    use x86_64::registers::control::{Cr3, Cr3Flags, Cr4, Cr4Flags};
    use x86_64::structures::paging::PhysFrame;
    let root = x86_64::PhysAddr::new(table.root().base().as_u64());
    // SAFETY: the tables map the image, its stacks and the direct map where they are now.
    unsafe { Cr3::write(PhysFrame::containing_address(root), Cr3Flags::empty()) };
    // Global translations of the boot code survive a write of CR3; toggling PGE drops them.
    let cr4 = Cr4::read();
    // SAFETY: only whether translations outlive CR3 changes.
    unsafe { Cr4::write(cr4 - Cr4Flags::PAGE_GLOBAL) };
    // SAFETY: as above.
    unsafe { Cr4::write(cr4) };
}

/// Bytes of a page, for those who size mappings.
pub(crate) const fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE)
}
