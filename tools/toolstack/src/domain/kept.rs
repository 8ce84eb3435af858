//! The configuration of a running domain, kept in a file: what a reboot builds it from again.
//!
//! It lies where libxl keeps such files, under the domain's id and UUID.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use uuid::Uuid;
use xenstore::Ops;

use crate::config::{DomainConfig, VifConfig, vdev_number};
use crate::devices::{DeviceInfo, Kind};
use crate::{Error, Lock, Result, Toolstack};

impl Toolstack {
    fn kept_path(&self, domid: u16, uuid: Uuid) -> PathBuf {
        self.paths
            .userdata
            .join(format!("userdata-d.{domid}.{uuid}.hematite-json"))
    }

    /// Keeps a domain's configuration; a reader sees the old one or the new one whole.
    ///
    /// # Errors
    /// The file system's.
    pub fn keep_config(&self, _held: &Lock, domid: u16, config: &DomainConfig) -> Result<()> {
        std::fs::create_dir_all(&self.paths.userdata)
            .map_err(|error| Error::file(&self.paths.userdata, error))?;
        write_json(&self.kept_path(domid, config.uuid), config)
    }

    /// Reads a domain's configuration back; `None` where none was kept.
    ///
    /// # Errors
    /// Where the file cannot be read or understood.
    pub fn kept_config(&self, domid: u16) -> Result<Option<DomainConfig>> {
        let uuid = self.info(domid)?.uuid;
        let path = self.kept_path(domid, uuid);
        match std::fs::read(&path) {
            Ok(bytes) => {
                let mut config: DomainConfig = serde_json::from_slice(&bytes)
                    .map_err(|error| Error::file(&path, std::io::Error::from(error)))?;
                // the name is xenstore's to tell: it may have been changed
                config.name = self.name_of(domid)?.unwrap_or(config.name);
                Ok(Some(config))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file(&path, error)),
        }
    }

    /// Takes a device out of its domain's kept configuration, if it is gone: one that stays attached comes back with
    /// the next reboot as well.
    ///
    /// # Errors
    /// xenstore's, the file system's.
    pub fn forget_detached(&self, held: &Lock, info: &DeviceInfo) -> Result<()> {
        let device = &info.device;
        if self.store.exists(&device.libxl_path())? {
            return Ok(());
        }
        let Some(mut config) = self.kept_config(device.frontend)? else {
            return Ok(());
        };
        match device.kind {
            Kind::Vbd => config
                .disks
                .retain(|disk| vdev_number(&disk.vdev) != Some(device.devid)),
            Kind::Vif => leave_out(&mut config.vifs, info),
        }
        self.keep_config(held, device.frontend, &config)
    }

    /// Removes it.
    pub(crate) fn forget_config(&self, domid: u16, uuid: Uuid) -> Result<()> {
        remove_if_there(&self.kept_path(domid, uuid))
    }
}

/// Writes a value as JSON to a file for its owner alone; a reader sees the old one or the new one whole.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let failed = |error: std::io::Error| Error::file(path, error);
    let text = serde_json::to_vec_pretty(value).map_err(|error| failed(error.into()))?;
    let new = path.with_extension("new");
    let written = private_file::create(&new).and_then(|mut file| file.write_all(&text));
    written
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(failed)
}

/// Removes a file; one that is not there is no error.
pub(crate) fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file(path, error)),
        _ => Ok(()),
    }
}

/// Takes a card out of those of a configuration: by its address, or by its place where the configuration has none for
/// it.
fn leave_out(vifs: &mut Vec<VifConfig>, card: &DeviceInfo) {
    let has_its_address = |vif: &VifConfig| vif.mac.map(String::from) == card.mac;
    let place = usize::try_from(card.device.devid).unwrap_or(usize::MAX);
    let by_address = vifs
        .iter()
        .position(|vif| vif.mac.is_some() && has_its_address(vif));
    let by_place = || {
        vifs.get(place)
            .filter(|vif| vif.mac.is_none())
            .map(|_| place)
    };
    if let Some(at) = by_address.or_else(by_place) {
        vifs.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{Device, State};
    use std::os::unix::fs::PermissionsExt;

    use crate::testing::Bench;

    #[test]
    fn what_a_domain_is_made_of_is_for_its_owner_to_read() {
        let bench = Bench::new();
        let created = bench.create(&bench.config("web")).unwrap();
        let path = bench.ts.kept_path(created.domid, created.config.uuid);
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    fn card(devid: u32, mac: &str) -> DeviceInfo {
        DeviceInfo {
            device: Device {
                kind: Kind::Vif,
                frontend: 3,
                backend: 0,
                devid,
            },
            state: State::Connected,
            event_channel: None,
            ring_refs: Vec::new(),
            mac: Some(mac.to_owned()),
            name: None,
            target: None,
        }
    }

    #[test]
    fn a_card_that_is_detached_is_left_out_with_and_without_an_address() {
        let with = |text: &str| VifConfig {
            mac: text.parse().ok(),
            ..Default::default()
        };
        let (first, second) = ("00:16:3e:00:00:01", "00:16:3e:00:00:02");
        let mut vifs = vec![with(""), with(second)];
        leave_out(&mut vifs, &card(5, second));
        assert_eq!(vifs, [with("")]);
        leave_out(&mut vifs, &card(1, first));
        assert_eq!(vifs, [with("")], "card 1 is another one");
        leave_out(&mut vifs, &card(0, first));
        assert!(vifs.is_empty());
        let mut other = vec![with(second)];
        leave_out(&mut other, &card(0, first));
        assert_eq!(other, [with(second)], "it has an address of its own");
    }
}
