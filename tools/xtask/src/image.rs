//! `cargo xtask image`: the bootable CD with the hypervisor, Debian's kernel and an initramfs with a shell.

use std::path::PathBuf;

use anyhow::Result;

use crate::debian::Kernel;
use crate::iso::{self, Entry, Firmware, Module};
use crate::{build, initramfs, paths};

/// Options that every boot gets: the console on the first serial port, which is what the harness reads.
pub(crate) const OPTIONS: &str = "com1=115200,8n1 console=com1 loglvl=info";

/// Words that every dom0 gets.
pub(crate) const DOM0_COMMAND_LINE: &str = "console=hvc0 panic=-1";

/// What goes onto the CD.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Args {
    /// Which of Debian's kernels boots as dom0
    #[arg(long, value_enum, default_value = "generic")]
    pub(crate) kernel: Kernel,
    /// Words appended to the hypervisor's options, say "dom0_mem=1G apicv=off"
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) append: String,
    /// Words appended to dom0's command line
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) dom0_append: String,
    #[command(flatten)]
    pub(crate) build: build::Args,
}

/// Builds what has changed and makes the CD; returns its path.
///
/// # Errors
/// Something does not build, or a tool failed.
pub(crate) fn run(args: &Args) -> Result<PathBuf> {
    build::hypervisor(&args.build)?;
    let probe = build::probe()?;
    let initrd = initramfs::build(args.kernel, &probe)?;
    let entry = Entry::Hypervisor {
        image: paths::hypervisor(),
        options: join(OPTIONS, &args.append),
        modules: vec![
            Module {
                file: args.kernel.vmlinuz()?,
                command_line: join(DOM0_COMMAND_LINE, &args.dom0_append),
            },
            Module {
                file: initrd,
                command_line: String::new(),
            },
        ],
    };
    let iso = paths::iso();
    iso::make(&iso, &entry, Firmware::BiosAndUefi)?;
    Ok(iso)
}

/// Joins two lists of words.
pub(crate) fn join(first: &str, second: &str) -> String {
    format!("{first} {second}").trim().to_owned()
}
