//! Disks and network cards of a domain: two directories in xenstore each, between which stock drivers find each other.
//!
//! The frontend's directory lies in the guest's part of the tree, the backend's in the backend domain's; each names the
//! other and has a `state`. [`disk`] and [`vif`] write what blkback and netback need and do what Xen leaves to hotplug
//! scripts: loop devices and bridges, here in process. A device is taken away by telling the backend, waiting until it
//! let go, and removing both directories.
//!
//! Whom to trust: a guest owns the frontend's directory and a driver domain the backend's, and either may write what it
//! likes there. What we must know again later (who serves a device, its address, its target) is kept in libxl's
//! directory, which only we write; of theirs we read states and numbers, and touch them outside our transactions, which
//! they could make fail for ever.
//!
//! Source: `public/io/xenbus.h`, `public/io/blkif.h`, `public/io/netif.h`.

pub mod disk;
mod list;
mod loopdev;
mod netlink;
mod script;
mod sharing;
pub mod vif;
mod wait;

use std::time::Duration;

use xenstore::{Ops, Perm};

pub use list::DeviceInfo;
pub(crate) use wait::wait_for;

use crate::domain::path;
use crate::error::During;
use crate::{Error, Result, Toolstack};

/// How long a backend may take to answer.
pub(crate) const BACKEND_TIMEOUT: Duration =
    Duration::from_millis(if cfg!(test) { 500 } else { 10_000 });

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A disk.
    Vbd,
    /// A network card.
    Vif,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::Vbd, Self::Vif];

    /// Its directory's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vbd => "vbd",
            Self::Vif => "vif",
        }
    }

    /// The backend's driver, for messages.
    const fn driver(self) -> &'static str {
        match self {
            Self::Vbd => "xen-blkback",
            Self::Vif => "xen-netback",
        }
    }
}

/// Whether a device is taken from a guest that does not let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// No: it may be in use.
    Never,
    /// Yes, when it was asked and time is over.
    AfterAsking,
    /// Yes, without asking.
    AtOnce,
}

/// A connection's state, as both ends publish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Nothing said.
    Unknown,
    /// Made by the toolstack.
    Initialising,
    /// The backend waits for the frontend.
    InitWait,
    /// The frontend waits for the backend.
    Initialised,
    /// In use.
    Connected,
    /// One end wants to stop.
    Closing,
    /// Stopped.
    Closed,
    /// Being changed.
    Reconfiguring,
    /// Changed.
    Reconfigured,
}

impl State {
    const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Initialising,
        Self::InitWait,
        Self::Initialised,
        Self::Connected,
        Self::Closing,
        Self::Closed,
        Self::Reconfiguring,
        Self::Reconfigured,
    ];

    /// Reads a `state` node; what is no state is unknown.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let number = text.trim().parse::<usize>().unwrap_or(0);
        Self::ALL.get(number).copied().unwrap_or(Self::Unknown)
    }

    fn text(self) -> String {
        (self as u8).to_string()
    }
}

/// Which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    /// Its kind.
    pub kind: Kind,
    /// Whose it is.
    pub frontend: u16,
    /// Who serves it.
    pub backend: u16,
    /// Its number: a disk's virtual device number, a card's index.
    pub devid: u32,
}

impl Device {
    /// The frontend's directory.
    #[must_use]
    pub fn frontend_path(&self) -> String {
        format!(
            "{}/device/{}/{}",
            path(self.frontend),
            self.kind.name(),
            self.devid
        )
    }

    /// The backend's directory.
    #[must_use]
    pub fn backend_path(&self) -> String {
        format!(
            "{}/backend/{}/{}/{}",
            path(self.backend),
            self.kind.name(),
            self.frontend,
            self.devid
        )
    }

    /// libxl's directory.
    pub(crate) fn libxl_path(&self) -> String {
        format!(
            "/libxl/{}/device/{}/{}",
            self.frontend,
            self.kind.name(),
            self.devid
        )
    }

    /// For messages.
    fn describe(&self) -> String {
        format!(
            "{} {} of domain {}",
            self.kind.name(),
            self.devid,
            self.frontend
        )
    }
}

