//! Kernel files as a whole: packed by the usual tools, taken apart again, corrupted; and Debian's own where they are.

use super::bzimage::tests::wrap;
use super::elf::Kernel;
use super::payload::{Format, Payload, PayloadError};
use super::*;
use proptest::prelude::*;
use std::format;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::vec;
use std::vec::Vec;

/// What packs each format as a kernel's build does, and whether the size is appended.
const PACKERS: [(Format, &[&str], bool); 4] = [
    (Format::Gzip, &["gzip", "-n", "-9", "-c"], false),
    (
        Format::Xz,
        &["xz", "--check=crc32", "--x86", "--lzma2=dict=1MiB", "-c"],
        true,
    ),
    (Format::Lz4, &["lz4", "-l", "-9", "-c"], true),
    (Format::Zstd, &["zstd", "-19", "--long=27", "-c"], true),
];

/// Bytes that pack like code: repetitive, with calls for the x86 filter.
fn sample() -> Vec<u8> {
    let mut bytes = b"\x7fELF".to_vec();
    for i in 0u32..20_000 {
        let [low, high, ..] = (i * 37).to_le_bytes();
        bytes.extend([0xe8, low, high, 0, 0, 0x48, 0x89]);
        bytes.extend((i.wrapping_mul(2_654_435_761) >> 28).to_le_bytes());
    }
    bytes
}

/// Packs with a tool of the host, or says that it is not there.
fn pack(tool: &[&str], bytes: &[u8], has_size_appended: bool) -> Option<Vec<u8>> {
    let child = Command::new(tool[0])
        .args(&tool[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        std::eprintln!("skipped: {} is not installed", tool[0]);
        return None;
    };
    let mut input = child.stdin.take().unwrap();
    let owned = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&owned).unwrap());
    let mut packed = child.wait_with_output().unwrap().stdout;
    writer.join().unwrap();
    if has_size_appended {
        packed.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    }
    Some(packed)
}

fn unpack(payload: &[u8]) -> Result<Vec<u8>, PayloadError> {
    let payload = Payload::detect(payload)?;
    let mut out = vec![0; payload.unpacked_size()];
    payload.unpack(&mut out)?;
    Ok(out)
}

#[test]
fn each_format_is_unpacked() {
    let bytes = sample();
    for (format, tool, has_size) in PACKERS {
        let Some(packed) = pack(tool, &bytes, has_size) else {
            continue;
        };
        assert_eq!(Payload::detect(&packed).unwrap().format(), format);
        assert!(unpack(&packed) == Ok(bytes.clone()), "{format}");
    }
}

/// Bytes of a generator: without pattern, repeated after a distance, or few different ones.
fn stretches() -> impl Strategy<Value = Vec<u8>> {
    let stretch = (0..3u8, 1..40_000usize, any::<u32>()).prop_map(|(kind, length, seed)| {
        let mut state = seed | 1;
        let noise = core::iter::repeat_with(move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        });
        let period = usize::try_from(seed % 37).unwrap() + 1;
        match kind {
            0 => noise.take(length).collect::<Vec<_>>(),
            1 => noise
                .take(period)
                .collect::<Vec<_>>()
                .repeat(length / period),
            _ => noise.take(length).map(|byte| 0xe6 | byte & 0x19).collect(),
        }
    });
    proptest::collection::vec(stretch, 1..8).prop_map(|all| [b"a", &*all.concat()].concat())
}

/// Data of every kind of chunk, match and property, of one block and of several.
#[test]
fn what_xz_packs_in_any_way_is_unpacked() {
    let Some(_) = pack(&["xz", "-c"], b"", false) else {
        return;
    };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(24));
    let ways = (0..=4u8, 0..=4u8, 0..=4u8, any::<bool>(), any::<bool>());
    let outcome = runner.run(
        &(stretches(), ways),
        |(bytes, (lc, lp, pb, x86, is_split))| {
            let lzma2 = format!("--lzma2=preset=1,lc={lc},lp={},pb={pb}", lp.min(4 - lc));
            let mut tool = vec!["xz", "-T1", "--check=crc32"];
            tool.extend(x86.then_some("--x86"));
            tool.push(&lzma2);
            tool.extend(is_split.then_some("--block-size=50000"));
            tool.push("-c");
            let packed = pack(&tool, &bytes, true).unwrap();
            prop_assert!(unpack(&packed) == Ok(bytes));
            Ok(())
        },
    );
    outcome.unwrap();
}

