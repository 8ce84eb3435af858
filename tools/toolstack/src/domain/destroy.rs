//! The end of a domain: its devices are let go, its memory freed, its traces removed.
//!
//! Everything is found by the domain's id, in xenstore and at the hypervisor, so that a domain half made or half
//! destroyed by somebody else is destroyed as well. A part that fails is reported, but the rest goes on.

use guest_abi::Errno;
use uuid::Uuid;
use xenstore::Ops;

use crate::devices::{Force, Kind};
use crate::domain::path;
use crate::error::During;
use crate::{DOM0, Error, Lock, Result, Toolstack, create};

impl Toolstack {
    /// Destroys a domain at once, whatever it does.
    ///
    /// # Errors
    /// [`Error::NoDomain`]; or the first part that failed.
    pub fn destroy(&self, domid: u16) -> Result<()> {
        if domid == DOM0 {
            return Err(Error::Refused("Domain-0 cannot be destroyed".to_owned()));
        }
        let info = self.info(domid)?;
        if info.state.dying {
            // the hypervisor waits for somebody who still has its pages: nothing is left for us but the traces
            return self.remove_traces(domid, info.uuid);
        }
        // so that it does not see its devices go
        let mut first = self.hyper.pause_domain(domid).map_err(Error::from).err();
        let mut note = |result: Result<()>| {
            if let Err(error) = result {
                first.get_or_insert(error);
            }
        };
        note(self.detach_all(domid));
        note(match self.hyper.destroy_domain(domid) {
            Err(error) if error.errno == Errno::ESRCH => Ok(()),
            result => result.map_err(Error::from),
        });
        note(self.remove_traces(domid, info.uuid));
        first.map_or(Ok(()), |error| {
            Err(error.during(format!("destroying domain {domid}")))
        })
    }

    /// Takes all devices of a domain away.
    ///
    /// # Errors
    /// The first that could not be.
    pub(crate) fn detach_all(&self, domid: u16) -> Result<()> {
        let mut first = None;
        for kind in Kind::ALL {
            for device in self.device_ids(domid, kind)? {
                if let Err(error) = self.detach(&device, Force::AtOnce) {
                    first.get_or_insert(error);
                }
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Removes what is left of a domain that the hypervisor does not know any more. While the lock is held, nobody is
    /// given its id.
    ///
    /// # Errors
    /// The first part that failed.
    pub(crate) fn sweep(&self, _held: &Lock, domid: u16) -> Result<()> {
        let detached = self.detach_all(domid);
        let vm = self.store.read_string_opt(&format!("{}/vm", path(domid)))?;
        let uuid: Option<Uuid> = vm.and_then(|vm| vm.strip_prefix("/vm/")?.parse().ok());
        // a domain that follows it has its UUID
        let all = self.hyper.domain_infos()?;
        let is_free = |uuid: &Uuid| all.iter().all(|raw| raw.handle != *uuid.as_bytes());
        create::unpublish(self, domid, uuid.filter(is_free)).during("removing its nodes")?;
        if let Some(uuid) = uuid {
            self.forget_config(domid, uuid)?;
        }
        detached
    }

    fn remove_traces(&self, domid: u16, uuid: Uuid) -> Result<()> {
        match self.store.release(domid) {
            // xenstored may have seen it go first
            Err(error) if error.refusal().is_some() => {}
            result => result?,
        }
        create::unpublish(self, domid, Some(uuid)).during("removing its nodes")?;
        self.forget_config(domid, uuid)
    }
}
