//! The monitor: one small process a domain, which waits for its end and does what the configuration says.
//!
//! `xl create` starts it ([`spawn`]) as a hidden mode of its own program, and it follows the domain through its reboots.
//! It knows of an end from xenstored, which fires `@releaseDomain` for each; which domain it was the hypervisor says. A
//! restarted domain is built from the configuration that was kept, so that it has the same disks, UUID and addresses.
#![expect(
    non_upper_case_globals,
    reason = "the ABI's constants keep Xen's spelling"
)]

mod clock;

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use guest_abi::sched::{
    SHUTDOWN_crash, SHUTDOWN_reboot, SHUTDOWN_soft_reset, SHUTDOWN_suspend, SHUTDOWN_watchdog,
};
use uuid::Uuid;
use xenstore::Ops;

use crate::config::{Action, DomainConfig, ShutdownActions};
use crate::create::Options;
use crate::domain::path;
use crate::error::During;
use crate::{Error, Lock, Result, Toolstack};

/// How long a xenstored that is gone may take to come back, and how often that is tried.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);
/// The token of the monitor's watch.
const TOKEN: &str = "monitor";

/// How a domain's monitor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The domain was destroyed, by us or by somebody else.
    Destroyed,
    /// It is kept for a look.
    Preserved,
}

/// Starts a monitor that outlives its parent: `program` with `arguments`, its output appended to `log`.
///
/// # Errors
/// Where the log cannot be opened or the program not be started.
pub fn spawn(program: &Path, arguments: &[&OsStr], log: &Path) -> Result<u32> {
    if let Some(directory) = log.parent() {
        std::fs::create_dir_all(directory).map_err(|error| Error::file(directory, error))?;
    }
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .map_err(|error| Error::file(log, error))?;
    let errors = output
        .try_clone()
        .map_err(|error| Error::file(log, error))?;
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .current_dir("/")
        // a signal to the terminal's processes is not for it
        .process_group(0)
        .spawn()
        .map_err(|error| Error::file(program, error))?;
    Ok(child.id())
}

