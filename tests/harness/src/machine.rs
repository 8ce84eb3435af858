//! The description of a machine, the same for all emulators.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use serde::Deserialize;

use crate::qemu;

/// Which program emulates the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Emulator {
    /// Bochs: has VT-x and SVM on any host; deterministic.
    Bochs,
    /// QEMU with KVM and nested virtualisation: fast, where the host has it.
    QemuKvm,
    /// QEMU alone: has SVM on any host, and firmware and devices that Bochs has not; no VT-x.
    #[serde(rename = "qemu")]
    QemuTcg,
}

impl Emulator {
    /// Returns the name for messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bochs => "Bochs",
            Self::QemuKvm => "QEMU with KVM",
            Self::QemuTcg => "QEMU",
        }
    }
}

/// What the CPU and the devices are connected by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Chipset {
    /// i440FX and PIIX3 of 1996: PCI, IDE.
    #[default]
    Pc,
    /// Q35 and ICH9 of 2007: PCI Express with its configuration space in memory, AHCI.
    Q35,
}

/// What starts GRUB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// A BIOS.
    #[default]
    Bios,
    /// UEFI.
    Uefi,
}

/// What the disk is connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskBus {
    /// The chipset's own controller: IDE, or AHCI with q35.
    #[default]
    Ata,
    /// An NVMe controller.
    Nvme,
    /// virtio-blk on PCI.
    Virtio,
}

/// The network card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nic {
    /// Intel's 82540EM: PCI, one interrupt line.
    #[default]
    E1000,
    /// Intel's 82574L: PCI Express, MSI-X.
    E1000e,
    /// virtio-net on PCI.
    Virtio,
}

/// What stays the same from one run to another: an entry of `tests/scenarios/machines.toml`, or what a command line
/// asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Model {
    /// Its name, unique.
    pub name: String,
    /// Who emulates it.
    pub emulator: Emulator,
    /// Bochs: a model of its list. QEMU: the argument of `-cpu`.
    #[serde(default = "svm_cpu")]
    pub cpu: String,
    /// Number of CPUs.
    #[serde(default = "one")]
    pub smp: u32,
    /// The chipset.
    #[serde(default)]
    pub chipset: Chipset,
    /// The firmware.
    #[serde(default)]
    pub firmware: Firmware,
    /// What a disk is connected to, where there is one.
    #[serde(default)]
    pub disk: DiskBus,
    /// What the network card is, where there is one.
    #[serde(default)]
    pub nic: Nic,
    /// Whether two runs without input are the same to the instruction, for which QEMU pays half its speed; Bochs always
    /// is so.
    #[serde(default)]
    pub deterministic: bool,
    /// Multiplies the time limits of what runs on it.
    #[serde(default = "one")]
    pub patience: u32,
}

const fn one() -> u32 {
    1
}

fn svm_cpu() -> String {
    qemu::SVM_CPU.to_owned()
}

impl Model {
    /// Describes a PC with a BIOS and one CPU.
    #[must_use]
    pub fn new(emulator: Emulator, cpu: &str) -> Self {
        Self {
            name: cpu.to_owned(),
            emulator,
            cpu: cpu.to_owned(),
            smp: 1,
            chipset: Chipset::Pc,
            firmware: Firmware::Bios,
            disk: DiskBus::Ata,
            nic: Nic::E1000,
            deterministic: false,
            patience: 1,
        }
    }

    /// Says whether QEMU emulates it.
    #[must_use]
    pub fn is_qemu(&self) -> bool {
        self.emulator != Emulator::Bochs
    }

