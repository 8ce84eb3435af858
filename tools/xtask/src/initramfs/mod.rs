//! The initramfs of dom0 and of Linux guests: a static busybox, modules, scripts; for a dom0 with guests a toolstack.
//!
//! It is left uncompressed: GRUB reads it at ten instructions a byte, which is less than any decompressor takes. What
//! dom0 does with it is in `tests/scenarios/guest/etc/rc`, what a guest does in `tests/scenarios/domu/etc/rc`.

mod modules;
mod userland;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use harness::scenario::Extra;

use crate::debian::Kernel;
use crate::{paths, shell};

/// Which toolstack dom0 has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tools {
    /// None: dom0 alone
    None,
    /// Hematite's own
    Ours,
    /// Debian's xen-utils-4.17, unmodified
    XenUtils,
}

impl Tools {
    /// Returns the name used in file names and, in the guest, in /etc/tools.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ours => "ours",
            Self::XenUtils => "xen-utils",
        }
    }
}

/// What an initramfs of dom0 has in it.
#[derive(Clone, Debug)]
pub(crate) struct Contents {
    /// The kernel whose modules it has.
    pub(crate) kernel: Kernel,
    /// The toolstack, with all that goes with it.
    pub(crate) tools: Tools,
    /// The program that measures clocks.
    pub(crate) probe: PathBuf,
    /// What of Debian's packages our toolstack has beside it.
    pub(crate) extras: Vec<Extra>,
    /// The programs of our toolstack, where it is the one.
    pub(crate) programs: Vec<PathBuf>,
    /// Their man pages and completions.
    pub(crate) documentation: Option<PathBuf>,
    /// The Linux kernels to start guests from.
    pub(crate) guests: Vec<Kernel>,
    /// Test kernels to start guests from.
    pub(crate) test_kernels: Vec<PathBuf>,
    /// A script of the user's, to run as the test named `script`.
    pub(crate) script: Option<PathBuf>,
}

/// Links to busybox are made in the guest; only what must be there before them is in the archive.
const DIRECTORIES: &[&str] = &["bin", "etc", "tests", "modules", "proc", "sys", "dev"];

/// The names of the multi-call program `xenstore`.
const XENSTORE_NAMES: &[&str] = &[
    "chmod", "control", "exists", "list", "ls", "read", "rm", "watch", "write",
];

/// Builds the initramfs file `out`.
///
/// # Errors
/// busybox, a kernel's package or the user land is missing, or a tool failed.
pub(crate) fn build(contents: &Contents, out: &Path) -> Result<()> {
    let tree = Tree::start(contents.kernel, out)?;
    tree.install(&contents.probe, "bin/probe")?;
    tree.scripts("guest")?;
    tree.write("etc/tools", contents.tools.name())?;
    if let Some(script) = &contents.script {
        tree.install(script, "tests/script.sh")?;
    }
    let modules: &[&[modules::Module]] = match contents.tools {
        Tools::None => &[modules::MACHINE],
        Tools::Ours | Tools::XenUtils => &[modules::MACHINE, modules::BACKEND],
    };
    modules::install(contents.kernel, modules, &tree.path("modules"))?;
    match contents.tools {
        Tools::None => {}
        Tools::Ours => {
            userland::install(&[userland::NAT], &tree)?;
            for &extra in &contents.extras {
                userland::install(&[part(extra)], &tree)?;
            }
            our_tools(&contents.programs, &tree)?;
            tree.scripts("live")?;
            if let Some(documentation) = &contents.documentation {
                install_documentation(documentation, &tree)?;
            }
        }
        Tools::XenUtils => userland::install(&[userland::NAT, userland::XEN_UTILS], &tree)?,
    }
    for &kernel in &contents.guests {
        let dir = format!("guests/{}", kernel.name());
        tree.install(&kernel.vmlinuz()?, &format!("{dir}/vmlinuz"))?;
        let initrd = paths::out().join(format!("initramfs-guest-{}.cpio", kernel.name()));
        guest(kernel, &initrd)?;
        tree.install(&initrd, &format!("{dir}/initrd"))?;
    }
    for kernel in &contents.test_kernels {
        let name = kernel.file_name().context("a test kernel has a name")?;
        tree.install(kernel, &format!("guests/kernels/{}", name.display()))?;
    }
    tree.archive(out)
}

