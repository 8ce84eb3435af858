//! `cargo xtask ci`: what a change must pass.

use std::process::Command;

use anyhow::Result;

use crate::{audit, paths, setup, shell, test};

/// What may be left out.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Args {
    /// Only the checks of the sources: formatting, lints, documentation, the rules of the house
    #[arg(long)]
    pub(crate) no_tests: bool,
    /// Write the ledger of unsafe code into hypervisor/README.md instead of comparing it
    #[arg(long)]
    pub(crate) write_ledger: bool,
    #[command(flatten)]
    pub(crate) test: test::Args,
}

/// The crates for the bare machine; the others are the workspace's default members.
const BARE_METAL: [&str; 3] = ["boot", "guest-rt", "kernels"];

/// Runs all checks, quick ones first, then all tests.
///
/// # Errors
/// The first check that fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::for_running()?;
    cargo("formatting", &["fmt", "--all", "--check"])?;
    println!("rules of the house");
    audit::run(args.write_ledger)?;
    cargo(
        "lints, host",
        &["clippy", "--all-targets", "--", "-D", "warnings"],
    )?;
    let mut bare = vec!["clippy", "--target", "x86_64-unknown-none"];
    for package in BARE_METAL {
        bare.extend(["--package", package]);
    }
    bare.extend(["--", "-D", "warnings"]);
    cargo("lints, bare metal", &bare)?;
    cargo(
        "lints, guest's probe",
        &["clippy", "--package", "probe", "--", "-D", "warnings"],
    )?;
    cargo("documentation", &["doc", "--no-deps"])?;
    if args.no_tests {
        return Ok(());
    }
    test::run(&args.test)
}

fn cargo(what: &str, args: &[&str]) -> Result<()> {
    println!("{what}");
    shell::passthrough(
        Command::new(paths::cargo())
            .args(args)
            .env("RUSTDOCFLAGS", "-D warnings")
            .current_dir(paths::root()),
    )
}
