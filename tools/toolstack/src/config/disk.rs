//! Disk specifications (xl-disk-configuration(5)): `TARGET,FORMAT,VDEV,ACCESS`, `KEY=VALUE,…`, or both mixed.
//!
//! `target=` takes the rest of the string, commas included. The old prefixes `phy:`, `file:` and `raw:` stand in for the
//! format, so that what follows the target is the virtual device.

use super::{DiskConfig, DiskFormat, DiskSource};

/// Reads one specification.
///
/// # Errors
/// What is wrong, and which part it is about.
pub fn parse_disk(spec: &str) -> Result<DiskConfig, String> {
    let mut disk = Draft::default();
    let mut rest = spec.trim();
    while !rest.is_empty() {
        if let Some(target) = rest.strip_prefix("target=") {
            disk.set_target(target)?;
            break;
        }
        let (part, after) = rest.split_once(',').unwrap_or((rest, ""));
        disk.part(part.trim())?;
        rest = after.trim_start();
    }
    disk.finish()
}

#[derive(Default)]
struct Draft {
    target: Option<String>,
    source: DiskSource,
    format: Option<DiskFormat>,
    prefixed: bool,
    vdev: Option<String>,
    access: Option<(bool, bool)>,
    cdrom: bool,
    direct_io_safe: bool,
    discard: Option<bool>,
    script: Option<String>,
    backend: Option<String>,
}

impl Draft {
    fn part(&mut self, part: &str) -> Result<(), String> {
        match part {
            "cdrom" => self.cdrom = true,
            "discard" => self.discard = Some(true),
            "no-discard" => self.discard = Some(false),
            "direct-io-safe" => self.direct_io_safe = true,
            "trusted" | "no-colo" => {}
            "untrusted" => return Err("an untrusted disk backend is not supported".into()),
            "colo" => return Err("COLO is not supported".into()),
            _ => match part.split_once('=') {
                Some((key, value)) if is_word(key) => return self.named(key, value),
                _ => return self.positional(part),
            },
        }
        Ok(())
    }

    fn named(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "format" => self.format = Some(format(value)?),
            "vdev" => self.vdev = Some(value.to_owned()),
            "access" => self.access = Some(access(value)?),
            "backend" => self.backend = Some(value.to_owned()).filter(|b| !b.is_empty()),
            "script" => self.script = Some(value.to_owned()).filter(|s| !s.is_empty()),
            "devtype" => self.cdrom = devtype(value)?,
            "backendtype" => self.source = backendtype(value)?,
            "specification" if value == "xen" => {}
            "specification" => {
                return Err(format!(
                    "specification={value} is not supported: disks are Xen's here"
                ));
            }
            "grant_usage" => {}
            _ => return Err(format!("unknown disk parameter {key}=")),
        }
        Ok(())
    }

    /// Places a part by what is still missing: target, format, virtual device, access.
    fn positional(&mut self, part: &str) -> Result<(), String> {
        if self.target.is_none() {
            return self.set_target(part);
        }
        if self.format.is_none() && !self.prefixed {
            // An empty drive may go without its format: ",hdc:cdrom,r".
            if self.target.as_deref() == Some("") && part.contains(':') {
                self.format = Some(DiskFormat::Empty);
                return self.set_vdev(part);
            }
            self.format = Some(format(part)?);
            return Ok(());
        }
        if self.vdev.is_none() {
            return self.set_vdev(part);
        }
        if self.access.is_none() {
            self.access = Some(access(part)?);
            return Ok(());
        }
        Err(format!(
            "\"{part}\" is one part too many after target, format, vdev, access"
        ))
    }

    fn set_vdev(&mut self, part: &str) -> Result<(), String> {
        let vdev = match part.rsplit_once(':') {
            Some((vdev, kind)) => {
                self.cdrom = devtype(kind)?;
                vdev
            }
            None => part,
        };
        self.vdev = Some(vdev.to_owned());
        Ok(())
    }

    fn set_target(&mut self, text: &str) -> Result<(), String> {
        if self.target.is_some() {
            return Err("the target is given twice".into());
        }
        let (prefix, target) = match text.split_once(':') {
            Some((prefix, target)) if is_word(prefix) && !prefix.contains('/') => (prefix, target),
            _ => ("", text),
        };
        match prefix {
            "" => {}
            "phy" => self.source = DiskSource::Phy,
            "file" => self.source = DiskSource::File,
            "raw" | "aio" => self.format = Some(DiskFormat::Raw),
            "iscsi" | "nbd" | "enbd" | "drbd" => self.script = Some(format!("block-{prefix}")),
            "qcow" | "qcow2" | "vhd" | "tap" | "tap2" | "tapdisk" | "ioemu" => {
                return Err(format!(
                    "{prefix}: needs a device model, which is not supported; {CONVERT}"
                ));
            }
            _ => return Err(format!("unknown disk prefix {prefix}:")),
        }
        self.prefixed = !prefix.is_empty();
        self.target = Some(target.to_owned());
        Ok(())
    }

    fn finish(self) -> Result<DiskConfig, String> {
        let vdev = self
            .vdev
            .filter(|v| !v.is_empty())
            .ok_or("a disk needs its virtual device, as in vdev=xvda")?;
        vdev_number(&vdev).ok_or_else(|| {
            format!("\"{vdev}\" is no virtual device: xvda, xvdb1, sda, hda, d0p1 …")
        })?;
        let target = self.target.unwrap_or_default();
        let format = self.format.unwrap_or_default();
        if target.is_empty() && !self.cdrom {
            return Err(format!("disk {vdev} has no target"));
        }
        let empty = target.is_empty() || format == DiskFormat::Empty;
        let (writable, shared) = self.access.unwrap_or((!self.cdrom, false));
        // `phy:vg/lv` names a device below /dev.
        let below_dev =
            self.source == DiskSource::Phy && self.script.is_none() && !target.starts_with('/');
        let target = if below_dev && !empty {
            format!("/dev/{target}")
        } else {
            target
        };
        Ok(DiskConfig {
            target: if empty { String::new() } else { target },
            source: self.source,
            format: if empty { DiskFormat::Empty } else { format },
            vdev,
            writable: writable && !self.cdrom,
            shared,
            cdrom: self.cdrom,
            direct_io_safe: self.direct_io_safe,
            discard: self.discard,
            script: self.script,
            backend: self.backend,
        })
    }
}

