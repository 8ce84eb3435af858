//! QEMU: its command line.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::machine::{Chipset, DiskBus, Emulator, Firmware, Machine, Model, Network, Nic};
use crate::qmp;

/// A QEMU, and where it finds what belongs to it.
#[derive(Clone, Debug)]
pub struct Program {
    /// The executable file.
    pub binary: PathBuf,
    /// The directory of its modules, where that is not the one it was built for.
    pub modules: Option<PathBuf>,
    /// Directories of firmware, in the order it looks at them; its own come last.
    pub data: Vec<PathBuf>,
}

impl Program {
    /// Describes one that is installed with all that belongs to it.
    #[must_use]
    pub fn installed(binary: &OsStr) -> Self {
        Self {
            binary: PathBuf::from(binary),
            modules: None,
            data: Vec::new(),
        }
    }

    /// Returns a command that starts it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        if let Some(modules) = &self.modules {
            command.env("QEMU_MODULE_DIR", modules);
        }
        for directory in &self.data {
            command.arg("-L").arg(directory);
        }
        command
    }
}

/// The `-cpu` of emulated machines that have SVM: with x2APIC, which QEMU has for AMD's CPUs on demand only, and
/// without MONITOR, which it offers and then refuses.
pub const SVM_CPU: &str = "EPYC,-monitor,+x2apic";

/// The same for a deterministic machine, without x2APIC: QEMU ends with "Bad icount read" where an MSR of the local
/// APIC asks for the time.
pub const COUNTED_SVM_CPU: &str = "EPYC,-monitor";

/// The RTC of a deterministic machine: the date at power-on, and a clock that goes with the instructions.
const PINNED_CLOCK: &str = "base=2023-11-14T22:13:20,clock=vm";

/// Returns the command that starts the machine, with COM1 connected to our listener on `com1_port`.
///
/// # Errors
/// UEFI's variables cannot be copied.
pub fn command(machine: &Machine, com1_port: u16) -> Result<Command> {
    let model = &machine.model;
    let mut command = machine.programs.qemu.command();
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-machine", chipset(model.chipset)])
        .args(execution(model))
        .args(["-cpu", &model.cpu])
        .args(["-smp", &model.smp.to_string()])
        .args(["-m", &format!("{}M", machine.memory_mib)])
        .args([
            "-chardev",
            &format!("socket,id=com1,host=127.0.0.1,port={com1_port},nodelay=on"),
        ])
        .args(["-serial", "chardev:com1"])
        .args([
            "-drive",
            &format!("file={},media=cdrom,index=1,if=ide", machine.iso.display()),
        ])
        .args(["-boot", "d"])
        .args([
            "-qmp",
            &format!(
                "unix:{},server=on,wait=off",
                qmp::socket(&machine.work).display()
            ),
        ])
        // The registers at each reset: the first thing to read when a machine starts anew for no reason.
        .args(["-d", "cpu_reset", "-D"])
        .arg(machine.work.join("qemu.log"));
    match model.firmware {
        Firmware::Bios => {
            command.args(["-vga", "std"]);
        }
        Firmware::Uefi => {
            command.args(flash(machine)?);
        }
    }
    if let Some(image) = &machine.disk {
        command.args(disk(model.disk, image));
    }
    if machine.network == Network::User {
        command.args(card(model.nic));
    }
    Ok(command)
}

const fn chipset(chipset: Chipset) -> &'static str {
    match chipset {
        Chipset::Pc => "pc",
        Chipset::Q35 => "q35",
    }
}

/// Says how instructions are executed, and what time is.
fn execution(model: &Model) -> Vec<&'static str> {
    match model.emulator {
        Emulator::QemuKvm => vec!["-accel", "kvm"],
        _ if model.deterministic => vec![
            "-accel",
            "tcg,thread=single",
            // A tick is an instruction, and idle time passes at once.
            "-icount",
            "shift=0,sleep=off",
            "-rtc",
            PINNED_CLOCK,
        ],
        _ => vec!["-accel", "tcg"],
    }
}

/// UEFI's program as read-only flash memory, and a copy of its variables of the machine's own.
fn flash(machine: &Machine) -> Result<Vec<String>> {
    let (code, variables) = &machine.programs.uefi;
    let copy = machine.work.join("variables.fd");
    fs::copy(variables, &copy).with_context(|| format!("cannot copy {}", variables.display()))?;
    Ok(vec![
        "-drive".to_owned(),
        format!(
            "if=pflash,format=raw,unit=0,readonly=on,file={}",
            code.display()
        ),
        "-drive".to_owned(),
        format!("if=pflash,format=raw,unit=1,file={}", copy.display()),
    ])
}

fn disk(bus: DiskBus, image: &Path) -> Vec<String> {
    let file = format!("file={},format=raw", image.display());
    let device = match bus {
        DiskBus::Ata => return vec!["-drive".to_owned(), format!("{file},index=0,if=ide")],
        DiskBus::Nvme => "nvme,drive=disk,serial=hematite",
        DiskBus::Virtio => "virtio-blk-pci,drive=disk",
    };
    vec![
        "-drive".to_owned(),
        format!("{file},if=none,id=disk"),
        "-device".to_owned(),
        device.to_owned(),
    ]
}

fn card(nic: Nic) -> Vec<String> {
    let device = match nic {
        Nic::E1000 => "e1000",
        Nic::E1000e => "e1000e",
        Nic::Virtio => "virtio-net-pci",
    };
    vec![
        "-netdev".to_owned(),
        "user,id=net0".to_owned(),
        "-device".to_owned(),
        // Nothing boots from the network: no option ROM.
        format!("{device},netdev=net0,mac=52:54:00:12:34:56,romfile="),
    ]
}

/// What KVM on this host offers to hypervisors in its guests.
#[must_use]
pub fn nested_cpu() -> Option<&'static str> {
    let usable = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(Path::new("/dev/kvm"))
        .is_ok();
    let nests = |module: &str| {
        let file = format!("/sys/module/{module}/parameters/nested");
        let said = fs::read_to_string(file).unwrap_or_default();
        usable && matches!(said.trim(), "Y" | "1")
    };
    if nests("kvm_intel") {
        Some("host,+vmx")
    } else if nests("kvm_amd") {
        Some("host,+svm")
    } else {
        None
    }
}
