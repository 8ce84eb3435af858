//! Disk specifications (xl-disk-configuration(5)): `TARGET,FORMAT,VDEV,ACCESS`, `KEY=VALUE,…`, or both mixed.
//!
//! `target=` takes the rest of the string, commas included. Old prefixes stand before the target and in place of the
//! format, so that what follows the target is the virtual device: `raw:` and the like name the format, `nbd:` and the
//! like a script, and `phy:`, `file:`, `tap:`, `aio:`, also one behind the other, say nothing any more. As in Xen's
//! xlu_disk, what is given twice must be the same.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::vdev::vdev_number;
use super::{DiskConfig, DiskFormat, DiskSource};

/// Reads one specification; what has no effect here is told to `note`.
///
/// # Errors
/// What is wrong, and which part it is about.
pub fn parse_disk(spec: &[u8], mut note: impl FnMut(String)) -> Result<DiskConfig, String> {
    let mut disk = Draft::default();
    let mut rest = spec.trim_ascii_start();
    while !rest.is_empty() {
        if let Some(target) = rest.strip_prefix(b"target=") {
            let target = target.strip_suffix(b",").unwrap_or(target);
            set("target", &mut disk.target, target.to_owned())?;
            break;
        }
        if let Some(after) = disk.prefix(rest)? {
            rest = after;
            continue;
        }
        let end = rest.iter().position(|byte| *byte == b',');
        let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
        disk.part(part.trim_ascii(), &mut note)?;
        rest = after.strip_prefix(b",").unwrap_or(after).trim_ascii_start();
    }
    disk.finish()
}

#[derive(Default)]
struct Draft {
    target: Option<Vec<u8>>,
    source: Option<DiskSource>,
    format: Option<DiskFormat>,
    /// Any old prefix was there.
    prefixed: bool,
    /// `phy:` was.
    below_dev: bool,
    vdev: Option<String>,
    access: Option<(bool, bool)>,
    /// The access was given by its place.
    access_placed: bool,
    cdrom: bool,
    direct_io_safe: bool,
    discard: Option<bool>,
    script: Option<String>,
    backend: Option<String>,
}

/// Notes a value; an empty one may be overwritten.
fn set<T: PartialEq + Default>(what: &str, to: &mut Option<T>, value: T) -> Result<(), String> {
    match to {
        Some(old) if *old != T::default() => Err(format!("{what} is given twice")),
        _ => {
            *to = Some(value);
            Ok(())
        }
    }
}

/// Notes one of several; the same one may be given twice.
fn choose<T: PartialEq>(what: &str, to: &mut Option<T>, value: T) -> Result<(), String> {
    match to {
        Some(old) if *old != value => Err(format!("{what} is given twice, as two things")),
        _ => {
            *to = Some(value);
            Ok(())
        }
    }
}

