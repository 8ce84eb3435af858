//! `xl block-attach`, `xl block-list`, `xl block-detach`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::Parser;
use serde::Serialize;
use toolstack::config::{DiskConfig, disk_json, parse_disk, vdev_number};
use toolstack::devices::{DeviceInfo, Force, Kind};

use super::network::or_unknown;
use crate::config_file::make_disk_absolute;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table::Verb;

/// Give a running domain a disk
#[derive(Debug, Parser)]
pub struct BlockAttach {
    /// Domain: name, id or UUID
    domain: String,
    /// As in a configuration's disk: phy:/dev/vg/data,xvdb,w
    #[arg(required = true)]
    spec: Vec<OsString>,
}

/// Show the disks of domains
#[derive(Debug, Parser)]
pub struct BlockList {
    /// Domains: names, ids or UUIDs
    #[arg(required = true)]
    domains: Vec<String>,
}

/// Take a disk from a running domain
#[derive(Debug, Parser)]
pub struct BlockDetach {
    /// Take it even if the guest does not let go
    #[arg(short, long)]
    force: bool,
    /// Domain: name, id or UUID
    domain: String,
    /// Disk's name or number: xvdb, 51728
    device: String,
}

impl Verb for BlockAttach {
    fn run(self, context: &Context) -> Outcome {
        let domain = context.find(&self.domain)?;
        let disk = read(&self.spec)?;
        if context.globals.dry_run {
            context.answer("block-attach", &disk)?;
            if context.json() {
                return Ok(());
            }
            return output::print(&format!("disk: {}\n", disk_json(&disk)));
        }
        let toolstack = context.toolstack()?;
        let held = context.lock()?;
        let device = toolstack.attach_disk(&held, domain.domid, &disk)?;
        let made =
            serde_json::json!({"domid": domain.domid, "devid": device.devid, "vdev": disk.vdev});
        if let Some(mut config) = toolstack.kept_config(domain.domid)? {
            config.disks.push(disk);
            toolstack.keep_config(&held, domain.domid, &config)?;
        }
        context.answer("block-attach", made)
    }
}

/// Reads a disk's words; its path no longer depends on this directory.
fn read(words: &[OsString]) -> Result<DiskConfig, Failure> {
    let spec = words.join(OsStr::new(","));
    let note = |text| output::note(&format!("xl: warning: {text}"));
    let mut disk = parse_disk(spec.as_bytes(), note)
        .map_err(|error| Failure::new(format!("xl block-attach: {error}")))?;
    make_disk_absolute(&mut disk)?;
    Ok(disk)
}

impl Verb for BlockList {
    fn run(self, context: &Context) -> Outcome {
        let mut disks = Vec::new();
        for domain in context.find_those_there(&self.domains)? {
            disks.extend(context.toolstack()?.devices(domain.domid, Kind::Vbd)?);
        }
        if context.json() {
            return output::print_json(
                "block-list",
                disks.iter().map(Json::new).collect::<Vec<_>>(),
            );
        }
        output::print(&text(&disks))
    }
}

impl Verb for BlockDetach {
    fn run(self, context: &Context) -> Outcome {
        let domain = context.find(&self.domain)?;
        let toolstack = context.toolstack()?;
        let unknown = || Failure::new(format!("Error: Device {} not connected.", self.device));
        let number = vdev_number(&self.device).ok_or_else(unknown)?;
        let disks = toolstack.devices(domain.domid, Kind::Vbd)?;
        let disk = disks
            .iter()
            .find(|info| info.device.devid == number)
            .ok_or_else(unknown)?;
        let force = if self.force {
            Force::AtOnce
        } else {
            Force::Never
        };
        let detached = toolstack.detach(&disk.device, force);
        toolstack.forget_detached(&context.lock()?, disk)?;
        Ok(detached?)
    }
}

/// Gives the table; a number that is not known is -1. The column "handle" holds the frontend's domain id, as in xl.
pub fn text(disks: &[DeviceInfo]) -> String {
    let mut text = format!(
        "{:<5} {:<3} {:<6} {:<5} {:<6} {:<8} {:<30}\n",
        "Vdev", "BE", "handle", "state", "evt-ch", "ring-ref", "BE-path"
    );
    for disk in disks {
        let device = &disk.device;
        text.push_str(&format!(
            "{:<5} {:<3} {:<6} {:<5} {:<6} {:<8} {:<30}\n",
            device.devid,
            device.backend,
            device.frontend,
            disk.state as u8,
            or_unknown(disk.event_channel),
            or_unknown(disk.ring_refs.first().copied()),
            device.backend_path(),
        ));
    }
    text
}

#[derive(Serialize)]
struct Json<'a> {
    domid: u16,
    devid: u32,
    vdev: Option<&'a str>,
    target: Option<&'a str>,
    backend_domid: u16,
    backend_path: String,
    state: u8,
    event_channel: Option<u32>,
    ring_refs: &'a [u32],
}

impl<'a> Json<'a> {
    fn new(disk: &'a DeviceInfo) -> Self {
        Self {
            domid: disk.device.frontend,
            devid: disk.device.devid,
            vdev: disk.name.as_deref(),
            target: disk.target.as_deref(),
            backend_domid: disk.device.backend,
            backend_path: disk.device.backend_path(),
            state: disk.state as u8,
            event_channel: disk.event_channel,
            ring_refs: &disk.ring_refs,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_path_is_kept_for_another_directory() {
        let read = |text: &str| read(&[text.into()]).unwrap().target;
        let here = std::env::current_dir().unwrap();
        assert_eq!(read("file:d.img,xvdb,w"), here.join("d.img"));
        assert_eq!(read("/srv/d.img,raw,xvdb,rw"), Path::new("/srv/d.img"));
        let by_script = read("format=raw,vdev=xvdb,script=block-iscsi,target=iqn.2001-05:x");
        assert_eq!(by_script, Path::new("iqn.2001-05:x"));
    }
}
