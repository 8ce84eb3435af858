//! A domain's memory as a file that `crash` and `gdb` scripts for Xen read.
//!
//! An ELF file with Xen's sections: notes that describe it, the vCPUs' registers, the pages that are there one behind the
//! other, and their frame numbers. Pages that are zero become holes of the file.
//!
//! Source: Xen, `docs/misc/dump-core-format.txt`.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use guest_abi::Errno;
use xendev::PAGE_SIZE;

use crate::image::layout;
use crate::{Error, Result, Toolstack};

/// Pages mapped at once.
const BATCH: u64 = 2048;
/// A dump of a domain whose frames the hypervisor translates.
const MAGIC_HVM: u64 = 0xF00F_EBEE;
const NOTE_HEADER: u32 = 0x200_0001;
const NOTE_FORMAT: u32 = 0x200_0003;
const FORMAT_VERSION: u64 = 1;
/// ELF: sizes of the file's and of a section's header.
const EHDR: u64 = 64;
const SHDR: u64 = 64;
const SECTIONS: [&str; 6] = [
    "",
    ".shstrtab",
    ".note.Xen",
    ".xen_prstatus",
    ".xen_pages",
    ".xen_pfn",
];
const SHT_PROGBITS: u32 = 1;
const SHT_STRTAB: u32 = 3;
const SHT_NOTE: u32 = 7;
const ET_CORE: u16 = 4;
const EM_X86_64: u16 = 62;

impl Toolstack {
    /// Writes a domain's memory to a file; returns how many pages it has. The domain should not run meanwhile.
    ///
    /// # Errors
    /// The file system's, or the hypervisor's.
    pub fn dump_core(&self, domid: u16, file: &Path) -> Result<u64> {
        let failed = |error: std::io::Error| Error::file(file, error);
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let registers = self.all_registers(domid)?;
        let mut out = private_file::create(file).map_err(failed)?;
        let names: String = SECTIONS.iter().map(|name| format!("{name}\0")).collect();
        let strings = EHDR + SHDR * SECTIONS.len() as u64;
        let notes = (strings + names.len() as u64).next_multiple_of(8);
        let status = notes + note_bytes(0, 0).len() as u64;
        let pages = (status + registers.bytes.len() as u64).next_multiple_of(PAGE_SIZE as u64);
        let gfns = self.dump_pages(domid, &mut out, pages, file)?;
        let count = gfns.len() as u64;
        let frames = pages + count * PAGE_SIZE as u64;
        let notes_data = note_bytes(registers.count, count);
        let sections = [
            (0, 0, 0, 0),
            (SHT_STRTAB, strings, names.len() as u64, 0),
            (SHT_NOTE, notes, notes_data.len() as u64, 0),
            (
                SHT_PROGBITS,
                status,
                registers.bytes.len() as u64,
                registers.entry,
            ),
            (
                SHT_PROGBITS,
                pages,
                count * PAGE_SIZE as u64,
                PAGE_SIZE as u64,
            ),
            (SHT_PROGBITS, frames, count * 8, 8),
        ];
        let mut head = elf_header();
        head.extend(section_headers(&sections));
        head.extend(names.as_bytes());
        head.resize(usize::try_from(notes).unwrap_or(0), 0);
        head.extend(notes_data);
        head.extend(&registers.bytes);
        let table: Vec<u8> = gfns.iter().flat_map(|gfn| gfn.to_le_bytes()).collect();
        out.seek(SeekFrom::Start(frames))
            .and_then(|_| out.write_all(&table))
            .map_err(failed)?;
        out.seek(SeekFrom::Start(0))
            .and_then(|_| out.write_all(&head))
            .map_err(failed)?;
        Ok(count)
    }