#[test]
fn a_checksum_that_kernels_do_not_have_is_named() {
    let Some(packed) = pack(&["xz", "--check=crc64", "-c"], b"a kernel", true) else {
        return;
    };
    let error = unpack(&packed).unwrap_err();
    assert!(format!("{error}").contains("CRC-32"), "{error}");
}

#[test]
fn a_plain_payload_is_copied() {
    let mut payload = sample();
    let size = u32::try_from(payload.len()).unwrap();
    payload.extend(size.to_le_bytes());
    assert!(unpack(&payload) == Ok(sample()));
}

#[test]
fn formats_without_support_are_named() {
    let error = Payload::detect(b"BZh91AY&SY").unwrap_err();
    assert_eq!(error, PayloadError::UnknownFormat(Some("bzip2")));
    assert!(format!("{error}").contains("bzip2"));
    assert_eq!(
        Payload::detect(b"nonsense"),
        Err(PayloadError::UnknownFormat(None))
    );
    assert_eq!(
        Payload::detect(b"\x7fELF\0\0\0\0"),
        Err(PayloadError::BadSize)
    );
    assert_eq!(
        Payload::detect(b"\x7fELF\xff\xff\xff\xff"),
        Err(PayloadError::BadSize)
    );
}

#[test]
fn corrupt_and_truncated_payloads_are_refused() {
    let bytes = sample();
    for (format, tool, has_size) in PACKERS {
        let Some(packed) = pack(tool, &bytes, has_size) else {
            continue;
        };
        let size: [u8; 4] = *packed.last_chunk().unwrap();
        let body = packed.len() - 4;
        for at in (20..body).step_by(body / 40) {
            let mut flipped = packed.clone();
            flipped[at] ^= 0x10;
            let is_unchanged = unpack(&flipped).is_ok_and(|out| out == bytes);
            // lz4's frame has no checksum
            assert!(
                unpack(&flipped).is_err() || is_unchanged || format == Format::Lz4,
                "{format} at {at}"
            );
            let mut short = packed[..at].to_vec();
            short.extend(size);
            assert!(unpack(&short).is_err(), "{format} cut at {at}");
        }
        let mut long = packed.clone();
        let end = long.len();
        long[end - 4..].copy_from_slice(&(u32::from_le_bytes(size) + 1).to_le_bytes());
        assert!(
            unpack(&long).is_err(),
            "{format} that states a byte too many"
        );
        long[end - 4..].copy_from_slice(&(u32::from_le_bytes(size) - 1).to_le_bytes());
        assert!(
            unpack(&long).is_err(),
            "{format} that states a byte too few"
        );
    }
}

#[test]
fn a_file_is_told_by_its_first_bytes() {
    let elf = super::elf::tests::build(&[], &[]);
    assert_eq!(KernelFile::open(&elf), Ok(KernelFile::Elf(&elf)));
    assert_eq!(KernelFile::open(b""), Err(KernelFileError::Empty));
    assert_eq!(
        KernelFile::open(b"#!/bin/sh"),
        Err(KernelFileError::UnknownFormat)
    );
    let image = wrap(b"BZh9....");
    let error = KernelFile::open(&image).unwrap_err();
    assert!(format!("{error}").contains("bzip2"), "{error}");
}

