//! Where everything lies in a guest's memory: libxl's places, so that its tools find what they expect.
//!
//! RAM from 0 up to 0xFC000000 at most and on from 4 GiB; ACPI tables at 0xFC000000, whose root pointer lies below 1
//! MiB too; the pages shared with xenstored and xenconsoled right below 0xFF000000. The kernel lies where it says;
//! behind it start info (which must be below 1 GiB) and the initrd (below 4 GiB).

use std::ops::Range;

use hv_core::image::e820::{E820Entry, E820Kind, E820Map};
use hv_core::image::start_info::StartInfo;

use super::ImageError;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// First byte of the ACPI tables, and the end of low RAM at most.
pub const ACPI_START: u64 = 0xFC00_0000;
/// Where a kernel that nobody tells of the ACPI tables looks for their root pointer: the end of what is a BIOS
/// elsewhere. libxl puts it here for Linux before 5.0.
pub const BIOS_RSDP: u64 = BIOS_END - 64;
/// The end of a BIOS.
pub const BIOS_END: u64 = 1 << 20;
/// The pages shared with other domains and their neighbours, which libxl reserves.
pub const SPECIAL: Range<u64> = 0xFEFF_8000..0xFF00_0000;
/// Frame of the xenstore ring.
pub const STORE_GFN: u64 = 0xFEFFC;
/// Frame of the console ring.
pub const CONSOLE_GFN: u64 = 0xFEFFF;
/// Where RAM goes on.
pub const HIGH_START: u64 = 1 << 32;

/// Returns the frames where a domain may have pages at all, if it has `pages` of RAM at most: RAM, ACPI tables, shared
/// pages, RAM above.
#[must_use]
pub fn places(pages: u64) -> [Range<u64>; 4] {
    let low = pages.min(ACPI_START / PAGE);
    let high = HIGH_START / PAGE;
    [
        0..low,
        ACPI_START / PAGE..ACPI_START / PAGE + 256,
        SPECIAL.start / PAGE..SPECIAL.end / PAGE,
        high..high.saturating_add(pages - low),
    ]
}

/// What is to be placed.
#[derive(Clone, Debug)]
pub struct Request {
    /// RAM in KiB that the guest is told of.
    pub memory_kib: u64,
    /// What it has of it, in KiB, where that is less: the rest is populated on demand.
    pub populated_kib: u64,
    /// What the kernel takes.
    pub kernel: Range<u64>,
    /// Bytes of the initrd.
    pub initrd: Option<u64>,
    /// Bytes of the ACPI tables.
    pub acpi_size: u64,
}

/// Where everything lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Frames of RAM: below 4 GiB, and above where there is so much.
    pub ram: Vec<Range<u64>>,
    /// Frames of the ACPI tables.
    pub acpi: Range<u64>,
    /// How many of the frames of RAM the domain has to begin with, whichever it touches first.
    pub populated: u64,
    /// Start info.
    pub start_info: u64,
    /// The initrd's start and size.
    pub initrd: Option<(u64, u64)>,
    /// What the guest is told of its memory.
    pub map: E820Map,
}

impl Layout {
    /// Places everything.
    ///
    /// # Errors
    /// Where it does not fit, with the MiB that are needed.
    pub fn plan(request: &Request) -> Result<Self, ImageError> {
        let bytes = request.memory_kib / 4 * PAGE;
        let low = bytes.min(ACPI_START);
        let high = bytes - low;
        let start_info = request.kernel.end.next_multiple_of(PAGE);
        let start_info_end = (start_info + StartInfo::MAX_SIZE as u64).next_multiple_of(PAGE);
        let initrd = request.initrd.map(|size| (start_info_end, size));
        let end = initrd.map_or(start_info_end, |(start, size)| start + size);
        let populated = request.populated_kib.min(request.memory_kib);
        if end > low.min(populated / 4 * PAGE) {
            return Err(ImageError::Layout(format!(
                "the domain's memory of {} MiB is too small: kernel and initrd need {} MiB{}",
                populated / 1024,
                end.div_ceil(1 << 20),
                if end > ACPI_START {
                    ", more than a domain has below 4 GiB"
                } else {
                    ""
                }
            )));
        }
        let acpi_end = (ACPI_START + request.acpi_size).next_multiple_of(PAGE);
        let mut ram: Vec<Range<u64>> = Vec::new();
        ram.push(0..low / PAGE);
        let mut map = vec![
            E820Entry::new(0, low, E820Kind::Ram),
            E820Entry::new(ACPI_START, acpi_end, E820Kind::AcpiTables),
            E820Entry::new(SPECIAL.start, SPECIAL.end, E820Kind::Reserved),
        ];
        if high > 0 {
            ram.push(HIGH_START / PAGE..(HIGH_START + high) / PAGE);
            map.push(E820Entry::new(HIGH_START, HIGH_START + high, E820Kind::Ram));
        }
        Ok(Self {
            ram,
            acpi: ACPI_START / PAGE..acpi_end / PAGE,
            populated: populated / 4,
            start_info,
            initrd,
            map: E820Map::sanitise(&map),
        })
    }

    /// How many pages the domain takes: RAM, tables and the two shared ones.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.populated + (self.acpi.end - self.acpi.start) + 2
    }

    /// True where some of its RAM is populated on demand.
    #[must_use]
    pub fn is_on_demand(&self) -> bool {
        let frames = |range: &Range<u64>| range.end - range.start;
        self.populated < self.ram.iter().map(frames).sum()
    }
}