/// Builds the initramfs of a Linux guest.
fn guest(kernel: Kernel, out: &Path) -> Result<()> {
    let tree = Tree::start(kernel, out)?;
    tree.scripts("domu")?;
    modules::install(kernel, &[modules::FRONTEND], &tree.path("modules"))?;
    tree.archive(out)
}

const fn part(extra: Extra) -> userland::Part {
    match extra {
        Extra::HotplugScripts => userland::HOTPLUG,
        Extra::Grub => userland::GRUB,
        Extra::KexecTools => userland::KEXEC_TOOLS,
    }
}

fn our_tools(programs: &[PathBuf], tree: &Tree) -> Result<()> {
    for program in programs {
        let name = program.file_name().context("a program has a name")?;
        let name = name.to_string_lossy();
        tree.install(program, &format!("usr/sbin/{name}"))?;
        if name == "xl" {
            // called by that name, it is xl top
            tree.link("xl", "usr/sbin/xentop")?;
        }
        if name == "xenstore" {
            for link in XENSTORE_NAMES {
                tree.link("xenstore", &format!("usr/sbin/xenstore-{link}"))?;
            }
        }
    }
    Ok(())
}

/// Puts man pages and completions where Debian's man-db and bash-completion look.
fn install_documentation(from: &Path, tree: &Tree) -> Result<()> {
    tree.copy_all(&from.join("man8"), "usr/share/man/man8")?;
    tree.copy_all(&from.join("bash"), "usr/share/bash-completion/completions")
}

/// The directory that becomes the archive.
struct Tree {
    top: PathBuf,
}

impl Tree {
    /// Makes it anew, with a busybox in it that runs on `kernel`.
    fn start(kernel: Kernel, out: &Path) -> Result<Self> {
        let top = out.with_extension("tree");
        if top.exists() {
            fs::remove_dir_all(&top)?;
        }
        let tree = Self { top };
        for dir in DIRECTORIES {
            fs::create_dir_all(tree.path(dir))?;
        }
        tree.install(&kernel.busybox()?, "bin/busybox")?;
        tree.link("busybox", "bin/sh")?;
        tree.link("bin/busybox", "init")?;
        Ok(tree)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.join(name)
    }

    /// Copies a file to `name`, as a program.
    fn install(&self, from: &Path, name: &str) -> Result<()> {
        let to = self.path(name);
        make_parent(&to)?;
        fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn link(&self, target: &str, name: &str) -> Result<()> {
        let link = self.path(name);
        make_parent(&link)?;
        symlink(target, &link).with_context(|| format!("cannot make the link {name}"))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let to = self.path(name);
        make_parent(&to)?;
        fs::write(&to, text).with_context(|| format!("cannot write {}", to.display()))
    }

    /// Copies all of `tests/scenarios/WHOSE` to the top.
    fn scripts(&self, whose: &str) -> Result<()> {
        self.copy_all(&paths::root().join("tests/scenarios").join(whose), "")
    }

    fn copy_all(&self, from: &Path, to: &str) -> Result<()> {
        let entries =
            fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
        for entry in entries {
            let entry = entry?;
            let name = format!("{to}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.copy_all(&entry.path(), &name)?;
            } else {
                self.install(&entry.path(), name.trim_start_matches('/'))?;
            }
        }
        Ok(())
    }

    /// Packs it into `out`, and removes it.
    fn archive(self, out: &Path) -> Result<()> {
        // The kernel makes /dev/console by itself, so no device node (and no root) is needed.
        let archive =
            "find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible";
        let partial = out.with_extension("partial");
        shell::output(
            Command::new("sh")
                .arg("-c")
                .arg(format!("{archive} > '{}'", partial.display()))
                .current_dir(&self.top),
        )?;
        fs::rename(partial, out)?;
        fs::remove_dir_all(self.top)?;
        Ok(())
    }
}

fn make_parent(file: &Path) -> Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    Ok(())
}
