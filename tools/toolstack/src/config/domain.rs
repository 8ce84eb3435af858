//! Which key gives which value, in the order of xl.cfg(5), and what a PVH domain cannot have.
//!
//! A key that would change what the guest gets, and that we do not serve, is an error; one that only concerns a device
//! model or a PV guest is named in a warning.

use std::ops::Range;
use std::path::PathBuf;

use uuid::Uuid;

use super::lookup::Settings;
use super::message::Message;
use super::types::{
    Action, DiskConfig, DomainConfig, SchedParams, ShutdownActions, TimeOffset, TscMode, VifConfig,
};
use super::{CpuList, CpuidRule, disk, vdev_number};

/// More than any host has; a typing error is told before anything is built.
const MOST_MEMORY_MIB: i64 = 1 << 34;
/// Largest number of vCPUs of an HVM domain (`public/hvm/hvm_info_table.h, HVM_MAX_VCPUS`).
const MOST_VCPUS: u32 = 128;

/// Reads a domain.
pub(super) fn read(settings: &Settings<'_>) -> Result<DomainConfig, Message> {
    check_type(settings)?;
    refuse_unserved(settings)?;
    let (memory_kib, max_memory_kib) = memory(settings)?;
    let (vcpus, max_vcpus) = vcpus(settings)?;
    let config = DomainConfig {
        name: name(settings)?,
        uuid: uuid(settings)?,
        kernel: kernel(settings)?,
        ramdisk: settings.text("ramdisk")?.map(PathBuf::from),
        cmdline: cmdline(settings)?,
        memory_kib,
        max_memory_kib,
        vcpus,
        max_vcpus,
        hard_affinity: affinity(settings, "cpus", max_vcpus)?,
        soft_affinity: affinity(settings, "cpus_soft", max_vcpus)?,
        cpuid: cpuid(settings)?,
        actions: actions(settings)?,
        tsc_mode: tsc_mode(settings)?,
        time_offset: time_offset(settings)?,
        max_grant_frames: settings.number_u32("max_grant_frames", 1 << 20)?,
        max_maptrack_frames: settings.number_u32("max_maptrack_frames", 1 << 20)?,
        max_event_channels: settings.number_u32("max_event_channels", (1 << 17) - 1)?,
        claim: settings.boolean("claim_mode")?.unwrap_or(true),
        msr_relaxed: settings.boolean("msr_relaxed")?.unwrap_or(false),
        pool: settings.text("pool")?,
        sched: sched(settings)?,
        seclabel: settings.text("seclabel")?,
        disks: disks(settings)?,
        vifs: vifs(settings)?,
    };
    note_without_effect(settings);
    Ok(config)
}

fn check_type(settings: &Settings<'_>) -> Result<(), Message> {
    let refuse = |at: &Range<usize>, what: &str, why: &str| {
        Err(settings.error(
            at,
            format!("{what} guests are not supported: {why}. Leave type out, or say type=\"pvh\""),
        ))
    };
    if let Some((kind, at)) = settings.string("type")? {
        return match kind {
            "pvh" => Ok(()),
            "hvm" => refuse(&at, "HVM", "they need a device model and a BIOS"),
            "pv" => refuse(&at, "PV", "they run without hardware virtualisation"),
            _ => Err(settings.error(
                &at,
                format!("unknown type \"{kind}\": pvh is the one served"),
            )),
        };
    }
    match settings.string("builder")? {
        None => Ok(()),
        Some(("hvm", at)) => refuse(&at, "HVM", "they need a device model and a BIOS"),
        Some((other, at)) => {
            settings.warn(
                &at,
                format!("builder=\"{other}\" meant a PV guest; the kernel is started as PVH"),
            );
            Ok(())
        }
    }
}

