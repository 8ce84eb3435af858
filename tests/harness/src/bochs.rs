//! Bochs: its configuration file and its command line.
//!
//! `clock: sync=none` makes virtual time a function of executed instructions, and `time0` pins the RTC, so that two
//! runs without input are the same to the instruction. An idle CPU passes time at once: ten idle seconds take no time.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::machine::{Machine, Network};

/// Instructions a second of virtual time. Also the TSC's frequency.
pub const IPS: u64 = 50_000_000;

/// The most that Bochs takes as `host=`.
const MAX_HOST_MIB: u32 = 2048;

/// The RTC at power-on, in seconds since 1970.
const TIME0: u64 = 1_700_000_000;

/// The directories of BIOS images, Debian's first.
const BIOS: [&str; 2] = [
    "/usr/share/bochs/BIOS-bochs-latest",
    "/usr/share/seabios/bios.bin",
];
const VGABIOS: [&str; 2] = [
    "/usr/share/vgabios/vgabios-stdvga.bin",
    "/usr/share/seabios/vgabios-stdvga.bin",
];

/// Writes the configuration file into the machine's directory and returns the command that starts it, with COM1
/// connected to our listener on `com1_port`.
///
/// # Errors
/// No BIOS image on this host, or the file cannot be written.
pub fn command(machine: &Machine, com1_port: u16) -> Result<Command> {
    let text = configuration(machine, com1_port)?;
    fs::create_dir_all(&machine.work)
        .with_context(|| format!("cannot make {}", machine.work.display()))?;
    let file = machine.work.join("bochsrc");
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let commands = machine.work.join("debugger");
    fs::write(&commands, "c\n")?;
    let mut command = Command::new(&machine.programs.bochs);
    command.arg("-q").arg("-f").arg(file);
    if is_debians(machine) {
        // It stops in its debugger first.
        command.arg("-rc").arg(commands);
    }
    Ok(command)
}

/// Says whether this is the packaged Bochs, which has the debugger, and another display that needs no screen.
fn is_debians(machine: &Machine) -> bool {
    machine.programs.bochs.starts_with("/usr/bin")
}

fn configuration(machine: &Machine, com1_port: u16) -> Result<String> {
    let Machine {
        model, memory_mib, ..
    } = machine;
    let (cpu, cpus) = (&model.cpu, model.smp);
    let bios = existing(&BIOS)?;
    let vgabios = existing(&VGABIOS)?;
    let iso = machine.iso.display();
    let log = machine.work.join("bochs.log");
    let log = log.display();
    let network_slot = match machine.network {
        Network::None => "",
        Network::User => ", slot1=e1000",
    };
    let display = if is_debians(machine) {
        "rfb, options=\"timeout=0\""
    } else {
        "nogui"
    };
    // Bochs backs at most 2 GiB at a time and moves blocks to a file beyond that; most of a big machine is not touched.
    let host_mib = memory_mib.min(&MAX_HOST_MIB);
    // It starts in a time that grows with the square of their number: minutes, by its own size of 128 KiB, for 8 GiB.
    let block_kib = if memory_mib > &MAX_HOST_MIB {
        2048
    } else {
        128
    };
    // Logging is slow, so only what ends the machine is logged.
    let mut text = format!(
        "config_interface: textconfig\n\
         display_library: {display}\n\
         cpu: model={cpu}, count={cpus}, ips={IPS}, reset_on_triple_fault=0, ignore_bad_msrs=1\n\
         memory: guest={memory_mib}, host={host_mib}, block_size={block_kib}\n\
         romimage: file={bios}\n\
         vgaromimage: file={vgabios}\n\
         vga: extension=vbe, update_freq=1\n\
         pci: enabled=1, chipset=i440fx{network_slot}\n\
         boot: cdrom\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-slave: type=cdrom, path=\"{iso}\", status=inserted\n\
         clock: sync=none, time0={TIME0}\n\
         com1: enabled=1, mode=socket-client, dev=127.0.0.1:{com1_port}\n\
         panic: action=fatal\n\
         error: action=ignore\n\
         info: action=ignore\n\
         debug: action=ignore\n\
         log: {log}\n"
    );
    if let Some(disk) = &machine.disk {
        let disk = disk.display();
        writeln!(text, "ata0-master: type=disk, path=\"{disk}\", mode=flat")?;
    }
    if machine.network == Network::User {
        text += "e1000: enabled=1, mac=52:54:00:12:34:56, ethmod=slirp, script=none\n";
    }
    Ok(text)
}

fn existing(candidates: &[&'static str]) -> Result<&'static str> {
    let found = candidates
        .iter()
        .find(|file| fs::exists(file).unwrap_or(false));
    found.copied().with_context(|| {
        format!(
            "none of {} is on this machine: run `cargo xtask setup`",
            candidates.join(", ")
        )
    })
}
