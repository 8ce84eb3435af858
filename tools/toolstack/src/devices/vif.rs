//! Network cards: netback makes an interface in dom0, which joins a bridge.
//!
//! netback connects only after `hotplug-status` says `connected`, so that no packet goes nowhere; it is written when
//! the interface is up and in its bridge.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use xenstore::Ops;

use super::{BACKEND_TIMEOUT, Device, Force, Kind, Nodes, State, netlink, script, wait_for};
use crate::config::{INTERFACE_NAME_MAX, Mac, VifConfig};
use crate::error::During;
use crate::{DOM0, Error, Result, Toolstack};

/// What Xen's hosts call their bridge.
pub const DEFAULT_BRIDGE: &str = "xenbr0";

/// What cards get that do not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetDefaults {
    /// The bridge.
    pub bridge: String,
    /// Make a bridge that is not there.
    pub create_bridge: bool,
}

impl Default for NetDefaults {
    fn default() -> Self {
        Self {
            bridge: DEFAULT_BRIDGE.to_owned(),
            create_bridge: false,
        }
    }
}

impl Toolstack {
    /// Attaches a network card to a domain as its card `devid`.
    ///
    /// # Errors
    /// [`Error::Refused`] where its bridge is not there, [`Error::Timeout`] where netback does not answer; otherwise
    /// the kernel's or xenstore's.
    pub fn attach_vif(&self, domid: u16, devid: u32, vif: &VifConfig) -> Result<Device> {
        let backend = self.backend_domain(vif.backend.as_deref())?;
        let device = Device {
            kind: Kind::Vif,
            frontend: domid,
            backend,
            devid,
        };
        let mac = vif.mac.unwrap_or_else(Mac::random);
        let bridge = vif
            .bridge
            .clone()
            .unwrap_or_else(|| self.net.bridge.clone());
        let in_process = backend == DOM0 && vif.script.is_none();
        if in_process {
            self.need_bridge(&bridge)?;
        }
        let (back, front) = self.vif_nodes(&device, vif, mac, &bridge);
        self.publish_device(&device, &back, &front)?;
        let connected = match &vif.script {
            _ if backend != DOM0 => Ok(()),
            None => self.join_bridge(&device, vif, &bridge),
            Some(script) => self.wait_interface(&device).and_then(|_| {
                self.run_script(
                    &device,
                    &script::locate(&self.paths, script),
                    script::Moment::Attach,
                )
            }),
        };
        match connected {
            Ok(()) => Ok(device),
            Err(error) => {
                // the reason matters more than what taking it away says
                let _ = self.detach(&device, Force::AtOnce);
                Err(error)
            }
        }
    }

    fn vif_nodes(
        &self,
        device: &Device,
        vif: &VifConfig,
        mac: Mac,
        bridge: &str,
    ) -> (Nodes, Nodes) {
        let script = vif.script.as_deref().unwrap_or("vif-bridge");
        let mut back: Nodes = vec![
            ("handle", device.devid.to_string()),
            ("mac", mac.to_string()),
            ("bridge", bridge.to_owned()),
            ("script", script::locate(&self.paths, script)),
            ("type", "vif".to_owned()),
        ];
        let mut front: Nodes = vec![
            ("handle", device.devid.to_string()),
            ("mac", mac.to_string()),
        ];
        if let Some(mtu) = vif.mtu {
            back.push(("mtu", mtu.to_string()));
            front.push(("mtu", mtu.to_string()));
        }
        if let Some(rate) = vif.rate {
            back.push((
                "rate",
                format!("{},{}", rate.bytes_per_interval, rate.interval_us),
            ));
        }
        back.extend(vif.ip.clone().map(|ip| ("ip", ip)));
        back.extend(vif.vifname.clone().map(|name| ("vifname", name)));
        back.extend(vif.gatewaydev.clone().map(|name| ("gatewaydev", name)));
        if vif.script.is_some() {
            back.push(("hotplug-by-script", "1".to_owned()));
        }
        if vif.untrusted {
            front.push(("trusted", "0".to_owned()));
        }
        (back, front)
    }

    fn need_bridge(&self, bridge: &str) -> Result<()> {
        if interface(bridge).join("bridge").exists() {
            return Ok(());
        }
        if interface(bridge).exists() {
            return Err(Error::Refused(format!(
                "{bridge} is an interface, but no bridge"
            )));
        }
        if !self.net.create_bridge {
            return Err(Error::Refused(format!(
                "there is no bridge {bridge} (make one: ip link add {bridge} type bridge; ip link set {bridge} up)"
            )));
        }
        netlink::create_bridge(bridge)
            .map_err(|error| Error::file(interface(bridge), error))
            .during("making the bridge")
    }

    /// Waits until netback made the interface; returns its name.
    fn wait_interface(&self, device: &Device) -> Result<String> {
        let name = format!("vif{}.{}", device.frontend, device.devid);
        let state = format!("{}/state", device.backend_path());
        let answered = wait_for(&self.store, &state, BACKEND_TIMEOUT, |value| {
            value.is_some_and(|text| State::parse(text) >= State::InitWait)
        })?;
        // the state may be told a moment before the interface is there
        let deadline = Instant::now() + Duration::from_secs(2);
        while answered && !interface(&name).exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if interface(&name).exists() {
            return Ok(name);
        }
        Err(Error::Timeout(format!(
            "netback made no interface {name} within {} s; is the module xen-netback loaded (modprobe xen-netback)?",
            BACKEND_TIMEOUT.as_secs()
        )))
    }

    fn join_bridge(&self, device: &Device, vif: &VifConfig, bridge: &str) -> Result<()> {
        let made = self.wait_interface(device)?;
        let failed = |error| Error::file(interface(&made), error);
        let name = match &vif.vifname {
            Some(name) if (1..=INTERFACE_NAME_MAX).contains(&name.len()) => {
                netlink::rename(&made, name)
                    .map_err(failed)
                    .during("naming the interface")?;
                name
            }
            Some(name) => {
                return Err(Error::Refused(format!(
                    "\"{name}\" is no name for an interface"
                )));
            }
            None => &made,
        };
        netlink::join(name, bridge, vif.mtu)
            .map_err(failed)
            .during(format!("adding it to bridge {bridge}"))?;
        Ok(self.store.write(
            &format!("{}/hotplug-status", device.backend_path()),
            "connected",
        )?)
    }
}

/// What the kernel tells of an interface.
fn interface(name: &str) -> PathBuf {
    PathBuf::from("/sys/class/net").join(name)
}
