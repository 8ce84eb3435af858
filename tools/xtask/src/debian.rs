//! Debian's kernels and sources, fetched with apt but without touching the host's apt.
//!
//! apt is run with directories of its own below the cache: its lists name Debian 12 (the kernels), its backports (the
//! newer kernel) and Debian 13's sources (Bochs), whatever the host is. The mirror is the one the host's own apt
//! configuration names, or `HEMATITE_DEBIAN_MIRROR`. Signatures and digests are checked by apt.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::Step;
use crate::{paths, shell};

/// A kernel that boots as dom0, as Debian packages it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12's generic kernel
    Generic,
    /// Debian 12's kernel for virtual machines
    Cloud,
    /// Debian 12's backports: 6.12
    Backports,
}

impl Kernel {
    /// Every kernel that `setup` fetches.
    pub(crate) const ALL: [Self; 3] = [Self::Generic, Self::Cloud, Self::Backports];

    /// Returns the name used for directories and in scenarios.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Cloud => "cloud",
            Self::Backports => "backports",
        }
    }

    /// Returns the metapackage whose dependency names the newest kernel, and what that name starts with.
    fn metapackage(self) -> (&'static str, &'static str) {
        match self {
            Self::Generic => ("linux-image-amd64", "linux-image-6.1."),
            Self::Cloud => ("linux-image-cloud-amd64", "linux-image-6.1."),
            Self::Backports => ("linux-image-amd64", "linux-image-6.12."),
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

fn only_entry(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Ok(entry.path());
        }
    }
    bail!("{} has no {prefix}…", dir.display())
}

/// Fetches and unpacks every kernel that is not there.
///
/// # Errors
/// No mirror, no package, a download that fails.
pub(crate) fn ensure_all() -> Result<()> {
    for kernel in Kernel::ALL {
        ensure(kernel)?;
    }
    Ok(())
}

fn ensure(kernel: Kernel) -> Result<()> {
    let dir = kernel.dir()?;
    if dir.exists() {
        return Ok(());
    }
    let apt = Apt::open()?;
    let (meta, prefix) = kernel.metapackage();
    let package = apt.newest_dependency(meta, prefix)?;
    let step = Step::start(format!("fetching {package}"));
    let unpacked = dir.with_extension("new");
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked)?;
    }
    fs::create_dir_all(&unpacked)?;
    let deb = apt.download(&package, &unpacked)?;
    shell::output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked))?;
    fs::remove_file(deb)?;
    fs::rename(unpacked, dir)?;
    step.done();
    Ok(())
}

/// Fetches the file of Debian 13's source package `package` that ends in `ending`, and checks its digest.
///
/// # Errors
/// No mirror, no such file, another digest than `sha256`, a download that fails.
pub(crate) fn fetch_source(package: &str, ending: &str, sha256: &str, to: &Path) -> Result<()> {
    let apt = Apt::open()?;
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

/// An apt with its own lists, cache and sources.
struct Apt {
    conf: PathBuf,
}

impl Apt {
    /// Prepares the private directories and, the first time, fetches the lists.
    fn open() -> Result<Self> {
        let dir = paths::cache()?.join("apt");
        for sub in ["lists/partial", "cache/archives/partial", "state"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let sources = sources(&mirror()?);
        let sources_changed =
            fs::read_to_string(dir.join("sources.list")).is_ok_and(|old| old != sources);
        fs::write(dir.join("sources.list"), sources)?;
        fs::write(dir.join("state/status"), "")?;
        let conf = dir.join("apt.conf");
        fs::write(&conf, configuration(&dir))?;
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

    fn update(&self) -> Result<()> {
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
    fn newest_dependency(&self, meta: &str, prefix: &str) -> Result<String> {
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

    /// Downloads a package into `dir`; lists that have aged past it are fetched anew once.
    fn download(&self, package: &str, dir: &Path) -> Result<PathBuf> {
        let fetch = || {
            shell::output(
                self.command("apt-get")
                    .args(["download", package])
                    .current_dir(dir),
            )
        };
        if fetch().is_err() {
            self.update()?;
            fetch()?;
        }
        only_entry(dir, package)
    }
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

fn sources(mirror: &Mirror) -> String {
    const KEYS: &str = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
    let main = &mirror.main;
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

fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "Dir::Etc::sourcelist \"{dir}/sources.list\";\n\
         Dir::Etc::sourceparts \"-\";\n\
         Dir::State \"{dir}/state\";\n\
         Dir::State::lists \"{dir}/lists\";\n\
         Dir::State::status \"{dir}/state/status\";\n\
         Dir::Cache \"{dir}/cache\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n"
    )
}
