//! Which key gives which value, in the order of xl.cfg(5).
//!
//! A value that is wrong is noted, and a harmless one taken in its place, so that all that is wrong is told in one run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use uuid::Uuid;

use super::lookup::Settings;
use super::message::Message;
use super::types::{
    Action, DiskConfig, DomainConfig, SchedParams, ShutdownActions, TimeOffset, TscMode, VifConfig,
};
use super::{
    CpuList, CpuidRule, HostConfig, UnknownParameter, disk, unserved, unusable_name, vdev_number,
};

/// More than any host has; a typing error is told before anything is built.
const MOST_MEMORY_MIB: i64 = 1 << 34;
/// Largest number of vCPUs of an HVM domain (`public/hvm/hvm_info_table.h, HVM_MAX_VCPUS`).
const MOST_VCPUS: u32 = 128;

/// Reads a domain; what is wrong is noted among the settings' errors.
pub(super) fn read(settings: &Settings<'_>, host: &HostConfig) -> DomainConfig {
    unserved::check(settings);
    let (memory_kib, max_memory_kib) = settings.keep(memory(settings)).unwrap_or((1, 1));
    let (vcpus, max_vcpus) = settings.keep(vcpus(settings)).unwrap_or((1, MOST_VCPUS));
    let frames = |key, default: Option<u32>| {
        let number = settings.keep(settings.number_u32(key, 1 << 20));
        number.flatten().or(default)
    };
    let flag = |key| settings.keep(settings.boolean(key)).flatten();
    DomainConfig {
        name: settings.keep(name(settings)).unwrap_or_default(),
        uuid: settings.keep(uuid(settings)).unwrap_or_default(),
        kernel: settings.keep(kernel(settings)).unwrap_or_default(),
        ramdisk: settings.keep(settings.path("ramdisk")).flatten(),
        cmdline: settings.keep(cmdline(settings)).unwrap_or_default(),
        memory_kib,
        max_memory_kib,
        vcpus,
        max_vcpus,
        hard_affinity: settings
            .keep(affinity(settings, "cpus", max_vcpus))
            .unwrap_or_default(),
        soft_affinity: settings
            .keep(affinity(settings, "cpus_soft", max_vcpus))
            .unwrap_or_default(),
        cpuid: settings.keep(cpuid(settings)).unwrap_or_default(),
        actions: actions(settings),
        tsc_mode: settings.keep(tsc_mode(settings)).unwrap_or_default(),
        time_offset: settings.keep(time_offset(settings)).unwrap_or_default(),
        max_grant_frames: frames("max_grant_frames", host.max_grant_frames),
        max_maptrack_frames: frames("max_maptrack_frames", host.max_maptrack_frames),
        max_event_channels: settings
            .keep(settings.number_u32("max_event_channels", (1 << 17) - 1))
            .flatten(),
        claim: flag("claim_mode").or(host.claim).unwrap_or(true),
        msr_relaxed: flag("msr_relaxed").unwrap_or(false),
        pool: settings.keep(settings.text("pool")).flatten(),
        sched: settings.keep(sched(settings)).unwrap_or_default(),
        seclabel: settings.keep(settings.text("seclabel")).flatten(),
        disks: disks(settings),
        vifs: vifs(settings, host),
    }
}

fn name(settings: &Settings<'_>) -> Result<String, Message> {
    let Some((name, at)) = settings.string("name")? else {
        settings.miss("name", "name = \"web\"");
        return Ok(String::new());
    };
    match unusable_name(name) {
        Some(why) => Err(settings.error(&at, why)),
        None => Ok(name.to_owned()),
    }
}

fn uuid(settings: &Settings<'_>) -> Result<Uuid, Message> {
    match settings.string("uuid")? {
        None => Ok(Uuid::new_v4()),
        Some((text, at)) => Uuid::try_parse(text).map_err(|_| {
            settings.error(
                &at,
                format!("\"{text}\" is no UUID, as in 94f18a14-e12c-4e6f-9a1a-9ca8948434ea"),
            )
        }),
    }
}

fn kernel(settings: &Settings<'_>) -> Result<PathBuf, Message> {
    let kernel = settings.path("kernel")?;
    // Who names a boot loader in its place is told of that one.
    if kernel.is_none() && settings.get("bootloader").is_none() {
        settings.miss(
            "kernel",
            "kernel = \"/boot/vmlinuz\" (a bzImage or ELF file in dom0)",
        );
    }
    Ok(kernel.unwrap_or_default())
}

