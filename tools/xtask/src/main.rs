//! `cargo xtask`: everything one does with this repository, a verb each.
//!
//! `run` and `test` do whatever comes before them (set up, build, make images), so a fresh clone needs no other
//! command. A verb's file is named after it; what several share is in `paths`, `shell`, `apt`, `debian`,
//! `bochs_build`, `initramfs`, `iso`. Machines are described and driven by the `harness` crate.

mod apt;
mod audit;
mod bench;
mod bochs_build;
mod build;
mod ci;
mod clamps;
mod debian;
mod differential;
mod emulators;
mod hardware;
mod image;
mod initramfs;
mod iso;
mod jobs;
mod paths;
mod qemu_fetch;
mod run;
mod setup;
mod shell;
mod terminal;
mod test;
mod vmlinux;

use std::process::ExitCode;

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
    /// Bochs emulator built from Debian's source with mends, QEMU 10.0, and the Debian kernels that boot as dom0.
    /// All but the packages goes to ~/.cache/hematite.
    Setup,
    /// Build the hypervisor (target/hematite/hematite.elf), the guest test kernels and the guests' probe
    Build(build::Args),
    /// Make target/hematite/hematite.iso: GRUB, the hypervisor, Debian's kernel, an initramfs with a shell
    Image(image::Args),
    /// Set up, build, make the image, boot it, and connect this terminal to dom0's console (Ctrl-] twice quits)
    ///
    /// Ctrl-a three times switches the input to the hypervisor (then h lists its debug keys) and back.
    /// For scripts: --headless --until TEXT --timeout S ends with 0 when TEXT was seen.
    Run(run::Args),
    /// Run everything: host tests, guest test kernels and Linux scenarios; the last line is "N passed, N failed"
    ///
    /// Consoles are logged to target/hematite/logs. A scenario that fails prints its last 40 lines; one that goes
    /// silent is asked for a dump by debug key first.
    Test(test::Args),
    /// Measure, in instructions: figures are the same on every host
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Check what a change must pass: formatting, lints, documentation, the rules of the house, then every test
    ///
    /// Rules of the house: unsafe code only in files whose header says why, naked functions only where the machine is,
    /// route cards and documents whose files and functions exist, layers that only look down, no dead `pub` or option,
    /// and the ledger of unsafe code in hypervisor/README.md up to date.
    Ci(ci::Args),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> Result<()> {
    match verb {
        Verb::Setup => setup::run(),
        Verb::Build(args) => build::run(&args),
        Verb::Image(args) => image::run(&args).map(|iso| println!("{}", iso.display())),
        Verb::Run(args) => run::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Bench(what) => bench::run(&what),
        Verb::Ci(args) => ci::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
