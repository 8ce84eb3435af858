//! The library under `xl`: a configuration becomes a domain here.
//!
//! [`config`] is what a domain should be, [`create`] the steps that make it, each with its undo. [`domain`] finds
//! domains and does things to them, [`devices`] attaches disks and network cards, [`monitor`] waits for a domain's end.
//! Below are [`hypercall`] and the xenstore client. Nothing in this crate prints or asks; `xl` does.

pub mod config;
pub mod create;
pub mod devices;
pub mod domain;
mod error;
pub mod hypercall;
pub mod image;
mod lock;
pub mod monitor;
#[cfg(test)]
mod testing;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use xenstore::Store;

pub use devices::vif::NetDefaults;
pub use domain::Autoballoon;
pub use error::{During, Error, Result};
pub use hypercall::Hyper;
pub use lock::Lock;

/// How long a xenstored that is gone may take to come back for what is to be undone, and how often that is tried.
const RECONNECT_WITHIN: Duration = Duration::from_secs(5);
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// The domain that backends and tools run in.
pub const DOM0: u16 = 0;

/// What every verb needs: the hypervisor, xenstore, and where files are kept.
#[derive(Debug)]
pub struct Toolstack {
    /// The hypervisor.
    pub hyper: Hyper,
    /// xenstore.
    pub store: Store,
    /// Where files are kept.
    pub paths: Paths,
    /// What network cards get that do not say.
    pub net: NetDefaults,
    /// Whether new domains may get memory out of dom0's.
    pub autoballoon: Autoballoon,
    opener: Opener,
}

/// How another connection to xenstored is made where the first one broke.
#[derive(Clone)]
struct Opener(Rc<dyn Fn() -> xenstore::Result<Store>>);

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opener")
    }
}

/// Where files are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Configurations of running domains, Xen's place for them.
    pub userdata: PathBuf,
    /// Core dumps.
    pub dumps: PathBuf,
    /// Logs of the monitors.
    pub logs: PathBuf,
    /// Hotplug scripts that are named without a directory.
    pub scripts: PathBuf,
    /// The file whose lock they hold who change something; see [`Lock`].
    pub lock: PathBuf,
    /// Where dom0's kernel tells how much of its memory is available.
    pub meminfo: PathBuf,
    /// The file whose lock the host's monitor holds.
    pub monitor: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            userdata: "/var/lib/xen".into(),
            dumps: "/var/lib/xen/dump".into(),
            logs: "/var/log/xen".into(),
            scripts: "/etc/xen/scripts".into(),
            lock: "/var/lock/xl".into(),
            meminfo: "/proc/meminfo".into(),
            monitor: "/run/xen/xl-monitor.lock".into(),
        }
    }
}

impl Toolstack {
    /// Connects to the hypervisor and to xenstored.
    ///
    /// # Errors
    /// Where one of them is not there; the error says what to start.
    pub fn open() -> Result<Self> {
        Ok(Self::over(Hyper::open()?, Store::open()?))
    }

    /// Works on a hypervisor and a xenstore that are connected already.
    #[must_use]
    pub fn over(hyper: Hyper, store: Store) -> Self {
        Self {
            hyper,
            store,
            paths: Paths::default(),
            net: NetDefaults::default(),
            autoballoon: Autoballoon::default(),
            opener: Opener(Rc::new(Store::open)),
        }
    }

    /// The same as the host's administrator has it in xl.conf(5).
    #[must_use]
    pub fn configured(mut self, host: &config::HostConfig) -> Self {
        if let Some(lock) = &host.lockfile {
            self.paths.lock.clone_from(lock);
        }
        self.autoballoon = host.autoballoon.unwrap_or(self.autoballoon);
        self
    }

    /// The same with another connection to xenstored, which may have to be started first.
    ///
    /// # Errors
    /// No xenstored answers within [`RECONNECT_WITHIN`].
    fn reconnected(&self) -> Result<Self> {
        let deadline = Instant::now() + RECONNECT_WITHIN;
        let store = loop {
            match (self.opener.0)() {
                Err(_) if Instant::now() < deadline => std::thread::sleep(RECONNECT_PAUSE),
                store => break store?,
            }
        };
        Ok(Self {
            hyper: self.hyper.clone(),
            store,
            paths: self.paths.clone(),
            net: self.net.clone(),
            autoballoon: self.autoballoon,
            opener: self.opener.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;

    #[test]
    fn what_the_administrator_says_holds_and_the_rest_stays() {
        let Bench { ts, files, .. } = Bench::new();
        let lock = ts.paths.lock.clone();
        let ts = ts.configured(&config::HostConfig::default());
        assert_eq!((&ts.paths.lock, ts.autoballoon), (&lock, Autoballoon::Auto));
        let host = config::HostConfig {
            lockfile: Some(files.path().join("other")),
            autoballoon: Some(Autoballoon::Off),
            ..config::HostConfig::default()
        };
        let ts = ts.configured(&host);
        assert_eq!(Some(ts.paths.lock), host.lockfile);
        assert_eq!(ts.autoballoon, Autoballoon::Off);
    }
}
