//! The initramfs of dom0: a static busybox, the kernel's modules for the emulated devices, the test scripts.
//!
//! It is left uncompressed: GRUB reads it at ten instructions a byte, which is less than any decompressor takes.
//! Modules are loaded in an order worked out here, from the dependencies each one names, so the guest needs no modprobe.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::debian::Kernel;
use crate::{paths, shell};

/// The drivers of the emulated machine and what the scenarios mount. A kernel may lack some, or have them built in.
const ROOT_MODULES: &[&str] = &[
    "ata_piix",
    "sd_mod",
    "crc32c_generic",
    "ext4",
    "e1000",
    "af_packet",
];

/// Builds the initramfs for `kernel` with `probe` in it, and returns its path.
///
/// # Errors
/// busybox or the kernel's package is missing, or a tool failed.
pub(crate) fn build(kernel: Kernel, probe: &Path) -> Result<PathBuf> {
    let out = paths::out().join(format!("initramfs-{}.cpio", kernel.name()));
    let tree = out.with_extension("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    for dir in ["bin", "etc", "tests", "modules", "proc", "sys", "dev"] {
        fs::create_dir_all(tree.join(dir))?;
    }
    install(Path::new("/bin/busybox"), &tree.join("bin/busybox"), 0o755)?;
    install(probe, &tree.join("bin/probe"), 0o755)?;
    symlink("busybox", tree.join("bin/sh"))?;
    symlink("bin/busybox", tree.join("init"))?;
    let guest = paths::root().join("tests/scenarios/guest");
    for dir in ["etc", "tests"] {
        for entry in fs::read_dir(guest.join(dir))? {
            let entry = entry?;
            install(
                &entry.path(),
                &tree.join(dir).join(entry.file_name()),
                0o755,
            )?;
        }
    }
    modules(kernel, &tree.join("modules"))?;
    // The kernel makes /dev/console by itself, so no device node (and no root) is needed.
    let archive =
        "find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible";
    shell::output(
        Command::new("sh")
            .arg("-c")
            .arg(format!("{archive} > '{}'", out.display()))
            .current_dir(&tree),
    )?;
    fs::remove_dir_all(tree)?;
    Ok(out)
}

fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// Copies the modules and all they depend on, and writes `order`: their names, one a line, dependencies first.
fn modules(kernel: Kernel, to: &Path) -> Result<()> {
    let mut available = BTreeMap::new();
    index(&kernel.modules()?.join("kernel"), &mut available)?;
    let mut order = Vec::new();
    for root in ROOT_MODULES {
        add_with_dependencies(root, &available, to, &mut order)?;
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
