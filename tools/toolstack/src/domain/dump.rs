//! A domain's memory as a file that `crash` and `gdb` scripts for Xen read.
//!
//! An ELF file with Xen's sections: notes that describe it, the vCPUs' registers, the pages that are there one behind
//! the other, and their frame numbers. Pages that are zero become holes of the file.
//!
//! Source: Xen, `docs/misc/dump-core-format.txt`.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use guest_abi::Errno;
use xendev::PAGE_SIZE;

use crate::image::layout;
use crate::{Error, Result, Toolstack};

/// Pages mapped at once.
const BATCH: usize = 2048;
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
    /// Writes a domain's memory to a file; returns how many pages it has. The domain should not run meanwhile. What it
    /// has yet to touch of memory that is populated on demand is populated by that, as zeroes, since to map is to
    /// touch.
    ///
    /// # Errors
    /// [`Error::Refused`] where that would end the domain; the file system's, or the hypervisor's.
    pub fn dump_core(&self, domid: u16, file: &Path) -> Result<u64> {
        let failed = |error: std::io::Error| Error::file(file, error);
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let extent = self.extent(domid)?;
        let registers = self.all_registers(domid)?;
        let mut out = private_file::create(file).map_err(failed)?;
        let names: String = SECTIONS.iter().map(|name| format!("{name}\0")).collect();
        let strings = EHDR + SHDR * SECTIONS.len() as u64;
        let notes = (strings + names.len() as u64).next_multiple_of(8);
        let status = notes + note_bytes(0, 0).len() as u64;
        let pages = (status + registers.bytes.len() as u64).next_multiple_of(PAGE_SIZE as u64);
        let gfns = self.dump_pages(domid, &extent, &mut out, pages, file)?;
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

    /// Where a domain's pages are, and how many. The pages that it may have now do not tell the end of its RAM, for its
    /// balloon leaves some anywhere.
    fn extent(&self, domid: u16) -> Result<Extent> {
        let info = self.info(domid)?;
        let pod = self.hyper.pod_target(domid)?;
        if pod.pod_entries > pod.pod_cache_pages && info.state.shutdown.is_none() {
            return Err(Error::Refused(format!(
                "domain {domid} has {} MiB set aside for the {} MiB that it has yet to touch: a dump touches all, which would \
                 end it; its balloon driver, if it has one, has not come down to its memory yet",
                pod.pod_cache_pages / 256,
                pod.pod_entries / 256
            )));
        }
        let kib = self
            .memory_max(domid)?
            .max(self.memory_node(domid, "static-max")?);
        let ram = kib.map_or(0, |kib| kib / 4).max(info.max_pages);
        let end = self.hyper.maximum_gpfn(domid)?.saturating_add(1);
        Ok(Extent {
            places: layout::places(ram).map(|place| place.start..place.end.min(end)),
            // what is populated while this looks on cannot be counted beforehand
            pages: (pod.pod_entries == 0).then_some(info.tot_pages),
        })
    }

    /// Copies every page that is there to the file, from `start` on; returns their frames.
    fn dump_pages(
        &self,
        domid: u16,
        extent: &Extent,
        out: &mut File,
        start: u64,
        file: &Path,
    ) -> Result<Vec<u64>> {
        let failed = |error: std::io::Error| Error::file(file, error);
        let mut found = Vec::new();
        let mut page = vec![0; PAGE_SIZE];
        for gfns in extent.batches() {
            if extent
                .pages
                .is_some_and(|pages| found.len() as u64 >= pages)
            {
                break;
            }
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

/// Where a domain's pages are.
struct Extent {
    places: [Range<u64>; 4],
    /// How many there are, where that is known: behind the last of them nothing is looked for.
    pages: Option<u64>,
}

impl Extent {
    /// The frames where pages may be, in ascending order.
    fn batches(&self) -> impl Iterator<Item = Vec<u64>> {
        self.places.iter().flat_map(|place| {
            let end = place.end;
            place
                .clone()
                .step_by(BATCH)
                .map(move |first| (first..end.min(first + BATCH as u64)).collect())
        })
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
    use crate::testing::Bench;

    /// Dumps a domain; returns the frames that the file names.
    fn dumped(bench: &Bench, domid: u16) -> Vec<u64> {
        let file = bench.files.path().join("core");
        let count = bench.ts.dump_core(domid, &file).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        let table = &bytes[bytes.len() - usize::try_from(count).unwrap() * 8..];
        let words = table.as_chunks().0.iter();
        words.map(|word| u64::from_le_bytes(*word)).collect()
    }

    #[test]
    fn what_lies_behind_a_hole_that_a_balloon_left_is_dumped() {
        let bench = Bench::new();
        let domid = bench.create(&bench.config("web")).unwrap().domid;
        let has: Vec<u64> = {
            let mut state = bench.host.state();
            let populated = &mut state.domains.get_mut(&domid).unwrap().populated;
            populated.retain(|gfn| !(2048..6144).contains(gfn));
            state.calls.clear();
            state.domains[&domid].populated.iter().copied().collect()
        };
        assert_eq!(has.len(), 16 * 256 + 1 + 2);
        assert_eq!(dumped(&bench, domid), has);
        // 32 MiB of RAM, the tables, the shared pages: not what lies between them
        let calls = &bench.host.state().calls;
        let maps = calls.iter().filter(|call| **call == "map_present").count();
        assert_eq!(maps, 4 + 1 + 1);
    }

    #[test]
    fn nothing_is_looked_for_behind_the_last_page() {
        let bench = Bench::new();
        let domid = bench.create(&bench.config("web")).unwrap().domid;
        {
            let mut state = bench.host.state();
            let populated = &mut state.domains.get_mut(&domid).unwrap().populated;
            populated.retain(|gfn| *gfn < 2048);
            state.calls.clear();
        }
        assert_eq!(dumped(&bench, domid), (0..2048).collect::<Vec<_>>());
        let calls = &bench.host.state().calls;
        let maps = calls.iter().filter(|call| **call == "map_present").count();
        assert_eq!(maps, 1);
    }

    #[test]
    fn a_dump_that_would_end_a_running_domain_is_refused() {
        let bench = Bench::new();
        let mut config = bench.config("web");
        config.max_memory_kib = 64 << 10;
        let domid = bench.create(&config).unwrap().domid;
        let file = bench.files.path().join("core");
        let refused = bench.ts.dump_core(domid, &file).unwrap_err().chain();
        assert!(
            refused.contains("has 32 MiB set aside for the 64 MiB"),
            "{refused}"
        );
        assert!(!file.exists());
        // one that has crashed has nothing to lose
        bench.host.state().domains.get_mut(&domid).unwrap().shutdown = Some(3);
        assert_eq!(dumped(&bench, domid).len(), 64 * 256 + 1 + 2);
    }

    #[test]
    fn the_headers_have_their_sizes() {
        assert_eq!(elf_header().len() as u64, EHDR);
        assert_eq!(section_headers(&[(0, 0, 0, 0); 6]).len() as u64, SHDR * 6);
        assert_eq!(note_bytes(1, 2).len(), 16 + 32 + 16 + 8);
    }
}
