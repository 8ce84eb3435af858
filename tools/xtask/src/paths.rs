//! Where things are: the repository, what is built, what is fetched once and kept.
//!
//! Everything fetched or built from other people's sources lives in one cache directory outside the repository
//! (`~/.cache/hematite`), so that `cargo clean` costs nothing that takes minutes. What we build lives in
//! `target/hematite`.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Returns the top of the repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("the crate lies two levels under the top")
        .to_path_buf()
}

/// Returns the directory of what we build: `hematite.elf`, the ISO, test kernels, logs.
pub(crate) fn out() -> PathBuf {
    root().join("target/hematite")
}

/// Returns the multiboot2 image of the hypervisor.
pub(crate) fn hypervisor() -> PathBuf {
    out().join("hematite.elf")
}

/// Returns the directory of the guest test kernels.
pub(crate) fn kernels() -> PathBuf {
    out().join("kernels")
}

/// Returns the multiboot2 image of a test that boots in the hypervisor's place.
pub(crate) fn bare_metal_test(name: &str) -> PathBuf {
    out().join(name).with_extension("elf")
}

/// Returns the bootable image of `cargo xtask image`.
pub(crate) fn iso() -> PathBuf {
    out().join("hematite.iso")
}

/// Returns the directory of console logs, one a scenario.
pub(crate) fn logs() -> PathBuf {
    out().join("logs")
}

/// Returns the directory of what is fetched or built once: emulator, Debian kernels.
///
/// # Errors
/// Neither `XDG_CACHE_HOME` nor `HOME` is set.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(dir).join("hematite"));
    }
    let home = env::var_os("HOME")
        .context("HOME is not set: no place for the emulator and the kernels")?;
    Ok(PathBuf::from(home).join(".cache/hematite"))
}

/// Returns the `cargo` that runs us, so that its toolchain stays the same.
pub(crate) fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}
