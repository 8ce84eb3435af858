//! What devices a domain has, for `block-list` and `network-list`.

use xenstore::Ops;

use super::{Device, Kind, State};
use crate::create::libxl_path;
use crate::domain::path;
use crate::{Result, Toolstack};

/// A device as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Which.
    pub device: Device,
    /// The frontend's state.
    pub state: State,
    /// The frontend's event port; `None` before it connected. A card may have two.
    pub event_channel: Option<u32>,
    /// References of the ring's pages: a disk's, or a card's for sending and receiving.
    pub ring_refs: Vec<u32>,
    /// A card's address.
    pub mac: Option<String>,
    /// A disk's name in the guest, or a card's interface name in the backend.
    pub name: Option<String>,
    /// A disk's target.
    pub target: Option<String>,
}

impl Toolstack {
    /// Lists a domain's devices of a kind by number.
    ///
    /// # Errors
    /// xenstore's.
    pub fn devices(&self, domid: u16, kind: Kind) -> Result<Vec<DeviceInfo>> {
        let mut found: Vec<DeviceInfo> = Vec::new();
        for device in self.device_ids(domid, kind)? {
            found.push(self.device_info(device)?);
        }
        Ok(found)
    }

    /// A domain's devices, by what was kept of them and by dom0's backends: one of these may be gone. What the guest
    /// says of itself does not count.
    pub(crate) fn device_ids(&self, domid: u16, kind: Kind) -> Result<Vec<Device>> {
        let kept = format!("{}/device/{}", libxl_path(domid), kind.name());
        let back = format!("{}/backend/{}/{domid}", path(crate::DOM0), kind.name());
        let mut devices: Vec<Device> = Vec::new();
        for name in self.children(&kept)? {
            let Ok(devid) = name.parse() else { continue };
            let served_by = self
                .store
                .read_string_opt(&format!("{kept}/{name}/backend"))?;
            let backend = served_by
                .as_deref()
                .and_then(owner_of)
                .unwrap_or(crate::DOM0);
            devices.push(Device {
                kind,
                frontend: domid,
                backend,
                devid,
            });
        }
        for name in self.children(&back)? {
            let Ok(devid) = name.parse() else { continue };
            let device = Device {
                kind,
                frontend: domid,
                backend: crate::DOM0,
                devid,
            };
            if !devices.contains(&device) {
                devices.push(device);
            }
        }
        devices.sort_by_key(|device| device.devid);
        Ok(devices)
    }

    /// The names below a directory; none where it is not there.
    pub(crate) fn children(&self, directory: &str) -> Result<Vec<String>> {
        match self.store.directory(directory) {
            Ok(names) => Ok(names),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    fn device_info(&self, device: Device) -> Result<DeviceInfo> {
        let (front, kept) = (device.frontend_path(), device.libxl_path());
        // the guest's: for states and numbers alone
        let front = |name: &str| self.store.read_string_opt(&format!("{front}/{name}"));
        let kept = |name: &str| self.store.read_string_opt(&format!("{kept}/{name}"));
        let number = |text: Option<String>| text.and_then(|text| text.parse::<u32>().ok());
        let refs = match device.kind {
            Kind::Vbd => [number(front("ring-ref")?), None],
            Kind::Vif => [number(front("tx-ring-ref")?), number(front("rx-ring-ref")?)],
        };
        let name = match device.kind {
            Kind::Vbd => kept("dev")?,
            Kind::Vif => Some(
                kept("vifname")?
                    .unwrap_or_else(|| format!("vif{}.{}", device.frontend, device.devid)),
            ),
        };
        Ok(DeviceInfo {
            device,
            state: State::parse(&front("state")?.unwrap_or_default()),
            event_channel: match number(front("event-channel")?) {
                None => number(front("event-channel-tx")?),
                some => some,
            },
            ring_refs: refs.into_iter().flatten().collect(),
            mac: kept("mac")?,
            name,
            target: kept("params")?,
        })
    }
}

/// Whose part of the tree a backend's path lies in.
fn owner_of(backend: &str) -> Option<u16> {
    let (domid, _) = backend.strip_prefix("/local/domain/")?.split_once('/')?;
    domid.parse().ok()
}
