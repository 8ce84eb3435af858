//! The kernel's modules in an initramfs, in an order worked out here from the dependencies each one names, so that the
//! guest needs no modprobe.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::debian::Kernel;

/// A module by its name; a driver with a part of the modalias of the PCI devices that it is for, and is loaded only
/// where there is one.
pub(super) type Module = (&'static str, &'static str);

/// Modules that are for no PCI device.
const ANY: &str = "";

/// The drivers of the emulated machines and what the scenarios mount. A kernel may lack some, or have them built in.
pub(super) const MACHINE: &[Module] = &[
    ("ata_piix", "v00008086d00007010"),
    ("ahci", "bc01sc06i01"),
    ("nvme", "bc01sc08i02"),
    ("virtio_pci", VIRTIO),
    ("virtio_blk", VIRTIO),
    ("virtio_net", VIRTIO),
    ("sd_mod", ANY),
    ("crc32c_generic", ANY),
    ("ext4", ANY),
    ("efivarfs", ANY),
    ("e1000", "v00008086d0000100E"),
    ("e1000e", "v00008086d000010D3"),
    ("af_packet", ANY),
];

/// virtio's devices are of one vendor.
const VIRTIO: &str = "v00001AF4";

/// What a dom0 with guests needs: Xen's devices for programs, the backends, bridges, loop devices, NAT.
pub(super) const BACKEND: &[Module] = &[
    ("xen_evtchn", ANY),
    ("xen_gntdev", ANY),
    ("xen_gntalloc", ANY),
    ("xen_privcmd", ANY),
    ("xenfs", ANY),
    ("xen_blkback", ANY),
    ("xen_netback", ANY),
    ("loop", ANY),
    ("bridge", ANY),
    ("ip_tables", ANY),
    ("iptable_nat", ANY),
    ("xt_MASQUERADE", ANY),
];

/// What a guest needs.
pub(super) const FRONTEND: &[Module] = &[
    ("xen_blkfront", ANY),
    ("xen_netfront", ANY),
    ("crc32c_generic", ANY),
    ("ext4", ANY),
    ("af_packet", ANY),
];

/// Copies the modules and all they depend on, and writes `order`: a line each, dependencies first, with the name and,
/// where it has one, the part of a modalias. What drivers share has a line for each.
///
/// # Errors
/// The kernel's package is missing, or a module cannot be read.
pub(super) fn install(kernel: Kernel, sets: &[&[Module]], to: &Path) -> Result<()> {
    let mut available = BTreeMap::new();
    index(&kernel.modules()?.join("kernel"), &mut available)?;
    let mut order = Vec::new();
    for (name, device) in sets.iter().copied().flatten() {
        add_with_dependencies((name, device), &available, to, &mut order)?;
    }
    fs::write(to.join("order"), order.join("\n") + "\n")?;
    Ok(())
}

/// Maps the names of all modules below `dir` to their files.
fn index(dir: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            index(&path, found)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            // The file's name may have dashes where the module's has underscores.
            found.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn add_with_dependencies(
    (name, device): (&str, &str),
    available: &BTreeMap<String, PathBuf>,
    to: &Path,
    order: &mut Vec<String>,
) -> Result<()> {
    let line = format!("{name} {device}").trim_end().to_owned();
    if order.iter().any(|done| *done == line || done == name) {
        return Ok(());
    }
    // A module that is not there is built in, or the kernel is made for machines without that device.
    let Some(path) = available.get(name) else {
        return Ok(());
    };
    let bytes = read_module(path)?;
    for dependency in dependencies(&bytes) {
        let dependency = dependency.replace('-', "_");
        add_with_dependencies((&dependency, device), available, to, order)?;
    }
    fs::write(to.join(name), bytes)?;
    order.push(line);
    Ok(())
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|e| e == "xz") {
        let out = Command::new("xz")
            .arg("-dc")
            .arg(path)
            .output()
            .context("cannot start xz")?;
        anyhow::ensure!(
            out.status.success(),
            "{} cannot be decompressed",
            path.display()
        );
        return Ok(out.stdout);
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads the names in a module's `depends=` record (a string of its .modinfo section).
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else {
        return Vec::new();
    };
    let value: Vec<u8> = module[at + KEY.len()..]
        .iter()
        .copied()
        .take_while(|&b| b != 0)
        .collect();
    let value = String::from_utf8_lossy(&value).into_owned();
    value
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_the_record() {
        assert_eq!(
            dependencies(b"x\0depends=jbd2,mbcache\0y"),
            ["jbd2", "mbcache"]
        );
        assert!(dependencies(b"x\0depends=\0y").is_empty());
        assert!(dependencies(b"no record").is_empty());
    }
}