/// Names and values below a directory.
pub(crate) type Nodes = Vec<(&'static str, String)>;

impl Toolstack {
    /// Publishes a device to both ends, all at once.
    fn publish_device(
        &self,
        device: &Device,
        backend: &[(&str, impl AsRef<[u8]>)],
        frontend: &Nodes,
    ) -> Result<()> {
        let (front, back, libxl) = (
            device.frontend_path(),
            device.backend_path(),
            device.libxl_path(),
        );
        if self.store.exists(&libxl)? {
            return Err(Error::Refused(format!(
                "there is a {} already",
                device.describe()
            )));
        }
        // what a device of that number left
        self.store.rm_if_exists(&front)?;
        self.store.rm_if_exists(&back)?;
        let common_back = [
            ("frontend", front.clone()),
            ("frontend-id", device.frontend.to_string()),
            ("online", "1".to_owned()),
            ("state", State::Initialising.text()),
        ];
        let common_front = [
            ("backend", back.clone()),
            ("backend-id", device.backend.to_string()),
            ("state", State::Initialising.text()),
        ];
        self.store.transaction(|tx| -> xenstore::Result<()> {
            tx.mkdir(&front)?;
            tx.set_perms(
                &front,
                &[Perm::none(device.frontend), Perm::read(device.backend)],
            )?;
            tx.mkdir(&back)?;
            tx.set_perms(
                &back,
                &[Perm::none(device.backend), Perm::read(device.frontend)],
            )?;
            tx.write(&format!("{libxl}/frontend"), &front)?;
            tx.write(&format!("{libxl}/backend"), &back)?;
            let backend = backend.iter().map(|(name, value)| (*name, value.as_ref()));
            let common = common_back
                .iter()
                .map(|(name, value)| (*name, value.as_bytes()));
            for (name, value) in backend.chain(common) {
                tx.write(&format!("{back}/{name}"), value)?;
                tx.write(&format!("{libxl}/{name}"), value)?;
            }
            frontend
                .iter()
                .chain(&common_front)
                .try_for_each(|(name, value)| tx.write(&format!("{front}/{name}"), value))
        })?;
        Ok(())
    }

    /// Takes a device away; its guest is asked first, unless it is forced at once.
    ///
    /// # Errors
    /// xenstore's; [`Error::Timeout`] where the guest does not let go and is not forced, and all stays as it was, or
    /// where the backend does not.
    pub fn detach(&self, device: &Device, force: Force) -> Result<()> {
        let (front, back) = (device.frontend_path(), device.backend_path());
        let state = format!("{back}/state");
        let Some(present) = self.store.read_string_opt(&state)? else {
            return self.forget_device(device);
        };
        let present = State::parse(&present);
        self.store.write(&format!("{back}/online"), "0")?;
        if present < State::Closing {
            self.store.write(&state, State::Closing.text())?;
        }
        // without its other end a backend lets go
        if force == Force::AtOnce {
            self.store.rm_if_exists(&front)?;
        }
        // nobody serves what no driver ever took
        let was_served = present > State::Initialising;
        let mut gone = !was_served || self.wait_closed(&state)?;
        if !gone && force == Force::Never {
            self.keep_attached(device, present)?;
            return Err(Error::Timeout(format!(
                "{}: the guest did not let go of it within {} s: it stays attached (--force takes it all the same)",
                device.describe(),
                BACKEND_TIMEOUT.as_secs()
            )));
        }
        if !gone && force == Force::AfterAsking {
            self.store.rm_if_exists(&front)?;
            gone = self.wait_closed(&state)?;
        }
        let cleaned = self.clean_up(device);
        self.forget_device(device)?;
        cleaned.during(device.describe())?;
        if gone {
            return Ok(());
        }
        Err(Error::Timeout(format!(
            "{}: the backend ({}) did not let go within {} s; its directory was removed",
            device.describe(),
            device.kind.driver(),
            BACKEND_TIMEOUT.as_secs()
        )))
    }

    /// Takes back what a guest was asked that has not begun to close: it goes on as before.
    fn keep_attached(&self, device: &Device, present: State) -> Result<()> {
        let back = device.backend_path();
        self.store.write(&format!("{back}/online"), "1")?;
        let front = format!("{}/state", device.frontend_path());
        let theirs = self.store.read_string_opt(&front)?.unwrap_or_default();
        if State::parse(&theirs) < State::Closing {
            self.store.write(&format!("{back}/state"), present.text())?;
        }
        Ok(())
    }

    fn wait_closed(&self, state: &str) -> Result<bool> {
        wait_for(&self.store, state, BACKEND_TIMEOUT, |value| {
            value.is_none_or(|text| matches!(State::parse(text), State::Closed | State::Unknown))
        })
    }

    /// Undoes what attaching did outside xenstore: nothing where another domain serves the device, whose directory says
    /// what that domain likes.
    fn clean_up(&self, device: &Device) -> Result<()> {
        if device.backend != crate::DOM0 {
            return Ok(());
        }
        let back = device.backend_path();
        if let Some(script) = self.store.read_string_opt(&format!("{back}/script"))?
            && self.store.exists(&format!("{back}/hotplug-by-script"))?
        {
            self.run_script(device, &script, script::Moment::Detach)?;
        }
        match device.kind {
            Kind::Vbd => disk::release(self, &back),
            Kind::Vif => Ok(()),
        }
    }

    /// Removes a device's directories. libxl's is the last: while it is there, the device is found and can be taken
    /// away.
    fn forget_device(&self, device: &Device) -> Result<()> {
        self.store.rm_if_exists(&device.frontend_path())?;
        self.store.rm_if_exists(&device.backend_path())?;
        Ok(self.store.rm_if_exists(&device.libxl_path())?)
    }

    /// The domain that serves a device: a name or an id, dom0 where none is given.
    fn backend_domain(&self, named: Option<&str>) -> Result<u16> {
        match named {
            None => Ok(crate::DOM0),
            Some(text) => Ok(self.find(text).during("backend domain")?.domid),
        }
    }
}

#[cfg(test)]
mod tests;