const CONVERT: &str = "convert the image to raw (qemu-img convert -O raw)";

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
}

fn format(text: &str) -> Result<DiskFormat, String> {
    match text {
        "" | "raw" => Ok(DiskFormat::Raw),
        "empty" => Ok(DiskFormat::Empty),
        "qcow" | "qcow2" | "vhd" | "qed" => Err(format!(
            "disk format {text} needs a device model, which is not supported; {CONVERT}"
        )),
        _ => Err(format!("unknown disk format \"{text}\": raw or empty")),
    }
}

/// Gives (writable, shared).
fn access(text: &str) -> Result<(bool, bool), String> {
    match text {
        "" | "w" | "rw" => Ok((true, false)),
        "w!" | "rw!" | "!" => Ok((true, true)),
        "r" | "ro" => Ok((false, false)),
        _ => Err(format!("unknown disk access \"{text}\": r, w or w!")),
    }
}

fn devtype(text: &str) -> Result<bool, String> {
    match text {
        "disk" => Ok(false),
        "cdrom" => Ok(true),
        _ => Err(format!("unknown disk type \"{text}\": disk or cdrom")),
    }
}

fn backendtype(text: &str) -> Result<DiskSource, String> {
    match text {
        "phy" => Ok(DiskSource::Phy),
        "tap" | "qdisk" | "standalone" => {
            Err(format!("backendtype={text} is not supported: phy is"))
        }
        _ => Err(format!("unknown backendtype \"{text}\": phy")),
    }
}

/// Gives the number of a virtual device (xen-vbd-interface(7)): `xvda` 51712, `hda` 768, `sda` 2048, `d0p1` 51713, or
/// a number itself.
pub fn vdev_number(vdev: &str) -> Option<u32> {
    if let Ok(number) = vdev.parse::<u32>() {
        return Some(number);
    }
    if let Some(hex) = vdev.strip_prefix("0x") {
        return u32::from_str_radix(hex, 16).ok();
    }
    if let Some((disk, partition)) = plain(vdev) {
        return xvd(disk, partition);
    }
    let (base, rest) = vdev.split_at_checked(2)?;
    let (base, rest) = if base == "xv" {
        (base, rest.strip_prefix('d')?)
    } else {
        (base, rest)
    };
    let (disk, partition) = letters(rest)?;
    match base {
        "xv" => xvd(disk, partition),
        "sd" if disk < 16 && partition < 16 => Some((8 << 8) | (disk << 4) | partition),
        "hd" if disk < 4 && partition < 64 => {
            let major = if disk < 2 { 3 } else { 22 };
            Some((major << 8) | ((disk & 1) << 6) | partition)
        }
        _ => None,
    }
}

fn xvd(disk: u32, partition: u32) -> Option<u32> {
    if disk < 16 && partition < 16 {
        return Some((202 << 8) | (disk << 4) | partition);
    }
    (disk < 1 << 20 && partition < 256).then_some((1 << 28) | (disk << 8) | partition)
}

fn plain(vdev: &str) -> Option<(u32, u32)> {
    let rest = vdev.strip_prefix('d')?;
    match rest.split_once('p') {
        Some((disk, partition)) => Some((disk.parse().ok()?, partition.parse().ok()?)),
        None => Some((rest.parse().ok()?, 0)),
    }
}

