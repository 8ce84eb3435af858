//! `xl block-attach`, `xl block-list`, `xl block-detach`.

use clap::Parser;
use serde::Serialize;
use toolstack::config::{parse_disk, vdev_number};
use toolstack::devices::{DeviceInfo, Kind};

use super::network::or_unknown;
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
    spec: Vec<String>,
}

/// Show the disks of domains
#[derive(Debug, Parser)]
pub struct BlockList {
    /// Print JSON with a schema version
    #[arg(long)]
    json: bool,
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
        let disk = parse_disk(&self.spec.join(","))
            .map_err(|e| Failure::new(format!("xl block-attach: {e}")))?;
        if context.globals.dry_run {
            return output::print_json("block-attach", &disk);
        }
        let toolstack = context.toolstack()?;
        toolstack.attach_disk(domain.domid, &disk)?;
        if let Some(mut config) = toolstack.kept_config(domain.domid)? {
            config.disks.push(disk);
            toolstack.keep_config(domain.domid, &config)?;
        }
        Ok(())
    }
}

impl Verb for BlockList {
    fn run(self, context: &Context) -> Outcome {
        let mut disks = Vec::new();
        for name in &self.domains {
            let domain = context.find(name)?;
            disks.extend(context.toolstack()?.devices(domain.domid, Kind::Vbd)?);
        }
        if self.json {
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
        toolstack.detach(&disk.device, self.force)?;
        if let Some(mut config) = toolstack.kept_config(domain.domid)? {
            config
                .disks
                .retain(|disk| vdev_number(&disk.vdev) != Some(number));
            toolstack.keep_config(domain.domid, &config)?;
        }
        Ok(())
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
