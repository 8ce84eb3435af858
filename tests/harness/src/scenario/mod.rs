//! What a test on a machine is: its description, an entry of `tests/scenarios/*.toml`. How one is run is in [`job`].
//!
//! Three kinds. A Linux scenario boots dom0 and runs shell scripts in it; each prints a verdict. A kernel scenario
//! boots a test kernel in dom0's place. A refusal passes when one line of the console has all the words it must have.

mod exits;
pub mod job;
mod machines;

use anyhow::{Context, Result};
use serde::Deserialize;

pub use self::machines::Machines;
pub use job::{Goal, Job, Outcome, run};

use crate::machine::{DEFAULT_BOCHS_CPU, Model, VTX_CPUS};

/// One entry of the scenario file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// Its name, unique.
    pub name: String,
    /// What it shows, for `--list`.
    pub about: String,
    /// Scripts of `tests/scenarios/guest` to run in dom0, in order. Each prints one verdict under its own name.
    #[serde(default)]
    pub scripts: Vec<String>,
    /// A test kernel (`tests/kernels`) instead of Linux.
    #[serde(default)]
    pub image: Option<String>,
    /// The image is a program for the bare machine, and boots in the hypervisor's place.
    #[serde(default)]
    pub bare_metal: bool,
    /// What to wait for and what to type then, in turn; afterwards the machine must end by itself.
    #[serde(default)]
    pub session: Vec<(String, String)>,
    /// Whether the machine goes on after the session.
    #[serde(default)]
    pub goes_on: bool,
    /// Words that one line of the console must have, for a refusal.
    #[serde(default)]
    pub expect: Vec<String>,
    /// The machines to run on, one run each: names of `tests/scenarios/machines.toml`, Bochs' CPU models, or a group of
    /// those (`vtx`, `svm`, `all`); none for [`DEFAULT_BOCHS_CPU`].
    #[serde(default)]
    pub machines: Vec<String>,
    /// Registers of the CPU that GRUB writes before it starts the hypervisor, with their values: what a firmware would
    /// have done.
    #[serde(default)]
    pub firmware_msrs: Vec<(u32, u64)>,
    /// What boots in dom0's place.
    #[serde(default)]
    pub kernel: DomZero,
    /// What becomes of dom0's initramfs on its way.
    #[serde(default)]
    pub initrd: Ramdisk,
    /// dom0's toolstack.
    #[serde(default)]
    pub tools: Toolstack,
    /// The Linux kernels that dom0 has to start guests from.
    #[serde(default)]
    pub guests: Vec<GuestKernel>,
    /// What of Debian's packages dom0 has beside our tools.
    #[serde(default)]
    pub extras: Vec<Extra>,
    /// Options of the hypervisor.
    #[serde(default)]
    pub options: String,
    /// dom0 gets the memory that it gets where nobody says how much: no dom0_mem= is added where there are guests.
    #[serde(default)]
    pub dom0_default_memory: bool,
    /// Words appended to dom0's command line.
    #[serde(default)]
    pub append: String,
    /// Pads dom0's command line to this many bytes.
    #[serde(default)]
    pub pad_command_line_to: usize,
    /// RAM in MiB.
    #[serde(default = "default_memory")]
    pub memory: u32,
    /// Whether there is a disk with an empty ext4 file system.
    #[serde(default)]
    pub disk: bool,
    /// Whether there is a network card on the emulator's user network, and a file to fetch.
    #[serde(default)]
    pub network: bool,
    /// Seconds on an unloaded machine after which it has failed.
    #[serde(default = "default_timeout")]
    pub timeout_s: u64,
    /// Exits a second that must not be reached between the dumps the script asks for.
    #[serde(default)]
    pub exits_per_second_below: Option<u64>,
}

/// What a scenario boots as dom0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DomZero {
    /// Debian 12's generic kernel.
    #[default]
    Generic,
    /// The same unpacked by the harness: it boots alike, in less than half the time.
    Unpacked,
    /// Debian 12's cloud kernel.
    Cloud,
    /// Debian's backported 6.12.
    Backports,
    /// No module at all.
    Missing,
    /// The first MiB of the generic kernel.
    Truncated,
    /// The generic kernel with damage in the middle of its payload.
    Corrupt,
    /// A file that is no kernel.
    NotAKernel,
    /// An ELF file without the PVH note.
    NoPvhNote,
    /// Debian 12's 32-bit kernel.
    Pae,
}