/// Reads `a`, `b3`, `aa12`: disk and partition.
fn letters(text: &str) -> Option<(u32, u32)> {
    let end = text
        .find(|c: char| !c.is_ascii_lowercase())
        .unwrap_or(text.len());
    let (name, digits) = text.split_at(end);
    if name.is_empty() || name.len() > 4 {
        return None;
    }
    let disk = name
        .bytes()
        .fold(0, |n, c| n * 26 + u32::from(c - b'a') + 1)
        - 1;
    let partition = if digits.is_empty() {
        0
    } else {
        digits.parse().ok().filter(|p| *p > 0)?
    };
    Some((disk, partition))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_forms_of_one_disk_are_the_same() {
        let forms = [
            "/dev/vg/guest,raw,xvda,rw",
            "/dev/vg/guest,,xvda,w",
            "/dev/vg/guest,,xvda",
            "format=raw, vdev=xvda, access=rw, target=/dev/vg/guest",
            "raw:/dev/vg/guest,xvda,w",
            "vdev=xvda,target=/dev/vg/guest",
        ];
        let first = parse_disk(forms[0]).unwrap();
        assert!(
            first.writable
                && !first.shared
                && first.target == "/dev/vg/guest"
                && first.vdev == "xvda"
        );
        for form in forms {
            assert_eq!(parse_disk(form).unwrap(), first, "{form}");
        }
    }

    #[test]
    fn old_prefixes_say_where_the_bytes_come_from() {
        let phy = parse_disk("phy:/dev/sdb1,xvda1,r").unwrap();
        assert_eq!(
            (phy.source, phy.writable, phy.vdev.as_str()),
            (DiskSource::Phy, false, "xvda1")
        );
        let file = parse_disk("file:/srv/a.img,xvdb,w!").unwrap();
        assert_eq!((file.source, file.shared), (DiskSource::File, true));
        assert_eq!(parse_disk("phy:vg/lv,xvda,w").unwrap().target, "/dev/vg/lv");
        let drbd = parse_disk("drbd:web,xvda,w").unwrap();
        assert_eq!(
            (drbd.script.as_deref(), drbd.target.as_str()),
            (Some("block-drbd"), "web")
        );
    }

    #[test]
    fn drives_may_be_empty_and_are_read_only() {
        for form in [
            ",hdc:cdrom,r",
            ",empty,hdc,r,devtype=cdrom",
            "vdev=hdc,format=empty,cdrom",
        ] {
            let disk = parse_disk(form).unwrap();
            assert!(
                disk.cdrom && !disk.writable && disk.format == DiskFormat::Empty,
                "{form}"
            );
        }
        assert_eq!(
            parse_disk("/a,b.iso,raw,hdc").unwrap_err(),
            "unknown disk format \"b.iso\": raw or empty"
        );
        assert_eq!(
            parse_disk("hdc,devtype=cdrom,target=/a,b.iso").unwrap_err(),
            "the target is given twice"
        );
        assert_eq!(
            parse_disk("vdev=hdc,devtype=cdrom,target=/a,b.iso")
                .unwrap()
                .target,
            "/a,b.iso"
        );
    }

    #[test]
    fn what_cannot_be_served_says_so() {
        for (spec, what) in [
            ("/a.qcow2,qcow2,xvda,w", "device model"),
            ("tap:aio:/a,xvda,w", "device model"),
            ("/a,raw,xvda,w,backendtype=qdisk", "not supported"),
            ("/a,raw,xvda,x", "unknown disk access"),
            ("/a,raw", "virtual device"),
            ("/a,raw,foo,w", "no virtual device"),
            ("/a,raw,xvda,w,more", "too many"),
            ("foo=1,/a,raw,xvda", "unknown disk parameter"),
            (",raw,xvda,w", "no target"),
        ] {
            let error = parse_disk(spec).unwrap_err();
            assert!(error.contains(what), "{spec}: {error}");
        }
    }

    #[test]
    fn virtual_devices_have_their_numbers() {
        for (vdev, number) in [
            ("xvda", Some(51712)),
            ("xvda1", Some(51713)),
            ("xvdb", Some(51728)),
            ("xvdp15", Some(51967)),
            ("xvdq", Some((1 << 28) | (16 << 8))),
            ("xvdaa3", Some((1 << 28) | (26 << 8) | 3)),
            ("d1p2", Some(51730)),
            ("d0", Some(51712)),
            ("hda", Some(768)),
            ("hdd2", Some(5698)),
            ("sdb1", Some(2065)),
            ("51712", Some(51712)),
            ("0xca00", Some(51712)),
            ("xvd", None),
            ("xvda0", None),
            ("hde", None),
            ("foo", None),
            ("", None),
        ] {
            assert_eq!(vdev_number(vdev), number, "{vdev}");
        }
    }
}
