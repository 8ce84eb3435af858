//! The kernel proper: an ELF file whose notes name the PVH entry point.
//!
//! Segments are loaded by physical address (`p_paddr`), not by the virtual one that the kernel gives itself later. A
//! Debian kernel's bss lies inside its last segment, 25 MiB beyond what the file holds elsewhere: what a kernel takes
//! is its [`Kernel::extent`], not its file's size.
//!
//! Source: "Tool Interface Standard: Executable and Linking Format"; `public/elfnote.h`.

use crate::addr::Gpa;
use crate::le::{u32_at, u64_at};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use elf::ElfBytes;
use elf::abi::{EM_386, EM_X86_64, ET_EXEC, PT_LOAD, PT_NOTE, SHT_NOTE};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::note::{Note, NoteIterator};
use elf::segment::ProgramHeader;
use guest_abi::elfnote::{XEN_ELFNOTE_PHYS32_ENTRY, XEN_ELFNOTE_PHYS32_RELOC};

/// A kernel that can be loaded and entered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel<'a> {
    /// Where it is entered, in 32-bit mode without paging; inside a segment.
    pub entry: Gpa,
    /// What to load, in ascending order without overlap; at least one.
    pub segments: Vec<Segment<'a>>,
    /// Where it may be moved to as a whole, where it says so. To load it where it asks to be is always right.
    pub relocation: Option<Relocation>,
}

/// A part of a kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    pub start: Gpa,
    /// What the file holds of it.
    pub data: &'a [u8],
    /// Its size in memory, not below that of `data`; the rest is zeroed.
    pub size: u64,
}

/// How a kernel may be moved (note 19).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relocation {
    /// What its start is a multiple of.
    pub align: u32,
    pub min: u32,
    /// The highest last byte.
    pub max: u32,
}

impl Relocation {
    /// The lowest start not below `least` from which `size` bytes may be used.
    #[must_use]
    pub fn lowest_from(self, least: Gpa, size: u64) -> Option<Gpa> {
        let align = u64::from(self.align.max(1));
        let start = least
            .as_u64()
            .max(self.min.into())
            .checked_next_multiple_of(align)?;
        let last = start.checked_add(size)?.checked_sub(1)?;
        (last <= self.max.into()).then_some(Gpa::new(start))
    }
}

/// Why a file is no kernel that can be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ElfError {
    /// It is not an ELF file, or its headers are malformed or cut off.
    Malformed,
    /// It is not for x86 (its machine number).
    NotX86(u16),
    /// It is not a program but an object or library (its type number).
    NotExecutable(u16),
    /// It has nothing to load.
    NoSegments,
    /// The file ends inside the segment that goes to this address.
    Truncated(Gpa),
    /// A segment is larger in the file than in memory, or reaches beyond 4 GiB.
    BadSegment(Gpa),
    /// Two segments overlap at this address.
    Overlap(Gpa),
    /// It has no PVH entry point.
    NoPvhNote,
    /// Its entry point is in no segment.
    BadEntry(Gpa),
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the ELF file is truncated or malformed"),
            Self::NotX86(machine) => write!(f, "the ELF file is for machine type {machine}, x86-64 (62) is needed"),
            Self::NotExecutable(kind) => write!(f, "the ELF file has type {kind}, an executable (2) is needed"),
            Self::NoSegments => f.write_str("the ELF file has nothing to load"),
            Self::Truncated(at) => write!(f, "the ELF file is truncated in the segment for address {at}"),
            Self::BadSegment(at) => write!(f, "the ELF segment for address {at} has an impossible size"),
            Self::Overlap(at) => write!(f, "two ELF segments overlap at address {at}"),
            Self::NoPvhNote => {
                f.write_str("the kernel has no PVH entry point (ELF note Xen/18); it needs CONFIG_PVH or CONFIG_XEN_PVH")
            }
            Self::BadEntry(at) => write!(f, "the kernel's PVH entry point {at} is in no segment"),
        }
    }
}

/// PVH kernels are entered in 32-bit mode.
const LIMIT: u64 = 1 << 32;

impl fmt::Debug for Segment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Segment({}, {:#x} of {:#x} bytes)",
            self.start,
            self.data.len(),
            self.size
        )
    }
}

impl Segment<'_> {
    /// The address after its last byte.
    #[must_use]
    pub fn end(&self) -> Gpa {
        self.start + self.size
    }
}

impl<'a> Kernel<'a> {
    /// Reads an ELF file.
    ///
    /// # Errors
    /// Says what makes it unusable.
    pub fn parse(file: &'a [u8]) -> Result<Self, ElfError> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| ElfError::Malformed)?;
        if !matches!(elf.ehdr.e_machine, EM_X86_64 | EM_386) {
            return Err(ElfError::NotX86(elf.ehdr.e_machine));
        }
        if elf.ehdr.e_type != ET_EXEC {
            return Err(ElfError::NotExecutable(elf.ehdr.e_type));
        }
        let headers: Vec<ProgramHeader> = elf
            .segments()
            .into_iter()
            .flat_map(|table| table.iter())
            .collect();
        let segments = load_segments(file, &headers)?;
        let notes = Notes::of(file, &elf, &headers);
        let entry = notes.entry.ok_or(ElfError::NoPvhNote)?;
        if !segments.iter().any(|s| (s.start..s.end()).contains(&entry)) {
            return Err(ElfError::BadEntry(entry));
        }
        Ok(Self {
            entry,
            segments,
            relocation: notes.relocation,
        })
    }

