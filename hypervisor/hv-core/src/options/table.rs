//! Every option once: name, form, default, help, and the function that reads its value.
//!
//! A reader gets `None` where the option stands without `=`, and either changes the options or says what is wrong.

use crate::sched::is_rate_limit;

use super::{
    Consoles, LogLevel, LogThresholds, Options, Reason, RebootMethod, Scheduler, VcpuCount, value,
};

/// What a user is told about an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionInfo {
    pub name: &'static str,
    /// How it is written.
    pub form: &'static str,
    /// What holds where it is not given.
    pub default: &'static str,
    /// What it does, in a line.
    pub help: &'static str,
}

/// An option: what is said about it, and its reader.
pub struct Row {
    /// What a user is told about it.
    pub info: OptionInfo,
    read: Reader,
}

type Reader = fn(&mut Options, Option<&str>) -> Result<(), &'static str>;

const NOT_BOOLEAN: &str = "is neither on nor off";

const fn row(
    name: &'static str,
    form: &'static str,
    default: &'static str,
    help: &'static str,
    read: Reader,
) -> Row {
    Row {
        info: OptionInfo {
            name,
            form,
            default,
            help,
        },
        read,
    }
}

impl Row {
    /// Reads `value` into `options`; where it fails, nothing has changed.
    pub(super) fn apply(&self, options: &mut Options, value: Option<&str>) -> Result<(), Reason> {
        (self.read)(options, value).map_err(Reason::Malformed)
    }
}

/// The option called `name`, `-` and `_` being the same.
pub(super) fn find(name: &str) -> Option<&'static Row> {
    let same = |a: u8, b: u8| a == b || (matches!(a, b'-' | b'_') && matches!(b, b'-' | b'_'));
    OPTION_TABLE.iter().find(|row| {
        let known = row.info.name.as_bytes();
        known.len() == name.len() && known.iter().zip(name.as_bytes()).all(|(&a, &b)| same(a, b))
    })
}

