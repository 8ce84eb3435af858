//! Pausing, asking to end, buttons, names.
//!
//! A guest is asked through `control/shutdown`, which it empties to say that it heard. Before its drivers are there
//! nobody listens: HVM_PARAM_CALLBACK_IRQ tells whether they are.

use std::time::Duration;

use guest_abi::Errno;
use guest_abi::domctl::*;
use guest_abi::hvm::params::HVM_PARAM_CALLBACK_IRQ;
use xenstore::Ops;

use super::path;
use crate::config::unusable_name;
use crate::devices::wait_for;
use crate::{DOM0, Error, Lock, Result, Toolstack};

/// What a guest is asked to do with itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Power off.
    Poweroff,
    /// Reboot.
    Reboot,
    /// Halt.
    Halt,
    /// Suspend, to be saved.
    Suspend,
}

impl Shutdown {
    /// The word in `control/shutdown`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Poweroff => "poweroff",
            Self::Reboot => "reboot",
            Self::Halt => "halt",
            Self::Suspend => "suspend",
        }
    }
}

/// A button or line of a domain's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Button {
    /// Non-maskable interrupt.
    Nmi,
    /// Reset.
    Reset,
    /// INIT.
    Init,
    /// Power.
    Power,
    /// Sleep.
    Sleep,
}

impl Button {
    fn name(self) -> &'static str {
        match self {
            Self::Nmi => "NMI",
            Self::Reset => "reset",
            Self::Init => "INIT",
            Self::Power => "power",
            Self::Sleep => "sleep",
        }
    }
}

impl Toolstack {
    /// Pauses a domain.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn pause(&self, domid: u16) -> Result<()> {
        Ok(self.hyper.pause_domain(domid)?)
    }

    /// Lets a paused domain run.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn unpause(&self, domid: u16) -> Result<()> {
        Ok(self.hyper.unpause_domain(domid)?)
    }

    /// Asks a guest to end, and waits until it heard.
    ///
    /// # Errors
    /// [`Error::Refused`] where the guest cannot be asked, [`Error::Timeout`] where it did not hear in time (the
    /// request is then taken back).
    pub fn ask(&self, domid: u16, what: Shutdown, timeout: Duration) -> Result<()> {
        if domid == DOM0 {
            return Err(Error::Refused(
                "Domain-0 is shut down by its own shutdown command".to_owned(),
            ));
        }
        if self
            .hyper
            .get_param(domid, HVM_PARAM_CALLBACK_IRQ)
            .unwrap_or(0)
            == 0
            && !self.has_heard(domid)?
        {
            return Err(Error::Refused(format!(
                "domain {domid} has no drivers that could hear of a {} (yet)",
                what.word()
            )));
        }
        let node = format!("{}/control/shutdown", path(domid));
        self.store.write(&node, what.word())?;
        // gone is heard as well: the domain was destroyed
        if wait_for(&self.store, &node, timeout, |word| {
            word.is_none_or(str::is_empty)
        })? {
            return Ok(());
        }
        self.store.write(&node, "")?;
        Err(Error::Timeout(format!(
            "domain {domid} did not acknowledge the {} within {} s",
            what.word(),
            timeout.as_secs()
        )))
    }

    /// True where the guest's xenbus driver said what it can be asked.
    fn has_heard(&self, domid: u16) -> Result<bool> {
        let feature = format!("{}/control/feature-poweroff", path(domid));
        Ok(self.store.read_string_opt(&feature)?.as_deref() == Some("1"))
    }

    /// Presses a button of a domain's machine.
    ///
    /// # Errors
    /// [`Error::Refused`] for a button that the domain has not, as PVH domains have none; the hypervisor's.
    pub fn press(&self, domid: u16, button: Button, vcpu: u32) -> Result<()> {
        let trigger = match button {
            Button::Nmi => XEN_DOMCTL_SENDTRIGGER_NMI,
            Button::Reset => XEN_DOMCTL_SENDTRIGGER_RESET,
            Button::Init => XEN_DOMCTL_SENDTRIGGER_INIT,
            Button::Power => XEN_DOMCTL_SENDTRIGGER_POWER,
            Button::Sleep => XEN_DOMCTL_SENDTRIGGER_SLEEP,
        };
        match self.hyper.send_trigger(domid, trigger, vcpu) {
            Err(error) if matches!(error.errno, Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                let text = format!(
                    "domain {domid} has no {} button, being PVH; `xl shutdown` and `xl reboot` ask its kernel instead, \
                     `xl destroy` asks nobody",
                    button.name()
                );
                Err(Error::Refused(text))
            }
            sent => Ok(sent?),
        }
    }

    /// Sends a magic SysRq key to a Linux guest.
    ///
    /// # Errors
    /// xenstore's.
    pub fn sysrq(&self, domid: u16, key: char) -> Result<()> {
        Ok(self
            .store
            .write(&format!("{}/control/sysrq", path(domid)), key.to_string())?)
    }

    /// Gives a domain another name.
    ///
    /// # Errors
    /// [`Error::Refused`] where another domain has it, or xenstore's.
    pub fn rename(&self, _held: &Lock, domid: u16, name: &str) -> Result<()> {
        self.check_name(name, Some(domid))?;
        let vm = self.store.read_string_opt(&format!("{}/vm", path(domid)))?;
        self.store.transaction(|tx| -> xenstore::Result<()> {
            tx.write(&format!("{}/name", path(domid)), name)?;
            if let Some(vm) = &vm {
                tx.write(&format!("{vm}/name"), name)?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Checks that a name may be given to a domain.
    pub(crate) fn check_name(&self, name: &str, to: Option<u16>) -> Result<()> {
        if let Some(why) = unusable_name(name) {
            return Err(Error::Refused(format!(
                "\"{}\" is no name for a domain: {why}",
                name.escape_debug()
            )));
        }
        match self.by_name(name)? {
            Some(other) if Some(other.domid) != to => Err(Error::Refused(format!(
                "domain {} has the name \"{name}\" already",
                other.domid
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{self, HostConfig};
    use crate::testing::Bench;

    #[test]
    fn what_create_forbids_rename_forbids_too() {
        let bench = Bench::new();
        let domid = bench.create(&bench.config("web")).unwrap().domid;
        let held = bench.lock();
        let long = "x".repeat(256);
        for name in [
            "",
            "12",
            "a/b",
            "a\nb",
            "a\u{7f}",
            &long,
            "(null)",
            "94f18a14-e12c-4e6f-9a1a-9ca8948434ea",
        ] {
            let error = bench.ts.rename(&held, domid, name).unwrap_err();
            assert!(error.chain().contains("is no name for a domain"), "{error}");
            let text = format!("kernel='/k'\nmemory=1\nname=\"{}\"", name.escape_default());
            let none: &[&str] = &[];
            assert!(config::parse("a", text.as_bytes(), none, &HostConfig::default()).is_err());
        }
        bench.ts.rename(&held, domid, "web two").unwrap();
    }
}
