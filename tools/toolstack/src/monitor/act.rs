//! What follows a domain's end: what its configuration says, and how long to wait before it is started again.
#![expect(
    non_upper_case_globals,
    reason = "the ABI's constants keep Xen's spelling"
)]

use guest_abi::sched::{SHUTDOWN_crash, SHUTDOWN_reboot, SHUTDOWN_soft_reset, SHUTDOWN_watchdog};

use super::backoff::{self, Follows};
use super::marks::Mark;
use super::restart::{Old, Record, Restart};
use crate::config::{Action, DomainConfig, ShutdownActions};
use crate::{Result, Toolstack};

/// What follows an end.
pub(super) enum Next {
    Restart(Box<Restart>),
    /// It goes on by itself.
    GoesOn,
    /// It was destroyed.
    Gone,
    /// It is kept for a look.
    Preserved,
}

impl Toolstack {
    /// Does what follows an end, but for making the domain again.
    pub(super) fn act(
        &self,
        (domid, reason): (u16, u32),
        mark: Mark,
        config: Option<DomainConfig>,
        note: &mut dyn FnMut(&str),
    ) -> Result<Next> {
        let actions = config.as_ref().map(|config| config.actions);
        let action = action_for(&actions.unwrap_or_default(), reason);
        note(&format!(
            "domain {domid} ended: {}; {}",
            reason_name(reason),
            action.name()
        ));
        match action {
            Action::Preserve => return Ok(Next::Preserved),
            Action::CoredumpDestroy | Action::CoredumpRestart => self.dump(domid, note)?,
            Action::SoftReset => {
                if let Some(config) = &config {
                    return self.go_on(domid, config, note);
                }
            }
            Action::Destroy | Action::Restart | Action::RestartRename => {}
        }
        let old = match action {
            Action::Restart | Action::CoredumpRestart => Old::Destroy,
            Action::RestartRename => Old::aside(config.as_ref().map_or("", |config| &config.name)),
            _ => return self.destroy(domid).map(|()| Next::Gone),
        };
        let Some(config) = config else {
            note("its configuration was not kept: it cannot be made again");
            return self.destroy(domid).map(|()| Next::Gone);
        };
        let lived = mark.lived();
        match backoff::after(lived, mark.short_lives) {
            Follows::Nothing => {
                note(&given_up(mark.short_lives));
                self.destroy(domid).map(|()| Next::Gone)
            }
            Follows::Start { pause, short_lives } => {
                if short_lives > 0 {
                    note(&format!(
                        "it lived for {} s: it is started again in {} s ({short_lives} of {} times)",
                        lived.as_secs(),
                        pause.as_secs(),
                        backoff::MOST
                    ));
                }
                let record = Record {
                    domid,
                    old,
                    short_lives,
                    config,
                };
                Ok(Next::Restart(Box::new(Restart::after(pause, record))))
            }
        }
    }

    /// Lets a domain go on in the kernel that it loaded itself.
    fn go_on(&self, domid: u16, config: &DomainConfig, note: &mut dyn FnMut(&str)) -> Result<Next> {
        let held = self.lock(note)?;
        self.soft_reset(&held, domid, config)?;
        note(&format!("domain {domid} goes on in its next kernel"));
        Ok(Next::GoesOn)
    }

    /// Writes a core dump; one that fails is told. A dump is for a look later, the domain's service matters more.
    fn dump(&self, domid: u16, note: &mut dyn FnMut(&str)) -> Result<()> {
        let name = self.name_of(domid)?.unwrap_or_else(|| domid.to_string());
        let dump = self.paths.dumps.join(name);
        match self.dump_core(domid, &dump) {
            Ok(pages) => note(&format!("{pages} pages dumped to {}", dump.display())),
            Err(error) => note(&format!("no dump: {}", error.chain())),
        }
        Ok(())
    }
}

/// Says that a domain is not started again.
pub(super) fn given_up(times: u32) -> String {
    format!(
        "started {times} times in a row without living for a minute: it is not started again; mend it and use `xl create`"
    )
}

/// What the configuration says of an end.
const fn action_for(actions: &ShutdownActions, reason: u32) -> Action {
    match reason {
        SHUTDOWN_reboot => actions.reboot,
        SHUTDOWN_crash => actions.crash,
        SHUTDOWN_watchdog => actions.watchdog,
        SHUTDOWN_soft_reset => actions.soft_reset,
        _ => actions.poweroff,
    }
}

const fn reason_name(reason: u32) -> &'static str {
    match reason {
        SHUTDOWN_reboot => "it reboots",
        SHUTDOWN_crash => "it crashed",
        SHUTDOWN_watchdog => "its watchdog expired",
        SHUTDOWN_soft_reset => "it asks for a soft reset",
        _ => "it powered off",
    }
}
