//! From a scenario to a machine that can be started: its CD, its disk, its time limits.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::machine::Firmware;
use harness::scenario::{DomZero, Goal, GuestKernel, Job, Machines, Ramdisk, Scenario, Toolstack};
use harness::server::ServedFile;
use harness::{Machine, Model, Network, Programs};

use crate::debian::Kernel;
use crate::image::{self, join};
use crate::initramfs::{self, Contents, Tools};
use crate::iso::{self, Entry, Module};
use crate::{emulators, paths, shell, vmlinux};

/// How long a machine may print nothing before it counts as hung. Hashing 64 MiB is the longest quiet work.
const SILENCE: Duration = Duration::from_secs(60);

/// What dom0's command line gets when there is no hypervisor. Bochs resets well through port 0xCF9 only.
const BARE: &str = " hematite.bare reboot=pci";

/// Tests stop where they fail: a hypervisor that reboots for ever would fill the log.
const TEST_OPTIONS: &str = "noreboot";

/// What scenarios are made of.
pub(crate) struct Artefacts {
    is_bare: bool,
    probe: PathBuf,
    served: ServedFile,
    programs: Programs,
    bochs_is_mended: bool,
    tools: Vec<PathBuf>,
    test_kernels: Vec<PathBuf>,
    /// Initramfs images made so far.
    initramfs: Mutex<Vec<PathBuf>>,
}

/// What cargo built for the scenarios: each is empty where none of them needs it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Built {
    /// The program that measures clocks.
    pub(crate) probe: PathBuf,
    /// Our toolstack's programs.
    pub(crate) programs: Vec<PathBuf>,
    /// The test kernels.
    pub(crate) test_kernels: Vec<PathBuf>,
}

impl Artefacts {
    /// Collects them.
    ///
    /// # Errors
    /// There is no emulator.
    pub(crate) fn new(is_bare: bool, built: Built, served: ServedFile) -> Result<Self> {
        let (programs, bochs_is_mended) = emulators::programs()?;
        Ok(Self {
            is_bare,
            probe: built.probe,
            served,
            programs,
            bochs_is_mended,
            tools: built.programs,
            test_kernels: built.test_kernels,
            initramfs: Mutex::new(Vec::new()),
        })
    }

    /// Returns the initramfs of a scenario whose dom0 is `kernel`, made the first time one asks for the like.
    fn initramfs(&self, kernel: Kernel, scenario: &Scenario) -> Result<PathBuf> {
        let tools = match scenario.tools {
            Toolstack::None => Tools::None,
            Toolstack::Ours => Tools::Ours,
            Toolstack::XenUtils => Tools::XenUtils,
        };
        let guests: Vec<Kernel> = scenario.guests.iter().copied().map(guest_kernel).collect();
        let mut name = format!("initramfs-{}-{}", kernel.name(), tools.name());
        for guest in &guests {
            name = format!("{name}-{}", guest.name());
        }
        for extra in &scenario.extras {
            name = format!("{name}-{extra:?}");
        }
        // The name is not the one of `cargo xtask run`, whose image may have a user's script.
        let path = paths::out().join(format!("{name}-test.cpio"));
        let mut made = self
            .initramfs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if made.contains(&path) {
            return Ok(path);
        }
        let has_guests = tools != Tools::None;
        let contents = Contents {
            kernel,
            tools,
            probe: self.probe.clone(),
            programs: self.tools.clone(),
            extras: scenario.extras.clone(),
            documentation: None,
            guests,
            test_kernels: if has_guests {
                self.test_kernels.clone()
            } else {
                Vec::new()
            },
            script: None,
        };
        initramfs::build(&contents, &path)?;
        made.push(path.clone());
        Ok(path)
    }
}

fn guest_kernel(kernel: GuestKernel) -> Kernel {
    match kernel {
        GuestKernel::Cloud => Kernel::Cloud,
        GuestKernel::Backports => Kernel::Backports,
        GuestKernel::Bullseye => Kernel::Bullseye,
        GuestKernel::Pae => Kernel::Pae,
    }
}

/// A scenario on one of its machines.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// The scenario's name, and the machine's where there are several.
    pub(crate) name: String,
    pub(crate) scenario: Scenario,
    pub(crate) model: Model,
}

