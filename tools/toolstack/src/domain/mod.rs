//! Domains that are there: finding them, describing them, doing things to them.
//!
//! The hypervisor knows ids, states and sizes; names are xenstore's. `life` is for a domain's life (pause, shutdown …),
//! `destroy` for its end, `resources` for its memory and vCPUs, `balloon` for dom0's, `kept` for the configuration it
//! was made from.

mod balloon;
mod destroy;
mod dump;
pub(crate) mod kept;
mod life;
mod resources;

use guest_abi::Errno;
use guest_abi::domctl::*;
use uuid::Uuid;
use xenstore::Ops;

pub use balloon::Autoballoon;
pub(crate) use balloon::{MIN_DOM0_KIB, shortage};
pub use life::{Button, Shutdown};
pub(crate) use resources::SLACK_KIB;

use crate::{DOM0, Error, Result, Toolstack};

/// A domain as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainInfo {
    /// Its id.
    pub domid: u16,
    /// Its name; `None` where xenstore has none.
    pub name: Option<String>,
    /// Its handle.
    pub uuid: Uuid,
    /// What it does.
    pub state: DomainState,
    /// Pages it has.
    pub tot_pages: u64,
    /// Pages it may have.
    pub max_pages: u64,
    /// Pages promised to it.
    pub outstanding_pages: u64,
    /// CPU time that its vCPUs had together, in ns.
    pub cpu_time_ns: u64,
    /// vCPUs that are online.
    pub online_vcpus: u32,
    /// Its highest vCPU.
    pub max_vcpu_id: u32,
    /// Its CPU pool.
    pub cpupool: u32,
    /// Security label.
    pub ssidref: u32,
    /// True for HVM and PVH.
    pub is_hvm: bool,
}

/// What a domain does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DomainState {
    /// Some vCPU runs.
    pub running: bool,
    /// All vCPUs wait.
    pub blocked: bool,
    /// Paused by the toolstack.
    pub paused: bool,
    /// Ended by itself, for this reason (`SHUTDOWN_*`).
    pub shutdown: Option<u8>,
    /// Being destroyed.
    pub dying: bool,
}

impl DomainState {
    /// Reads the flags of `XEN_DOMCTL_getdomaininfo`.
    #[must_use]
    pub fn from_flags(flags: u32) -> Self {
        let has = |flag| flags & flag != 0;
        let [_, _, reason, _] = flags.to_le_bytes();
        Self {
            running: has(XEN_DOMINF_running),
            blocked: has(XEN_DOMINF_blocked),
            paused: has(XEN_DOMINF_paused),
            shutdown: has(XEN_DOMINF_shutdown).then_some(reason),
            dying: has(XEN_DOMINF_dying),
        }
    }
}

impl DomainInfo {
    fn new(raw: &XenDomctlGetdomaininfo, name: Option<String>) -> Self {
        Self {
            domid: raw.domain,
            name,
            uuid: Uuid::from_bytes(raw.handle),
            state: DomainState::from_flags(raw.flags),
            tot_pages: raw.tot_pages,
            max_pages: raw.max_pages,
            outstanding_pages: raw.outstanding_pages,
            cpu_time_ns: raw.cpu_time,
            online_vcpus: raw.nr_online_vcpus,
            max_vcpu_id: raw.max_vcpu_id,
            cpupool: raw.cpupool,
            ssidref: raw.ssidref,
            is_hvm: raw.flags & XEN_DOMINF_hvm_guest != 0,
        }
    }
}

/// A domain's own directory in xenstore.
#[must_use]
pub fn path(domid: u16) -> String {
    format!("/local/domain/{domid}")
}

impl Toolstack {
    /// Describes all domains, in ascending order of id.
    ///
    /// # Errors
    /// The hypervisor's, xenstore's.
    pub fn list(&self) -> Result<Vec<DomainInfo>> {
        let all = self.hyper.domain_infos()?;
        all.iter()
            .map(|raw| Ok(DomainInfo::new(raw, self.name_of(raw.domain)?)))
            .collect()
    }

    /// Describes one.
    ///
    /// # Errors
    /// [`Error::NoDomain`], or the hypervisor's, xenstore's.
    pub fn info(&self, domid: u16) -> Result<DomainInfo> {
        match self.hyper.domain_info(domid) {
            Ok(raw) => Ok(DomainInfo::new(&raw, self.name_of(domid)?)),
            Err(error) if error.errno == Errno::ESRCH => Err(Error::NoDomain(domid.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// A domain's name; `None` where xenstore has none.
    ///
    /// # Errors
    /// xenstore's.
    pub fn name_of(&self, domid: u16) -> Result<Option<String>> {
        let name = self
            .store
            .read_string_opt(&format!("{}/name", path(domid)))?;
        Ok(name.or_else(|| (domid == DOM0).then(|| "Domain-0".to_owned())))
    }

    /// Finds a domain by what a user typed: an id, a UUID, or a name.
    ///
    /// # Errors
    /// [`Error::NoDomain`], or the hypervisor's, xenstore's.
    pub fn find(&self, text: &str) -> Result<DomainInfo> {
        let none = || Error::NoDomain(text.to_owned());
        if let Ok(domid) = text.parse() {
            return self.info(domid);
        }
        if let Ok(uuid) = Uuid::try_parse(text) {
            let all = self.hyper.domain_infos()?;
            // a rebooted domain's predecessor may still be dying
            let same = all.iter().filter(|raw| raw.handle == *uuid.as_bytes());
            let raw = same.min_by_key(|raw| raw.flags & XEN_DOMINF_dying);
            return raw.map_or_else(|| Err(none()), |raw| self.info(raw.domain));
        }
        self.by_name(text)?.ok_or_else(none)
    }

    /// Finds a living domain by its name.
    ///
    /// # Errors
    /// The hypervisor's, xenstore's.
    pub fn by_name(&self, name: &str) -> Result<Option<DomainInfo>> {
        for raw in self.hyper.domain_infos()? {
            if self.name_of(raw.domain)?.as_deref() == Some(name) {
                return Ok(Some(DomainInfo::new(&raw, Some(name.to_owned()))));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