/// The state of a scenario's initramfs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ramdisk {
    /// As it was made.
    #[default]
    Whole,
    /// With other bytes where its first file's header was.
    Corrupt,
}

/// What creates guests in a scenario. With any, dom0 also has the test kernels to start guests from, a bridge and NAT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Toolstack {
    /// Nothing.
    #[default]
    None,
    /// Hematite's own tools.
    Ours,
    /// Debian's xen-utils-4.17.
    XenUtils,
}

/// A Linux kernel for guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestKernel {
    /// Debian 12's cloud kernel.
    Cloud,
    /// Debian's backported 6.12.
    Backports,
    /// Debian 11's cloud kernel.
    Bullseye,
    /// Debian 12's 32-bit kernel.
    Pae,
}

/// Programs of Debian's packages in dom0, each with the libraries and tools that it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extra {
    /// The hotplug scripts of xen-utils-common.
    HotplugScripts,
    /// GRUB as a PVH guest's kernel, of grub-xen-host.
    Grub,
    /// kexec, to be put on a guest's disk.
    KexecTools,
}

const fn default_memory() -> u32 {
    2048
}

const fn default_timeout() -> u64 {
    180
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    scenario: Vec<Scenario>,
}

/// Reads the scenario file's text.
///
/// # Errors
/// Not TOML, or fields that no scenario has; the message has the line.
pub fn parse(text: &str) -> Result<Vec<Scenario>> {
    let file: File = toml::from_str(text).context("the scenario file is wrong")?;
    Ok(file.scenario)
}

impl Scenario {
    /// Describes the run of a test kernel that has no entry of its own: on the default CPU, and on the oldest one,
    /// where most optional features are missing.
    #[must_use]
    pub fn of_kernel(image: &str) -> Self {
        Self {
            name: format!("kernel-{image}"),
            about: format!("the tests of the guest test kernel {image}"),
            scripts: Vec::new(),
            image: Some(image.to_owned()),
            bare_metal: false,
            session: Vec::new(),
            goes_on: false,
            expect: Vec::new(),
            machines: vec![DEFAULT_BOCHS_CPU.to_owned(), VTX_CPUS[0].to_owned()],
            firmware_msrs: Vec::new(),
            kernel: DomZero::Missing,
            tools: Toolstack::None,
            guests: Vec::new(),
            extras: Vec::new(),
            initrd: Ramdisk::Whole,
            options: String::new(),
            append: String::new(),
            pad_command_line_to: 0,
            dom0_default_memory: false,
            memory: default_memory(),
            disk: false,
            network: false,
            timeout_s: default_timeout(),
            exits_per_second_below: None,
        }
    }

    /// Returns the machines to run on.
    ///
    /// # Errors
    /// A name that stands for none.
    pub fn models(&self, machines: &Machines) -> Result<Vec<Model>> {
        if self.machines.is_empty() {
            return machines.find(DEFAULT_BOCHS_CPU);
        }
        let mut models = Vec::new();
        for name in &self.machines {
            let found = machines.find(name);
            models.extend(found.with_context(|| format!("scenario {}", self.name))?);
        }
        Ok(models)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_without_machines_runs_on_the_default_one() {
        let text = "[[scenario]]\nname = 'a'\nabout = 'b'\n[[scenario]]\nname = 'c'\nabout = 'd'\nmachines = ['vtx']\n";
        let scenarios = parse(text).unwrap();
        let machines = Machines::default();
        let default = scenarios[0].models(&machines).unwrap();
        assert_eq!(default.len(), 1);
        assert_eq!(default[0].cpu, DEFAULT_BOCHS_CPU);
        assert_eq!(
            scenarios[1].models(&machines).unwrap().len(),
            VTX_CPUS.len()
        );
    }

    #[test]
    fn a_misspelt_field_is_refused() {
        assert!(parse("[[scenario]]\nname = 'a'\nabout = 'b'\ntimeout = 3\n").is_err());
    }
}