/// Returns the runs of a scenario.
///
/// # Errors
/// It names a machine that there is not.
pub(crate) fn runs(scenario: &Scenario, machines: &Machines) -> Result<Vec<Run>> {
    let models = scenario.models(machines)?;
    let is_one = models.len() == 1;
    let run = |model: Model| Run {
        name: if is_one {
            scenario.name.clone()
        } else {
            format!("{}@{}", scenario.name, model.name)
        },
        scenario: scenario.clone(),
        model,
    };
    Ok(models.into_iter().map(run).collect())
}

/// Makes the CD and the disk of a run.
///
/// # Errors
/// A kernel is missing, or a tool failed.
pub(crate) fn prepare(run: &Run, artefacts: &Artefacts) -> Result<Job> {
    let Run {
        name,
        scenario,
        model,
    } = run;
    let dir = paths::out().join("machines");
    let work = dir.join(name);
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    let cd = dir.join(format!("{name}.iso"));
    let firmware = match model.firmware {
        Firmware::Uefi => iso::Firmware::BiosAndUefi,
        Firmware::Bios => iso::Firmware::Bios,
    };
    iso::make(&cd, &entry(run, artefacts, &work)?, firmware)?;
    let disk = if scenario.disk {
        Some(ext4(&work)?)
    } else {
        None
    };
    let machine = Machine {
        model: model.clone(),
        programs: artefacts.programs.clone(),
        memory_mib: scenario.memory,
        iso: cd,
        disk,
        network: if scenario.network {
            Network::User
        } else {
            Network::None
        },
        work,
    };
    // Debian's Bochs carries the debugger.
    let slowness = if artefacts.bochs_is_mended || model.is_qemu() {
        model.patience
    } else {
        4 * model.patience
    };
    Ok(Job {
        name: name.to_owned(),
        machine,
        goal: goal(scenario),
        timeout: Duration::from_secs(scenario.timeout_s) * slowness,
        silence: silence(scenario) * slowness,
        exits_per_second_below: scenario
            .exits_per_second_below
            .filter(|_| !artefacts.is_bare),
        log: paths::logs().join(format!("{name}.log")),
    })
}

/// How long a scenario may print nothing: guests print on consoles of their own, so dom0 is quiet while one boots.
fn silence(scenario: &Scenario) -> Duration {
    match scenario.tools {
        Toolstack::None => SILENCE,
        Toolstack::Ours | Toolstack::XenUtils => SILENCE * 4,
    }
}

fn goal(scenario: &Scenario) -> Goal {
    if !scenario.session.is_empty() {
        Goal::Session {
            steps: scenario.session.clone(),
            goes_on: scenario.goes_on,
        }
    } else if !scenario.expect.is_empty() {
        Goal::Line(scenario.expect.clone())
    } else if scenario.image.is_some() {
        Goal::Kernel
    } else {
        Goal::Scripts(scenario.scripts.clone())
    }
}

fn entry(run: &Run, artefacts: &Artefacts, work: &Path) -> Result<Entry> {
    let Run {
        scenario, model, ..
    } = run;
    let mut command_line = command_line(scenario, model, artefacts);
    if artefacts.is_bare {
        let kernel = debian_kernel(scenario.kernel).unwrap_or(Kernel::Generic);
        return Ok(Entry::Linux {
            kernel: kernel.vmlinuz()?,
            initrd: artefacts.initramfs(kernel, scenario)?,
            command_line: command_line.replace("console=hvc0", "console=ttyS0,115200") + BARE,
        });
    }
    let mut options = join(image::OPTIONS, TEST_OPTIONS);
    if !artefacts.bochs_is_mended && !model.is_qemu() {
        options = join(&options, "apicv=off");
    }
    if let (true, Some(image)) = (scenario.bare_metal, &scenario.image) {
        return Ok(Entry::Hypervisor {
            image: paths::bare_metal_test(image),
            options: join(&join(&options, &scenario.options), &scenario.append),
            modules: Vec::new(),
            msrs: Vec::new(),
        });
    }
    if scenario.tools != Toolstack::None && !scenario.dom0_default_memory {
        options = join(&options, image::WITH_GUESTS);
    }
    options = join(&options, &scenario.options);
    let mut modules = Vec::new();
    if let Some(file) = kernel_file(scenario, work)? {
        while command_line.len() + 4 < scenario.pad_command_line_to {
            command_line += " pad";
        }
        modules.push(Module { file, command_line });
    }
    if let (Some(kernel), None) = (debian_kernel(scenario.kernel), &scenario.image) {
        modules.push(Module {
            file: ramdisk(
                scenario.initrd,
                artefacts.initramfs(kernel, scenario)?,
                work,
            )?,
            command_line: String::new(),
        });
    }
    Ok(Entry::Hypervisor {
        image: paths::hypervisor(),
        options,
        modules,
        msrs: scenario.firmware_msrs.clone(),
    })
}

