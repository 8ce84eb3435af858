//! The daemon's round: what xenstore says about guests, events of their rings, keys and room in their terminals.

mod guests;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ::daemon::signals::{Asked, Signals};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use xendev::Privcmd;
use xendev::evtchn::{Evtchn, Port};
use xendev::gntdev::Gntdev;
use xenstore::{Ops, Store};

use crate::console::{Console, Remains};
use crate::hypervisor_log::{self, HypervisorLog};
use crate::log::{Form, Log};
use crate::options::Options;

/// The grant reference that is kept for the console's page: `public/grant_table.h, GNTTAB_RESERVED_CONSOLE`.
const CONSOLE_GRANT: u32 = 0;

/// The tokens of our watches; a guest's own has its number behind the prefix.
const INTRODUCED: &str = "introduced";
const RELEASED: &str = "released";
const GUEST: &str = "guest-";

/// How long xenstored, which may be starting anew, is left alone between tries.
const RETRY: Duration = Duration::from_secs(1);

/// Why the daemon ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A device.
    #[error(transparent)]
    Device(#[from] xendev::Error),
    /// The store, at the start.
    #[error(transparent)]
    Store(#[from] xenstore::Error),
    /// The hypervisor's log.
    #[error(transparent)]
    HypervisorLog(#[from] hypervisor_log::Error),
    /// A log.
    #[error("opening a log in {dir}: {why}")]
    Log {
        /// Where.
        dir: String,
        /// Why not.
        why: std::io::Error,
    },
    /// Signals, at the start.
    #[error("taking signals over: {0}")]
    Signals(std::io::Error),
    /// Waiting failed.
    #[error("waiting for events: {0}")]
    Poll(Errno),
}

/// Serves consoles for ever; calls `ready` when guests that come are seen.
///
/// # Errors
/// At the start, or where the devices themselves fail.
pub(crate) fn run(options: &Options, ready: &mut dyn FnMut()) -> Result<(), Error> {
    // From here on a signal is a request.
    let signals = Signals::take_over().map_err(Error::Signals)?;
    let evtchn = Evtchn::open()?;
    let hypervisor = if options.log.has_hypervisor() {
        let log = open_log(options, "hypervisor", options.timestamp.has_hypervisor())?;
        Some(HypervisorLog::start(&evtchn, log)?)
    } else {
        None
    };
    let mut daemon = Daemon {
        options: options.clone(),
        signals,
        evtchn,
        gntdev: Gntdev::open()?,
        privcmd: Privcmd::open()?,
        hypervisor,
        guests: BTreeMap::new(),
        remains: Vec::new(),
    };
    let mut store = Some(connect()?);
    ready();
    let mut retry = Instant::now();
    loop {
        let now = Instant::now();
        if store.is_none() && now >= retry {
            retry = now + RETRY;
            store = connect().ok();
        }
        if let Some(connected) = &store
            && let Err(error) = daemon.follow(connected, now)
        {
            // Guests go on without it; what changed meanwhile is told by the new watches.
            ::log::warn!("{error}; connecting anew");
            daemon.forget_watches();
            store = None;
        }
        daemon.round(store.as_ref())?;
    }
}

fn connect() -> Result<Store, xenstore::Error> {
    let store = Store::open()?;
    store.watch("@introduceDomain", INTRODUCED)?;
    store.watch("@releaseDomain", RELEASED)?;
    Ok(store)
}

fn open_log(options: &Options, stem: &str, has_time: bool) -> Result<Log, Error> {
    let form = Form {
        limit: u64::from(options.log_limit) * 1024,
        keep: options.log_keep,
        has_time,
        replaces_escape: options.replace_escape,
    };
    Log::open(&options.log_dir, stem, form).map_err(|why| Error::Log {
        dir: options.log_dir.display().to_string(),
        why,
    })
}

struct Daemon {
    options: Options,
    signals: Signals,
    evtchn: Evtchn,
    gntdev: Gntdev,
    privcmd: Privcmd,
    hypervisor: Option<HypervisorLog>,
    /// By domid, in order: a round serves each once.
    guests: BTreeMap<u16, Guest>,
    remains: Vec<Remains>,
}

/// A guest that xenstore has.
#[derive(Default)]
struct Guest {
    is_watched: bool,
    attached: Option<Attached>,
    /// What could not be attached, so that it is told once and tried again only when it changes.
    failed: Option<Wanted>,
}

struct Attached {
    what: Wanted,
    port: Port,
    console: Console,
}

/// What xenstore says about a console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    ring_frame: u64,
    port: Port,
}

impl Daemon {
    fn guest_log(&self, name: &str) -> Result<Log, Error> {
        let has_time = self.options.timestamp.has_guests();
        open_log(&self.options, &format!("guest-{name}"), has_time)
    }

    fn answer_signals(&mut self, store: Option<&Store>) {
        let asked: Asked = self.signals.asked();
        if asked.reopen {
            self.reopen_logs(store);
        }
        if asked.report {
            for (domid, attached) in self.guests.iter().filter_map(|(domid, guest)| {
                let attached = guest.attached.as_ref()?;
                Some((domid, attached))
            }) {
                let (tty, (waiting, lost)) = (attached.console.tty(), attached.console.waiting());
                ::log::warn!("d{domid}: {tty}: {waiting} bytes wait, {lost} were lost");
            }
        }
    }

    /// Opens all logs anew: they may have been renamed, and so may the guests. One that cannot be opened stays as it
    /// is.
    fn reopen_logs(&mut self, store: Option<&Store>) {
        if let Some(hypervisor) = &mut self.hypervisor
            && let Err(error) = hypervisor.reopen()
        {
            ::log::error!("{error}");
        }
        if !self.options.log.has_guests() {
            return;
        }
        let domids: Vec<u16> = self.guests.keys().copied().collect();
        for domid in domids {
            let path = format!("/local/domain/{domid}/name");
            let name = store.and_then(|store| store.read_string_opt(&path).ok().flatten());
            let new = name.map(|name| self.guest_log(&name));
            let Some(attached) = self.attached(domid) else {
                continue;
            };
            let reopened = match new {
                Some(Ok(log)) => {
                    attached.console.set_log(Some(log));
                    Ok(())
                }
                Some(Err(error)) => Err(error.to_string()),
                // Without a store the name is as it was.
                None => attached
                    .console
                    .log_mut()
                    .map_or(Ok(()), Log::reopen)
                    .map_err(|error| error.to_string()),
            };
            if let Err(error) = reopened {
                ::log::error!("d{domid}: {error}");
            }
        }
    }

    /// Waits for something to do, and does it.
    fn round(&mut self, store: Option<&Store>) -> Result<(), Error> {
        let (events_came, terminals) = self.wait(store)?;
        self.answer_signals(store);
        let now = Instant::now();
        self.remains.retain_mut(|remains| !remains.are_over(now));
        if events_came {
            self.take_events()?;
        }
        for (domid, ready) in terminals {
            self.serve_terminal(domid, ready, now)?;
        }
        let ids: Vec<u16> = self.guests.keys().copied().collect();
        for domid in ids {
            self.serve_ring(domid, now)?;
        }
        Ok(())
    }

    /// Polls; returns whether ports fired, and which terminals are ready for what.
    fn wait(&mut self, store: Option<&Store>) -> Result<(bool, Vec<(u16, PollFlags)>), Error> {
        let now = Instant::now();
        let mut pause = store.is_none().then_some(RETRY);
        if !self.remains.is_empty() {
            pause = shorter(pause, Remains::PAUSE);
        }
        for guest in self.guests.values_mut() {
            if let Some(due) = guest.attached.as_mut().and_then(|a| a.console.due(now)) {
                pause = shorter(pause, due);
            }
        }
        let mut domids = Vec::new();
        let mut fds = vec![PollFd::new(&self.evtchn, PollFlags::IN)];
        let signals = self.signals.fds();
        fds.extend(signals.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let first = fds.len();
        for (domid, guest) in &self.guests {
            let Some(attached) = &guest.attached else {
                continue;
            };
            let interest = attached.console.interest();
            // A pty without a writer reports a hang-up for ever if it is asked for nothing.
            if !interest.is_empty() {
                domids.push(*domid);
                fds.push(PollFd::from_borrowed_fd(attached.console.as_fd(), interest));
            }
        }
        if let Some(store) = store {
            fds.push(PollFd::new(store, PollFlags::IN));
        }
        let pause = pause.map(timespec);
        match poll(&mut fds, pause.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::Poll(errno)),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        let events_came = ready.first().is_some_and(|flags| !flags.is_empty());
        let terminals = domids.into_iter().zip(ready.into_iter().skip(first));
        Ok((
            events_came,
            terminals.filter(|(_, flags)| !flags.is_empty()).collect(),
        ))
    }

    /// Notes for each port that fired what there is to look at.
    fn take_events(&mut self) -> Result<(), Error> {
        let mut ports = Vec::new();
        self.evtchn.pending(&mut ports)?;
        for port in ports {
            if let Some(hypervisor) = &mut self.hypervisor
                && hypervisor.port() == port
            {
                // Unmasked first: a message that comes meanwhile fires again.
                self.evtchn.unmask(port)?;
                if let Err(error) = hypervisor.copy() {
                    ::log::error!("{error}");
                    self.hypervisor = None;
                }
                continue;
            }
            let mut attached = self.guests.values_mut().filter_map(|g| g.attached.as_mut());
            if let Some(attached) = attached.find(|attached| attached.port == port) {
                attached.console.event();
            }
        }
        Ok(())
    }

    /// Empties a guest's ring once, and lets its port fire again when there was nothing more.
    fn serve_ring(&mut self, domid: u16, now: Instant) -> Result<(), Error> {
        let Some(attached) = self.attached(domid) else {
            return Ok(());
        };
        if attached.console.due(now) != Some(Duration::ZERO) {
            return Ok(());
        }
        let port = attached.port;
        match attached.console.serve_ring(now) {
            Ok(served) => {
                if served.notify {
                    // A guest that has just gone has no port to be told by.
                    let _ = self.evtchn.notify(port);
                }
                if served.is_empty {
                    self.unmask_and_look(domid, port, now)?;
                }
                Ok(())
            }
            Err(bad) => {
                self.give_up(domid, &bad, now);
                Ok(())
            }
        }
    }

    /// Unmasks a port and looks once more: what came between the last look and the unmasking fired nothing.
    fn unmask_and_look(&mut self, domid: u16, port: Port, now: Instant) -> Result<(), Error> {
        self.evtchn.unmask(port)?;
        let Some(attached) = self.attached(domid) else {
            return Ok(());
        };
        attached.console.event();
        match attached.console.serve_ring(now) {
            Ok(served) if served.notify => {
                let _ = self.evtchn.notify(port);
            }
            Ok(_) => {}
            Err(bad) => self.give_up(domid, &bad, now),
        }
        Ok(())
    }

    fn serve_terminal(&mut self, domid: u16, ready: PollFlags, now: Instant) -> Result<(), Error> {
        let Some(attached) = self.attached(domid) else {
            return Ok(());
        };
        if ready.contains(PollFlags::OUT) {
            attached.console.serve_output();
        }
        if ready.contains(PollFlags::IN) {
            let port = attached.port;
            match attached.console.serve_input() {
                Ok(true) => {
                    let _ = self.evtchn.notify(port);
                }
                Ok(false) => {}
                Err(bad) => self.give_up(domid, &bad, now),
            }
        }
        Ok(())
    }

    fn attached(&mut self, domid: u16) -> Option<&mut Attached> {
        self.guests.get_mut(&domid)?.attached.as_mut()
    }

    /// Ends a console whose guest breaks the ring's rules; the guest itself goes on.
    fn give_up(&mut self, domid: u16, why: &dyn std::error::Error, now: Instant) {
        ::log::error!("d{domid}: the console is given up: {why}");
        let Some(guest) = self.guests.get_mut(&domid) else {
            return;
        };
        if let Some(attached) = guest.attached.take() {
            guest.failed = Some(attached.what);
            self.detach(attached, now);
        }
    }
}

fn shorter(one: Option<Duration>, other: Duration) -> Option<Duration> {
    Some(one.map_or(other, |one| one.min(other)))
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_pause_counts() {
        assert_eq!(
            shorter(None, Duration::from_secs(1)),
            Some(Duration::from_secs(1))
        );
        let pause = shorter(Some(Duration::from_millis(5)), Duration::from_secs(1));
        assert_eq!(pause, Some(Duration::from_millis(5)));
    }
}
