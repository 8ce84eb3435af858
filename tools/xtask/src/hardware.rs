//! The machine that a command line asks for, and the one that is taken where it leaves the choice.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use harness::machine::{Chipset, DEFAULT_BOCHS_CPU, DiskBus, Firmware, Nic};
use harness::qemu::{self, COUNTED_SVM_CPU, SVM_CPU};
use harness::{Emulator, Model};

/// The emulators a user may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Choice {
    /// QEMU: on KVM where that nests, else emulating an AMD CPU with SVM
    Qemu,
    /// Bochs, which has VT-x and SVM on any host
    Bochs,
}

/// Chipsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Board {
    /// PCI and IDE, as in 1996 (i440FX, PIIX3)
    Pc,
    /// PCI Express and AHCI, as in 2007 (Q35, ICH9); QEMU only
    Q35,
}

/// What a disk is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DiskType {
    /// The chipset's own controller: IDE of pc, AHCI of q35
    Ata,
    /// NVMe; QEMU only
    Nvme,
    /// virtio-blk; QEMU only
    Virtio,
}

/// Network cards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Card {
    /// Intel 82540EM
    E1000,
    /// Intel 82574L, with MSI-X; QEMU only
    E1000e,
    /// virtio-net; QEMU only
    Virtio,
}

/// The machine.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Hardware {
    /// Which emulator; without it the one that is quickest to dom0's shell on this host
    #[arg(long, value_enum)]
    pub(crate) emulator: Option<Choice>,
    /// Chipset; q35 with QEMU, pc with Bochs
    #[arg(long, value_enum)]
    pub(crate) machine: Option<Board>,
    /// Start by UEFI firmware instead of a BIOS; QEMU only
    #[arg(long)]
    pub(crate) uefi: bool,
    /// CPU model: one of Bochs' list, say ryzen or tigerlake (bochs --help cpu), or QEMU's -cpu
    #[arg(long)]
    pub(crate) cpu: Option<String>,
    /// Number of CPUs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) smp: u32,
    /// RAM in MiB
    #[arg(long, default_value_t = 2048)]
    pub(crate) memory: u32,
    /// Raw disk image for dom0's disk
    #[arg(long)]
    pub(crate) disk: Option<PathBuf>,
    /// What the disk is connected to; without --disk it is an empty one of 1 GiB, kept in target/hematite/run
    #[arg(long, value_enum)]
    pub(crate) disk_type: Option<DiskType>,
    /// dom0's network card
    #[arg(long, value_enum, default_value = "e1000")]
    pub(crate) nic: Card,
    /// Make two runs without input the same to the instruction: QEMU without KVM at half its speed; Bochs always is so
    #[arg(long)]
    pub(crate) deterministic: bool,
}

/// The size of a disk that is made for the user.
const DISK_BYTES: u64 = 1 << 30;

impl Hardware {
    /// Returns the machine, and why it is this one.
    ///
    /// # Errors
    /// The emulator that was asked for has not all that was asked for.
    pub(crate) fn model(&self) -> Result<(Model, &'static str)> {
        self.model_on(qemu::nested_cpu())
    }

    /// As [`model`](Self::model), on a host whose KVM offers hypervisors this CPU.
    fn model_on(&self, nested: Option<&str>) -> Result<(Model, &'static str)> {
        let (emulator, reason) = self.choose(nested.is_some());
        let (cpu, chipset) = match emulator {
            Emulator::Bochs => (DEFAULT_BOCHS_CPU, Chipset::Pc),
            Emulator::QemuKvm => (nested.unwrap_or("host"), Chipset::Q35),
            Emulator::QemuTcg if self.deterministic => (COUNTED_SVM_CPU, Chipset::Q35),
            Emulator::QemuTcg => (SVM_CPU, Chipset::Q35),
        };
        let cpu = self.cpu.as_deref().unwrap_or(cpu);
        let model = Model {
            smp: self.smp,
            chipset: match self.machine {
                None => chipset,
                Some(Board::Pc) => Chipset::Pc,
                Some(Board::Q35) => Chipset::Q35,
            },
            firmware: if self.uefi {
                Firmware::Uefi
            } else {
                Firmware::Bios
            },
            disk: match self.disk_type {
                None | Some(DiskType::Ata) => DiskBus::Ata,
                Some(DiskType::Nvme) => DiskBus::Nvme,
                Some(DiskType::Virtio) => DiskBus::Virtio,
            },
            nic: match self.nic {
                Card::E1000 => Nic::E1000,
                Card::E1000e => Nic::E1000e,
                Card::Virtio => Nic::Virtio,
            },
            deterministic: self.deterministic,
            ..Model::new(emulator, cpu)
        };
        model
            .check()
            .context("leave out --emulator bochs, or what it has not")?;
        Ok((model, reason))
    }

