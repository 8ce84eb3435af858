//! `cargo xtask`: everything one does with this repository, a verb each.
//!
//! `run` and `test` do whatever comes before them (set up, build, make images), so a fresh clone needs no other
//! command. A verb's file is named after it; what several share is in `paths`, `shell`, `debian`, `bochs_build`,
//! `initramfs`, `iso`. Machines are described and driven by the `harness` crate.

mod bochs_build;
mod debian;
mod paths;
mod setup;
mod shell;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Builds, runs and tests Hematite",
    max_term_width = 110
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install, fetch and build what this machine lacks; quick when nothing is missing
    ///
    /// Debian packages (apt-get as root or through sudo, else the command to type is printed), rustup targets, the
    /// Bochs emulator built from Debian's source with three mends, and the Debian kernels that boot as dom0.
    /// All but the packages goes to ~/.cache/hematite.
    Setup,
}

fn main() -> Result<()> {
    match Cli::parse().verb {
        Verb::Setup => setup::run(),
    }
}