    /// Copies every page that is there to the file, from `start` on; returns their frames.
    fn dump_pages(&self, domid: u16, out: &mut File, start: u64, file: &Path) -> Result<Vec<u64>> {
        let failed = |error: std::io::Error| Error::file(file, error);
        let last = self.hyper.maximum_gpfn(domid)?;
        let mut found = Vec::new();
        let mut page = vec![0; PAGE_SIZE];
        for range in layout::PLACES {
            let mut first = range.start;
            let end = range.end.min(last + 1);
            while first < end {
                let gfns: Vec<u64> = (first..end.min(first + BATCH)).collect();
                let (mapped, present) = self.hyper.map_present(domid, &gfns)?;
                for (nth, (gfn, _)) in gfns
                    .iter()
                    .zip(&present)
                    .enumerate()
                    .filter(|(_, (_, is))| **is)
                {
                    mapped.read(nth * PAGE_SIZE, &mut page);
                    if page.iter().any(|&byte| byte != 0) {
                        let at = start + found.len() as u64 * PAGE_SIZE as u64;
                        out.seek(SeekFrom::Start(at))
                            .and_then(|_| out.write_all(&page))
                            .map_err(failed)?;
                    }
                    found.push(*gfn);
                }
                // behind its end a range is empty
                if present.iter().all(|is| !is) {
                    break;
                }
                first += BATCH;
            }
        }
        Ok(found)
    }

    /// The vCPUs' registers; none where the hypervisor does not tell them.
    fn all_registers(&self, domid: u16) -> Result<Registers> {
        let vcpus = self.info(domid)?.max_vcpu_id + 1;
        let mut registers = Registers {
            count: 0,
            entry: 0,
            bytes: Vec::new(),
        };
        for vcpu in 0..vcpus {
            match self.hyper.vcpu_context(domid, vcpu) {
                Ok(bytes) => {
                    registers.count += 1;
                    registers.entry = bytes.len() as u64;
                    registers.bytes.extend(bytes);
                }
                Err(error)
                    if matches!(
                        error.errno,
                        Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EINVAL
                    ) =>
                {
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(registers)
    }
}

struct Registers {
    count: u64,
    /// Bytes of one vCPU's.
    entry: u64,
    bytes: Vec<u8>,
}

/// The notes: what this is, and the version of the format.
fn note_bytes(vcpus: u64, pages: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut note = |kind: u32, words: &[u64]| {
        let size = u32::try_from(words.len() * 8).expect("notes are small");
        for word in [4, size, kind] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(b"Xen\0");
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    };
    note(NOTE_HEADER, &[MAGIC_HVM, vcpus, pages, PAGE_SIZE as u64]);
    note(NOTE_FORMAT, &[FORMAT_VERSION]);
    bytes
}

fn elf_header() -> Vec<u8> {
    let mut head = b"\x7fELF\x02\x01\x01".to_vec();
    head.resize(16, 0);
    head.extend(ET_CORE.to_le_bytes());
    head.extend(EM_X86_64.to_le_bytes());
    head.extend(1u32.to_le_bytes());
    // entry, program headers, section headers, flags
    for word in [0, 0, EHDR] {
        head.extend(word.to_le_bytes());
    }
    head.extend(0u32.to_le_bytes());
    // sizes of headers and their numbers; the names are section 1
    for half in [64u16, 0, 0, 64, 6, 1] {
        head.extend(half.to_le_bytes());
    }
    head
}

/// Type, offset, size, size of an entry.
fn section_headers(sections: &[(u32, u64, u64, u64); 6]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut name = 0u32;
    for (text, (kind, offset, size, entry)) in SECTIONS.iter().zip(sections) {
        bytes.extend(name.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        // flags and address before, link and information, alignment behind
        for word in [0, 0, *offset, *size, 0, 8, *entry] {
            bytes.extend(word.to_le_bytes());
        }
        name += u32::try_from(text.len() + 1).expect("names are short");
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_have_their_sizes() {
        assert_eq!(elf_header().len() as u64, EHDR);
        assert_eq!(section_headers(&[(0, 0, 0, 0); 6]).len() as u64, SHDR * 6);
        assert_eq!(note_bytes(1, 2).len(), 16 + 32 + 16 + 8);
    }
}
