//! A running domain's memory and vCPUs: the guest is told a target through xenstore and follows.

use xenstore::Ops;

use super::{MIN_DOM0_KIB, path};
use crate::{DOM0, Error, Result, Toolstack};

/// What a domain may have beyond its target, in KiB: the pages that it shares with others.
pub(crate) const SLACK_KIB: u64 = 1024;

impl Toolstack {
    /// Asks a guest's balloon to go to `kib`, and lets it have no more.
    ///
    /// # Errors
    /// [`Error::Refused`] above its maximum, and for dom0 below what it lives by; or the hypervisor's, xenstore's.
    pub fn set_memory_target(&self, domid: u16, kib: u64) -> Result<()> {
        if domid == DOM0 && kib < MIN_DOM0_KIB {
            return Err(Error::Refused(format!(
                "{kib} KiB is below the {MIN_DOM0_KIB} KiB that dom0 needs"
            )));
        }
        if let Some(max) = self.memory_max(domid)?
            && kib > max
        {
            return Err(Error::Refused(format!(
                "{kib} KiB is above the domain's maximum of {max} KiB (xl mem-max changes it)"
            )));
        }
        // room first where it grows: the guest acts as soon as it sees the target
        self.hyper.set_max_mem(domid, kib + SLACK_KIB)?;
        // of what it has not touched yet it can have more without a balloon
        self.hyper.set_pod_target(domid, kib / 4)?;
        Ok(self
            .store
            .write(&format!("{}/memory/target", path(domid)), kib.to_string())?)
    }

    /// The target of a guest's balloon in KiB, where it has one.
    ///
    /// # Errors
    /// xenstore's.
    pub fn memory_target(&self, domid: u16) -> Result<Option<u64>> {
        self.memory_node(domid, "target")
    }

    /// The most memory that a domain may have, in KiB, where it has a limit: what its configuration allows. The node in
    /// xenstore tells what it started with, for Linux's sake, and counts where no configuration was kept.
    pub(super) fn memory_max(&self, domid: u16) -> Result<Option<u64>> {
        match self.kept_config(domid)? {
            Some(config) => Ok(Some(config.max_memory_kib)),
            None => self.memory_node(domid, "static-max"),
        }
    }

    pub(crate) fn memory_node(&self, domid: u16, name: &str) -> Result<Option<u64>> {
        let text = self
            .store
            .read_string_opt(&format!("{}/memory/{name}", path(domid)))?;
        Ok(text.and_then(|text| text.trim().parse().ok()))
    }

    /// Sets the most memory that a domain may ever have, in KiB.
    ///
    /// # Errors
    /// [`Error::Refused`] below its target, or the hypervisor's, xenstore's.
    pub fn set_memory_max(&self, domid: u16, kib: u64) -> Result<()> {
        if let Some(target) = self.memory_target(domid)?
            && kib < target
        {
            return Err(Error::Refused(format!(
                "{kib} KiB is below the domain's present target of {target} KiB"
            )));
        }
        self.hyper.set_max_mem(domid, kib + SLACK_KIB)?;
        Ok(self.store.write(
            &format!("{}/memory/static-max", path(domid)),
            kib.to_string(),
        )?)
    }

    /// Asks a guest to use its first `count` vCPUs.
    ///
    /// # Errors
    /// [`Error::Refused`] for none, or for more than it has; or the hypervisor's, xenstore's.
    pub fn set_vcpus(&self, domid: u16, count: u32) -> Result<()> {
        let has = self.info(domid)?.max_vcpu_id + 1;
        if count == 0 || count > has {
            return Err(Error::Refused(format!(
                "domain {domid} can have 1 to {has} vCPUs, not {count}"
            )));
        }
        let base = path(domid);
        self.store.transaction(|tx| -> xenstore::Result<()> {
            for vcpu in 0..has {
                let state = if vcpu < count { "online" } else { "offline" };
                let node = format!("{base}/cpu/{vcpu}/availability");
                if tx.read_string_opt(&node)?.as_deref() != Some(state) {
                    tx.write(&node, state)?;
                }
            }
            Ok(())
        })?;
        Ok(())
    }
}