/// Waits for the end of a domain and acts on it, as [`Toolstack::monitor`], over connections that `open` makes: where
/// xenstored is started anew meanwhile, it goes on with the new one.
///
/// # Errors
/// The first action that failed; or that no xenstored came back within a minute.
pub fn outlast(
    open: impl Fn() -> Result<Toolstack>,
    mut domid: u16,
    note: &mut dyn FnMut(&str),
) -> Result<Ended> {
    let mut lost_since = None;
    loop {
        let result = open().and_then(|toolstack| {
            lost_since = None;
            toolstack.watch_ends(&mut domid, note)
        });
        match result {
            Err(error) if is_lost(&error) => {
                if lost_since.is_none() {
                    note(&format!("{}; waiting for another", error.chain()));
                }
                if lost_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return Err(error);
                }
                std::thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

/// True where the connection to xenstored broke, or could not be made.
fn is_lost(error: &Error) -> bool {
    use xenstore::Error::{Closed, Connect, Io};
    matches!(error.root(), Error::Store(Io(_) | Closed | Connect { .. }))
}

impl Toolstack {
    /// Waits for the end of a domain and acts on it, and on the ends of those that follow it; `note` gets a line for each
    /// thing done.
    ///
    /// # Errors
    /// The first action that failed: a domain that could not be made again stays gone.
    pub fn monitor(&self, mut domid: u16, note: &mut dyn FnMut(&str)) -> Result<Ended> {
        self.watch_ends(&mut domid, note)
    }

    fn watch_ends(&self, domid: &mut u16, note: &mut dyn FnMut(&str)) -> Result<Ended> {
        self.store.watch("@releaseDomain", TOKEN)?;
        let result = self.follow(domid, note)?;
        self.store.unwatch("@releaseDomain", TOKEN)?;
        Ok(result)
    }

    fn follow(&self, domid: &mut u16, note: &mut dyn FnMut(&str)) -> Result<Ended> {
        loop {
            let info = match self.info(*domid) {
                Err(Error::NoDomain(_)) => return Ok(Ended::Destroyed),
                info => info?,
            };
            if info.state.dying {
                return Ok(Ended::Destroyed);
            }
            // one that is suspended is being saved, by somebody who will destroy or resume it
            let ended = info
                .state
                .shutdown
                .filter(|reason| u32::from(*reason) != SHUTDOWN_suspend);
            let Some(reason) = ended else {
                self.store.next_event(None)?;
                continue;
            };
            match self.act(*domid, u32::from(reason), note)? {
                Some(next) => *domid = next,
                None if self.info(*domid).is_ok_and(|info| !info.state.dying) => {
                    return Ok(Ended::Preserved);
                }
                None => return Ok(Ended::Destroyed),
            }
        }
    }

    /// Does what follows an end; returns the domain that takes its place.
    fn act(&self, domid: u16, reason: u32, note: &mut dyn FnMut(&str)) -> Result<Option<u16>> {
        let config = self.kept_config(domid)?;
        let actions = config
            .as_ref()
            .map(|config| config.actions)
            .unwrap_or_default();
        let action = action_for(&actions, reason);
        note(&format!(
            "domain {domid} ended: {}; {}",
            reason_name(reason),
            action.name()
        ));
        match action {
            Action::Preserve => return Ok(None),
            Action::CoredumpDestroy | Action::CoredumpRestart => {
                let name = self.name_of(domid)?.unwrap_or_else(|| domid.to_string());
                let dump = self.paths.dumps.join(name);
                match self.dump_core(domid, &dump) {
                    Ok(pages) => note(&format!("{pages} pages dumped to {}", dump.display())),
                    // a dump is for a look later; the domain's service matters more
                    Err(error) => note(&format!("no dump: {}", error.chain())),
                }
            }
            Action::SoftReset => note("soft reset is not supported: the domain is destroyed"),
            Action::Destroy | Action::Restart | Action::RestartRename => {}
        }
        match (action, config) {
            (Action::Restart | Action::CoredumpRestart, Some(config)) => {
                // from here on: nobody else may take its name meanwhile
                let held = self.lock(note)?;
                self.destroy(domid)?;
                self.make_again(&held, &config, note).map(Some)
            }
            (Action::RestartRename, Some(config)) => {
                let held = self.lock(note)?;
                self.set_aside(&held, domid, &config)?;
                self.make_again(&held, &config, note).map(Some)
            }
            (Action::Restart | Action::CoredumpRestart | Action::RestartRename, None) => {
                note("its configuration was not kept: it cannot be made again");
                self.destroy(domid).map(|()| None)
            }
            _ => self.destroy(domid).map(|()| None),
        }
    }

    fn make_again(
        &self,
        held: &Lock,
        config: &DomainConfig,
        note: &mut dyn FnMut(&str),
    ) -> Result<u16> {
        let created = self
            .create(held, config, Options::default())
            .during("restarting")?;
        note(&format!(
            "\"{}\" is domain {} now",
            config.name, created.domid
        ));
        Ok(created.domid)
    }

    /// Keeps an ended domain under another name and UUID, without its devices.
    fn set_aside(&self, held: &Lock, domid: u16, config: &DomainConfig) -> Result<()> {
        self.detach_all(domid)?;
        let (name, uuid) = (
            format!("{}{}", config.name, clock::suffix(clock::now())),
            Uuid::new_v4(),
        );
        self.hyper.set_handle(domid, uuid.into_bytes())?;
        let vm = format!("/vm/{uuid}");
        self.store.transaction(|tx| -> xenstore::Result<()> {
            tx.rm_if_exists(&format!("/vm/{}", config.uuid))?;
            tx.write(&format!("{vm}/name"), &name)?;
            tx.write(&format!("{vm}/uuid"), uuid.to_string())?;
            tx.write(&format!("{}/vm", path(domid)), &vm)?;
            tx.write(&format!("{}/name", path(domid)), &name)
        })?;
        self.forget_config(domid, config.uuid)?;
        self.keep_config(
            held,
            domid,
            &DomainConfig {
                name,
                uuid,
                disks: Vec::new(),
                vifs: Vec::new(),
                ..config.clone()
            },
        )
    }
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

#[cfg(test)]
mod tests;
