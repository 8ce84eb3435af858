//! apt without touching the host's: directories of its own below the cache.
//!
//! Its lists name Debian 12 (kernels, Xen's toolstack), its backports (the newer kernel, QEMU) and Debian 13's sources
//! (Bochs), whatever the host is; lists of their own name what only guests run: Debian 11, and Debian 12 for i386. The
//! mirror is the one that the host's own apt configuration names, or `HEMATITE_DEBIAN_MIRROR`. Signatures and digests
//! are checked by apt.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, shell};

/// Fetches the file of Debian 13's source package `package` that ends in `ending`, and checks its digest.
///
/// # Errors
/// No mirror, no such file, another digest than `sha256`, a download that fails.
pub(crate) fn fetch_source(package: &str, ending: &str, sha256: &str, to: &Path) -> Result<()> {
    let apt = Apt::open(Lists::Debian12)?;
    let listed = shell::output(
        apt.command("apt-get")
            .args(["source", "--print-uris", package]),
    )?;
    // 'URI' FILE SIZE SHA256:DIGEST
    let line = listed
        .lines()
        .find(|line| {
            line.contains(sha256)
                && line
                    .split(' ')
                    .nth(1)
                    .is_some_and(|file| file.contains(ending))
        })
        .with_context(|| {
            format!("Debian's source of {package} has no {ending} with digest {sha256}")
        })?;
    let uri = line
        .split(' ')
        .next()
        .unwrap_or_default()
        .trim_matches('\'');
    let helper = "/usr/lib/apt/apt-helper";
    shell::output(
        apt.command(helper)
            .arg("download-file")
            .arg(uri)
            .arg(to)
            .arg(format!("SHA256:{sha256}")),
    )?;
    Ok(())
}

/// What an [`Apt`] can fetch from. Each has a directory of its own, so that an old release that its mirror drops one
/// day keeps nobody from fetching the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lists {
    /// Debian 12 for amd64, its backports, and Debian 13's sources.
    Debian12,
    /// Debian 11 for amd64.
    Debian11,
    /// Debian 12 for i386.
    Debian12I386,
}

impl Lists {
    const fn dir(self) -> &'static str {
        match self {
            Self::Debian12 => "apt",
            Self::Debian11 => "apt-11",
            Self::Debian12I386 => "apt-i386",
        }
    }

    const fn architecture(self) -> &'static str {
        match self {
            Self::Debian12 | Self::Debian11 => "amd64",
            Self::Debian12I386 => "i386",
        }
    }

    fn sources(self, mirror: &Mirror) -> String {
        const KEYS: &str = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        let main = &mirror.main;
        match self {
            Self::Debian12 => {
                let mut text = format!(
                    "deb {KEYS} {main} bookworm main\n\
                     deb {KEYS} {main} bookworm-backports main\n\
                     deb-src {KEYS} {main} trixie main\n"
                );
                if let Some(security) = &mirror.security {
                    text += &format!("deb {KEYS} {security} bookworm-security main\n");
                }
                text
            }
            Self::Debian11 => format!("deb {KEYS} {main} bullseye main\n"),
            Self::Debian12I386 => format!("deb {KEYS} {main} bookworm main\n"),
        }
    }
}

/// An apt with its own lists, cache and sources.
pub(crate) struct Apt {
    conf: PathBuf,
}

