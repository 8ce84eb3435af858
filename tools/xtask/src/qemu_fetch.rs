//! Fetches QEMU 10.0, whose emulation of SVM is good enough to run a hypervisor.
//!
//! Debian 12's own 7.2 has no x2APIC for AMD's CPUs, lets a guest change the host's XCR0, and loses the interrupt
//! shadow at VMRUN. Its backports have 10.0; the packages are unpacked below the cache and run from there beside the
//! installed 7.2, whose libraries they use. A host whose own QEMU is as new needs none of it.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use harness::qemu::Program;

use crate::apt::{Apt, Lists};
use crate::shell::Step;
use crate::{paths, shell};

/// UEFI firmware of the package ovmf: the program, and its variables as they are at first.
pub(crate) const UEFI_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
pub(crate) const UEFI_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// The version that the tests have passed with.
const PINNED: &str = "1:10.0.2+ds-2+deb13u1~bpo12+1";

/// What else is taken where the mirror has the pinned one no more.
const SERIES: &str = "1:10.0.";

/// The first major version that will do.
const OLDEST: u32 = 10;

/// Names a QEMU to use instead.
const OVERRIDE: &str = "HEMATITE_QEMU";

const INSTALLED: &str = "/usr/bin/qemu-system-x86_64";

/// The packages of [`PINNED`]'s source; the BIOS is one of its own.
const PACKAGES: [&str; 3] = ["qemu-system-x86", "qemu-system-common", "qemu-system-data"];
const BIOS: &str = "seabios";

/// Returns the QEMU to use.
///
/// # Errors
/// `setup` has not run; or the one that `HEMATITE_QEMU` names is too old.
pub(crate) fn find() -> Result<Program> {
    if let Some(named) = env::var_os(OVERRIDE) {
        return usable(&named);
    }
    let dir = dir()?;
    if dir.exists() {
        return Ok(unpacked(&dir));
    }
    usable(OsStr::new(INSTALLED)).context("QEMU 10.0 is missing: run `cargo xtask setup`")
}

/// Fetches it, unless there is one that will do.
///
/// # Errors
/// No mirror has it, or it does not run here; the message says what to do.
pub(crate) fn ensure() -> Result<()> {
    if find().is_ok() {
        return Ok(());
    }
    if env::var_os(OVERRIDE).is_some() {
        return find().map(|_| ());
    }
    fetch(&dir()?).with_context(|| {
        format!(
            "QEMU {OLDEST}.0 cannot be had from bookworm-backports. Name a mirror that has it by HEMATITE_DEBIAN_MIRROR \
             (say, one of https://snapshot.debian.org), or a QEMU of your own, {OLDEST}.0 or newer, by {OVERRIDE}"
        )
    })
}

/// Where the pinned version is unpacked.
fn dir() -> Result<PathBuf> {
    let (_, version) = PINNED.split_once(':').unwrap_or(("", PINNED));
    Ok(paths::cache()?.join(format!("qemu-{version}")))
}

/// A program that is installed with all that belongs to it.
fn usable(program: &OsStr) -> Result<Program> {
    let name = Path::new(program).display();
    let said = shell::output(Command::new(program).arg("--version"))?;
    let major = major_version(&said).with_context(|| format!("{name} does not say its version"))?;
    if major < OLDEST {
        bail!("{name} is QEMU {major}, and {OLDEST}.0 or newer is needed");
    }
    Ok(Program::installed(program))
}

/// Reads `QEMU emulator version 10.0.2 (…)`.
fn major_version(said: &str) -> Option<u32> {
    let (_, rest) = said.split_once("version ")?;
    rest.split('.').next()?.parse().ok()
}

fn unpacked(dir: &Path) -> Program {
    Program {
        binary: dir.join("usr/bin/qemu-system-x86_64"),
        modules: Some(dir.join("usr/lib/x86_64-linux-gnu/qemu")),
        data: vec![dir.join("usr/share/qemu"), dir.join("usr/share/seabios")],
    }
}

fn fetch(dir: &Path) -> Result<()> {
    let apt = Apt::open(Lists::Debian12)?;
    let step = Step::start("fetching QEMU 10.0 of bookworm-backports");
    let fresh = dir.with_extension("new");
    let debs = dir.with_extension("debs");
    for dir in [&fresh, &debs] {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        fs::create_dir_all(dir)?;
    }
    // The lists may be older than what the mirror has by now.
    let files = download(&apt, &debs).or_else(|_| {
        apt.update()?;
        download(&apt, &debs)
    })?;
    for deb in files {
        shell::output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&fresh))?;
    }
    fs::remove_dir_all(debs)?;
    let said = shell::output(unpacked(&fresh).command().arg("--version")).context(
        "it does not run on this machine: is Debian 12's qemu-system-x86 installed, whose libraries it uses?",
    )?;
    if major_version(&said).is_none_or(|major| major < OLDEST) {
        bail!("what was unpacked says that it is {said}");
    }
    fs::rename(fresh, dir)?;
    step.done();
    Ok(())
}

fn download(apt: &Apt, to: &Path) -> Result<Vec<PathBuf>> {
    apt.download(&wanted(apt)?, to)
}

/// Returns the packages to download, with their versions.
fn wanted(apt: &Apt) -> Result<Vec<String>> {
    let available = apt.versions(PACKAGES[0])?;
    let version = choose(&available).with_context(|| {
        let have = available.join(", ");
        format!("the mirror has neither {PINNED} nor another {SERIES}*, but {have}")
    })?;
    if version != PINNED {
        eprintln!(
            "warning: the mirror has no QEMU {PINNED}, which the tests were made with: taking {version}"
        );
    }
    let mut packages: Vec<String> = PACKAGES.map(|name| format!("{name}={version}")).into();
    let bios = apt.versions(BIOS)?;
    let newest = bios.first().context("the mirror has no seabios")?;
    packages.push(format!("{BIOS}={newest}"));
    Ok(packages)
}

/// Picks the pinned version, else the newest of its series.
fn choose(available: &[String]) -> Option<&str> {
    let mut all = available.iter().map(String::as_str);
    all.clone()
        .find(|&version| version == PINNED)
        .or_else(|| all.find(|version| version.starts_with(SERIES)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_version_is_taken_else_the_newest_of_its_series() {
        let lists = |versions: &[&str]| versions.iter().map(|&v| v.to_owned()).collect::<Vec<_>>();
        let newer = "1:10.0.9+ds-1~bpo12+1";
        assert_eq!(choose(&lists(&[newer, PINNED, "1:7.2"])), Some(PINNED));
        assert_eq!(choose(&lists(&["1:10.1.0", newer, "1:7.2"])), Some(newer));
        assert_eq!(choose(&lists(&["1:7.2"])), None);
    }

    #[test]
    fn the_version_is_read_from_what_qemu_says() {
        let said = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\n";
        assert_eq!(major_version(said), Some(10));
        assert_eq!(major_version("7"), None);
    }
}
