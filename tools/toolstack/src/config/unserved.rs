//! What a PVH domain cannot have here: keys of xl.cfg(5) that are refused, and keys that change nothing.
//!
//! What the guest could not do without is refused: a device that holds its data, a right, a feature that it may find
//! missing late. A guest that starts without it in the same way (a screen, a tablet) is started, and a warning names
//! it, as Xen does with what a kind of guest has no use for.

use std::ops::Range;

use super::lookup::Settings;
use super::message::Message;
use super::syntax::{Kind, Value};

/// Checks the type of the domain, and notes what it cannot have.
pub(super) fn check(settings: &Settings<'_>) {
    settings.keep(check_type(settings));
    refuse(settings);
    settings.keep(check_hap(settings));
    note_not_there(settings);
    note_without_effect(settings);
    super::host::grant_version(settings);
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

/// Keys of devices and features that a guest may not be able to do without, and what each is.
const REFUSED: [(&str, &str); 23] = [
    ("pci", "devices cannot be passed through"),
    ("passthrough", "devices cannot be passed through"),
    ("dtdev", "devices cannot be passed through"),
    ("ioports", "I/O ports cannot be passed through"),
    ("iomem", "I/O memory cannot be passed through"),
    ("irqs", "interrupts cannot be passed through"),
    ("rdm", "devices cannot be passed through"),
    ("usbctrl", "USB is not supported"),
    ("usbdev", "USB is not supported"),
    ("vtpm", "a TPM is not supported"),
    ("p9", "9p file systems are not supported: give it a disk"),
    (
        "pvcalls",
        "PV calls are not supported: give it a network card (vif)",
    ),
    (
        "virtio",
        "virtio devices are not supported: disks and network cards are Xen's",
    ),
    ("nestedhvm", "nested virtualisation is not supported"),
    ("altp2m", "alternate p2m tables are not supported"),
    ("vpmu", "a virtual PMU is not supported"),
    ("vmtrace_buf_kb", "VM trace is not supported"),
    ("vnuma", "virtual NUMA nodes are not supported"),
    (
        "bootloader",
        "boot loaders such as pygrub are not supported: name the guest's kernel by kernel= (and ramdisk=), copied out of \
         its disk",
    ),
    ("device_tree", "device trees are ARM's"),
    ("driver_domain", "driver domains are not supported"),
    ("pvshim", "the PV shim is not supported"),
    ("acpi_firmware", "firmware tables are not supported"),
];

/// Keys of devices and features that a guest starts without, and what each is.
const NOT_THERE: [(&str, &str); 11] = [
    ("vfb", "no frame buffer"),
    ("vkb", "no keyboard"),
    ("vdispl", "no display"),
    ("vsnd", "no sound"),
    ("usbdevice", "no USB devices"),
    ("channel", "no channels"),
    ("firmware_override", "no firmware"),
    ("smbios_firmware", "no SMBIOS tables"),
    ("xend_suspend_evtchn_compat", "no port for xend"),
    (
        "seclabel",
        "no security label: there is no FLASK policy here",
    ),
    ("nomigrate", "no migration whatever this says"),
];

/// Says whether a value asks for something.
fn asks(value: &Value) -> bool {
    match &value.kind {
        Kind::List(items) => !items.is_empty(),
        Kind::Atom(text) => !matches!(text.as_slice(), b"" | b"0" | b"disabled"),
    }
}

fn refuse(settings: &Settings<'_>) {
    for (key, why) in REFUSED {
        if let Some(entry) = settings.get(key).filter(|entry| asks(&entry.value)) {
            settings.keep::<()>(Err(settings.error(&entry.key_at, format!("{key}: {why}"))));
        }
    }
}

fn check_hap(settings: &Settings<'_>) -> Result<(), Message> {
    match (settings.boolean("hap")?, settings.get("hap")) {
        (Some(false), Some(entry)) => Err(settings.error(
            &entry.value.at,
            "hap=0: shadow page tables are not supported",
        )),
        _ => Ok(()),
    }
}

fn note_not_there(settings: &Settings<'_>) {
    for (key, what) in NOT_THERE {
        if let Some(entry) = settings.get(key).filter(|entry| asks(&entry.value)) {
            let text = format!("{key} is ignored: the guest gets {what}");
            settings.warn(&entry.key_at, text);
        }
    }
}

/// Keys that are right in other guests, and change nothing in a PVH domain here.
const WITHOUT_EFFECT: [&str; 76] = [
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
    "vif2",
    "xauthority",
    "xen_platform_pci",
    "xen_platform_pci_bar_uc",
    "xenstore_feature_mask",
];

fn note_without_effect(settings: &Settings<'_>) {
    for key in WITHOUT_EFFECT {
        if let Some(entry) = settings.get(key).filter(|entry| asks(&entry.value)) {
            let text = format!("{key} has no effect on a PVH guest and is ignored");
            settings.warn(&entry.key_at, text);
        }
    }
    // Here 0 is what asks for something.
    if let (Some(Some(false)), Some(entry)) = (
        settings.keep(settings.boolean("acpi")),
        settings.get("acpi"),
    ) {
        let text = "acpi=0 has no effect: a PVH guest gets its ACPI tables all the same";
        settings.warn(&entry.key_at, text);
    }
}
