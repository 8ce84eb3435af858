//! Disks and network cards as libxl's JSON.

use std::borrow::Cow;

use serde::Serialize;

use super::super::types::{DiskConfig, DiskFormat, DiskSource, VifConfig};
use super::{defbool, is_zero};

#[derive(Serialize)]
pub(super) struct Disk<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_domname: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pdev_path: Option<Cow<'a, str>>,
    vdev: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'static str>,
    format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    script: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    removable: u32,
    #[serde(skip_serializing_if = "is_zero")]
    readwrite: u32,
    #[serde(skip_serializing_if = "is_zero")]
    is_cdrom: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    direct_io_safe: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discard_enable: Option<&'static str>,
}

#[derive(Serialize)]
pub(super) struct Nic<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_domname: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) devid: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bridge: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ifname: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    script: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nictype: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_bytes_per_interval: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_interval_usecs: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gatewaydev: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted: Option<&'static str>,
}

impl<'a> Disk<'a> {
    pub(super) fn new(disk: &'a DiskConfig, running: bool) -> Self {
        Self {
            backend_domname: disk.backend.as_deref(),
            pdev_path: Some(disk.target.to_string_lossy()).filter(|path| !path.is_empty()),
            vdev: &disk.vdev,
            backend: match disk.source {
                DiskSource::Phy => Some("phy"),
                _ if running => Some("phy"),
                DiskSource::Qdisk => Some("qdisk"),
                DiskSource::Tap => Some("tap"),
                DiskSource::Auto => None,
            },
            format: match disk.format {
                DiskFormat::Raw => "raw",
                DiskFormat::Empty => "empty",
            },
            script: disk.script.as_deref(),
            removable: u32::from(disk.cdrom),
            readwrite: u32::from(disk.writable),
            is_cdrom: u32::from(disk.cdrom),
            direct_io_safe: disk.direct_io_safe.then_some(true),
            discard_enable: disk
                .discard
                .or(running.then_some(disk.writable))
                .map(defbool),
        }
    }
}

impl<'a> Nic<'a> {
    pub(super) fn new(devid: usize, vif: &'a VifConfig, running: bool) -> Self {
        Self {
            backend_domname: vif.backend.as_deref(),
            devid: Some(devid),
            mtu: vif.mtu,
            mac: vif.mac.map(String::from),
            ip: vif.ip.as_deref(),
            bridge: vif.bridge.as_deref(),
            ifname: vif.vifname.as_deref(),
            script: vif.script.as_deref(),
            nictype: running.then_some("vif"),
            rate_bytes_per_interval: vif.rate.map(|rate| rate.bytes_per_interval),
            rate_interval_usecs: vif.rate.map(|rate| rate.interval_us),
            gatewaydev: vif.gatewaydev.as_deref(),
            trusted: vif.untrusted.then_some(defbool(false)),
        }
    }
}
