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
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 200 });
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
    let output = private_file::append(log).map_err(|error| Error::file(log, error))?;
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
    domid: u16,
    note: &mut dyn FnMut(&str),
) -> Result<Ended> {
    let mut lost_since = None;
    let mut followed = Followed::new(domid);
    loop {
        let result = open().and_then(|toolstack| {
            lost_since = None;
            toolstack.watch_ends(&mut followed, note)
        });
        match result {
            Err(error) if error.is_lost_store() => {
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

/// Who is followed, and what is still to be done for it.
struct Followed {
    domid: u16,
    /// Kept until it is done, over a loss of xenstored too: without it the guest would be lost.
    restart: Option<Restart>,
}

impl Followed {
    const fn new(domid: u16) -> Self {
        Self {
            domid,
            restart: None,
        }
    }
}

/// A domain to be made once more.
struct Restart {
    config: DomainConfig,
    old: Old,
}

/// What is to be done with its predecessor first.
#[derive(Clone, Copy)]
enum Old {
    Destroy,
    SetAside,
    /// It is done.
    Away,
}

/// What follows an end.
enum Next {
    Restart(Box<Restart>),
    End(Ended),
}

impl Toolstack {
    /// Waits for the end of a domain and acts on it, and on the ends of those that follow it; `note` gets a line for each
    /// thing done.
    ///
    /// # Errors
    /// The first action that failed: a domain that could not be made again stays gone.
    pub fn monitor(&self, domid: u16, note: &mut dyn FnMut(&str)) -> Result<Ended> {
        self.watch_ends(&mut Followed::new(domid), note)
    }

    fn watch_ends(&self, followed: &mut Followed, note: &mut dyn FnMut(&str)) -> Result<Ended> {
        self.store.watch("@releaseDomain", TOKEN)?;
        let result = self.follow(followed, note)?;
        self.store.unwatch("@releaseDomain", TOKEN)?;
        Ok(result)
    }

    fn follow(&self, followed: &mut Followed, note: &mut dyn FnMut(&str)) -> Result<Ended> {
        loop {
            self.finish_restart(followed, note)?;
            let info = match self.info(followed.domid) {
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
            match self.act(followed.domid, u32::from(reason), note) {
                Ok(Next::Restart(restart)) => followed.restart = Some(*restart),
                Ok(Next::End(ended)) => return Ok(ended),
                // somebody else was quicker
                Err(error) if matches!(error.root(), Error::NoDomain(_)) => {
                    return Ok(Ended::Destroyed);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Does what follows an end, but for making the domain again.
    fn act(&self, domid: u16, reason: u32, note: &mut dyn FnMut(&str)) -> Result<Next> {
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
            Action::Preserve => return Ok(Next::End(Ended::Preserved)),
            Action::CoredumpDestroy | Action::CoredumpRestart => self.dump(domid, note)?,
            Action::SoftReset => note("soft reset is not supported: the domain is destroyed"),
            Action::Destroy | Action::Restart | Action::RestartRename => {}
        }
        let old = match action {
            Action::Restart | Action::CoredumpRestart => Old::Destroy,
            Action::RestartRename => Old::SetAside,
            _ => return self.destroy(domid).map(|()| Next::End(Ended::Destroyed)),
        };
        let Some(config) = config else {
            note("its configuration was not kept: it cannot be made again");
            return self.destroy(domid).map(|()| Next::End(Ended::Destroyed));
        };
        Ok(Next::Restart(Box::new(Restart { config, old })))
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

    /// Makes the domain again that is waited for, if one is. May be called again where xenstored was lost meanwhile.
    fn finish_restart(&self, followed: &mut Followed, note: &mut dyn FnMut(&str)) -> Result<()> {
        let Some(restart) = &mut followed.restart else {
            return Ok(());
        };
        // from here on: nobody else may take its name meanwhile
        let held = self.lock(note)?;
        match restart.old {
            Old::Destroy => self.clear_away(&held, followed.domid, note)?,
            Old::SetAside => self.set_aside(&held, followed.domid, &restart.config)?,
            Old::Away => {}
        }
        restart.old = Old::Away;
        let domid = self.make_again(&held, &restart.config, note)?;
        *followed = Followed::new(domid);
        Ok(())
    }

    /// Destroys a domain so that another can take its place. Where it is gone in the end, a part that failed is told, and
    /// does not keep its successor away.
    fn clear_away(&self, held: &Lock, domid: u16, note: &mut dyn FnMut(&str)) -> Result<()> {
        let error = match self.destroy(domid) {
            Err(error) if !error.is_lost_store() => error,
            result => return result,
        };
        let swept = match self.info(domid) {
            Ok(info) if info.state.dying => Ok(()),
            Err(Error::NoDomain(_)) => self.sweep(held, domid),
            Err(lost) if lost.is_lost_store() => return Err(lost),
            _ => return Err(error),
        };
        if !matches!(error, Error::NoDomain(_)) {
            note(&error.chain());
        }
        match swept {
            Err(error) if !error.is_lost_store() => note(&error.chain()),
            result => return result,
        }
        Ok(())
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