/// Keys of devices and features that are not served, unless they are empty or 0.
const UNSERVED: [(&str, &str); 31] = [
    ("pci", "passing devices through"),
    ("usbctrl", "USB"),
    ("usbdev", "USB"),
    ("usbdevice", "USB"),
    ("vfb", "a frame buffer"),
    ("vtpm", "a TPM"),
    ("p9", "9p file systems"),
    ("pvcalls", "PV calls"),
    ("vdispl", "a display"),
    ("vsnd", "sound"),
    ("vkb", "a keyboard"),
    ("virtio", "virtio devices"),
    ("channel", "channels"),
    ("dtdev", "passing devices through"),
    ("ioports", "passing I/O ports through"),
    ("iomem", "passing I/O memory through"),
    ("irqs", "passing interrupts through"),
    ("rdm", "passing devices through"),
    ("nestedhvm", "nested virtualisation"),
    ("altp2m", "alternate p2m"),
    ("vpmu", "a virtual PMU"),
    ("vmtrace_buf_kb", "VM trace"),
    ("vnuma", "virtual NUMA nodes"),
    ("bootloader", "a boot loader in dom0: name the kernel"),
    ("device_tree", "device trees"),
    ("driver_domain", "driver domains"),
    ("pvshim", "the PV shim"),
    ("firmware_override", "firmware"),
    ("acpi_firmware", "firmware"),
    ("smbios_firmware", "firmware"),
    ("xend_suspend_evtchn_compat", "xend's suspend port"),
];

fn refuse_unserved(settings: &Settings<'_>) -> Result<(), Message> {
    use super::syntax::Kind;
    for (key, what) in UNSERVED {
        let Some(entry) = settings.get(key) else {
            continue;
        };
        let asks = match &entry.value.kind {
            Kind::List(items) => !items.is_empty(),
            Kind::Atom(text) => !matches!(text.as_str(), "" | "0" | "disabled"),
        };
        if asks {
            return Err(settings.error(&entry.key_at, format!("{key}: {what} is not supported")));
        }
    }
    if let (Some(false), Some(entry)) = (settings.boolean("hap")?, settings.get("hap")) {
        return Err(settings.error(
            &entry.value.at,
            "hap=0: shadow page tables are not supported",
        ));
    }
    match settings.string("passthrough")? {
        None | Some(("disabled" | "0" | "", _)) => Ok(()),
        Some((_, at)) => Err(settings.error(&at, "passing devices through is not supported")),
    }
}

fn name(settings: &Settings<'_>) -> Result<String, Message> {
    let Some((name, at)) = settings.string("name")? else {
        return Err(missing(settings, "name", "name = \"web\""));
    };
    let bad = if name.is_empty() {
        "the name is empty"
    } else if name.bytes().all(|c| c.is_ascii_digit()) {
        "a name of digits alone would be taken for a domain id"
    } else if name.contains('/') || name.chars().any(char::is_control) {
        "a name has no / and no control characters"
    } else if name.len() > 255 {
        "a name has at most 255 bytes"
    } else {
        return Ok(name.to_owned());
    };
    Err(settings.error(&at, bad))
}

fn missing(settings: &Settings<'_>, key: &str, example: &str) -> Message {
    settings.error(&(0..0), format!("{key} is missing: {example}"))
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
    settings.text("kernel")?.map(PathBuf::from).ok_or_else(|| {
        missing(
            settings,
            "kernel",
            "kernel = \"/boot/vmlinuz\" (a bzImage or ELF file in dom0)",
        )
    })
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
        return Err(missing(settings, "memory", "memory = 512 (MiB)"));
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
    if !one && u32::try_from(lists.len()).is_ok_and(|n| n > max_vcpus) {
        let at = values.last().map_or(0..0, |v| v.at.clone());
        return Err(settings.error(
            &at,
            format!("{key} has {} entries for {max_vcpus} vCPU(s)", lists.len()),
        ));
    }
    if one {
        return Ok(lists);
    }
    // vCPUs beyond a list's end are free, as in xl.
    let missing = usize::try_from(max_vcpus)
        .unwrap_or(0)
        .saturating_sub(lists.len());
    Ok(lists
        .into_iter()
        .chain(std::iter::repeat_n(CpuList::all(), missing))
        .collect())
}