impl Draft {
    /// Takes an old prefix from the front; gives what follows it.
    fn prefix<'s>(&mut self, rest: &'s [u8]) -> Result<Option<&'s [u8]>, String> {
        if self.target.is_some() {
            return Ok(None);
        }
        let Some(colon) = rest.iter().position(|byte| *byte == b':') else {
            return Ok(None);
        };
        let (Ok(word), Some(after)) = (
            std::str::from_utf8(rest.get(..colon).unwrap_or_default()),
            rest.get(colon + 1..),
        ) else {
            return Ok(None);
        };
        let is_word = word.starts_with(|c: char| c.is_ascii_lowercase())
            && word
                .bytes()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        match word {
            "phy" => self.below_dev = true,
            "file" | "tap" | "tap2" | "tapdisk" | "aio" | "ioemu" => {}
            "raw" | "qcow" | "qcow2" | "vhd" => {
                choose("the format", &mut self.format, format(word)?)?;
            }
            "iscsi" | "nbd" | "enbd" | "drbd" => {
                set("script", &mut self.script, format!("block-{word}"))?;
            }
            _ if is_word
                && !after
                    .first()
                    .is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit()) =>
            {
                return Err(format!("unknown disk prefix {word}:"));
            }
            _ => return Ok(None),
        }
        self.prefixed = true;
        Ok(Some(after))
    }

    fn part(&mut self, part: &[u8], note: &mut impl FnMut(String)) -> Result<(), String> {
        let text = std::str::from_utf8(part);
        match text {
            Ok("cdrom") => self.cdrom = true,
            Ok("discard") => self.discard = Some(true),
            Ok("no-discard") => self.discard = Some(false),
            Ok("direct-io-safe") => self.direct_io_safe = true,
            Ok("trusted" | "no-colo") => {}
            Ok("untrusted") => return Err("an untrusted disk backend is not supported".into()),
            Ok("colo") => return Err("COLO is not supported".into()),
            Ok(text) => match text.split_once('=') {
                Some((key, value)) if is_word(key) => return self.named(key, value, note),
                _ => return self.positional(part),
            },
            Err(_) => return self.positional(part),
        }
        Ok(())
    }

    fn named(
        &mut self,
        key: &str,
        value: &str,
        note: &mut impl FnMut(String),
    ) -> Result<(), String> {
        match key {
            "format" => choose("the format", &mut self.format, format(value)?)?,
            "vdev" => set("vdev", &mut self.vdev, value.to_owned())?,
            "access" => self.access = Some(access(value)?),
            "backend" => set("backend", &mut self.backend, value.to_owned())?,
            "script" => set("script", &mut self.script, value.to_owned())?,
            "devtype" => self.cdrom = devtype(value)?,
            "backendtype" => choose("backendtype", &mut self.source, backendtype(value)?)?,
            "specification" if value == "xen" => {}
            "specification" => {
                return Err(format!(
                    "specification={value} is not supported: disks are Xen's here"
                ));
            }
            "grant_usage" if value == "1" => {}
            "grant_usage" if value == "0" => {
                note("grant_usage=0 has no effect: disks use grants".into());
            }
            "grant_usage" => return Err(format!("grant_usage is 0 or 1, not \"{value}\"")),
            "colo-host" | "colo-port" | "colo-export" | "active-disk" | "hidden-disk" => {
                note(format!("{key} has no effect: COLO is not supported"));
            }
            _ => return Err(unknown(key)),
        }
        Ok(())
    }

    /// Places a part by what is still missing: target, format, virtual device, access.
    fn positional(&mut self, part: &[u8]) -> Result<(), String> {
        if self.target.is_none() {
            if part.contains(&b'=') {
                return Err("a path with = or , in it is given by target=, at the end".into());
            }
            self.target = Some(part.to_owned());
            return Ok(());
        }
        let text = String::from_utf8_lossy(part);
        if self.format.is_none() && !self.prefixed {
            // An empty drive may go without its format: ",hdc:cdrom,r".
            if self.target.as_deref() == Some(b"") && part.contains(&b':') {
                self.format = Some(DiskFormat::Empty);
                return self.set_vdev(&text);
            }
            self.format = Some(format(&text)?);
        } else if self.vdev.is_none() {
            return self.set_vdev(&text);
        } else if !self.access_placed {
            self.access_placed = true;
            self.access = Some(access(&text)?);
        } else if !text.is_empty() {
            return Err(format!(
                "\"{text}\" is one part too many after target, format, vdev, access"
            ));
        }
        Ok(())
    }

    fn set_vdev(&mut self, part: &str) -> Result<(), String> {
        let vdev = match part.rsplit_once(':') {
            Some((vdev, kind)) => {
                self.cdrom = devtype(kind)?;
                vdev
            }
            None => part,
        };
        set("vdev", &mut self.vdev, vdev.to_owned())
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
        let script = self.script.filter(|script| !script.is_empty());
        let empty = target.is_empty() || format == DiskFormat::Empty;
        let (writable, shared) = self.access.unwrap_or((!self.cdrom, false));
        let mut path = PathBuf::from(OsStr::from_bytes(&target));
        // `phy:vg/lv` names a device below /dev.
        if self.below_dev && script.is_none() && path.is_relative() {
            path = PathBuf::from("/dev").join(path);
        }
        Ok(DiskConfig {
            target: if empty { PathBuf::new() } else { path },
            source: self.source.unwrap_or_default(),
            format: if empty { DiskFormat::Empty } else { format },
            vdev,
            writable: writable && !self.cdrom,
            shared,
            cdrom: self.cdrom,
            direct_io_safe: self.direct_io_safe,
            discard: self.discard,
            script,
            backend: self.backend.filter(|backend| !backend.is_empty()),
        })
    }
}

fn unknown(key: &str) -> String {
    const KNOWN: [&str; 9] = [
        "target",
        "format",
        "vdev",
        "access",
        "backend",
        "script",
        "devtype",
        "backendtype",
        "specification",
    ];
    let hint = super::nearest(key, KNOWN.into_iter())
        .map_or_else(String::new, |near| format!("; did you mean {near}=?"));
    format!("unknown disk parameter {key}={hint}")
}

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
            "disk format {text} needs a device model, which is not supported; convert the image to raw \
             (qemu-img convert -O raw)"
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