/// All options, by name. README.md's list is checked against it.
#[rustfmt::skip]
pub const OPTION_TABLE: &[Row] = &[
    row("apicv", "apicv=<bool>", "on",
        "use APIC-register virtualisation and virtual-interrupt delivery",
        |o, v| flag(&mut o.features.apicv, v)),
    row("com1", "com1=<baud>|auto[/<base-baud>][,<DPS>[,<io-base>[,<irq>]]]", "115200,8n1,0x3f8,4",
        "set up the first serial port",
        |o, v| { o.com1 = o.com1.parse(text(v)?)?; Ok(()) }),
    row("com2", "com2=<baud>|auto[/<base-baud>][,<DPS>[,<io-base>[,<irq>]]]", "115200,8n1,0x2f8,3",
        "set up the second serial port",
        |o, v| { o.com2 = o.com2.parse(text(v)?)?; Ok(()) }),
    row("conring_size", "conring_size=<size>", "64K",
        "how much of the log is kept for `xl dmesg`: 64K to 16M",
        |o, v| { o.conring_bytes = ring_bytes(text(v)?)?; Ok(()) }),
    row("console", "console=[com1|com2|vga|none][,…]", "com1,vga",
        "where the hypervisor's and dom0's console goes",
        |o, v| { o.console = consoles(text(v)?)?; Ok(()) }),
    row("conswitch", "conswitch=<letter>", "a",
        "the letter that with Ctrl, three times, switches console input between dom0 and the hypervisor",
        |o, v| { o.conswitch = letter(text(v)?)?; Ok(()) }),
    row("dom0", "dom0=pvh", "pvh",
        "the kind of dom0; PVH is the only one there is",
        |_, v| if text(v)? == "pvh" { Ok(()) } else { Err("asks for what is not supported: dom0 is always PVH") }),
    row("dom0_max_vcpus", "dom0_max_vcpus=<count>|<min>-<max>", "as many as CPUs",
        "how many vCPUs dom0 gets",
        |o, v| { o.dom0_max_vcpus = Some(vcpu_count(text(v)?)?); Ok(()) }),
    row("dom0_mem", "dom0_mem=<amount>[,min:<amount>][,max:<amount>]", "1G+5%, and never more than leaves a quarter of the host to guests",
        "memory of dom0; an amount is like 1G (or K, M, T), -1G (all but that), 25% or 1G+25%. Where it is not given, `xl create` makes dom0 smaller when a guest needs more than is free (xl.conf's `autoballoon`)",
        |o, v| { o.dom0_mem = o.dom0_mem.parse(text(v)?)?; Ok(()) }),
    row("efi", "efi=rs=<bool>", "rs=on",
        "what of EFI is used: its runtime services (time, variables), for dom0",
        efi_list),
    row("ept", "ept=exec-sp=<bool>", "by CPU",
        "EPT features: executable superpages",
        ept_list),
    row("ept-superpages", "ept-superpages=<bool>", "on",
        "map guests with 2 MiB and 1 GiB pages (hap_2mb and hap_1gb together)",
        |o, v| { let on = boolean(v)?; o.features.ept_2m = on; o.features.ept_1g = on; Ok(()) }),
    row("guest_loglvl", "guest_loglvl=<level>[/<rate-limited level>]", "none/warning",
        "which messages caused by guests are shown: none, error, warning, info, debug or all",
        |o, v| { o.guest_loglvl = thresholds(text(v)?)?; Ok(()) }),
    row("hap_1gb", "hap_1gb=<bool>", "on",
        "map guests with 1 GiB pages; they need hap_2mb",
        |o, v| flag(&mut o.features.ept_1g, v)),
    row("hap_2mb", "hap_2mb=<bool>", "on",
        "map guests with 2 MiB pages",
        |o, v| flag(&mut o.features.ept_2m, v)),
    row("loglvl", "loglvl=<level>[/<rate-limited level>]", "info",
        "which messages of the hypervisor are shown: none, error, warning, info, debug or all",
        |o, v| { o.loglvl = thresholds(text(v)?)?; Ok(()) }),
    row("noreboot", "noreboot=<bool>", "off",
        "halt after a crash instead of rebooting",
        |o, v| flag(&mut o.noreboot, v)),
    row("posted-interrupts", "posted-interrupts=<bool>", "on",
        "use posted interrupts; they need apicv",
        |o, v| flag(&mut o.features.posted_interrupts, v)),
    row("reboot", "reboot=t|k|a|p|P|n", "by what the firmware offers",
        "how to reboot: triple fault, keyboard controller, ACPI, PCI (0xCF9), Power cycle, no",
        |o, v| { o.reboot = Some(reboot_method(text(v)?)?); Ok(()) }),
    row("sched", "sched=credit2|rr", "credit2",
        "the scheduler: weighted shares, or each vCPU in turn",
        |o, v| { o.sched = scheduler(text(v)?)?; Ok(()) }),
    row("sched_ratelimit_us", "sched_ratelimit_us=<µs>", "1000",
        "how long a vCPU keeps a CPU at least once it has it: 100 to 500000, or 0 for no such time; `xl sched-credit2 -s -r` changes it",
        |o, v| { o.sched_ratelimit_us = rate_limit_us(text(v)?)?; Ok(()) }),
    row("spec-ctrl", "spec-ctrl=[no|xen=no][,<name>=<bool>][,…]", "as the CPU needs it",
        "defences against speculative execution: ibrs, ibpb, l1d-flush, md-clear (verw), rsb, bhb-entry, ibpb-entry, bhi-dis-s, bp-spec-reduce, ssbd, msr-sc, hvm",
        |o, v| { o.spec_ctrl = o.spec_ctrl.parse(text(v)?)?; Ok(()) }),
    row("sync_console", "sync_console=<bool>", "off",
        "wait for each console write to be done: nothing is lost in a crash, all is slower",
        |o, v| flag(&mut o.sync_console, v)),
    row("tsc-scaling", "tsc-scaling=<bool>", "on",
        "use TSC scaling",
        |o, v| flag(&mut o.features.tsc_scaling, v)),
    row("vpid", "vpid=<bool>", "on",
        "use virtual-processor identifiers, which spare TLB flushes",
        |o, v| flag(&mut o.features.vpid, v)),
];

fn text(value: Option<&str>) -> Result<&str, &'static str> {
    value.filter(|v| !v.is_empty()).ok_or("needs a value")
}

fn boolean(value: Option<&str>) -> Result<bool, &'static str> {
    value.map_or(Some(true), value::boolean).ok_or(NOT_BOOLEAN)
}

fn flag(field: &mut bool, value: Option<&str>) -> Result<(), &'static str> {
    *field = boolean(value)?;
    Ok(())
}

fn count(text: &str) -> Result<u32, &'static str> {
    value::number_as(text)
        .filter(|&n| n > 0)
        .ok_or("is not a count above 0")
}

