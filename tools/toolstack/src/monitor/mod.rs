//! The monitor: one small process a host, which waits for the ends of domains and does what their configurations say.
//!
//! `xl create` marks its domain ([`Toolstack::follow`]) and starts the monitor, a hidden mode of its own program, where
//! the host has none ([`is_there`], [`spawn`]). It ends when no marked domain is left. It knows of an end from
//! xenstored, which fires `@releaseDomain` for each; which domain it was the hypervisor says. A restarted domain is
//! built from the configuration that was kept, so that it has the same disks, UUID and addresses. Nothing is lost with
//! the process: marks are xenstore's, restarts under way are in a file, and the next `xl create` or `xl monitor` goes
//! on with both.

mod act;
mod backoff;
mod clock;
mod marks;
mod process;
mod restart;

use std::io::Write;
use std::time::{Duration, Instant};

use guest_abi::sched::SHUTDOWN_suspend;

use self::act::Next;
use self::backoff::Follows;
use self::marks::Mark;
use self::restart::{Restart, Stage};
use crate::domain::DomainState;
use crate::{DOM0, Error, Paths, Result, Toolstack};

pub use self::process::{is_there, spawn};

/// How long a xenstored that is gone may take to come back, and how often that is tried.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 200 });
/// The token of the monitor's watch.
const TOKEN: &str = "monitor";

/// Gets a line for each thing that is done: for which domain, by name, and what.
pub type Note<'a> = dyn FnMut(&str, &str) + 'a;

/// How following one domain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The domain was destroyed, by us or by somebody else.
    Destroyed,
    /// It is kept for a look.
    Preserved,
}

/// Is the host's monitor until no marked domain is left, over connections that `open` makes; at once where another is.
/// A xenstored that is started anew meanwhile is followed again.
///
/// # Errors
/// The hypervisor or xenstored cannot be reached; no xenstored came back within a minute.
pub fn serve(open: impl Fn() -> Result<Toolstack>, note: &mut Note<'_>) -> Result<()> {
    loop {
        let take = |toolstack: &Toolstack, _: &mut Note<'_>| process::Only::take(&toolstack.paths);
        let Some(only) = outlast(&open, note, take)? else {
            return Ok(());
        };
        let mut monitor = Monitor::of_marked();
        outlast(&open, note, |toolstack, note| {
            if !std::mem::replace(&mut monitor.has_looked_back, true) {
                monitor.restarts = toolstack.left_restarts(note)?;
            }
            monitor.watch(toolstack, note)
        })?;
        drop(only);
        // one that was marked after the last look has found this monitor and started none
        if !outlast(&open, note, |toolstack, _| toolstack.has_marks())? {
            return Ok(());
        }
    }
}

/// Follows one domain, and those that take its place, in the calling process; otherwise as [`serve`].
///
/// # Errors
/// The first action that failed; or that no xenstored came back within a minute.
pub fn follow_one(
    open: impl Fn() -> Result<Toolstack>,
    domid: u16,
    note: &mut Note<'_>,
) -> Result<Ended> {
    let mut monitor = Monitor::of(domid);
    outlast(&open, note, |toolstack, note| {
        monitor.watch(toolstack, note)
    })?;
    Ok(monitor.ended)
}

/// Appends a line with its time to the log of a domain, `xl-NAME.log`.
///
/// # Errors
/// The file system's.
pub fn log(paths: &Paths, name: &str, text: &str) -> Result<()> {
    let path = paths.logs.join(format!("xl-{name}.log"));
    let failed = |error| Error::file(&path, error);
    std::fs::create_dir_all(&paths.logs).map_err(failed)?;
    let mut file = private_file::append(&path).map_err(failed)?;
    let line = format!("{} {text}\n", clock::stamp(clock::now()));
    file.write_all(line.as_bytes()).map_err(failed)
}