/// Whoever was to serve it, the bytes are raw, and blkback serves those.
fn backendtype(text: &str) -> Result<DiskSource, String> {
    match text {
        "phy" => Ok(DiskSource::Phy),
        "tap" => Ok(DiskSource::Tap),
        "qdisk" => Ok(DiskSource::Qdisk),
        "standalone" => Err("backendtype=standalone is not supported: leave it out".into()),
        _ => Err(format!("unknown backendtype \"{text}\": phy, qdisk or tap")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_disk(spec: &str) -> Result<DiskConfig, String> {
        super::parse_disk(spec.as_bytes(), |_| ())
    }

    #[test]
    fn the_documented_forms_of_one_disk_are_the_same() {
        let forms = [
            "/dev/vg/guest,raw,xvda,rw",
            "/dev/vg/guest,,xvda,w",
            "/dev/vg/guest,,xvda",
            "format=raw, vdev=xvda, access=rw, target=/dev/vg/guest",
            "raw:/dev/vg/guest,xvda,w",
            "vdev=xvda,target=/dev/vg/guest",
            "tap:aio:/dev/vg/guest,xvda,w",
            "tap:/dev/vg/guest,xvda,w",
            "tap2:aio:/dev/vg/guest,xvda,w",
            "tapdisk:/dev/vg/guest,xvda",
            "ioemu:file:/dev/vg/guest,xvda,w",
            "aio:/dev/vg/guest,xvda,w",
            "phy:/dev/vg/guest,xvda,w",
            "file:/dev/vg/guest,xvda,w",
            "raw:tap:/dev/vg/guest,xvda,w",
            "/dev/vg/guest,raw,xvda,r,access=w",
            "/dev/vg/guest,raw,xvda,format=raw",
            "/dev/vg/guest,raw,xvda,,",
        ];
        let first = parse_disk(forms[0]).unwrap();
        assert!(first.writable && !first.shared && first.vdev == "xvda");
        assert_eq!(first.target, PathBuf::from("/dev/vg/guest"));
        for form in forms {
            assert_eq!(parse_disk(form).unwrap(), first, "{form}");
        }
        for backend in ["phy", "tap", "qdisk"] {
            let form = format!("/dev/vg/guest,raw,xvda,w,backendtype={backend}");
            let disk = parse_disk(&form).unwrap();
            assert_eq!(
                (disk.target, disk.format),
                (first.target.clone(), first.format)
            );
        }
    }

    #[test]
    fn old_prefixes_say_where_the_bytes_come_from() {
        let phy = parse_disk("phy:/dev/sdb1,xvda1,r").unwrap();
        assert_eq!((phy.writable, phy.vdev.as_str()), (false, "xvda1"));
        let file = parse_disk("file:/srv/a.img,xvdb,w!").unwrap();
        assert!(file.shared);
        let relative = parse_disk("phy:vg/lv,xvda,w").unwrap().target;
        assert_eq!(relative, PathBuf::from("/dev/vg/lv"));
        let drbd = parse_disk("drbd:web,xvda,w").unwrap();
        assert_eq!(drbd.script.as_deref(), Some("block-drbd"));
        assert_eq!(drbd.target, PathBuf::from("web"));
        for whole in ["iqn.2001-05:x,raw,xvda", "/x:y,raw,xvda", "a:b,raw,xvda"] {
            let target = parse_disk(whole).unwrap().target;
            assert_eq!(target.to_str(), whole.split(',').next(), "{whole}");
        }
    }

    #[test]
    fn paths_are_bytes() {
        let disk = super::parse_disk(b"file:/srv/caf\xe9.img,xvda,w", |_| ()).unwrap();
        assert_eq!(disk.target.as_os_str().as_bytes(), b"/srv/caf\xe9.img");
        let text = serde_json::to_string(&disk).unwrap();
        assert_eq!(serde_json::from_str::<DiskConfig>(&text).unwrap(), disk);
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
        let named = parse_disk("vdev=hdc,devtype=cdrom,target=/a,b.iso").unwrap();
        assert_eq!(named.target, PathBuf::from("/a,b.iso"));
    }

    #[test]
    fn what_cannot_be_served_says_so() {
        for (spec, what) in [
            ("/a.qcow2,qcow2,xvda,w", "device model"),
            ("tap:qcow2:/a,xvda,w", "device model"),
            ("/a,raw,xvda,w,backendtype=standalone", "not supported"),
            ("/a,raw,xvda,x", "unknown disk access"),
            ("/a,raw", "virtual device"),
            ("/a,raw,foo,w", "no virtual device"),
            ("/a,raw,xvda,w,more", "too many"),
            ("/a,raw,xvda,fromat=raw", "did you mean format=?"),
            (",raw,xvda,w", "no target"),
            ("http:/x,raw,xvda", "unknown disk prefix"),
            ("/a=b,raw,xvda", "by target="),
            // the same thing twice
            ("/a,raw,xvda,w,vdev=xvdb", "vdev is given twice"),
            ("hdc,devtype=cdrom,target=/a,b.iso", "target is given twice"),
            ("/a,raw,xvda,format=empty", "the format is given twice"),
            ("/a,raw,xvda,script=a,script=a", "script is given twice"),
            (
                "/a,raw,xvda,backendtype=phy,backendtype=tap",
                "backendtype is given twice",
            ),
        ] {
            let error = parse_disk(spec).unwrap_err();
            assert!(error.contains(what), "{spec}: {error}");
        }
        assert!(parse_disk("/a,raw,xvda,script=,script=b").is_ok());
    }
}