/// An ELF kernel packed whole: plain gzip, with a file's name, and damaged at every place.
#[test]
fn a_kernel_packed_whole_by_gzip_is_unpacked_or_refused() {
    let elf = super::elf::tests::build(
        &[(16 << 20, &sample(), 1 << 20)],
        &[(18, &(16u64 << 20).to_le_bytes())],
    );
    for tool in [["gzip", "-n", "-9", "-c"], ["gzip", "-N", "-1", "-c"]] {
        let Some(packed) = pack(&tool, &elf, false) else {
            return;
        };
        let file = KernelFile::open(&packed).unwrap();
        let payload = file.payload().unwrap();
        let mut out = vec![0; payload.unpacked_size()];
        payload.unpack(&mut out).unwrap();
        assert_eq!(Kernel::parse(&out), Kernel::parse(&elf));
        for cut in [0, 1, 2, 3, 9, 17, packed.len() / 2, packed.len() - 1] {
            let part = &packed[..cut];
            let whole = KernelFile::open(part).ok().and_then(|file| file.payload());
            let unpacked = whole.map(|payload| {
                let mut out = vec![0; payload.unpacked_size().min(1 << 24)];
                payload.unpack(&mut out)
            });
            assert!(
                !matches!(unpacked, Some(Ok(()))),
                "{cut} bytes of {}",
                packed.len()
            );
        }
        // all of the header and the trailer, and places in between
        let inner = (40..packed.len() - 8).step_by(packed.len() / 40);
        for at in (0..40).chain(inner).chain(packed.len() - 8..packed.len()) {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x55;
            let Ok(file) = KernelFile::open(&damaged) else {
                continue;
            };
            let Some(payload) = file.payload().filter(|p| p.unpacked_size() < 1 << 24) else {
                continue;
            };
            let mut out = vec![0; payload.unpacked_size()];
            // what does unpack is what was packed: only the header's time, flags and name are not summed
            assert!(payload.unpack(&mut out).is_err() || out == elf, "byte {at}");
        }
    }
}

fn packed_samples() -> Vec<Vec<u8>> {
    let bytes = &sample()[..4000];
    PACKERS
        .iter()
        .filter_map(|(_, tool, has_size)| pack(tool, bytes, *has_size))
        .collect()
}

#[test]
fn no_change_of_a_packed_kernel_panics() {
    let samples = packed_samples();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(3000));
    let changes = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6);
    let strategy = (
        0..samples.len().max(1),
        changes,
        any::<proptest::sample::Index>(),
        any::<bool>(),
    );
    let outcome = runner.run(&strategy, |(which, changes, end, is_cut)| {
        let Some(mut packed) = samples.get(which).cloned() else {
            return Ok(());
        };
        for (at, byte) in changes {
            let at = at.index(packed.len() - 4);
            packed[at] = byte;
        }
        if is_cut {
            let size: [u8; 4] = *packed.last_chunk().unwrap();
            packed.truncate(end.index(packed.len()));
            packed.extend(size);
        }
        let _ = unpack(&packed);
        Ok(())
    });
    outcome.unwrap();
}

/// Debian's kernels: in the cache that `cargo xtask setup` fills, or below `HEMATITE_KERNELS`.
fn debian_kernels() -> Vec<PathBuf> {
    let cache =
        std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/hematite/debian"));
    let named = std::env::var_os("HEMATITE_KERNELS").map(PathBuf::from);
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = named.into_iter().chain(cache).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // those of 32 bits are for guests only
            let is_kernel = name.starts_with("vmlinuz-") && name.ends_with("-amd64");
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() && is_kernel => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}

#[test]
fn debians_kernels_have_their_pvh_entry_where_it_is_known_to_be() {
    let kernels = debian_kernels();
    if kernels.is_empty() {
        std::eprintln!(
            "skipped: no Debian kernel in ~/.cache/hematite/debian or $HEMATITE_KERNELS"
        );
    }
    for path in kernels {
        let name = format!("{}", path.display());
        let file = std::fs::read(&path).unwrap();
        let payload = KernelFile::open(&file).unwrap().payload().unwrap();
        let mut out = vec![0; payload.unpacked_size()];
        payload.unpack(&mut out).unwrap();
        let kernel = Kernel::parse(&out).unwrap();
        let extent = kernel.extent();
        assert_eq!(extent.start.as_u64(), 16 << 20, "{name}");
        assert!(extent.contains(&kernel.entry), "{name}");
        assert!(extent.end.as_u64() <= 128 << 20, "{name}: {extent:?}");
        std::eprintln!("{name}: {payload:?}, entry {}, {extent:?}", kernel.entry);
    }
}
