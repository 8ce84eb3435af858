//! QEMU: its command line. The chipset is the one Bochs has too (i440FX, PIIX3), so scenarios need not care.

use std::path::Path;
use std::process::Command;

use crate::machine::{Emulator, Machine, Network};
use crate::qmp;

/// Returns the command that starts the machine, with COM1 connected to our listener on `com1_port`.
#[must_use]
pub fn command(machine: &Machine, com1_port: u16) -> Command {
    let mut command = Command::new(&machine.program);
    let accel = if machine.emulator == Emulator::QemuKvm {
        "kvm"
    } else {
        "tcg"
    };
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-machine", &format!("pc,accel={accel}")])
        .args(["-cpu", &machine.cpu])
        .args(["-smp", &machine.cpus.to_string()])
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
        ]);
    if machine.uefi.is_none() {
        command.args(["-vga", "std"]);
    }
    if let Some(disk) = &machine.disk {
        command.args([
            "-drive",
            &format!("file={},format=raw,index=0,if=ide", disk.display()),
        ]);
    }
    if machine.network == Network::User {
        command.args([
            "-netdev",
            "user,id=net0",
            "-device",
            "e1000,netdev=net0,mac=52:54:00:12:34:56",
        ]);
    }
    if let Some(firmware) = &machine.uefi {
        command.arg("-bios").arg(firmware);
    }
    command
}

/// Says whether KVM on this host offers VMX to its guests.
#[must_use]
pub fn has_nested_vmx() -> bool {
    let nested =
        std::fs::read_to_string("/sys/module/kvm_intel/parameters/nested").unwrap_or_default();
    let usable = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(Path::new("/dev/kvm"))
        .is_ok();
    usable && matches!(nested.trim(), "Y" | "1")
}