/// `cmdline` as it stands, or `root` and `extra` put together.
fn cmdline(settings: &Settings<'_>) -> Result<String, Message> {
    let whole = settings.string("cmdline")?;
    let root = settings.string("root")?;
    let extra = settings.string("extra")?;
    if let Some((whole, _)) = whole {
        for (key, part) in [("root", &root), ("extra", &extra)] {
            if let Some((_, at)) = part {
                settings.warn(at, format!("{key} is ignored, since cmdline is given"));
            }
        }
        return Ok(whole.to_owned());
    }
    Ok(match (root, extra) {
        (Some((root, _)), Some((extra, _))) => format!("root={root} {extra}"),
        (Some((root, _)), None) => format!("root={root}"),
        (None, Some((extra, _))) => extra.to_owned(),
        (None, None) => String::new(),
    })
}

/// Gives KiB at the start and at most.
fn memory(settings: &Settings<'_>) -> Result<(u64, u64), Message> {
    let mib = |key| -> Result<Option<u64>, Message> {
        Ok(settings
            .number(key, 1..=MOST_MEMORY_MIB)?
            .and_then(|n| u64::try_from(n).ok()))
    };
    let max = mib("maxmem")?;
    let Some(memory) = mib("memory")?.or(max) else {
        settings.miss("memory", "memory = 512 (MiB)");
        return Ok((1, 1));
    };
    let max = max.unwrap_or(memory);
    if max < memory {
        let at = settings
            .get("maxmem")
            .map_or(0..0, |entry| entry.value.at.clone());
        return Err(settings.error(
            &at,
            format!("maxmem is {max} MiB, less than memory, {memory} MiB"),
        ));
    }
    Ok((memory * 1024, max * 1024))
}

/// Gives vCPUs online at the start and at most.
fn vcpus(settings: &Settings<'_>) -> Result<(u32, u32), Message> {
    let count = |key| -> Result<Option<u32>, Message> {
        Ok(settings
            .number(key, 1..=i64::from(MOST_VCPUS))?
            .and_then(|n| u32::try_from(n).ok()))
    };
    let most = i64::from(u32::MAX);
    if let (Some(0), Some(entry)) = (settings.number("vcpus", 0..=most)?, settings.get("vcpus")) {
        let text = "a domain has at least one vCPU: vcpus is taken as 1";
        settings.warn(&entry.value.at, text);
        return Ok((1, count("maxvcpus")?.unwrap_or(1)));
    }
    let max = count("maxvcpus")?;
    let vcpus = count("vcpus")?.or(max).unwrap_or(1);
    let max = max.unwrap_or(vcpus);
    if max < vcpus {
        let at = settings
            .get("maxvcpus")
            .map_or(0..0, |entry| entry.value.at.clone());
        return Err(settings.error(&at, format!("maxvcpus is {max}, less than vcpus, {vcpus}")));
    }
    Ok((vcpus, max))
}

fn affinity(settings: &Settings<'_>, key: &str, max_vcpus: u32) -> Result<Vec<CpuList>, Message> {
    let one = matches!(
        settings.get(key).map(|e| &e.value.kind),
        Some(super::syntax::Kind::Atom(_))
    );
    let Some(values) = settings.list(key, true)? else {
        return Ok(Vec::new());
    };
    let lists = values
        .iter()
        .map(|value| {
            settings
                .atom(key, value)?
                .parse()
                .map_err(|e| settings.error(&value.at, format!("{e}")))
        })
        .collect::<Result<Vec<CpuList>, _>>()?;
    let wanted = usize::try_from(max_vcpus).unwrap_or(usize::MAX);
    if let Some(value) = values.get(wanted).filter(|_| !one) {
        let text = format!(
            "{key} has {} entries for {max_vcpus} vCPU(s): from here on they are ignored",
            lists.len()
        );
        settings.warn(&value.at, text);
    }
    if one {
        return Ok(lists);
    }
    // vCPUs beyond a list's end are free, as in xl.
    let missing = wanted.saturating_sub(lists.len());
    Ok(lists
        .into_iter()
        .chain(std::iter::repeat_n(CpuList::all(), missing))
        .take(wanted)
        .collect())
}

fn cpuid(settings: &Settings<'_>) -> Result<Vec<CpuidRule>, Message> {
    use super::syntax::Kind;
    let Some(entry) = settings.get("cpuid") else {
        return Ok(Vec::new());
    };
    match &entry.value.kind {
        Kind::Atom(text) => {
            let text = settings.atom("cpuid", &entry.value).map(|_| text)?;
            let text = String::from_utf8_lossy(text);
            let note = |note: String| settings.warn(&entry.value.at, note);
            super::parse_cpuid_names(&text, note).map_err(|e| settings.error(&entry.value.at, e))
        }
        Kind::List(items) => {
            let mut rules = Vec::new();
            for item in items {
                let read = super::parse_cpuid_registers(settings.atom("cpuid", item)?);
                rules.extend(read.map_err(|e| settings.error(&item.at, e))?);
            }
            Ok(rules)
        }
    }
}

