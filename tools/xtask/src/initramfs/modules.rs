//! The kernel's modules in an initramfs, in an order worked out here from the dependencies each one names, so that the
//! guest needs no modprobe.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::debian::Kernel;

/// The drivers of the emulated machine and what the scenarios mount. A kernel may lack some, or have them built in.
pub(super) const MACHINE: &[&str] = &[
    "ata_piix",
    "sd_mod",
    "crc32c_generic",
    "ext4",
    "e1000",
    "af_packet",
];

/// What a dom0 with guests needs: Xen's devices for programs, the backends, bridges, loop devices, NAT.
pub(super) const BACKEND: &[&str] = &[
    "xen_evtchn",
    "xen_gntdev",
    "xen_gntalloc",
    "xen_privcmd",
    "xenfs",
    "xen_blkback",
    "xen_netback",
    "loop",
    "bridge",
    "ip_tables",
    "iptable_nat",
    "xt_MASQUERADE",
];

/// What a guest needs.
pub(super) const FRONTEND: &[&str] = &[
    "xen_blkfront",
    "xen_netfront",
    "crc32c_generic",
    "ext4",
    "af_packet",
];

/// Copies the modules and all they depend on, and writes `order`: their names, one a line, dependencies first.
///
/// # Errors
/// The kernel's package is missing, or a module cannot be read.
pub(super) fn install(kernel: Kernel, sets: &[&[&str]], to: &Path) -> Result<()> {
    let mut available = BTreeMap::new();
    index(&kernel.modules()?.join("kernel"), &mut available)?;
    let mut order = Vec::new();
    for name in sets.iter().copied().flatten() {
        add_with_dependencies(name, &available, to, &mut order)?;
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
    name: &str,
    available: &BTreeMap<String, PathBuf>,
    to: &Path,
    order: &mut Vec<String>,
) -> Result<()> {
    if order.iter().any(|done| done == name) {
        return Ok(());
    }
    // A module that is not there is built in, or the kernel is made for machines without that device.
    let Some(path) = available.get(name) else {
        return Ok(());
    };
    let bytes = read_module(path)?;
    for dependency in dependencies(&bytes) {
        add_with_dependencies(&dependency.replace('-', "_"), available, to, order)?;
    }
    fs::write(to.join(name), bytes)?;
    order.push(name.to_owned());
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
