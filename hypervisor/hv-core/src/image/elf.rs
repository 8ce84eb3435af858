//! The kernel proper: an ELF file whose notes name the PVH entry point.
//!
//! Segments are loaded by physical address (`p_paddr`), not by the virtual one that the kernel gives itself later. A
//! Debian kernel's bss lies inside its last segment, 25 MiB beyond what the file holds elsewhere: what a kernel takes is
//! its [`Kernel::extent`], not its file's size.
//!
//! Source: "Tool Interface Standard: Executable and Linking Format"; `public/elfnote.h`.

use crate::addr::Gpa;
use crate::le::{u32_at, u64_at};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use elf::ElfBytes;
use elf::abi::{EM_386, EM_X86_64, ET_EXEC, PT_LOAD, PT_NOTE};
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
    /// Where it goes.
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
    /// The lowest start.
    pub min: u32,
    /// The highest last byte.
    pub max: u32,
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
    /// The address behind its last byte.
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
        let notes = Notes::read(file, &headers);
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
    let data = bytes_of(file, header).ok_or(ElfError::Truncated(start))?;
    Ok(Segment {
        start,
        data,
        size: header.p_memsz,
    })
}

fn bytes_of<'a>(file: &'a [u8], header: &ProgramHeader) -> Option<&'a [u8]> {
    let start = usize::try_from(header.p_offset).ok()?;
    let end = start.checked_add(usize::try_from(header.p_filesz).ok()?)?;
    file.get(start..end)
}

#[derive(Default)]
struct Notes {
    entry: Option<Gpa>,
    relocation: Option<Relocation>,
}