    /// All that it takes, from the first byte of its first segment to the end of its last, bss included.
    #[must_use]
    pub fn extent(&self) -> Range<Gpa> {
        let start = self.segments.first().map_or(Gpa::new(0), |s| s.start);
        start..self.segments.last().map_or(start, Segment::end)
    }

    /// The same kernel at `start`, for one that says that it may lie there.
    #[must_use]
    pub fn moved_to(&self, start: Gpa) -> Option<Self> {
        let old = self.extent();
        let size = old.end - old.start;
        if self.relocation?.lowest_from(start, size) != Some(start) {
            return None;
        }
        let moved = |at: Gpa| start + (at - old.start);
        let segments = self.segments.iter().map(|s| Segment {
            start: moved(s.start),
            ..*s
        });
        Some(Self {
            entry: moved(self.entry),
            segments: segments.collect(),
            relocation: self.relocation,
        })
    }
}

fn load_segments<'a>(
    file: &'a [u8],
    headers: &[ProgramHeader],
) -> Result<Vec<Segment<'a>>, ElfError> {
    let loaded = headers
        .iter()
        .filter(|h| h.p_type == PT_LOAD && h.p_memsz != 0);
    let mut segments = loaded
        .map(|h| load_segment(file, h))
        .collect::<Result<Vec<_>, _>>()?;
    segments.sort_by_key(|s| s.start);
    if let Some(pair) = segments
        .windows(2)
        .find(|pair| pair[0].end() > pair[1].start)
    {
        return Err(ElfError::Overlap(pair[1].start));
    }
    if segments.is_empty() {
        Err(ElfError::NoSegments)
    } else {
        Ok(segments)
    }
}

fn load_segment<'a>(file: &'a [u8], header: &ProgramHeader) -> Result<Segment<'a>, ElfError> {
    let start = Gpa::new(header.p_paddr);
    let end = header.p_paddr.checked_add(header.p_memsz);
    if header.p_filesz > header.p_memsz || end.is_none_or(|end| end > LIMIT) {
        return Err(ElfError::BadSegment(start));
    }
    let data =
        bytes_at(file, header.p_offset, header.p_filesz).ok_or(ElfError::Truncated(start))?;
    Ok(Segment {
        start,
        data,
        size: header.p_memsz,
    })
}

fn bytes_at(file: &[u8], offset: u64, size: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    file.get(start..end)
}

#[derive(Default)]
struct Notes {
    entry: Option<Gpa>,
    relocation: Option<Relocation>,
    /// How many of Xen's there are, of any type.
    count: usize,
}

impl Notes {
    /// Those of the program headers; where none of them is Xen's, as in files linked without a note segment, those of
    /// the sections (the order of Xen's own loader, `elf_xen_parse`).
    fn of(file: &[u8], elf: &ElfBytes<'_, LittleEndian>, headers: &[ProgramHeader]) -> Self {
        let of_segments = headers
            .iter()
            .filter(|h| h.p_type == PT_NOTE)
            .map(|h| (h.p_offset, h.p_filesz));
        let notes = Self::read(file, of_segments);
        if notes.count > 0 {
            return notes;
        }
        let sections = elf
            .section_headers()
            .into_iter()
            .flat_map(|table| table.iter());
        let of_sections = sections
            .filter(|section| section.sh_type == SHT_NOTE)
            .map(|section| (section.sh_offset, section.sh_size));
        Self::read(file, of_sections)
    }

    /// Reads the notes at these offsets of the file, each with its size; places outside it are passed over.
    fn read(file: &[u8], places: impl Iterator<Item = (u64, u64)>) -> Self {
        let mut notes = Self::default();
        for bytes in places.filter_map(|(offset, size)| bytes_at(file, offset, size)) {
            // a note's header has 4-byte fields and alignment in 64-bit files, too
            for note in NoteIterator::new(LittleEndian, Class::ELF32, 4, bytes) {
                if let Note::Unknown(note) = note
                    && note.name_str().is_ok_and(|name| name == "Xen")
                {
                    notes.count += 1;
                    notes.take(note.n_type, note.desc);
                }
            }
        }
        notes
    }

    fn take(&mut self, kind: u64, desc: &[u8]) {
        if kind == u64::from(XEN_ELFNOTE_PHYS32_ENTRY) {
            let entry = if desc.len() >= 8 {
                u64_at(desc, 0)
            } else {
                u32_at(desc, 0).map(u64::from)
            };
            self.entry = entry.map(Gpa::new);
        } else if kind == u64::from(XEN_ELFNOTE_PHYS32_RELOC) {
            let words = (u32_at(desc, 0), u32_at(desc, 4), u32_at(desc, 8));
            if let (Some(align), Some(min), Some(max)) = words {
                self.relocation = Some(Relocation { align, min, max });
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
