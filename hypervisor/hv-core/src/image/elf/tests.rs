//! ELF files made here, unusable ones, changed headers.

use super::*;
use proptest::prelude::*;
use std::vec;

const MIB: u64 = 1 << 20;
/// As Linux has it.
pub(in super::super) const RELOCATION: Relocation = Relocation {
    align: 2 << 20,
    min: 1 << 24,
    max: 0x3fff_ffff,
};

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

/// The same with the notes in a section of the type `SHT_NOTE` only.
fn build_with_note_section(loads: &[(u64, &[u8], u64)], notes: &[(u32, &[u8])]) -> Vec<u8> {
    let with_segment = build(loads, notes);
    let header = 64 + 56 * loads.len();
    let word = |at: usize| u64::from_le_bytes(*with_segment[at..].first_chunk().unwrap());
    let (offset, size) = (word(header + 8), word(header + 32));
    let mut file = with_segment;
    file[header..header + 4].copy_from_slice(&[0; 4]);
    let table = file.len() as u64;
    file[40..48].copy_from_slice(&table.to_le_bytes());
    file[58..64].copy_from_slice(&[64, 0, 2, 0, 0, 0]);
    file.extend([0; 64]);
    file.extend([0, 0, 0, 0, 7, 0, 0, 0]);
    for word in [2, 0, offset, size, 0, 4, 0] {
        file.extend(u64::to_le_bytes(word));
    }
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
    assert_eq!(kernel.relocation, Some(RELOCATION));
}

#[test]
fn notes_of_sections_count_where_no_segment_has_any() {
    let (kind, desc) = entry(16 * MIB + 4);
    let loads: [(u64, &[u8], u64); 1] = [(16 * MIB, &[0; 16], 16)];
    let notes: [(u32, &[u8]); 2] = [(6, b"linux\0"), (kind, &desc)];
    let (by_section, by_segment) = (
        build_with_note_section(&loads, &notes),
        build(&loads, &notes),
    );
    assert_eq!(
        Kernel::parse(&by_section).unwrap(),
        Kernel::parse(&by_segment).unwrap()
    );
    assert_eq!(
        Kernel::parse(&build_with_note_section(&loads, &[])),
        Err(ElfError::NoPvhNote)
    );
}

#[test]
fn a_kernel_is_moved_only_where_it_says_that_it_may_lie() {
    let (kind, desc) = entry(16 * MIB + 8);
    let file = build(
        &[(16 * MIB, &[0; 16], 16), (32 * MIB, &[0; 16], MIB)],
        &[(kind, &desc)],
    );
    let fixed = Kernel::parse(&file).unwrap();
    assert_eq!(fixed.moved_to(Gpa::new(16 * MIB)), None);
    let kernel = Kernel {
        relocation: Some(RELOCATION),
        ..fixed
    };
    let moved = kernel.moved_to(Gpa::new(64 * MIB)).unwrap();
    assert_eq!(moved.entry, Gpa::new(64 * MIB + 8));
    assert_eq!(moved.extent(), Gpa::new(64 * MIB)..Gpa::new(81 * MIB));
    for bad in [15 * MIB, 65 * MIB, 1008 * MIB, u64::MAX] {
        assert_eq!(kernel.moved_to(Gpa::new(bad)), None, "{bad:#x}");
    }
    assert!(kernel.moved_to(Gpa::new(1006 * MIB)).is_some());
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
    fn no_changed_header_panics(
        changes in proptest::collection::vec((0usize..300, any::<u8>()), 1..8), is_section in any::<bool>()
    ) {
        let (kind, desc) = entry(16 * MIB);
        let make = if is_section { build_with_note_section } else { build };
        let mut file = make(&[(16 * MIB, &[0; 16], 16), (32 * MIB, &[0; 16], 64)], &[(kind, &desc)]);
        let length = file.len();
        for (at, byte) in changes {
            // the section headers are at the end
            let at = if is_section && at % 2 == 1 { length.saturating_sub(at) } else { at };
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
