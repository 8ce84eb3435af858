//! Programs of Debian's packages in an initramfs: the files asked for, and every shared library that they name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Tree;
use crate::{debian, shell};

/// A part of the user land: paths in the packages, a directory for all below it, and links to make.
pub(super) struct Part {
    files: &'static [&'static str],
    /// Target and name each.
    links: &'static [(&'static str, &'static str)],
}

/// iptables in the form that asks the kernel for its old interface, which needs the fewest libraries.
pub(super) const NAT: Part = Part {
    files: &[
        "usr/sbin/xtables-legacy-multi",
        // The first is a link to the second.
        "usr/lib/x86_64-linux-gnu/xtables/libxt_MASQUERADE.so",
        "usr/lib/x86_64-linux-gnu/xtables/libxt_NAT.so",
        "usr/lib/x86_64-linux-gnu/xtables/libxt_standard.so",
    ],
    links: &[("xtables-legacy-multi", "usr/sbin/iptables-legacy")],
};

/// Xen's hotplug scripts, and the shell and tools that they want.
pub(super) const HOTPLUG: Part = Part {
    files: &[
        "etc/xen/scripts",
        "bin/bash",
        "usr/bin/stat",
        "usr/bin/flock",
    ],
    links: &[],
};

/// GRUB as a guest's kernel: 32-bit code, which looks for its configuration on the guest's disks.
pub(super) const GRUB: Part = Part {
    files: &["usr/lib/grub-xen/grub-i386-xen_pvh.bin"],
    links: &[],
};

/// The program that loads a guest's next kernel.
pub(super) const KEXEC_TOOLS: Part = Part {
    files: &["sbin/kexec"],
    links: &[],
};

/// Xen's toolstack as Debian has it. Its hotplug scripts want bash, flock, and a stat that follows descriptors.
pub(super) const XEN_UTILS: Part = Part {
    files: &[
        "usr/sbin/xl",
        "usr/sbin/xentop",
        "usr/lib/xen-common/bin",
        "usr/lib/xen-4.17/bin/lsevtchn",
        "usr/lib/xen-4.17/bin/libxl-save-helper",
        "usr/lib/xen-4.17/bin/xen-init-dom0",
        "usr/lib/xen-4.17/bin/xenconsole",
        "usr/lib/xen-4.17/bin/xenconsoled",
        "usr/lib/xen-4.17/bin/xenstored",
        "usr/lib/xen-4.17/bin/xentop",
        "usr/lib/xen-4.17/bin/xl",
        "usr/bin/xenstore",
        "usr/bin/xenstore-chmod",
        "usr/bin/xenstore-exists",
        "usr/bin/xenstore-list",
        "usr/bin/xenstore-ls",
        "usr/bin/xenstore-read",
        "usr/bin/xenstore-rm",
        "usr/bin/xenstore-watch",
        "usr/bin/xenstore-write",
        "etc/xen",
        "bin/bash",
        "usr/bin/stat",
        "usr/bin/flock",
        // pthread_cancel opens it by name.
        "lib/x86_64-linux-gnu/libgcc_s.so.1",
    ],
    links: &[],
};

/// Where the dynamic linker looks.
const LIBRARY_DIRECTORIES: &[&str] = &["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];

/// The dynamic linker: the path that programs name, and its file.
const LINKER: (&str, &str) = (
    "lib64/ld-linux-x86-64.so.2",
    "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
);

/// Installs `parts` and the libraries that they need.
///
/// # Errors
/// The packages are missing, or lack a file.
pub(super) fn install(parts: &[Part], tree: &Tree) -> Result<()> {
    let mut installation = Installation {
        packages: [debian::userland()?, debian::guest_tools()?],
        tree,
        libraries: BTreeSet::new(),
    };
    tree.install(&installation.find(LINKER.1)?, LINKER.0)?;
    for part in parts {
        for name in part.files {
            installation.place(name)?;
        }
        for (target, name) in part.links {
            tree.link(target, name)?;
        }
    }
    Ok(())
}

struct Installation<'a> {
    /// Directories of unpacked packages.
    packages: [PathBuf; 2],
    tree: &'a Tree,
    /// The names of those placed.
    libraries: BTreeSet<String>,
}

impl Installation<'_> {
    /// Returns where the packages have `name`.
    fn find(&self, name: &str) -> Result<PathBuf> {
        let mut places = self.packages.iter().map(|dir| dir.join(name));
        places
            .find(|place| fs::symlink_metadata(place).is_ok())
            .with_context(|| format!("Debian's packages have no {name}"))
    }

    /// Copies a file with its libraries, a link as it is, or all of a directory.
    fn place(&mut self, name: &str) -> Result<()> {
        let from = self.find(name)?;
        let metadata = fs::symlink_metadata(&from)?;
        if metadata.is_dir() {
            for entry in fs::read_dir(&from)? {
                let entry = entry?.file_name();
                self.place(&format!("{name}/{}", entry.display()))?;
            }
            Ok(())
        } else if metadata.is_symlink() {
            let target = fs::read_link(&from)?;
            self.tree.link(&target.to_string_lossy(), name)
        } else {
            self.tree.install(&from, name)?;
            self.place_libraries(&from)
        }
    }

    fn place_libraries(&mut self, program: &Path) -> Result<()> {
        for library in needed(program)? {
            if library.starts_with("ld-linux") || !self.libraries.insert(library.clone()) {
                continue;
            }
            let (name, from) = LIBRARY_DIRECTORIES
                .iter()
                .map(|dir| format!("{dir}/{library}"))
                .find_map(|name| Some((name.clone(), self.find(&name).ok()?)))
                .with_context(|| {
                    format!(
                        "{} needs {library}, which no package has",
                        program.display()
                    )
                })?;
            // A link's target under the name that is looked for.
            self.tree.install(&from, &name)?;
            self.place_libraries(&from)?;
        }
        Ok(())
    }
}

/// Returns the shared libraries that an ELF file names; none for another file.
fn needed(file: &Path) -> Result<Vec<String>> {
    if !fs::read(file)?.starts_with(b"\x7fELF") {
        return Ok(Vec::new());
    }
    let listed = shell::output(
        Command::new("readelf")
            .arg("-d")
            .arg(file)
            .env("LC_ALL", "C"),
    )?;
    Ok(listed.lines().filter_map(library_name).collect())
}

/// Reads `… (NEEDED)   Shared library: [libc.so.6]`.
fn library_name(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("(NEEDED)")?;
    let (_, rest) = rest.split_once('[')?;
    let (name, _) = rest.split_once(']')?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_read_from_its_entry() {
        let line = " 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]";
        assert_eq!(library_name(line).as_deref(), Some("libc.so.6"));
        assert_eq!(
            library_name(" 0x000e (SONAME)  Library soname: [libx.so]"),
            None
        );
    }
}
