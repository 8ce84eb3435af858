//! Bootable CDs: GRUB, its one menu entry, and the files it loads.
//!
//! Kept small on purpose: under Bochs GRUB reads the CD through the BIOS, byte by byte.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

/// What GRUB boots.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// The hypervisor with its options, and the modules it takes: dom0's kernel, its initrd. GRUB writes the registers
    /// of the CPU first.
    Hypervisor {
        image: PathBuf,
        options: String,
        modules: Vec<Module>,
        msrs: Vec<(u32, u64)>,
    },
    /// A Linux kernel without a hypervisor, to check scenarios against the bare machine.
    Linux {
        kernel: PathBuf,
        initrd: PathBuf,
        command_line: String,
    },
}

/// A multiboot2 module: a file and its command line.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    pub(crate) file: PathBuf,
    pub(crate) command_line: String,
}

/// Which firmware the CD boots on. One for BIOS only is made, and read, faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firmware {
    Bios,
    BiosAndUefi,
}

const GRUB_BIOS: &str = "/usr/lib/grub/i386-pc";

/// The modules of GRUB that the menu entry uses.
const GRUB_MODULES: &str =
    "--install-modules=multiboot2 linux iso9660 normal part_msdos part_gpt fat wrmsr";

/// Makes the CD image `iso`.
///
/// # Errors
/// A file is missing, or grub-mkrescue failed.
pub(crate) fn make(iso: &Path, entry: &Entry, firmware: Firmware) -> Result<()> {
    let tree = iso.with_extension("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    let boot = tree.join("boot");
    fs::create_dir_all(boot.join("grub"))?;
    let configuration = menu(entry, &boot)?;
    fs::write(boot.join("grub/grub.cfg"), configuration)?;
    let mut command = Command::new("grub-mkrescue");
    if firmware == Firmware::Bios {
        command.args(["-d", GRUB_BIOS, GRUB_MODULES]);
    }
    command
        .args(["--fonts=", "--locales=", "--themes="])
        .arg("-o")
        .arg(iso)
        .arg(&tree);
    shell::output(&mut command)?;
    fs::remove_dir_all(tree)?;
    Ok(())
}

/// Writes GRUB's configuration and puts the files it names into `boot`.
fn menu(entry: &Entry, boot: &Path) -> Result<String> {
    // GRUB's switch to a VBE mode crashes under Bochs, hence text.
    let mut text = String::from(
        "set timeout=0\nset gfxpayload=text\nterminal_output console\nmenuentry Hematite {\n",
    );
    match entry {
        Entry::Hypervisor {
            image,
            options,
            modules,
            msrs,
        } => {
            for (register, value) in msrs {
                writeln!(text, "  wrmsr {register:#x} {value:#x}")?;
            }
            place(image, &boot.join("hematite.elf"))?;
            writeln!(text, "  multiboot2 /boot/hematite.elf {}", quote(options))?;
            for (i, module) in modules.iter().enumerate() {
                let name = if i == 0 {
                    "vmlinuz".to_owned()
                } else {
                    format!("initrd{i}")
                };
                place(&module.file, &boot.join(&name))?;
                writeln!(
                    text,
                    "  module2 /boot/{name} {}",
                    quote(&module.command_line)
                )?;
            }
        }
        Entry::Linux {
            kernel,
            initrd,
            command_line,
        } => {
            place(kernel, &boot.join("vmlinuz"))?;
            place(initrd, &boot.join("initrd"))?;
            writeln!(text, "  linux /boot/vmlinuz {}", quote(command_line))?;
            writeln!(text, "  initrd /boot/initrd")?;
        }
    }
    text += "}\n";
    Ok(text)
}

/// Puts a file into the tree, as a link where that is possible.
fn place(from: &Path, to: &Path) -> Result<()> {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

/// Quotes each word for GRUB's shell where it must be.
fn quote(line: &str) -> String {
    let word = |word: &str| {
        if word
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "=,.:/_-+".contains(c))
        {
            word.to_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    line.split_whitespace()
        .map(word)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_that_grub_would_read_otherwise_are_quoted() {
        assert_eq!(
            quote("com1=115200,8n1  a={b} c$d"),
            "com1=115200,8n1 'a={b}' 'c$d'"
        );
    }
}
