//! `cargo xtask setup`: what a clean machine lacks.
//!
//! Debian packages, rustup targets, the emulators, the kernels that boot as dom0. Each is looked for first, so that
//! `run` and `test` call this every time: with nothing missing it starts no program at all.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{bochs_build, debian, paths, qemu_fetch, shell};

/// A Debian package and a file that shows it is there.
struct Package {
    name: &'static str,
    shown_by: &'static str,
}

const fn package(name: &'static str, shown_by: &'static str) -> Package {
    Package { name, shown_by }
}

/// What the verbs call, and what building the emulator needs.
const PACKAGES: &[Package] = &[
    package("xorriso", "/usr/bin/xorriso"),
    package("grub-common", "/usr/bin/grub-mkrescue"),
    package("grub-pc-bin", "/usr/lib/grub/i386-pc/multiboot2.mod"),
    package(
        "grub-efi-amd64-bin",
        "/usr/lib/grub/x86_64-efi/multiboot2.mod",
    ),
    package("mtools", "/usr/bin/mformat"),
    package("busybox-static", "/var/lib/dpkg/info/busybox-static.list"),
    package("bochsbios", "/usr/share/bochs/BIOS-bochs-latest"),
    package("vgabios", "/usr/share/vgabios/vgabios-stdvga.bin"),
    package("cpio", "/usr/bin/cpio|/bin/cpio"),
    package("e2fsprogs", "/sbin/mkfs.ext4"),
    package("xz-utils", "/usr/bin/xz"),
    package("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    package("ovmf", qemu_fetch::UEFI_CODE),
    package("strace", "/usr/bin/strace"),
    package("make", "/usr/bin/make"),
    package("g++", "/usr/bin/g++"),
    package("pkg-config", "/usr/bin/pkg-config"),
];

/// The targets that are not the host.
const TARGETS: [&str; 2] = ["x86_64-unknown-none", "x86_64-unknown-linux-musl"];

/// Installs, fetches and builds whatever is missing.
///
/// # Errors
/// A package cannot be installed (the message has the command to type), a download or a build failed.
pub(crate) fn run() -> Result<()> {
    packages()?;
    targets()?;
    bochs()?;
    qemu_fetch::ensure()?;
    debian::ensure_all()
}

/// Does what [`run`] does; its own name for the verbs that go on to start a machine.
///
/// # Errors
/// As [`run`].
pub(crate) fn for_running() -> Result<()> {
    run().context("this machine cannot be set up")
}

/// Installs missing Debian packages: as root, else through sudo without a password, else says what to type.
fn packages() -> Result<()> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|p| !p.shown_by.split('|').any(|file| Path::new(file).exists()))
        .map(|p| p.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!(
        "sudo apt-get install --yes --no-install-recommends {}",
        missing.join(" ")
    );
    if !shell::has("apt-get") {
        bail!(
            "these Debian packages (or what your system calls them) are missing: {}",
            missing.join(" ")
        );
    }
    let prefix: &[&str] = if is_root()? {
        &[]
    } else if Command::new("sudo")
        .args(["-n", "true"])
        .output()
        .is_ok_and(|o| o.status.success())
    {
        &["sudo", "-n"]
    } else {
        bail!("some packages are missing; please run:\n\n    {by_hand}\n");
    };
    apt(prefix, "apt-get update", &["update"])
        .and_then(|()| {
            let mut args = vec!["install", "--yes", "--no-install-recommends"];
            args.extend(&missing);
            apt(prefix, &format!("installing {}", missing.join(" ")), &args)
        })
        .with_context(|| format!("please run:\n\n    {by_hand}\n"))
}

fn apt(prefix: &[&str], what: &str, args: &[&str]) -> Result<()> {
    let words: Vec<&str> = prefix
        .iter()
        .chain(&["apt-get", "--quiet"])
        .chain(args)
        .copied()
        .collect();
    let (program, rest) = words.split_first().expect("apt-get is among the words");
    shell::step(
        what,
        Command::new(program)
            .args(rest)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )?;
    Ok(())
}

fn is_root() -> Result<bool> {
    Ok(shell::output(Command::new("id").arg("-u"))?.trim() == "0")
}

/// Adds the rustup targets whose libraries are not there.
fn targets() -> Result<()> {
    let sysroot = shell::output(
        Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
            .args(["--print", "sysroot"])
            .current_dir(paths::root()),
    )?;
    let libraries = Path::new(sysroot.trim()).join("lib/rustlib");
    let missing: Vec<&str> = TARGETS
        .into_iter()
        .filter(|t| !libraries.join(t).exists())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    shell::step(
        &format!("rustup target add {}", missing.join(" ")),
        Command::new("rustup")
            .args(["target", "add"])
            .args(&missing)
            .current_dir(paths::root()),
    )?;
    Ok(())
}

/// Builds the mended Bochs; where that fails, falls back to Debian's package with a warning.
fn bochs() -> Result<()> {
    let bochs = bochs_build::path()?;
    if bochs.is_file() {
        return Ok(());
    }
    let marker = bochs.with_file_name("fallback");
    if Path::new("/usr/bin/bochs").exists() && marker.exists() {
        eprintln!(
            "warning: using Debian's Bochs (remove {} to try building anew)",
            marker.display()
        );
        return Ok(());
    }
    let Err(why) = bochs_build::build(&bochs) else {
        return Ok(());
    };
    eprintln!("warning: the fast Bochs cannot be built: {why:#}");
    if !Path::new("/usr/bin/bochs").exists() {
        let prefix: &[&str] = if is_root()? { &[] } else { &["sudo", "-n"] };
        apt(
            prefix,
            "installing Debian's bochs",
            &[
                "install",
                "--yes",
                "--no-install-recommends",
                "bochs",
                "bochs-term",
            ],
        )?;
    }
    fs::write(marker, format!("{why:#}\n"))?;
    eprintln!(
        "warning: using Debian's Bochs: 3.5 times slower, and the hypervisor runs with apicv=off"
    );
    Ok(())
}
