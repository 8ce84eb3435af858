//! `cargo xtask ci`: what a change must pass.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{audit, paths, setup, shell, test};

/// What may be left out.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Args {
    /// Only the rules of the project that no lint checks: seconds
    #[arg(long)]
    pub(crate) rules: bool,
    /// Only the checks of the sources: formatting, lints, documentation, the rules of the project
    #[arg(long)]
    pub(crate) no_tests: bool,
    /// Write the ledger of unsafe code into hypervisor/README.md instead of comparing it
    #[arg(long)]
    pub(crate) write_ledger: bool,
    #[command(flatten)]
    pub(crate) test: test::Args,
}

/// The crates for the bare machine; the others are the workspace's default members.
const BARE_METAL: [&str; 4] = ["boot", "guest-rt", "kernels", "seam"];

/// Runs all checks, quick ones first, then all tests. A check that fails does not keep the others from being run.
///
/// # Errors
/// The names of the checks that failed; each has said why.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.rules {
        return audit::run(args.write_ledger);
    }
    setup::for_running()?;
    let mut failed = Vec::new();
    let mut check = |what: &'static str, result: Result<()>| {
        if let Err(why) = result {
            eprintln!("{what}: {why:#}");
            failed.push(what);
        }
    };
    check("formatting", cargo(&["fmt", "--all", "--check"]));
    check("rules of the project", audit::run(args.write_ledger));
    check(
        "lints, host",
        cargo(&["clippy", "--all-targets", "--", "-D", "warnings"]),
    );
    check("lints, bare metal", cargo(&bare_metal_lints()));
    check(
        "lints, guest's probe",
        cargo(&["clippy", "--package", "probe", "--", "-D", "warnings"]),
    );
    check("documentation", cargo(&["doc", "--no-deps"]));
    check("documentation of the core", cargo(&CORE_AS_A_BOOK));
    if !args.no_tests {
        check("tests", test::run(&args.test));
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("failed: {}", failed.join(", "))
}

/// Everything in the core is private but its entry.
const CORE_AS_A_BOOK: [&str; 5] = [
    "doc",
    "--no-deps",
    "--document-private-items",
    "--package",
    "hypervisor",
];

fn bare_metal_lints() -> Vec<&'static str> {
    let mut args = vec!["clippy", "--target", "x86_64-unknown-none"];
    for package in BARE_METAL {
        args.extend(["--package", package]);
    }
    args.extend(["--", "-D", "warnings"]);
    args
}

fn cargo(args: &[&str]) -> Result<()> {
    println!("cargo {}", args.join(" "));
    shell::passthrough(
        Command::new(paths::cargo())
            .args(args)
            .env("RUSTDOCFLAGS", "-D warnings")
            .current_dir(paths::root()),
    )
}