    /// Checks that the emulator has all that is asked for.
    ///
    /// # Errors
    /// Names what it has not.
    pub fn check(&self) -> Result<()> {
        ensure!(self.smp > 0, "a machine has at least one CPU");
        if self.deterministic && self.emulator == Emulator::QemuKvm {
            bail!("a machine on KVM cannot be deterministic");
        }
        if self.deterministic && self.is_qemu() && self.cpu.contains("+x2apic") {
            bail!("QEMU's x2APIC does not work on a deterministic machine");
        }
        if self.is_qemu() {
            return Ok(());
        }
        ensure!(
            self.chipset == Chipset::Pc,
            "Bochs has no q35, only the machine pc"
        );
        ensure!(
            self.firmware == Firmware::Bios,
            "Bochs has no UEFI firmware"
        );
        ensure!(self.disk == DiskBus::Ata, "Bochs has IDE disks only");
        ensure!(
            self.nic == Nic::E1000,
            "Bochs has no network card but the e1000"
        );
        Ok(())
    }
}

/// What the network card is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// There is no card.
    None,
    /// The emulator's user network: DHCP, a gateway at 10.0.2.2 that is also the host's loopback.
    User,
}

/// The emulators and firmware of this host.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Bochs.
    pub bochs: PathBuf,
    /// QEMU.
    pub qemu: qemu::Program,
    /// UEFI's program, and its variables as they are at first.
    pub uefi: (PathBuf, PathBuf),
}

/// A machine to start.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What it is.
    pub model: Model,
    /// What it runs by.
    pub programs: Programs,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// The CD it boots from.
    pub iso: PathBuf,
    /// Raw image of the disk.
    pub disk: Option<PathBuf>,
    /// The network card.
    pub network: Network,
    /// Directory for the emulator's own files; made when missing.
    pub work: PathBuf,
}

/// The Bochs model used where nothing else is asked for: it has every optional VT-x feature that we use.
pub const DEFAULT_BOCHS_CPU: &str = "corei7_skylake_x";

/// Bochs' models with EPT and unrestricted guest, oldest first: one binary must boot on all of them.
pub const VTX_CPUS: [&str; 11] = [
    "corei5_arrandale_m520",
    "corei7_sandy_bridge_2600k",
    "corei7_ivy_bridge_3770k",
    "corei7_haswell_4770",
    "broadwell_ult",
    "corei7_skylake_x",
    "corei3_cnl",
    "corei7_icelake_u",
    "tigerlake",
    "sapphire_rapids",
    "arrow_lake",
];

/// Bochs' models with SVM and nested paging, oldest first. The first saves no next RIP and has no XSAVE.
pub const SVM_CPUS: [&str; 4] = ["phenom_8650_toliman", "zambezi", "trinity_apu", "ryzen"];

/// Bochs' models that the hypervisor refuses: no VT-x, no long mode, no EPT, no unrestricted guest; SVM without nested
/// paging.
pub const REFUSED_CPUS: [&str; 5] = [
    "p4_prescott_celeron_336",
    "core_duo_t2400_yonah",
    "core2_penryn_t9600",
    "corei5_lynnfield_750",
    "turion64_tyler",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bochs_has_not_is_refused() {
        let pc = Model::new(Emulator::Bochs, "ryzen");
        assert!(pc.check().is_ok());
        let q35 = Model {
            chipset: Chipset::Q35,
            ..pc.clone()
        };
        assert!(q35.check().unwrap_err().to_string().contains("q35"));
        let nvme = Model {
            disk: DiskBus::Nvme,
            ..pc
        };
        assert!(nvme.check().unwrap_err().to_string().contains("IDE"));
    }

    #[test]
    fn kvm_is_not_deterministic() {
        let model = Model {
            deterministic: true,
            ..Model::new(Emulator::QemuKvm, "host")
        };
        assert!(model.check().is_err());
    }

    #[test]
    fn a_deterministic_qemu_has_no_x2apic() {
        let deterministic = |cpu| Model {
            deterministic: true,
            ..Model::new(Emulator::QemuTcg, cpu)
        };
        assert!(deterministic(qemu::SVM_CPU).check().is_err());
        assert!(deterministic(qemu::COUNTED_SVM_CPU).check().is_ok());
    }
}