impl Notes {
    fn read(file: &[u8], headers: &[ProgramHeader]) -> Self {
        let mut notes = Self::default();
        for bytes in headers
            .iter()
            .filter(|h| h.p_type == PT_NOTE)
            .filter_map(|h| bytes_of(file, h))
        {
            // a note's header has 4-byte fields and alignment in 64-bit files, too
            for note in NoteIterator::new(LittleEndian, Class::ELF32, 4, bytes) {
                if let Note::Unknown(note) = note
                    && note.name_str().is_ok_and(|name| name == "Xen")
                {
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
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    const MIB: u64 = 1 << 20;

    /// An ELF64 file: load segments (address, data, size in memory) and Xen notes (type, data).
    pub(in super::super) fn build(loads: &[(u64, &[u8], u64)], notes: &[(u32, &[u8])]) -> Vec<u8> {
        let mut note_bytes = Vec::new();
        for (kind, desc) in notes {
            for word in [4, u32::try_from(desc.len()).unwrap(), *kind] {
                note_bytes.extend(word.to_le_bytes());
            }
            note_bytes.extend(b"Xen\0");
            note_bytes.extend(*desc);
            note_bytes.resize(note_bytes.len().next_multiple_of(4), 0);
        }
        let mut parts: Vec<(u32, u64, &[u8], u64)> =
            loads.iter().map(|l| (PT_LOAD, l.0, l.1, l.2)).collect();
        parts.push((PT_NOTE, 0, &note_bytes, note_bytes.len() as u64));
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        file.extend(0u64.to_le_bytes());
        file.extend(64u64.to_le_bytes());
        file.extend([0; 12]);
        file.extend([
            64,
            0,
            56,
            0,
            u8::try_from(parts.len()).unwrap(),
            0,
            64,
            0,
            0,
            0,
            0,
            0,
        ]);
        let mut offset = file.len() as u64 + 56 * parts.len() as u64;
        for (kind, address, data, size) in &parts {
            file.extend(kind.to_le_bytes());
            file.extend(7u32.to_le_bytes());
            for word in [offset, *address, *address, data.len() as u64, *size, 4] {
                file.extend(word.to_le_bytes());
            }
            offset += data.len() as u64;
        }
        parts.iter().for_each(|part| file.extend(part.2));
        file
    }

    fn entry(address: u64) -> (u32, [u8; 8]) {
        (18, address.to_le_bytes())
    }

    #[test]
    fn segments_and_entry_are_read() {
        let (kind, desc) = entry(16 * MIB + 0x850);
        let file = build(
            &[
                (32 * MIB, &[2; 10], 0x1000),
                (16 * MIB, &[1; 0x1000], 0x1000),
            ],
            &[
                (6, b"linux\0"),
                (kind, &desc),
                (19, &[0, 0, 0x20, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0x3f]),
            ],
        );
        let kernel = Kernel::parse(&file).unwrap();
        assert_eq!(kernel.entry, Gpa::new(16 * MIB + 0x850));
        assert_eq!(kernel.segments[0].data, [1; 0x1000]);
        assert_eq!(
            (kernel.segments[1].data.len(), kernel.segments[1].size),
            (10, 0x1000)
        );
        assert_eq!(
            kernel.extent(),
            Gpa::new(16 * MIB)..Gpa::new(32 * MIB + 0x1000)
        );
        assert_eq!(
            kernel.relocation,
            Some(Relocation {
                align: 2 << 20,
                min: 1 << 24,
                max: 0x3fff_ffff
            })
        );
    }

    #[test]
    fn an_entry_of_four_bytes_counts_too() {
        let file = build(&[(16 * MIB, &[0; 16], 16)], &[(18, &[4, 0, 0, 1])]);
        assert_eq!(Kernel::parse(&file).unwrap().entry, Gpa::new(16 * MIB + 4));
    }

    #[test]
    fn unusable_files_are_named() {
        let (kind, desc) = entry(16 * MIB);
        let note: (u32, &[u8]) = (kind, &desc);
        let good = build(&[(16 * MIB, &[0; 16], 16)], &[note]);
        let patched = |at: usize, byte| {
            let mut file = good.clone();
            file[at] = byte;
            file
        };
        let at = Gpa::new(16 * MIB);
        let cases = [
            (vec![], ElfError::Malformed),
            (good[..100].to_vec(), ElfError::Malformed),
            (patched(18, 183), ElfError::NotX86(183)),
            (patched(16, 3), ElfError::NotExecutable(3)),
            (good[..good.len() - 40].to_vec(), ElfError::Truncated(at)),
            (build(&[], &[note]), ElfError::NoSegments),
            (
                build(&[(16 * MIB, &[0; 16], 16)], &[(17, &[0; 4])]),
                ElfError::NoPvhNote,
            ),
            (
                build(&[(17 * MIB, &[0; 16], 16)], &[note]),
                ElfError::BadEntry(at),
            ),
            (
                build(&[(16 * MIB, &[0; 16], 8)], &[note]),
                ElfError::BadSegment(at),
            ),
            (
                build(&[(16 * MIB, &[0; 16], 1 << 32)], &[note]),
                ElfError::BadSegment(at),
            ),
            (
                build(
                    &[(16 * MIB, &[0; 16], 16), (16 * MIB + 8, &[0; 8], 8)],
                    &[note],
                ),
                ElfError::Overlap(at + 8),
            ),
        ];
        for (file, error) in cases {
            assert_eq!(Kernel::parse(&file), Err(error), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut head in proptest::collection::vec(any::<u8>(), 64..400), is_64 in any::<bool>()) {
            head[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 1 + u8::from(is_64), 1, 1, 0]);
            head[16..20].copy_from_slice(&[2, 0, 62, 0]);
            let _ = Kernel::parse(&head);
        }

        #[test]
        fn no_changed_header_panics(changes in proptest::collection::vec((0usize..300, any::<u8>()), 1..8)) {
            let (kind, desc) = entry(16 * MIB);
            let mut file = build(&[(16 * MIB, &[0; 16], 16), (32 * MIB, &[0; 16], 64)], &[(kind, &desc)]);
            for (at, byte) in changes {
                if let Some(place) = file.get_mut(at) {
                    *place = byte;
                }
            }
            if let Ok(kernel) = Kernel::parse(&file) {
                prop_assert!(kernel.segments.windows(2).all(|w| w[0].end() <= w[1].start));
                prop_assert!(kernel.extent().end.as_u64() <= LIMIT);
                prop_assert!(kernel.extent().contains(&kernel.entry));
            }
        }
    }
}