fn command_line(scenario: &Scenario, model: &Model, artefacts: &Artefacts) -> String {
    if scenario.image.is_some() {
        return scenario.append.clone();
    }
    let mut line = join(image::DOM0_COMMAND_LINE, &scenario.append);
    if !scenario.scripts.is_empty() {
        line = join(
            &line,
            &format!("hematite.test={}", scenario.scripts.join(",")),
        );
    }
    if model.is_qemu() && !model.deterministic {
        line = join(&line, "hematite.real-time");
    }
    if scenario.network {
        let ServedFile { port, sha256 } = &artefacts.served;
        line = join(
            &line,
            &format!("hematite.port={port} hematite.sha256={sha256}"),
        );
    }
    line
}

fn debian_kernel(kernel: DomZero) -> Option<Kernel> {
    match kernel {
        DomZero::Generic | DomZero::Unpacked => Some(Kernel::Generic),
        DomZero::Cloud => Some(Kernel::Cloud),
        DomZero::Backports => Some(Kernel::Backports),
        DomZero::Missing
        | DomZero::Truncated
        | DomZero::Corrupt
        | DomZero::NotAKernel
        | DomZero::NoPvhNote
        | DomZero::Pae => None,
    }
}

/// Returns the file that boots in dom0's place; a damaged one is made in `work`.
fn kernel_file(scenario: &Scenario, work: &Path) -> Result<Option<PathBuf>> {
    if let Some(image) = &scenario.image {
        return Ok(Some(paths::kernels().join(image).with_extension("elf")));
    }
    let damaged = work.join("kernel");
    let generic = || fs::read(Kernel::Generic.vmlinuz()?).context("the kernel cannot be read");
    match scenario.kernel {
        DomZero::Generic => return Ok(Some(Kernel::Generic.vmlinuz()?)),
        DomZero::Unpacked => return Ok(Some(vmlinux::unpacked(Kernel::Generic)?)),
        DomZero::Cloud => return Ok(Some(Kernel::Cloud.vmlinuz()?)),
        DomZero::Backports => return Ok(Some(Kernel::Backports.vmlinuz()?)),
        DomZero::Missing => return Ok(None),
        DomZero::Pae => return Ok(Some(Kernel::Pae.vmlinuz()?)),
        DomZero::NoPvhNote => return Ok(Some(PathBuf::from("/bin/busybox"))),
        DomZero::NotAKernel => fs::write(&damaged, "This is no kernel.\n".repeat(1000))?,
        DomZero::Truncated => {
            let mut bytes = generic()?;
            bytes.truncate(1 << 20);
            fs::write(&damaged, bytes)?;
        }
        DomZero::Corrupt => {
            let mut bytes = generic()?;
            let middle = bytes.len() / 2;
            for byte in bytes.iter_mut().skip(middle).take(4096) {
                *byte = !*byte;
            }
            fs::write(&damaged, bytes)?;
        }
    }
    Ok(Some(damaged))
}

/// Returns the initramfs that dom0 gets; a damaged one is made in `work`.
fn ramdisk(state: Ramdisk, whole: PathBuf, work: &Path) -> Result<PathBuf> {
    if state == Ramdisk::Whole {
        return Ok(whole);
    }
    let mut bytes = fs::read(&whole).context("the initramfs cannot be read")?;
    bytes.iter_mut().take(6).for_each(|byte| *byte = !*byte);
    let damaged = work.join("initrd");
    fs::write(&damaged, bytes)?;
    Ok(damaged)
}

/// Makes an empty ext4 file system for the 64 MiB test, with room for its journal.
fn ext4(work: &Path) -> Result<PathBuf> {
    let disk = work.join("disk.img");
    fs::File::create(&disk)?.set_len(160 << 20)?;
    // Without lazy initialisation, which would go on in the guest's background.
    let options = "lazy_itable_init=0,lazy_journal_init=0";
    shell::output(
        Command::new("/sbin/mkfs.ext4")
            .args(["-q", "-F", "-E", options])
            .arg(&disk),
    )?;
    Ok(disk)
}
