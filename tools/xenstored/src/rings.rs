//! All rings and their event channels.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use xendev::{Error, evtchn::Port};
use xenstore::{Domid, Refusal};

use crate::core::Machine;
use crate::devices::{Devices, State};
use crate::ring::Ring;

/// A ring, with the port by which its domain is notified.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) ring: Ring,
    pub(crate) port: Port,
    /// What the journal knows of: request index and end of replies.
    pub(crate) noted: (u32, u32),
}

/// The rings that are served.
#[derive(Debug)]
pub(crate) struct Rings {
    pub(crate) devices: Box<dyn Devices>,
    pub(crate) served: BTreeMap<Domid, Served>,
    /// Domains whose rings deserve a look.
    pub(crate) active: BTreeSet<Domid>,
    ports: HashMap<Port, Domid>,
}

impl Rings {
    /// Starts with none.
    pub(crate) fn new(devices: Box<dyn Devices>) -> Self {
        Self {
            devices,
            served: BTreeMap::new(),
            active: BTreeSet::new(),
            ports: HashMap::new(),
        }
    }

    /// Takes up our own kernel's ring, as it is; tells where its producer of replies stands.
    ///
    /// # Errors
    /// The device is missing, or the port cannot be bound.
    pub(crate) fn attach_own(&mut self) -> Result<u32, Error> {
        let (page, remote) = self.devices.map_own()?;
        let port = self.devices.bind(0, remote)?;
        let (ring, sent) = Ring::going_on(page);
        self.serve(0, ring, port);
        Ok(sent)
    }

    /// Takes up a guest's ring after a restart; tells where its producer of replies stands.
    ///
    /// # Errors
    /// It cannot be mapped or bound: the domain is gone.
    pub(crate) fn attach(&mut self, domid: Domid, gfn: u64, remote: Port) -> Result<u32, Error> {
        let page = self.devices.map(domid, gfn)?;
        let port = self.devices.bind(domid, remote)?;
        let (ring, sent) = Ring::going_on(page);
        self.serve(domid, ring, port);
        Ok(sent)
    }

    /// Collects the events that came; tells whether some domain has shut down or ended.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn receive(&mut self) -> Result<bool, Error> {
        let mut ports = Vec::new();
        self.devices.fired(&mut ports)?;
        let ends = self.devices.ends();
        let domains = ports.iter().filter_map(|port| self.ports.get(port));
        self.active.extend(domains);
        Ok(ports.iter().any(|port| Some(*port) == ends))
    }

    fn serve(&mut self, domid: Domid, ring: Ring, port: Port) {
        let noted = (ring.progress().0, 0);
        self.served.insert(domid, Served { ring, port, noted });
        self.ports.insert(port, domid);
        // Requests may wait already, and our kernel waits for a first event.
        self.active.insert(domid);
        self.devices.notify(port);
    }

    fn bind_and_map(&mut self, domid: Domid, gfn: u64, remote: Port) -> Result<(), Error> {
        // The domain may have been given another page or port.
        self.disconnect(domid);
        let page = self.devices.map(domid, gfn)?;
        let port = self.devices.bind(domid, remote)?;
        self.serve(domid, Ring::fresh(page), port);
        Ok(())
    }
}

impl Machine for Rings {
    fn connect(&mut self, domid: Domid, gfn: u64, port: u32) -> Result<(), Refusal> {
        self.bind_and_map(domid, gfn, port).map_err(|error| {
            log::error!("d{domid}: cannot be introduced: {error}");
            let errno = error.errno();
            let known = Refusal::ALL.iter().find(|r| Some(r.errno()) == errno);
            known.copied().unwrap_or(Refusal::Invalid)
        })
    }

    fn disconnect(&mut self, domid: Domid) {
        if let Some(served) = self.served.remove(&domid) {
            self.devices.unbind(served.port);
            self.ports.remove(&served.port);
            self.active.remove(&domid);
        }
    }

    fn exists(&self, domid: Domid) -> bool {
        self.devices.state(domid) != State::Gone
    }
}
