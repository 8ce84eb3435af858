//! What of Debian 12 runs on the machine: the kernels, and the programs of Xen's own toolstack.
//!
//! Each is a directory of unpacked packages below the cache. How they are fetched is in `apt`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::{Apt, Lists, only_entry};
use crate::shell::Step;
use crate::{paths, shell};

/// A kernel as Debian packages it. All but those for guests boot as dom0 too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12's generic kernel
    Generic,
    /// Debian 12's kernel for virtual machines
    Cloud,
    /// Debian 12's backports: 6.12
    Backports,
    /// Debian 11's kernel for virtual machines: 5.10, for guests
    #[value(skip)]
    Bullseye,
    /// Debian 12's 32-bit kernel (PAE), for guests
    #[value(skip)]
    Pae,
}

impl Kernel {
    /// Every kernel that `setup` fetches.
    pub(crate) const ALL: [Self; 5] = [
        Self::Generic,
        Self::Cloud,
        Self::Backports,
        Self::Bullseye,
        Self::Pae,
    ];

    /// Returns the name used for directories and in scenarios.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Cloud => "cloud",
            Self::Backports => "backports",
            Self::Bullseye => "bullseye",
            Self::Pae => "pae",
        }
    }

    const fn lists(self) -> Lists {
        match self {
            Self::Generic | Self::Cloud | Self::Backports => Lists::Debian12,
            Self::Bullseye => Lists::Debian11,
            Self::Pae => Lists::Debian12I386,
        }
    }

    /// Returns what is fetched with the kernel: a busybox, where the host's does not run on it.
    const fn companions(self) -> &'static [&'static str] {
        match self {
            Self::Generic | Self::Cloud | Self::Backports | Self::Bullseye => &[],
            Self::Pae => &["busybox-static"],
        }
    }

    /// Returns the metapackage whose dependency names the newest kernel, and what that name starts with.
    fn metapackage(self) -> (&'static str, &'static str) {
        match self {
            Self::Generic => ("linux-image-amd64", "linux-image-6.1."),
            Self::Cloud => ("linux-image-cloud-amd64", "linux-image-6.1."),
            Self::Backports => ("linux-image-amd64", "linux-image-6.12."),
            Self::Bullseye => ("linux-image-cloud-amd64", "linux-image-5.10."),
            Self::Pae => ("linux-image-686-pae", "linux-image-6.1."),
        }
    }

    /// Returns the unpacked package: `boot/` and `lib/modules/`.
    ///
    /// # Errors
    /// No cache directory.
    pub(crate) fn dir(self) -> Result<PathBuf> {
        Ok(paths::cache()?.join("debian").join(self.name()))
    }

    /// Returns the bzImage.
    ///
    /// # Errors
    /// The package was not unpacked: `setup` has not run.
    pub(crate) fn vmlinuz(self) -> Result<PathBuf> {
        let boot = self.dir()?.join("boot");
        only_entry(&boot, "vmlinuz-").context("the kernel is missing: run `cargo xtask setup`")
    }

    /// Returns a static busybox that runs on this kernel.
    ///
    /// # Errors
    /// No cache directory.
    pub(crate) fn busybox(self) -> Result<PathBuf> {
        if self.companions().is_empty() {
            Ok(PathBuf::from("/bin/busybox"))
        } else {
            Ok(self.dir()?.join("bin/busybox"))
        }
    }

    /// Returns the directory of modules, `lib/modules/VERSION`.
    ///
    /// # Errors
    /// The package was not unpacked: `setup` has not run.
    pub(crate) fn modules(self) -> Result<PathBuf> {
        // Newer packages have it under usr/.
        let dir = self.dir()?;
        only_entry(&dir.join("lib/modules"), "")
            .or_else(|_| only_entry(&dir.join("usr/lib/modules"), ""))
            .context("the kernel's modules are missing: run `cargo xtask setup`")
    }
}

/// Debian's packages for dom0's user land besides busybox: Xen's toolstack, the libraries that it and the others want
/// (libgcc_s is loaded by pthread_cancel), the shell and the tools of its hotplug scripts, and iptables for NAT.
const USERLAND: &[&str] = &[
    "xen-utils-4.17",
    "xen-utils-common",
    "xenstore-utils",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenmisc4.17",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
    "libyajl2",
    "libncurses6",
    "libtinfo6",
    "libuuid1",
    "libzstd1",
    "liblzma5",
    "zlib1g",
    "libext2fs2",
    "libcom-err2",
    "libc6",
    "libgcc-s1",
    "libselinux1",
    "libpcre2-8-0",
    "bash",
    "coreutils",
    "util-linux",
    "iptables",
    "libip4tc2",
    "libip6tc2",
    "libxtables12",
];

/// Returns the directory with dom0's user land, as a root file system.
///
/// # Errors
/// No cache directory.
pub(crate) fn userland() -> Result<PathBuf> {
    Ok(paths::cache()?.join("debian/userland"))
}

/// Debian's packages whose programs guests get: a boot loader in a kernel's place, and kexec.
const GUEST_TOOLS: &[&str] = &["grub-xen-host", "kexec-tools"];

/// Returns the directory with what guests get, as a root file system.
///
/// # Errors
/// No cache directory.
pub(crate) fn guest_tools() -> Result<PathBuf> {
    Ok(paths::cache()?.join("debian/guest-tools"))
}

/// Fetches and unpacks what is not there: the kernels, dom0's user land, guests' tools.
///
/// # Errors
/// No mirror, no package, a download that fails.
pub(crate) fn ensure_all() -> Result<()> {
    for kernel in Kernel::ALL {
        let (meta, prefix) = kernel.metapackage();
        let what = format!("kernel: {}", kernel.name());
        ensure(&kernel.dir()?, &what, kernel.lists(), |apt| {
            let mut packages = vec![apt.newest_dependency(meta, prefix)?];
            packages.extend(kernel.companions().iter().map(|&name| name.to_owned()));
            Ok(packages)
        })?;
    }
    ensure_list(&userland()?, "Xen's toolstack", USERLAND)?;
    ensure_list(&guest_tools()?, "tools for guests", GUEST_TOOLS)
}

/// Unpacks `packages` into `dir`, unless it is marked as having just these.
fn ensure_list(dir: &Path, what: &str, packages: &[&str]) -> Result<()> {
    let mark = dir.join("packages");
    let wanted = packages.join("\n");
    if fs::read_to_string(&mark).is_ok_and(|old| old != wanted) {
        fs::remove_dir_all(dir)?;
    }
    ensure(dir, what, Lists::Debian12, |_| {
        Ok(packages.iter().map(|&name| name.to_owned()).collect())
    })?;
    shell::write_if_changed(&mark, wanted.as_bytes())
}

/// Unpacks `packages` into `dir` unless it exists.
fn ensure(
    dir: &Path,
    what: &str,
    lists: Lists,
    packages: impl FnOnce(&Apt) -> Result<Vec<String>>,
) -> Result<()> {
    if dir.exists() {
        return Ok(());
    }
    let apt = Apt::open(lists)?;
    let packages = packages(&apt)?;
    let step = Step::start(format!("fetching Debian's {what}"));
    let unpacked = dir.with_extension("new");
    let debs = dir.with_extension("debs");
    for fresh in [&unpacked, &debs] {
        if fresh.exists() {
            fs::remove_dir_all(fresh)?;
        }
        fs::create_dir_all(fresh)?;
    }
    for deb in apt.download(&packages, &debs)? {
        shell::output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked))?;
    }
    fs::remove_dir_all(debs)?;
    fs::rename(unpacked, dir)?;
    step.done();
    Ok(())
}