fn cpuid(settings: &Settings<'_>) -> Result<Vec<CpuidRule>, Message> {
    use super::syntax::Kind;
    let Some(entry) = settings.get("cpuid") else {
        return Ok(Vec::new());
    };
    match &entry.value.kind {
        Kind::Atom(text) => {
            super::parse_cpuid_names(text).map_err(|e| settings.error(&entry.value.at, e))
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

fn actions(settings: &Settings<'_>) -> Result<ShutdownActions, Message> {
    let action = |key: &str, default: Action| -> Result<Action, Message> {
        let Some((text, at)) = settings.string(key)? else {
            return Ok(default);
        };
        // xend's spellings are still in use.
        let text = match text {
            "rename-restart" => "restart_rename",
            "coredump-destroy" => "coredump_destroy",
            "coredump-restart" => "coredump_restart",
            _ => text,
        };
        Action::from_name(text).ok_or_else(|| {
            let known: Vec<_> = Action::NAMES.iter().map(|(name, _)| *name).collect();
            settings.error(
                &at,
                format!("unknown action \"{text}\": {}", known.join(", ")),
            )
        })
    };
    let default = ShutdownActions::default();
    Ok(ShutdownActions {
        poweroff: action("on_poweroff", default.poweroff)?,
        reboot: action("on_reboot", default.reboot)?,
        crash: action("on_crash", default.crash)?,
        watchdog: action("on_watchdog", default.watchdog)?,
        soft_reset: action("on_soft_reset", default.soft_reset)?,
    })
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

fn disks(settings: &Settings<'_>) -> Result<Vec<DiskConfig>, Message> {
    let mut disks: Vec<DiskConfig> = Vec::new();
    for value in settings.list("disk", false)?.unwrap_or_default() {
        let spec = settings.atom("disk", value)?;
        let disk = disk::parse_disk(spec).map_err(|e| settings.error(&value.at, e))?;
        let number = vdev_number(&disk.vdev);
        if let Some(other) = disks
            .iter()
            .find(|other| vdev_number(&other.vdev) == number)
        {
            let text = format!(
                "{} is the same virtual device as that of {}",
                disk.vdev, other.target
            );
            return Err(settings.error(&value.at, text));
        }
        disks.push(disk);
    }
    Ok(disks)
}

fn vifs(settings: &Settings<'_>) -> Result<Vec<VifConfig>, Message> {
    let mut vifs: Vec<VifConfig> = Vec::new();
    for value in settings.list("vif", false)?.unwrap_or_default() {
        let spec = settings.atom("vif", value)?;
        let vif = super::parse_vif(spec, |note| settings.warn(&value.at, note))
            .map_err(|e| settings.error(&value.at, e))?;
        if let Some(mac) = vif
            .mac
            .filter(|mac| vifs.iter().any(|other| other.mac == Some(*mac)))
        {
            return Err(settings.error(&value.at, format!("two cards with the address {mac}")));
        }
        vifs.push(vif);
    }
    Ok(vifs)
}

/// Keys that are right in other guests, and change nothing in a PVH domain here.
const WITHOUT_EFFECT: [&str; 75] = [
    "acpi",
    "acpi_s3",
    "acpi_s4",
    "acpi_laptop_slate",
    "apic",
    "bios",
    "bios_path_override",
    "boot",
    "bootloader_args",
    "bootloader_restrict",
    "bootloader_user",
    "device_model_args",
    "device_model_args_hvm",
    "device_model_args_pv",
    "device_model_override",
    "device_model_stubdomain_override",
    "device_model_stubdomain_seclabel",
    "device_model_user",
    "device_model_version",
    "display",
    "dm_restrict",
    "e820_host",
    "extratime",
    "firmware",
    "gfx_passthru",
    "hdtype",
    "hpet",
    "hvm_pirq",
    "init_seclabel",
    "keymap",
    "latency",
    "mca_caps",
    "mmio_hole",
    "ms_vm_genid",
    "nographic",
    "nx",
    "oos",
    "opengl",
    "pae",
    "pci_msitranslate",
    "pci_permissive",
    "pci_power_mgmt",
    "pci_seize",
    "period",
    "sdl",
    "serial",
    "shadow_memory",
    "slice",
    "smbios",
    "soundhw",
    "spice",
    "spicehost",
    "spiceport",
    "stdvga",
    "stubdomain_kernel",
    "stubdomain_memory",
    "stubdomain_ramdisk",
    "timer_mode",
    "usb",
    "usbversion",
    "vendor_device",
    "vga",
    "videoram",
    "viridian",
    "vkb_device",
    "vnc",
    "vncdisplay",
    "vnclisten",
    "vncpasswd",
    "vncunused",
    "vncviewer",
    "vpt_align",
    "xauthority",
    "xen_platform_pci",
    "xen_platform_pci_bar_uc",
];

/// Keys that change nothing here, and whose absence nobody would notice.
const SILENT: [&str; 4] = [
    "nomigrate",
    "max_grant_version",
    "vif2",
    "xenstore_feature_mask",
];

fn note_without_effect(settings: &Settings<'_>) {
    for key in SILENT {
        let _known = settings.get(key);
    }
    for key in WITHOUT_EFFECT {
        if let Some(entry) = settings.get(key) {
            settings.warn(
                &entry.key_at,
                format!("{key} has no effect on a PVH guest and is ignored"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Parsed, parse};
    use super::*;

    const SMALL: &str = "name=\"g\"\nkernel=\"/k\"\nmemory=64\n";

    fn read_with(more: &str) -> Result<Parsed, Message> {
        parse("g.cfg", SMALL, &more.lines().collect::<Vec<_>>())
    }

    #[test]
    fn the_reference_configuration_is_read() {
        let text = "name=\"domu\"\ntype=\"pvh\"\nkernel=\"/boot/vmlinuz-domu\"\nramdisk=\"/boot/domu.gz\"\n\
            extra=\"console=hvc0 earlyprintk=xen panic=1\"\nmemory=256\nvcpus=1\non_poweroff=\"destroy\"\n\
            on_reboot=\"destroy\"\non_crash=\"destroy\"\n";
        let Parsed { config, warnings } = parse("domu.cfg", text, &[] as &[&str]).unwrap();
        assert_eq!(warnings, []);
        assert_eq!(
            (
                config.name.as_str(),
                config.memory_kib,
                config.max_memory_kib
            ),
            ("domu", 262_144, 262_144)
        );
        assert_eq!(config.cmdline, "console=hvc0 earlyprintk=xen panic=1");
        assert_eq!((config.vcpus, config.max_vcpus, config.claim), (1, 1, true));
        assert_eq!(config.actions.reboot, Action::Destroy);
    }

    #[test]
    fn words_of_the_command_line_come_last_and_win() {
        let config = read_with("name='other'\nmemory=128\nextra='quiet'\nroot='/dev/xvda ro'")
            .unwrap()
            .config;
        assert_eq!(
            (config.name.as_str(), config.memory_kib),
            ("other", 128 << 10)
        );
        assert_eq!(config.cmdline, "root=/dev/xvda ro quiet");
        let error = read_with("memory='lots'").unwrap_err();
        assert_eq!(
            (error.file.as_str(), error.line, error.column),
            ("command line", 1, 8)
        );
    }

    #[test]
    fn everything_a_domain_may_have_is_read() {
        let config = read_with(
            "maxmem=256\nvcpus=2\nmaxvcpus=4\ncpus=['0-1','^0']\ncpuid='host,tm=0'\nuuid='94f18a14-e12c-4e6f-9a1a-9ca8948434ea'\n\
             disk=['phy:/dev/a,xvda,w','vdev=xvdb,access=ro,target=/b']\nvif=['bridge=br0','mac=00:16:3e:1:2:3']\n\
             on_watchdog='restart'\non_reboot='rename-restart'\ntsc_mode='native'\nmax_grant_frames=64\nmax_maptrack_frames=0x400\nclaim_mode=0\n\
             localtime=1\nrtc_timeoffset=-60\npool='Pool-0'\ncpu_weight=512\ncap=50\nseclabel='a:b:c'\nmax_event_channels=2047\nacpi=1",
        )
        .unwrap();
        assert_eq!(config.warnings.len(), 1);
        let config = config.config;
        assert_eq!(
            (config.vcpus, config.max_vcpus, config.max_memory_kib),
            (2, 4, 256 << 10)
        );
        assert_eq!(
            config
                .hard_affinity
                .iter()
                .map(CpuList::to_string)
                .collect::<Vec<_>>(),
            ["0-1", "^0", "all", "all"]
        );
        assert_eq!(
            (config.disks.len(), config.vifs.len(), config.cpuid.len()),
            (2, 2, 1)
        );
        assert_eq!(config.actions.reboot, Action::RestartRename);
        assert_eq!(
            (config.tsc_mode, config.max_maptrack_frames, config.claim),
            (TscMode::Native, Some(1024), false)
        );
        assert_eq!(
            config.time_offset,
            TimeOffset {
                localtime: true,
                seconds: -60
            }
        );
        assert_eq!(
            config.sched,
            SchedParams {
                weight: Some(512),
                cap: Some(50)
            }
        );
        let kept: DomainConfig =
            serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(kept, config);
    }

    #[test]
    fn unknown_keys_are_warned_of_with_the_nearest_known_one() {
        let warnings = read_with("memmory=3\nvnc=1\nbanana=2").unwrap().warnings;
        let texts: Vec<_> = warnings.iter().map(|w| w.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "unknown key memmory is ignored; did you mean memory?",
                "vnc has no effect on a PVH guest and is ignored",
                "unknown key banana is ignored",
            ]
        );
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_reason() {
        for (more, what) in [
            (
                "type='hvm'",
                "HVM guests are not supported: they need a device model",
            ),
            ("type='pv'", "PV guests are not supported"),
            ("type='foo'", "unknown type"),
            ("builder='hvm'", "HVM guests are not supported"),
            (
                "pci=['0000:00:1.0']",
                "pci: passing devices through is not supported",
            ),
            ("nestedhvm=1", "nested virtualisation"),
            ("hap=0", "shadow page tables"),
            ("memory=0", "from 1 to"),
            ("memory=['1']", "not a list"),
            ("maxmem=32", "less than memory"),
            ("vcpus=4\nmaxvcpus=2", "less than vcpus"),
            ("vcpus=129", "from 1 to 128"),
            ("name='12'", "domain id"),
            ("name=''", "empty"),
            ("uuid='x'", "no UUID"),
            ("kernel=''", "kernel is missing"),
            ("cpus='x'", "no list of CPUs"),
            ("cpus=['0','1']", "2 entries for 1 vCPU"),
            ("on_crash='explode'", "unknown action"),
            ("disk='a'", "takes a list"),
            ("disk=['a']", "virtual device"),
            ("disk=['/a,,xvda','/b,,xvda']", "the same virtual device"),
            ("vif=['mac=zz']", "no MAC"),
            (
                "vif=['mac=00:16:3e:0:0:1','mac=00:16:3e:0:0:1']",
                "two cards",
            ),
            ("disk+='x'\nvif=1", "takes a list"),
        ] {
            let error = read_with(more).unwrap_err();
            assert!(error.text.contains(what), "{more}: {error}");
        }
        assert!(read_with("pci=[]\nnestedhvm=0\nhap=1\ntype='pvh'\nbuilder='linux'").is_ok());
    }

    #[test]
    fn missing_keys_are_named() {
        for (text, key) in [
            ("kernel='/k'\nmemory=1", "name"),
            ("name='a'\nmemory=1", "kernel"),
            ("name='a'\nkernel='k'", "memory"),
        ] {
            let error = parse("a.cfg", text, &[] as &[&str]).unwrap_err();
            assert!(
                error.text.starts_with(&format!("{key} is missing")),
                "{error}"
            );
        }
    }

    #[test]
    fn no_text_at_all_panics_the_reader() {
        proptest::proptest!(|(key in "(name|memory|disk|vif|cpus|cpuid|vcpus|uuid|tsc_mode)", value in "[ -~]{0,30}")| {
            let quoted = format!("{key}=\"{}\"", value.replace(['"', '\\'], ""));
            let listed = format!("{key}=[{}]", quoted.split_once('=').map_or("", |(_, v)| v));
            let _first = read_with(&quoted);
            let _second = read_with(&listed);
        });
    }
}
