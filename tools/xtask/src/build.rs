//! `cargo xtask build`: the hypervisor, the guest test kernels, the test of the seam, dom0's tools, the program that
//! measures clocks in a guest.
//!
//! What cargo made is copied to `target/hematite`, only where it changed, so that images are remade only then.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{clamps, paths, shell};

const BARE_METAL: &str = "x86_64-unknown-none";
const STATIC_LINUX: &str = "x86_64-unknown-linux-musl";

/// What to build, and how fast it shall be.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Args {
    /// Cargo profile of the bare-metal binaries; dev-fast builds quicker and runs slower
    #[arg(long, default_value = "release")]
    pub(crate) profile: String,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            profile: "release".to_owned(),
        }
    }
}

/// Builds everything that runs on the machine.
///
/// # Errors
/// Something does not compile: cargo has said what.
pub(crate) fn run(args: &Args) -> Result<()> {
    hypervisor(args)?;
    kernels(args)?;
    seam(args)?;
    tools()?;
    probe()?;
    Ok(())
}

/// Builds `hematite.elf`.
///
/// # Errors
/// It does not compile, or the compiler has left out a [clamp](clamps).
pub(crate) fn hypervisor(args: &Args) -> Result<()> {
    let built = cargo_build(&["boot"], BARE_METAL, &args.profile)?;
    let [elf] = built.as_slice() else {
        bail!(
            "the package boot has {} programs instead of one",
            built.len()
        );
    };
    clamps::check(elf)?;
    shell::copy_if_changed(elf, &paths::hypervisor())
}

/// Builds the guest test kernels and returns them, sorted by name.
///
/// # Errors
/// They do not compile.
pub(crate) fn kernels(args: &Args) -> Result<Vec<PathBuf>> {
    let mut kernels = Vec::new();
    for elf in cargo_build(&["kernels"], BARE_METAL, &args.profile)? {
        let name = elf.file_name().context("a program has a name")?;
        let to = paths::kernels().join(name).with_extension("elf");
        shell::copy_if_changed(&elf, &to)?;
        kernels.push(to);
    }
    kernels.sort();
    Ok(kernels)
}

/// Builds the test of the seam to the CPU's vendor, which boots in the hypervisor's place.
///
/// # Errors
/// It does not compile.
pub(crate) fn seam(args: &Args) -> Result<()> {
    let built = cargo_build(&["seam"], BARE_METAL, &args.profile)?;
    let elf = built.first().context("the package seam has no program")?;
    shell::copy_if_changed(elf, &paths::bare_metal_test("seam"))
}

/// The packages of dom0's tools; each has a program of its name.
const TOOLS: &[&str] = &["xl", "xenstore", "xenstored", "xenconsoled"];

/// Writes xl's man pages and shell completions. It is built with the tools, as all it needs is, and runs here.
const DOCUMENTATION: &str = "xl-docs";

/// dom0's tools.
pub(crate) struct Tools {
    /// The programs.
    pub(crate) programs: Vec<PathBuf>,
    /// Man pages and completions: `man8/`, `bash/`, `zsh/`, `fish/`.
    pub(crate) documentation: PathBuf,
}

/// Builds dom0's tools, static, by one cargo call.
///
/// # Errors
/// They do not compile, or their documentation cannot be written.
pub(crate) fn tools() -> Result<Tools> {
    let built = cargo_build(TOOLS, STATIC_LINUX, "tools")?;
    let is_writer = |path: &PathBuf| path.ends_with(DOCUMENTATION);
    let (writers, programs): (Vec<PathBuf>, Vec<PathBuf>) = built.into_iter().partition(is_writer);
    let writer = writers
        .first()
        .with_context(|| format!("no program {DOCUMENTATION} was built"))?;
    let documentation = paths::out().join("documentation");
    shell::output(Command::new(writer).arg(&documentation))?;
    Ok(Tools {
        programs,
        documentation,
    })
}

/// Builds the program for guests and returns it.
///
/// # Errors
/// It does not compile.
pub(crate) fn probe() -> Result<PathBuf> {
    let built = cargo_build(&["probe"], STATIC_LINUX, "release")?;
    built
        .into_iter()
        .next()
        .context("the package probe has no program")
}

/// Builds the packages' programs and returns where cargo has put them.
fn cargo_build(packages: &[&str], target: &str, profile: &str) -> Result<Vec<PathBuf>> {
    let out = Command::new(paths::cargo())
        .args(["build", "--target", target, "--profile", profile])
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .args(["--bins", "--message-format=json-render-diagnostics"])
        .current_dir(paths::root())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !out.status.success() {
        bail!("{} cannot be built for {target}", packages.join(", "));
    }
    Ok(String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter_map(executable)
        .collect())
}

/// Reads the program's path from one of cargo's messages, if it is about one.
fn executable(message: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let path = message.get("executable")?.as_str()?;
    Some(Path::new(path).to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_with_a_program_count() {
        assert_eq!(
            executable(r#"{"reason":"compiler-artifact","executable":"/t/boot"}"#),
            Some("/t/boot".into())
        );
        assert_eq!(
            executable(r#"{"reason":"compiler-artifact","executable":null}"#),
            None
        );
        assert_eq!(executable("warning: something"), None);
    }
}
