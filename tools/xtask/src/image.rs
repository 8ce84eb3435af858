//! `cargo xtask image`: the bootable CD with the hypervisor, Debian's kernel and an initramfs with a shell.

use std::path::PathBuf;

use anyhow::Result;

use crate::debian::Kernel;
use crate::initramfs::{self, Contents, Tools};
use crate::iso::{self, Entry, Firmware, Module};
use crate::{build, paths, vmlinux};

/// Options that every boot gets: the console on the first serial port, which is what the harness reads.
pub(crate) const OPTIONS: &str = "com1=115200,8n1 console=com1 loglvl=info";

/// Words that every dom0 gets.
pub(crate) const DOM0_COMMAND_LINE: &str = "console=hvc0 panic=-1";

/// What a dom0 with guests gets besides: the rest of memory is theirs.
pub(crate) const WITH_GUESTS: &str = "dom0_mem=1G";

/// What goes onto the CD.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Args {
    /// Which of Debian's kernels boots as dom0
    #[arg(long, value_enum, default_value = "generic")]
    pub(crate) kernel: Kernel,
    /// Unpack the kernel here rather than in the hypervisor, which takes half of a boot (Debian 12's kernels of XZ
    /// only)
    #[arg(long)]
    pub(crate) unpacked: bool,
    /// Words appended to the hypervisor's options, say "dom0_mem=1G apicv=off"
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) append: String,
    /// Words appended to dom0's command line
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) dom0_append: String,
    /// Which toolstack dom0 has
    #[arg(long, value_enum, default_value = "ours")]
    pub(crate) tools: Tools,
    /// A shell script to run in dom0 once it is up; the console then says SCENARIO END
    #[arg(long)]
    pub(crate) script: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) build: build::Args,
}

/// Builds what has changed and makes the CD; returns its path.
///
/// # Errors
/// Something does not build, or a tool failed.
pub(crate) fn run(args: &Args) -> Result<PathBuf> {
    build::hypervisor(&args.build)?;
    let initrd = initrd(args)?;
    let mut words = join(DOM0_COMMAND_LINE, &args.dom0_append);
    if args.script.is_some() {
        words = join(&words, "hematite.test=script");
    }
    let options = match args.tools {
        Tools::None => OPTIONS.to_owned(),
        Tools::Ours | Tools::XenUtils => join(OPTIONS, WITH_GUESTS),
    };
    let entry = Entry::Hypervisor {
        image: paths::hypervisor(),
        options: join(&options, &args.append),
        msrs: Vec::new(),
        modules: vec![
            Module {
                file: if args.unpacked {
                    vmlinux::unpacked(args.kernel)?
                } else {
                    args.kernel.vmlinuz()?
                },
                command_line: words,
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

/// Builds dom0's initramfs, with sample guests where there is a toolstack.
fn initrd(args: &Args) -> Result<PathBuf> {
    let mut contents = Contents {
        kernel: args.kernel,
        tools: args.tools,
        probe: build::probe()?,
        programs: Vec::new(),
        documentation: None,
        extras: Vec::new(),
        guests: Vec::new(),
        test_kernels: Vec::new(),
        script: args.script.clone(),
    };
    if args.tools == Tools::Ours {
        let tools = build::tools()?;
        contents.programs = tools.programs;
        contents.documentation = Some(tools.documentation);
    }
    if args.tools != Tools::None {
        contents.guests = vec![Kernel::Cloud];
        contents.test_kernels = build::kernels(&args.build)?;
    }
    let file = format!(
        "initramfs-{}-{}.cpio",
        args.kernel.name(),
        args.tools.name()
    );
    let out = paths::out().join(file);
    initramfs::build(&contents, &out)?;
    Ok(out)
}

/// Joins two lists of words.
pub(crate) fn join(first: &str, second: &str) -> String {
    format!("{first} {second}").trim().to_owned()
}