fn vcpu_count(text: &str) -> Result<VcpuCount, &'static str> {
    let Some((min, max)) = text.split_once('-') else {
        return count(text).map(|n| VcpuCount { min: n, max: n });
    };
    let min = if min.is_empty() { 1 } else { count(min)? };
    let max = if max.is_empty() {
        u32::MAX
    } else {
        count(max)?
    };
    if min > max {
        return Err("has a minimum above its maximum");
    }
    Ok(VcpuCount { min, max })
}

fn consoles(text: &str) -> Result<Consoles, &'static str> {
    let mut consoles = Consoles::default();
    for name in text.split(',') {
        match name {
            "com1" => consoles.com1 = true,
            "com2" => consoles.com2 = true,
            "vga" => consoles.vga = true,
            "none" => consoles = Consoles::default(),
            _ => return Err("is not a list of com1, com2, vga or none"),
        }
    }
    Ok(consoles)
}

/// Bytes of the log's ring, within bounds.
fn ring_bytes(text: &str) -> Result<u32, &'static str> {
    const BOUNDS: core::ops::RangeInclusive<u64> = 64 << 10..=16 << 20;
    let bytes = value::size(text).ok_or("is not a size like 1M")?;
    let bytes = bytes.clamp(*BOUNDS.start(), *BOUNDS.end());
    u32::try_from(bytes).map_err(|_| "is not a size like 1M")
}

fn letter(text: &str) -> Result<u8, &'static str> {
    match text.as_bytes() {
        // Xen's optional `x` behind it: do not switch to dom0 at boot. That is nothing we do.
        &[c] | &[c, b'x'] if c.is_ascii_lowercase() => Ok(c),
        _ => Err("is not a lower-case letter"),
    }
}

fn level(text: &str) -> Result<Option<LogLevel>, &'static str> {
    Ok(match text {
        "none" => None,
        "error" => Some(LogLevel::Error),
        "warning" => Some(LogLevel::Warning),
        "info" => Some(LogLevel::Info),
        "debug" | "all" => Some(LogLevel::Debug),
        _ => return Err("has a level that is none of none, error, warning, info, debug and all"),
    })
}

fn thresholds(text: &str) -> Result<LogThresholds, &'static str> {
    let (always, limited) = text.split_once('/').unwrap_or((text, text));
    let always = level(always)?;
    Ok(LogThresholds {
        always,
        limited: level(limited)?.max(always),
    })
}

fn efi_list(options: &mut Options, value: Option<&str>) -> Result<(), &'static str> {
    let mut efi_runtime = options.efi_runtime;
    for part in text(value)?.split(',') {
        match switch(part)? {
            ("rs", on) => efi_runtime = on,
            _ => return Err("is not a list of rs alone"),
        }
    }
    options.efi_runtime = efi_runtime;
    Ok(())
}

/// One of a list of switches: `name`, `no-name` or `name=<bool>`.
fn switch(part: &str) -> Result<(&str, bool), &'static str> {
    Ok(match part.split_once('=') {
        Some((name, value)) => (name, value::boolean(value).ok_or(NOT_BOOLEAN)?),
        None => part
            .strip_prefix("no-")
            .map_or((part, true), |name| (name, false)),
    })
}

fn ept_list(options: &mut Options, value: Option<&str>) -> Result<(), &'static str> {
    let mut features = options.features;
    for part in text(value)?.split(',') {
        match switch(part)? {
            ("exec-sp", on) => features.exec_sp = Some(on),
            _ => return Err("is not a list of exec-sp alone"),
        }
    }
    options.features = features;
    Ok(())
}

fn reboot_method(text: &str) -> Result<RebootMethod, &'static str> {
    Ok(match text {
        "t" | "triple" => RebootMethod::TripleFault,
        "k" | "kbd" => RebootMethod::Keyboard,
        "a" | "acpi" => RebootMethod::Acpi,
        "p" | "pci" => RebootMethod::Pci,
        "P" | "Power" => RebootMethod::PowerCycle,
        "n" | "no" => RebootMethod::Never,
        _ => return Err("is none of t, k, a, p, P and n"),
    })
}

fn rate_limit_us(text: &str) -> Result<u32, &'static str> {
    value::number_as(text)
        .filter(|us| is_rate_limit(*us))
        .ok_or("is neither 0 nor 100 to 500000")
}

fn scheduler(text: &str) -> Result<Scheduler, &'static str> {
    match text {
        "credit2" => Ok(Scheduler::Credit2),
        "rr" => Ok(Scheduler::RoundRobin),
        _ => Err("names a scheduler that is not supported (credit2 and rr are)"),
    }
}