impl Apt {
    /// Prepares the private directories and, the first time, fetches the lists.
    ///
    /// # Errors
    /// No mirror, or the lists cannot be fetched.
    pub(crate) fn open(lists: Lists) -> Result<Self> {
        let dir = paths::cache()?.join(lists.dir());
        for sub in ["lists/partial", "cache/archives/partial", "state"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let sources = lists.sources(&mirror()?);
        let sources_changed =
            fs::read_to_string(dir.join("sources.list")).is_ok_and(|old| old != sources);
        fs::write(dir.join("sources.list"), sources)?;
        fs::write(dir.join("state/status"), "")?;
        let conf = dir.join("apt.conf");
        fs::write(&conf, configuration(&dir, lists.architecture()))?;
        let apt = Self { conf };
        let fresh = dir
            .join("lists")
            .read_dir()?
            .any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().contains("InRelease")));
        if !fresh || sources_changed {
            apt.update()?;
        }
        Ok(apt)
    }

    /// Fetches the lists anew.
    ///
    /// # Errors
    /// The mirror does not answer.
    pub(crate) fn update(&self) -> Result<()> {
        shell::step(
            "fetching Debian's package lists",
            self.command("apt-get").arg("update"),
        )?;
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.conf).env("LC_ALL", "C");
        command
    }

    /// Returns the newest package that some version of `meta` depends on and whose name starts with `prefix`.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn newest_dependency(&self, meta: &str, prefix: &str) -> Result<String> {
        let shown = shell::output(self.command("apt-cache").args(["show", meta]))?;
        // Versions are listed newest first.
        shown
            .lines()
            .filter_map(|line| line.strip_prefix("Depends: "))
            .filter_map(|depends| depends.split_whitespace().next())
            .find(|package| package.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("no version of {meta} depends on {prefix}…"))
    }

    /// Returns the versions of the package `name` that the lists have, newest first.
    ///
    /// # Errors
    /// apt cannot be asked.
    pub(crate) fn versions(&self, name: &str) -> Result<Vec<String>> {
        let listed = shell::output(self.command("apt-cache").args(["madison", name]))?;
        Ok(listed.lines().filter_map(binary_version).collect())
    }

    /// Downloads packages into `dir`, which has nothing else; lists that have aged past them are fetched anew once.
    ///
    /// # Errors
    /// No such package, or a download that fails.
    pub(crate) fn download(&self, packages: &[String], dir: &Path) -> Result<Vec<PathBuf>> {
        let fetch = || {
            shell::output(
                self.command("apt-get")
                    .arg("download")
                    .args(packages)
                    .current_dir(dir),
            )
        };
        if fetch().is_err() {
            self.update()?;
            fetch()?;
        }
        let entries = fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
        entries.collect()
    }
}

/// Reads `NAME | VERSION | URI SUITE/COMPONENT ARCHITECTURE Packages`; source packages end in another word.
fn binary_version(line: &str) -> Option<String> {
    let mut fields = line.split(" | ");
    let version = fields.nth(1)?.trim();
    let is_binary = fields.next()?.ends_with("Packages");
    is_binary.then(|| version.to_owned())
}

/// Where Debian and its security updates are fetched from.
struct Mirror {
    main: String,
    security: Option<String>,
}

/// Finds the mirror in the host's apt configuration, unless the environment names one.
fn mirror() -> Result<Mirror> {
    if let Ok(main) = env::var("HEMATITE_DEBIAN_MIRROR") {
        return Ok(Mirror {
            main,
            security: None,
        });
    }
    let format = "$(ORIGIN) $(CODENAME) $(REPO_URI)";
    let listed = shell::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        format,
        "Created-By: Packages",
    ]))?;
    let mut found = Mirror {
        main: String::new(),
        security: None,
    };
    for line in listed.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["Debian", codename, uri] if codename.ends_with("-security") => {
                found.security = Some((*uri).to_owned())
            }
            ["Debian", codename, uri] if !codename.contains('-') => found.main = (*uri).to_owned(),
            _ => {}
        }
    }
    if found.main.is_empty() {
        bail!(
            "apt on this machine knows no Debian mirror (`apt-get update` not run yet, or another system): \
             set HEMATITE_DEBIAN_MIRROR to the URI of one"
        );
    }
    Ok(found)
}

fn configuration(dir: &Path, architecture: &str) -> String {
    let dir = dir.display();
    format!(
        "Dir::Etc::sourcelist \"{dir}/sources.list\";\n\
         Dir::Etc::sourceparts \"-\";\n\
         Dir::State \"{dir}/state\";\n\
         Dir::State::lists \"{dir}/lists\";\n\
         Dir::State::status \"{dir}/state/status\";\n\
         Dir::Cache \"{dir}/cache\";\n\
         APT::Architecture \"{architecture}\";\n\
         APT::Architectures \"{architecture}\";\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n"
    )
}

/// Returns the entry of `dir` whose name starts with `prefix`.
///
/// # Errors
/// There is none.
pub(crate) fn only_entry(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Ok(entry.path());
        }
    }
    bail!("{} has no {prefix}…", dir.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_binary_packages() {
        let line = "   seabios | 1.16.3-2~bpo12+1 | http://deb.debian.org/debian bookworm-backports/main amd64 Packages";
        assert_eq!(binary_version(line).as_deref(), Some("1.16.3-2~bpo12+1"));
        let source = "   seabios | 1.16.3-2 | http://deb.debian.org/debian trixie/main Sources";
        assert_eq!(binary_version(source), None);
    }
}
