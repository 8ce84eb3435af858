//! The description of a machine, the same for both emulators.

use std::path::PathBuf;

/// Which program emulates the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulator {
    /// Bochs: has VT-x on any host; deterministic.
    Bochs,
    /// QEMU with KVM and nested VMX: fast, where the host has it.
    QemuKvm,
    /// QEMU alone: no VMX. For refusals and for firmware that Bochs has not.
    QemuTcg,
}

/// What the e1000 network card is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// No card.
    None,
    /// The emulator's user network: DHCP, a gateway at 10.0.2.2 that is also the host's loopback.
    User,
}

/// A machine to start.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Who emulates it.
    pub emulator: Emulator,
    /// The emulator's program.
    pub program: PathBuf,
    /// Bochs: a model of its list. QEMU: the argument of `-cpu`.
    pub cpu: String,
    /// Number of CPUs.
    pub cpus: u32,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// The CD it boots from.
    pub iso: PathBuf,
    /// Raw image of the IDE disk (master of the first channel).
    pub disk: Option<PathBuf>,
    /// The network card.
    pub network: Network,
    /// UEFI firmware instead of a BIOS (QEMU only).
    pub uefi: Option<PathBuf>,
    /// Directory for the emulator's own files; made when missing.
    pub work: PathBuf,
}

/// The Bochs model used where nothing else is asked for: it has every optional VT-x feature that we use.
pub const DEFAULT_BOCHS_CPU: &str = "corei7_skylake_x";

/// Bochs' models with EPT and unrestricted guest, oldest first: one binary must boot on all of them.
pub const BOCHS_CPUS: [&str; 11] = [
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