fn actions(settings: &Settings<'_>) -> ShutdownActions {
    let action = |key: &str, default: Action| -> Action {
        let read = settings.string(key).and_then(|read| match read {
            None => Ok(default),
            Some((text, at)) => {
                action_of(text).ok_or_else(|| settings.error(&at, unknown_action(text)))
            }
        });
        settings.keep(read).unwrap_or(default)
    };
    let default = ShutdownActions::default();
    ShutdownActions {
        poweroff: action("on_poweroff", default.poweroff),
        reboot: action("on_reboot", default.reboot),
        crash: action("on_crash", default.crash),
        watchdog: action("on_watchdog", default.watchdog),
        soft_reset: action("on_soft_reset", default.soft_reset),
    }
}

/// Reads an action as xl spells it, or as libxl does.
fn action_of(text: &str) -> Option<Action> {
    match text {
        "rename-restart" => Some(Action::RestartRename),
        _ => Action::from_name(text),
    }
}

fn unknown_action(text: &str) -> String {
    let known: Vec<_> = Action::NAMES.iter().map(|(_, a)| a.spelling()).collect();
    format!("unknown action \"{text}\": {}", known.join(", "))
}

fn tsc_mode(settings: &Settings<'_>) -> Result<TscMode, Message> {
    let Some((text, at)) = settings.string("tsc_mode")? else {
        return Ok(TscMode::Default);
    };
    TscMode::NAMES
        .iter()
        .find(|(name, mode)| *name == text || mode.number().to_string() == text)
        .map(|(_, mode)| *mode)
        .ok_or_else(|| {
            settings.error(
                &at,
                "tsc_mode is default, always_emulate, native or native_paravirt",
            )
        })
}

fn time_offset(settings: &Settings<'_>) -> Result<TimeOffset, Message> {
    let range = i64::from(i32::MIN)..=i64::from(i32::MAX);
    Ok(TimeOffset {
        localtime: settings.boolean("localtime")?.unwrap_or(false),
        seconds: settings
            .number("rtc_timeoffset", range)?
            .and_then(|n| i32::try_from(n).ok())
            .unwrap_or(0),
    })
}

fn sched(settings: &Settings<'_>) -> Result<SchedParams, Message> {
    let number = |key, low| -> Result<Option<u16>, Message> {
        Ok(settings
            .number(key, low..=i64::from(u16::MAX))?
            .and_then(|n| u16::try_from(n).ok()))
    };
    Ok(SchedParams {
        weight: number("cpu_weight", 1)?,
        cap: number("cap", 0)?,
    })
}

fn disks(settings: &Settings<'_>) -> Vec<DiskConfig> {
    let mut taken: BTreeMap<Option<u32>, PathBuf> = BTreeMap::new();
    let mut disks = Vec::new();
    let values = settings.keep(settings.list("disk", false)).flatten();
    for value in values.unwrap_or_default() {
        let note = |note: String| settings.warn(&value.at, note);
        let read = settings.bytes("disk", value).and_then(|spec| {
            disk::parse_disk(spec, note).map_err(|e| settings.error(&value.at, e))
        });
        let Some(disk) = settings.keep(read) else {
            continue;
        };
        let number = vdev_number(&disk.vdev);
        if let Some(other) = taken.insert(number, disk.target.clone()) {
            let text = format!(
                "{} is the same virtual device as that of {}",
                disk.vdev,
                other.display()
            );
            settings.keep::<()>(Err(settings.error(&value.at, text)));
        }
        disks.push(disk);
    }
    disks
}

fn vifs(settings: &Settings<'_>, host: &HostConfig) -> Vec<VifConfig> {
    let mut taken = BTreeSet::new();
    let mut vifs = Vec::new();
    let values = settings.keep(settings.list("vif", false)).flatten();
    for value in values.unwrap_or_default() {
        let note = |note: String| settings.warn(&value.at, note);
        let read = settings.atom("vif", value).and_then(|spec| {
            super::parse_vif(spec, UnknownParameter::Ignored, note)
                .map_err(|e| settings.error(&value.at, e))
        });
        let Some(mut vif) = settings.keep(read) else {
            continue;
        };
        if let Some(mac) = vif.mac.filter(|mac| !taken.insert(mac.0)) {
            let text = format!("two cards with the address {mac}");
            settings.keep::<()>(Err(settings.error(&value.at, text)));
        }
        host.vif.apply(&mut vif);
        vifs.push(vif);
    }
    vifs
}

#[cfg(test)]
mod tests;
