//! Information as GRUB leaves it, malformed tags, arbitrary bytes.

use super::*;
use proptest::prelude::*;

fn tag(typ: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = typ.to_le_bytes().to_vec();
    bytes.extend(u32::try_from(payload.len() + 8).unwrap().to_le_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn info(tags: &[Vec<u8>]) -> Vec<u8> {
    let body: Vec<u8> = tags.concat();
    let mut bytes = u32::try_from(body.len() + 16)
        .unwrap()
        .to_le_bytes()
        .to_vec();
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes.extend([0, 0, 0, 0, 8, 0, 0, 0]);
    bytes
}

fn module(start: u32, end: u32, text: &str) -> Vec<u8> {
    let mut payload = start.to_le_bytes().to_vec();
    payload.extend(end.to_le_bytes());
    payload.extend(text.as_bytes());
    payload.push(0);
    tag(3, &payload)
}

fn mmap(entries: &[(u64, u64, u32)]) -> Vec<u8> {
    let mut payload = vec![24, 0, 0, 0, 0, 0, 0, 0];
    for (start, size, kind) in entries {
        payload.extend(start.to_le_bytes());
        payload.extend(size.to_le_bytes());
        payload.extend(kind.to_le_bytes());
        payload.extend([0; 4]);
    }
    tag(6, &payload)
}

#[test]
fn what_grub_leaves_is_read() {
    let bytes = info(&[
        tag(1, b"dom0_mem=1G\0"),
        tag(2, b"GRUB 2.06\0"),
        module(0x10_0000, 0x20_0000, "root=/dev/sda1"),
        module(0x20_0000, 0x20_0000, ""),
        mmap(&[
            (0, 0x9_fc00, 1),
            (0x10_0000, 0x700_0000, 1),
            (0xfffc_0000, 0x4_0000, 2),
        ]),
        tag(14, &[1; 20]),
        tag(15, &[2; 36]),
        tag(21, &[0; 4]),
    ]);
    let boot = parse(&bytes).unwrap();
    assert_eq!(boot.command_line, "dom0_mem=1G");
    assert_eq!(boot.loader, "GRUB 2.06");
    assert_eq!(boot.modules.len(), 2);
    assert_eq!(boot.modules[0].command_line, "root=/dev/sda1");
    assert_eq!(boot.modules[0].end, Hpa::new(0x20_0000));
    assert_eq!(boot.memory.entries().len(), 3);
    assert_eq!(boot.rsdp, Some(vec![2; 36]));
    assert_eq!(boot.efi, Efi::default());
}

#[test]
fn a_first_word_that_names_the_file_is_no_argument() {
    for (line, arguments) in [
        ("placeholder root=/dev/sda1 ro", "root=/dev/sda1 ro"),
        ("/boot/vmlinuz-6.1 root=/dev/sda1", "root=/dev/sda1"),
        ("(hd0,1)/vmlinuz  quiet", "quiet"),
        ("  placeholder   placeholder", "placeholder"),
        ("placeholder", ""),
        ("/boot/hematite.elf", ""),
        (
            "root=/dev/sda1 placeholder /x",
            "root=/dev/sda1 placeholder /x",
        ),
        ("placeholders=1", "placeholders=1"),
        ("", ""),
    ] {
        let boot = parse(&info(&[
            tag(1, &[line.as_bytes(), b"\0"].concat()),
            module(0x10_0000, 0x20_0000, line),
            mmap(&[(0x10_0000, 0x700_0000, 1)]),
        ]))
        .unwrap();
        assert_eq!(boot.command_line, arguments, "{line:?}");
        assert_eq!(boot.modules[0].command_line, arguments, "{line:?}");
    }
}

#[test]
fn efi_tags_are_noted_and_its_map_serves_where_there_is_no_other() {
    let mut map = vec![48, 0, 0, 0, 1, 0, 0, 0];
    for (kind, start, pages, attributes) in [
        (7u32, 0x10_0000u64, 0x100u64, 8u64),
        (9, 0x20_0000, 1, 8),
        (7, 0x30_0000, 1, 1),
    ] {
        map.extend(kind.to_le_bytes());
        map.extend([0; 4]);
        map.extend(start.to_le_bytes());
        map.extend([0; 8]);
        map.extend(pages.to_le_bytes());
        map.extend(attributes.to_le_bytes());
        map.extend([0; 8]);
    }
    let boot = parse(&info(&[
        tag(17, &map),
        tag(18, &[]),
        tag(12, &0x1234u64.to_le_bytes()),
    ]))
    .unwrap();
    assert_eq!(
        boot.memory.entries(),
        [
            E820Entry::new(0x10_0000, 0x20_0000, E820Kind::Ram),
            E820Entry::new(0x20_0000, 0x20_1000, E820Kind::AcpiTables),
            E820Entry::new(0x30_0000, 0x30_1000, E820Kind::Reserved),
        ]
    );
    assert_eq!(boot.efi.system_table, Some(Hpa::new(0x1234)));
    assert!(boot.efi.has_boot_services && !boot.efi.is_32_bit);
    assert_eq!(boot.efi.memory.len(), 3);
    assert_eq!(
        (boot.efi.memory[1].kind, boot.efi.memory[1].end()),
        (9, 0x20_1000)
    );
}

#[test]
fn malformed_information_is_named() {
    let map = mmap(&[(0, 0x1000, 1)]);
    let cases = [
        (info(&[]), Multiboot2Error::NoMemoryMap),
        (
            info(&[map.clone(), module(2, 1, "")]),
            Multiboot2Error::BadModule(0),
        ),
        (
            info(&[map.clone(), tag(3, &[0; 4])]),
            Multiboot2Error::BadTag(3),
        ),
        (
            info(&[map.clone(), tag(1, b"no end")]),
            Multiboot2Error::BadString(1),
        ),
        (
            info(&[map.clone(), tag(1, b"\xff\0")]),
            Multiboot2Error::BadString(1),
        ),
        (
            info(&[tag(6, &[8, 0, 0, 0, 0, 0, 0, 0])]),
            Multiboot2Error::BadTag(6),
        ),
        (
            info(&[map.clone(), tag(14, &[0; 19])]),
            Multiboot2Error::BadTag(14),
        ),
        (
            info(&[map.clone(), tag(12, &[0; 64])]),
            Multiboot2Error::BadTag(12),
        ),
        (info(&[map])[..40].to_vec(), Multiboot2Error::Truncated),
        (vec![], Multiboot2Error::Truncated),
    ];
    for (bytes, error) in cases {
        assert_eq!(parse(&bytes), Err(error), "{error}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn no_tags_panic(tags in proptest::collection::vec((0u32..23, proptest::collection::vec(any::<u8>(), 0..80)), 0..6)) {
        let tags: Vec<_> = tags.iter().map(|(typ, payload)| tag(*typ, payload)).collect();
        let _ = parse(&info(&tags));
    }
}
