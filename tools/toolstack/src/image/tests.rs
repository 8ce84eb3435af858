//! Debian's own kernels, where they are on this machine; made-up ones where not.

use super::*;
use crate::config::DomainConfig;
use proptest::prelude::*;
use std::path::PathBuf;

fn debian(kind: &str) -> Option<PathBuf> {
    let home = std::env::var_os("HOME")?;
    let boot = PathBuf::from(home)
        .join(".cache/hematite/debian")
        .join(kind)
        .join("boot");
    let entries = std::fs::read_dir(boot).ok()?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains("vmlinuz"))
}

fn config(memory_mib: u64) -> DomainConfig {
    crate::testing::config("guest", memory_mib)
}

#[test]
fn debian_kernels_build_an_image() {
    let mut seen = 0;
    for kind in ["cloud", "backports", "pae"] {
        let Some(path) = debian(kind) else { continue };
        seen += 1;
        let kernel = KernelFile::read(&path).unwrap();
        let image = Image::build(&config(256), &kernel, None).unwrap();
        assert_eq!(image.layout.pages(), 65536 + 1 + 2);
        let text = &image.pieces[0];
        assert_eq!((text.what, text.at), ("kernel", 0x100_0000));
        assert!(image.entry > 0x100_0000 && image.entry < image.start_info);
        assert!(image.start_info < 1 << 30 && image.start_info.is_multiple_of(4096));
        let [tables, root] = ["ACPI tables", "ACPI root pointer"].map(|what| {
            image
                .pieces
                .iter()
                .find(|piece| piece.what == what)
                .unwrap()
        });
        assert_eq!((root.at, &root.data[..]), (0xF_FFC0, &tables.data[..36]));
    }
    if seen == 0 {
        eprintln!("no Debian kernel here: nothing was checked");
    }
}

#[test]
fn memory_above_the_hole_goes_on_at_4_gib() {
    let request = layout::Request {
        memory_kib: 5 << 20,
        populated_kib: 5 << 20,
        kernel: 0x100_0000..0x3e0_0000,
        initrd: Some(10 << 20),
        acpi_size: 500,
    };
    let layout = Layout::plan(&request).unwrap();
    assert_eq!(
        layout.ram,
        [0..0xFC000, 0x100000..0x100000 + (5 << 18) - 0xFC000]
    );
    assert_eq!(layout.start_info, 0x3e0_0000);
    assert_eq!(layout.initrd, Some((0x3e0_2000, 10 << 20)));
    assert_eq!(layout.map.entries().len(), 4);
    assert_eq!(layout.acpi, 0xFC000..0xFC001);
}

#[test]
fn a_domain_too_small_for_its_kernel_is_told_what_it_needs() {
    let request = layout::Request {
        memory_kib: 512 << 10,
        populated_kib: 64 << 10,
        kernel: 0x100_0000..0x3e0_0000,
        initrd: Some(10 << 20),
        acpi_size: 500,
    };
    let error = Layout::plan(&request).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the domain's memory of 64 MiB is too small: kernel and initrd need 73 MiB"
    );
}

#[test]
fn a_file_that_is_no_kernel_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "not a kernel").unwrap();
    let error = KernelFile::read(file.path()).unwrap_err().to_string();
    assert!(
        error.contains("neither a bzImage nor an ELF file"),
        "{error}"
    );
    let missing = KernelFile::read(std::path::Path::new("/no/such/kernel"))
        .unwrap_err()
        .to_string();
    assert!(
        missing.starts_with("/no/such/kernel: No such file"),
        "{missing}"
    );
}

proptest! {
    #[test]
    fn whatever_fits_lies_in_ram_and_apart(
        memory_mib in 1u64..12_000, kernel_mib in 1u64..200, initrd in proptest::option::of(1u64..900 << 20), acpi_size in 1u64..20_000
    ) {
        let request = layout::Request {
            memory_kib: memory_mib << 10,
            populated_kib: u64::MAX,
            kernel: 0x100_0000..0x100_0000 + (kernel_mib << 20),
            initrd,
            acpi_size,
        };
        let Ok(layout) = Layout::plan(&request) else { return Ok(()) };
        let frames: u64 = layout.ram.iter().map(|range| range.end - range.start).sum();
        prop_assert_eq!(frames, memory_mib << 8);
        let info_end = layout.start_info + StartInfo::MAX_SIZE as u64;
        let (start, size) = layout.initrd.unwrap_or((info_end, 0));
        prop_assert!(request.kernel.end <= layout.start_info && info_end <= start);
        prop_assert!(start + size <= layout.ram[0].end * layout::PAGE);
        prop_assert!(layout.ram[0].end <= layout.acpi.start);
        prop_assert!(layout.acpi.end * layout::PAGE <= layout::SPECIAL.start);
    }
}