    fn choose(&self, kvm_nests: bool) -> (Emulator, &'static str) {
        let qemu = if kvm_nests && !self.deterministic {
            Emulator::QemuKvm
        } else {
            Emulator::QemuTcg
        };
        let is_kvm = qemu == Emulator::QemuKvm;
        match self.emulator {
            Some(Choice::Bochs) => (Emulator::Bochs, "as asked for"),
            Some(Choice::Qemu) if is_kvm => (qemu, "as asked for, on KVM, which nests here"),
            Some(Choice::Qemu) => (qemu, "as asked for, without KVM"),
            None if is_kvm => (qemu, "the quickest where KVM nests"),
            None if self.deterministic => (qemu, "without KVM, whose time is the host's"),
            None => (
                qemu,
                "the quickest to dom0's shell where KVM does not nest; --emulator bochs has VT-x",
            ),
        }
    }

    /// Returns the disk's image, if there is a disk; one that is not the user's is made in `work`.
    ///
    /// # Errors
    /// The user's is not there, or ours cannot be made.
    pub(crate) fn disk(&self, work: &Path) -> Result<Option<PathBuf>> {
        if let Some(disk) = &self.disk {
            if !disk.is_file() {
                bail!("there is no disk image {}", disk.display());
            }
            return Ok(Some(disk.clone()));
        }
        if self.disk_type.is_none() {
            return Ok(None);
        }
        fs::create_dir_all(work)?;
        let disk = work.join("disk.img");
        fs::File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&disk)
            .and_then(|file| file.set_len(DISK_BYTES))
            .with_context(|| format!("cannot make {}", disk.display()))?;
        Ok(Some(disk))
    }
}

/// Says in a few words what machine it is.
pub(crate) fn describe(model: &Model) -> String {
    let chipset = match model.chipset {
        Chipset::Pc => "pc",
        Chipset::Q35 => "q35",
    };
    let firmware = match model.firmware {
        Firmware::Bios => "BIOS",
        Firmware::Uefi => "UEFI",
    };
    let (name, cpu) = (model.emulator.name(), &model.cpu);
    let cpus = match model.smp {
        1 => "1 CPU".to_owned(),
        more => format!("{more} CPUs"),
    };
    format!("{name} ({chipset}, {firmware}, {cpus} {cpu})")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        hardware: Hardware,
    }

    fn asked(words: &str, nested: Option<&str>) -> Result<Model> {
        let words = ["run"].into_iter().chain(words.split_whitespace());
        let line = Line::try_parse_from(words)?;
        line.hardware.model_on(nested).map(|(model, _)| model)
    }

    #[test]
    fn without_a_choice_the_quickest_is_taken() {
        let on_kvm = asked("", Some("host,+svm")).unwrap();
        assert_eq!(
            (on_kvm.emulator, on_kvm.cpu.as_str()),
            (Emulator::QemuKvm, "host,+svm")
        );
        assert_eq!(asked("", None).unwrap().emulator, Emulator::QemuTcg);
        let on_bochs = asked("--emulator bochs", None).unwrap();
        assert_eq!(on_bochs.cpu, DEFAULT_BOCHS_CPU);
    }

    #[test]
    fn what_bochs_has_not_is_qemus() {
        for words in [
            "--uefi",
            "--machine q35",
            "--disk-type nvme",
            "--nic virtio",
        ] {
            let model = asked(words, None).unwrap();
            assert_eq!(model.emulator, Emulator::QemuTcg, "{words}");
            assert_eq!(model.cpu, SVM_CPU);
            assert!(
                asked(&format!("--emulator bochs {words}"), None).is_err(),
                "{words}"
            );
        }
    }

    #[test]
    fn a_deterministic_machine_is_not_on_kvm() {
        let model = asked("--emulator qemu --deterministic", Some("host,+vmx")).unwrap();
        assert_eq!(model.emulator, Emulator::QemuTcg);
    }
}
