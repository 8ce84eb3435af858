//! Disks: a block device, or a file behind a loop device, served by blkback.
//!
//! blkback takes `physical-device`, the numbers of an open-able block device; finding them is all that Xen's `block`
//! script does, and it is done here before the backend's directory is published, so that nothing waits for it.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};
use xenstore::Ops;

use super::{Device, Kind, Nodes, loopdev, script, sharing};

use crate::config::{DiskConfig, DiskFormat, vdev_number};
use crate::{DOM0, Error, Lock, Result, Toolstack};

/// The node that says which loop device belongs to a backend.
const LOOP: &str = "loop-device";

impl Toolstack {
    /// Attaches a disk to a domain. Its target is a path that does not depend on the directory we are in.
    ///
    /// # Errors
    /// [`Error::Refused`] where its target is in use, or no such device can be; otherwise the file's or xenstore's.
    pub fn attach_disk(&self, held: &Lock, domid: u16, disk: &DiskConfig) -> Result<Device> {
        let devid = vdev_number(&disk.vdev).ok_or_else(|| {
            Error::Refused(format!(
                "\"{}\" is no name of a disk: xvda, sda1, hdc, d0p1 …",
                disk.vdev
            ))
        })?;
        let backend = self.backend_domain(disk.backend.as_deref())?;
        let device = Device {
            kind: Kind::Vbd,
            frontend: domid,
            backend,
            devid,
        };
        let mut nodes = common_nodes(disk);
        // another domain's files are its own business, and so is a script's
        if disk.script.is_some() || backend != DOM0 || disk.format == DiskFormat::Empty {
            return self.publish_disk(&device, disk, nodes, None);
        }
        let path = std::fs::canonicalize(&disk.target)
            .map_err(|error| Error::file(&disk.target, error))?;
        if !disk.target.is_absolute() {
            return Err(Error::Refused(format!(
                "{} is no absolute path: others could not tell what it is",
                disk.target.display()
            )));
        }
        sharing::check(self, held, domid, disk, &path)?;
        let metadata = std::fs::metadata(&path).map_err(|error| Error::file(&path, error))?;
        let looped = if metadata.file_type().is_block_device() {
            None
        } else {
            Some(loopdev::attach(&path, !disk.writable, disk.direct_io_safe)?)
        };
        let (block, number) = match &looped {
            Some(looped) => (looped.path().to_owned(), looped.number()),
            None => (path, metadata.rdev()),
        };
        nodes.push((
            "physical-device",
            format!("{:x}:{:x}", major(number), minor(number)),
        ));
        nodes.push(("physical-device-path", block.display().to_string()));
        nodes.push(("hotplug-status", "connected".to_owned()));
        if looped.is_some() {
            nodes.push((LOOP, block.display().to_string()));
        }
        self.publish_disk(&device, disk, nodes, looped)
    }

    fn publish_disk(
        &self,
        device: &Device,
        disk: &DiskConfig,
        mut nodes: Nodes,
        looped: Option<loopdev::LoopDevice>,
    ) -> Result<Device> {
        let frontend = vec![
            ("virtual-device", device.devid.to_string()),
            (
                "device-type",
                if disk.cdrom { "cdrom" } else { "disk" }.to_owned(),
            ),
        ];
        if let Some(script) = &disk.script {
            nodes.push(("script", script::locate(&self.paths, script)));
            nodes.push(("hotplug-by-script", "1".to_owned()));
        }
        let bytes = |(name, value): (&'static str, String)| (name, value.into_bytes());
        let mut nodes: Vec<_> = nodes.into_iter().map(bytes).collect();
        // as it is: who compares it opens it
        nodes.push(("params", disk.target.as_os_str().as_bytes().to_owned()));
        self.publish_device(device, &nodes, &frontend)?;
        if let (Some(script), DOM0) = (&disk.script, device.backend) {
            let script = script::locate(&self.paths, script);
            if let Err(error) = self.run_script(device, &script, script::Moment::Attach) {
                self.forget_device(device)?;
                return Err(error);
            }
        }
        // from here on the loop device belongs to what was published
        if let Some(looped) = looped {
            looped.keep();
        }
        Ok(*device)
    }
}

fn common_nodes(disk: &DiskConfig) -> Nodes {
    let flag = |is: bool| if is { "1" } else { "0" }.to_owned();
    let mode = match (disk.writable, disk.shared) {
        (true, true) => "w!",
        (true, false) => "w",
        (false, _) => "r",
    };
    let mut nodes = vec![
        ("dev", disk.vdev.clone()),
        ("type", "phy".to_owned()),
        ("mode", mode.to_owned()),
        (
            "device-type",
            if disk.cdrom { "cdrom" } else { "disk" }.to_owned(),
        ),
        ("bootable", "1".to_owned()),
        ("removable", flag(disk.cdrom)),
        ("direct-io-safe", flag(disk.direct_io_safe)),
    ];
    if let Some(discard) = disk.discard {
        nodes.push(("discard-enable", flag(discard)));
    }
    nodes
}

/// Gives back the loop device of a backend's directory, where it has one.
pub(super) fn release(ts: &Toolstack, back: &str) -> Result<()> {
    match ts.store.read_string_opt(&format!("{back}/{LOOP}"))? {
        None => Ok(()),
        Some(path) => loopdev::release(&PathBuf::from(path)),
    }
}

/// Which file or device a path leads to: a file's identity, or a device's number.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    if metadata.file_type().is_block_device() {
        return Some((u64::MAX, metadata.rdev()));
    }
    Some((metadata.dev(), metadata.ino()))
}