/// Does `work` over a new connection each time xenstored went.
fn outlast<T>(
    open: &impl Fn() -> Result<Toolstack>,
    note: &mut Note<'_>,
    mut work: impl FnMut(&Toolstack, &mut Note<'_>) -> Result<T>,
) -> Result<T> {
    let mut lost_since = None;
    loop {
        let result = open().and_then(|toolstack| {
            lost_since = None;
            work(&toolstack, note)
        });
        match result {
            Err(error) if error.is_lost_store() => {
                if lost_since.is_none() {
                    note(
                        "monitor",
                        &format!("{}; waiting for another", error.chain()),
                    );
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

/// Whose ends are acted on.
#[derive(Clone, Copy)]
enum Whom {
    /// All that are marked.
    Marked,
    /// One; its mark is kept here.
    One(u16, Mark),
    /// None any more.
    Nobody,
}

/// What a monitor knows, over a loss of xenstored too.
struct Monitor {
    whom: Whom,
    restarts: Vec<Restart>,
    /// Whether it was looked for what an earlier monitor left.
    has_looked_back: bool,
    ended: Ended,
}

impl Monitor {
    const fn of_marked() -> Self {
        Self {
            whom: Whom::Marked,
            restarts: Vec::new(),
            has_looked_back: false,
            ended: Ended::Destroyed,
        }
    }

    fn of(domid: u16) -> Self {
        Self {
            whom: Whom::One(domid, Mark::now(0)),
            ..Self::of_marked()
        }
    }

    /// Acts on ends until nobody is left to follow.
    fn watch(&mut self, toolstack: &Toolstack, note: &mut Note<'_>) -> Result<()> {
        toolstack.store.watch("@releaseDomain", TOKEN)?;
        loop {
            self.restart_due(toolstack, note)?;
            self.look(toolstack, note)?;
            if !self.has_somebody(toolstack)? {
                break;
            }
            let due = self.restarts.iter().map(|restart| restart.due).min();
            let wait = due.map(|due| due.saturating_duration_since(Instant::now()));
            toolstack.store.next_event(wait)?;
        }
        Ok(toolstack.store.unwatch("@releaseDomain", TOKEN)?)
    }

    fn has_somebody(&self, toolstack: &Toolstack) -> Result<bool> {
        if !self.restarts.is_empty() {
            return Ok(true);
        }
        match self.whom {
            Whom::Marked => toolstack.has_marks(),
            Whom::One(domid, _) => match toolstack.info(domid) {
                Ok(info) => Ok(!info.state.dying),
                Err(Error::NoDomain(_)) => Ok(false),
                Err(error) => Err(error),
            },
            Whom::Nobody => Ok(false),
        }
    }

    /// Looks which domains have ended, and acts on the end of each that is followed.
    fn look(&mut self, toolstack: &Toolstack, note: &mut Note<'_>) -> Result<()> {
        for raw in toolstack.hyper.domain_infos()? {
            let (domid, state) = (raw.domain, DomainState::from_flags(raw.flags));
            let is_waiting = |restart: &Restart| restart.record.domid == domid;
            if domid == DOM0 || state.dying || self.restarts.iter().any(is_waiting) {
                continue;
            }
            // one that is suspended is being saved, by somebody who will destroy or resume it
            let ended = state.shutdown.map(u32::from);
            let Some(reason) = ended.filter(|reason| *reason != SHUTDOWN_suspend) else {
                continue;
            };
            if let Some(mark) = self.mark_of(toolstack, domid)? {
                self.act((domid, reason), mark, toolstack, note)?;
            }
        }
        Ok(())
    }

    fn mark_of(&self, toolstack: &Toolstack, domid: u16) -> Result<Option<Mark>> {
        match self.whom {
            Whom::Marked => toolstack.mark_of(domid),
            Whom::One(one, mark) => Ok((one == domid).then_some(mark)),
            Whom::Nobody => Ok(None),
        }
    }

    /// Acts on one end. What fails for one domain is told, and does not keep others from being followed.
    fn act(
        &mut self,
        (domid, reason): (u16, u32),
        mark: Mark,
        toolstack: &Toolstack,
        note: &mut Note<'_>,
    ) -> Result<()> {
        let mut name = domid.to_string();
        let next = toolstack.kept_config(domid).and_then(|config| {
            if let Some(config) = &config {
                name.clone_from(&config.name);
            }
            let mut note = |text: &str| note(&name, text);
            toolstack.act((domid, reason), mark, config, &mut note)
        });
        match next {
            Ok(Next::Restart(restart)) => self.restarts.push(*restart),
            Ok(Next::Gone | Next::GoesOn) => {}
            Ok(Next::Preserved) => {
                self.ended = Ended::Preserved;
                self.leave(toolstack, domid)?;
            }
            // somebody else was quicker
            Err(error) if matches!(error.root(), Error::NoDomain(_)) => {}
            Err(error) if error.is_lost_store() => return Err(error),
            Err(error) => {
                note(&name, &error.chain());
                self.leave(toolstack, domid)?;
                if let Whom::Nobody = self.whom {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Follows a domain no more.
    fn leave(&mut self, toolstack: &Toolstack, domid: u16) -> Result<()> {
        match self.whom {
            Whom::Marked => toolstack.unmark(domid),
            Whom::One(..) | Whom::Nobody => {
                self.whom = Whom::Nobody;
                Ok(())
            }
        }
    }

    /// Makes the domains again whose time has come.
    fn restart_due(&mut self, toolstack: &Toolstack, note: &mut Note<'_>) -> Result<()> {
        let now = Instant::now();
        while let Some(at) = self.restarts.iter().position(|restart| restart.due <= now) {
            let Some(restart) = self.restarts.get_mut(at) else {
                break;
            };
            match toolstack.restart(restart, note) {
                Ok(domid) => self.end_restart(at, domid, toolstack)?,
                Err(error) if error.is_lost_store() => return Err(error),
                Err(error) => {
                    note(restart.name(), &error.chain());
                    if !try_later(restart, note) {
                        let domid = restart.record.domid;
                        let is_there = matches!(restart.stage, Stage::Waiting | Stage::Clearing);
                        self.end_restart(at, None, toolstack)?;
                        if is_there {
                            self.leave(toolstack, domid)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn end_restart(&mut self, at: usize, domid: Option<u16>, toolstack: &Toolstack) -> Result<()> {
        let Some(restart) = self.restarts.get(at) else {
            return Ok(());
        };
        let record = &restart.record;
        let mark = Mark::now(record.short_lives);
        let is_marked = matches!(self.whom, Whom::Marked);
        if let Some(domid) = domid {
            toolstack.release(domid, is_marked.then_some(mark))?;
        }
        toolstack.forget_restart(record)?;
        self.restarts.swap_remove(at);
        if let Whom::One(..) = self.whom {
            self.whom = domid.map_or(Whom::Nobody, |domid| Whom::One(domid, mark));
        }
        Ok(())
    }
}

/// Puts a restart off that failed; false where it has failed too often.
fn try_later(restart: &mut Restart, note: &mut Note<'_>) -> bool {
    let before = restart.record.short_lives;
    match backoff::after(Duration::ZERO, before) {
        Follows::Start { pause, short_lives } => {
            restart.record.short_lives = short_lives;
            restart.due = restart::due(pause);
            note(
                restart.name(),
                &format!("it is tried again in {} s", pause.as_secs()),
            );
            true
        }
        Follows::Nothing => {
            note(restart.name(), &act::given_up(before));
            false
        }
    }
}

#[cfg(test)]
mod tests;
