//! The main loop: waits for the sockets and for events, and has the engine do a round.
//!
//! Nothing here blocks but the one `epoll_wait`. Each connection has a turn of a few requests; what it does not read
//! waits in its own queue; so a slow client delays nobody. Only who has asked or is told something is looked at: idle
//! clients cost nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::{ErrorKind, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, FileTypeExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use daemon::{logging, signals::Signals};
use rustix::event::{
    Timespec,
    epoll::{self, CreateFlags, Event, EventData, EventFlags},
};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use xenstore::wire::Inbox;

use crate::core::{ConnId, Link};
use crate::engine::{Engine, TURN};

/// How often a guest that must wait for others to read is looked at again.
const RETRY: Duration = Duration::from_millis(250);
/// How long new clients wait after one could not be accepted: most often there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// What events are known by; clients follow, by their connection's number.
const OF_DEVICES: u64 = 0;
const OF_SIGNALS: u64 = 1;
const OF_LISTENERS: u64 = 2;
const OF_CLIENTS: u64 = 1 << 32;

/// Events taken at a time; others wait their turn.
const EVENTS: usize = 64;

/// A local client.
#[derive(Debug)]
struct Client {
    stream: UnixStream,
    inbox: Inbox,
    /// What is asked of epoll.
    interest: EventFlags,
}

/// A socket that clients connect to; its name in the file system goes with it.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Whoever starts next would replace it.
        let _ = fs::remove_file(&self.path);
    }
}

/// The loop's state.
#[derive(Debug)]
pub(crate) struct Server {
    engine: Engine,
    epoll: OwnedFd,
    signals: Signals,
    listeners: Vec<Listener>,
    clients: BTreeMap<ConnId, Client>,
    /// Clients that have a whole request waiting.
    active: BTreeSet<ConnId>,
    /// Clients whose sockets have room again.
    writable: BTreeSet<ConnId>,
    absolved: Instant,
    /// No client is accepted before.
    accept_after: Option<Instant>,
    /// Clients looked at so far, in any way.
    #[cfg(test)]
    looks: usize,
}

/// What was found to do.
#[derive(Debug, Default)]
struct Ready {
    has_events: bool,
    has_signals: bool,
    listeners: Vec<usize>,
    readable: Vec<ConnId>,
}

impl Server {
    /// Puts an engine behind sockets.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn new(
        engine: Engine,
        listeners: Vec<Listener>,
        signals: Signals,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let add = |fd, key| epoll::add(&epoll, fd, EventData::new_u64(key), EventFlags::IN);
        if let Some(fd) = engine.rings.devices.poll_fd() {
            add(fd, OF_DEVICES)?;
        }
        for fd in signals.fds() {
            add(fd, OF_SIGNALS)?;
        }
        for (key, listener) in (OF_LISTENERS..).zip(&listeners) {
            add(listener.listener.as_fd(), key)?;
        }
        Ok(Self {
            engine,
            epoll,
            signals,
            listeners,
            clients: BTreeMap::new(),
            active: BTreeSet::new(),
            writable: BTreeSet::new(),
            absolved: Instant::now(),
            accept_after: None,
            #[cfg(test)]
            looks: 0,
        })
    }

    /// Serves until something fails that cannot be mended.
    ///
    /// # Errors
    /// `epoll` or the event device failed.
    pub(crate) fn run(mut self) -> Result<(), Box<dyn std::error::Error>> {
        // What waits in the rings from before the start comes first.
        let mut has_more = self.round();
        loop {
            has_more = self.turn(has_more)?;
        }
    }

    /// Waits, unless somebody has more to ask, and does a round; true if somebody has more to ask at once.
    fn turn(&mut self, has_more: bool) -> Result<bool, Box<dyn std::error::Error>> {
        let ready = self.wait(has_more)?;
        if ready.has_signals {
            self.answer_signals();
        }
        if ready.has_events && self.engine.rings.receive()? {
            self.engine.check_domains();
        }
        for index in ready.listeners {
            self.accept(index);
        }
        for id in ready.readable {
            self.read(id);
        }
        Ok(self.round())
    }

    fn answer_signals(&mut self) {
        let asked = self.signals.asked();
        if asked.reopen
            && let Err(error) = logging::reopen()
        {
            log::error!("the log cannot be opened anew: {error}");
        }
        if asked.report {
            let report = self.engine.core.memreport();
            report.lines().for_each(|line| log::info!("{line}"));
        }
    }

    /// Serves, records, answers; true if somebody has more to ask at once.
    fn round(&mut self) -> bool {
        self.engine.serve_rings();
        self.serve_clients();
        self.engine.write_journal();
        self.engine.answer_rings();
        self.answer_clients();
        let now = Instant::now();
        if now.duration_since(self.absolved) >= RETRY {
            self.absolved = now;
            self.engine.core.absolve(now);
        }
        let mut clients = self.active.iter();
        clients.any(|id| !self.engine.core.is_behind(*id)) || self.engine.has_more()
    }

    fn wait(&mut self, has_more: bool) -> io::Result<Ready> {
        let pause = self.accept_pause();
        let retry = (!self.engine.rings.active.is_empty()).then_some(RETRY);
        let timeout = if has_more {
            Some(Duration::ZERO)
        } else {
            retry.into_iter().chain(pause).min()
        };
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut events = Vec::with_capacity(EVENTS);
        let room = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, room, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        }
        Ok(self.sort(&events, pause.is_none()))
    }

    /// Sorts what `epoll` found.
    fn sort(&mut self, events: &[Event], is_accepting: bool) -> Ready {
        let mut ready = Ready::default();
        for event in events {
            let flags = event.flags;
            match event.data.u64() {
                OF_DEVICES => ready.has_events = true,
                OF_SIGNALS => ready.has_signals = true,
                key if key >= OF_CLIENTS => {
                    let id = key - OF_CLIENTS;
                    // A connection that is over shows at the next read, or write if nothing is read for now.
                    if flags != EventFlags::OUT {
                        ready.readable.push(id);
                    }
                    if flags != EventFlags::IN {
                        self.writable.insert(id);
                    }
                }
                key if is_accepting => {
                    let index = usize::try_from(key - OF_LISTENERS);
                    ready.listeners.extend(index);
                }
                _ => {}
            }
        }
        ready
    }

    /// Asks epoll for what is of interest: room for what waits, and requests unless too much waits.
    fn ask_epoll(&mut self, id: ConnId) {
        let (Some(client), Some(conn)) =
            (self.clients.get_mut(&id), self.engine.core.conns.get(&id))
        else {
            return;
        };
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, !conn.is_behind());
        flags.set(EventFlags::OUT, !conn.outbox.is_empty());
        if flags != client.interest {
            client.interest = flags;
            let data = EventData::new_u64(OF_CLIENTS + id);
            if let Err(error) = epoll::modify(&self.epoll, &client.stream, data, flags) {
                log::error!("a local client cannot be waited for: {error}");
            }
        }
    }

    /// Has epoll tell of new clients, or not.
    fn watch_listeners(&self, is_accepting: bool) {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, is_accepting);
        for (key, listener) in (OF_LISTENERS..).zip(&self.listeners) {
            let data = EventData::new_u64(key);
            if let Err(error) = epoll::modify(&self.epoll, &listener.listener, data, flags) {
                log::error!("new clients cannot be waited for: {error}");
            }
        }
    }

    fn accept(&mut self, index: usize) {
        let Some(listener) = self.listeners.get(index) else {
            return;
        };
        let accepted = listener.listener.accept();
        match accepted.and_then(|(stream, _)| self.add_client(stream)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                self.accept_after = Instant::now().checked_add(ACCEPT_PAUSE);
                self.watch_listeners(false);
                if self.engine.core.quotas.may_log(0, "accept") {
                    log::error!("cannot accept a client: {error}");
                }
            }
        }
    }

    fn add_client(&mut self, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let id = self.engine.core.open(0, Link::Socket);
        let (inbox, interest) = (Inbox::default(), EventFlags::IN);
        let data = EventData::new_u64(OF_CLIENTS + id);
        if let Err(error) = epoll::add(&self.epoll, &stream, data, interest) {
            self.engine.core.close(id);
            return Err(error.into());
        }
        let client = Client {
            stream,
            inbox,
            interest,
        };
        self.clients.insert(id, client);
        Ok(())
    }

    /// Returns how long no client is accepted, if that is so.
    fn accept_pause(&mut self) -> Option<Duration> {
        let rest = self.accept_after?.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            self.accept_after = None;
            self.watch_listeners(true);
        }
        self.accept_after.map(|_| rest)
    }

    fn read(&mut self, id: ConnId) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        // A client that has asked enough for now keeps the rest in its socket.
        if self.engine.core.is_behind(id) || client.inbox.has_message() {
            return;
        }
        let mut buffer = [0; 8192];
        match client.stream.read(&mut buffer) {
            Ok(0) => self.drop_client(id),
            Ok(count) => {
                client.inbox.push(buffer.get(..count).unwrap_or_default());
                self.active.insert(id);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.drop_client(id),
        }
    }

    fn serve_clients(&mut self) {
        for id in std::mem::take(&mut self.active) {
            self.serve_client(id);
        }
    }

    fn serve_client(&mut self, id: ConnId) {
        for _ in 0..TURN {
            let Some(client) = self.clients.get_mut(&id) else {
                return;
            };
            if self.engine.core.is_behind(id) {
                break;
            }
            match client.inbox.pop() {
                Ok(Some(message)) => {
                    let engine = &mut self.engine;
                    engine.core.handle(&mut engine.rings, id, &message);
                }
                Ok(None) => return,
                Err(error) => {
                    log::warn!(
                        "a local client sent {} bytes at once: disconnected",
                        error.len
                    );
                    return self.drop_client(id);
                }
            }
        }
        self.active.insert(id);
    }

    fn answer_clients(&mut self) {
        let mut ids = std::mem::take(&mut self.engine.core.news);
        ids.append(&mut self.writable);
        for id in ids {
            self.answer_client(id);
            self.ask_epoll(id);
        }
    }

    fn answer_client(&mut self, id: ConnId) {
        #[cfg(test)]
        {
            self.looks += 1;
        }
        let conn = self.engine.core.conns.get_mut(&id);
        let (Some(client), Some(conn)) = (self.clients.get_mut(&id), conn) else {
            return;
        };
        if conn.outbox.is_empty() {
            return;
        }
        let is_lost = match client.stream.write(conn.outbox.pending()) {
            Ok(count) => {
                conn.outbox.take(count);
                conn.is_hopeless
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => conn.is_hopeless,
            Err(error) => error.kind() != ErrorKind::Interrupted,
        };
        if is_lost {
            self.drop_client(id);
        }
    }

    fn drop_client(&mut self, id: ConnId) {
        self.clients.remove(&id);
        self.active.remove(&id);
        self.engine.core.close(id);
    }
}

/// Lets this process have as many files as it may: each client is one, and so is each guest's ring.
///
/// # Errors
/// The kernel's; then the limit is as it was.
pub(crate) fn raise_file_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

/// Listens at each of `paths`, for root alone; paths that lead to one directory count once.
///
/// # Errors
/// Another xenstored listens there, or the directory cannot be written.
pub(crate) fn listen(paths: &[PathBuf]) -> Result<Vec<Listener>, String> {
    let mut listeners = Vec::new();
    let mut known: Vec<PathBuf> = Vec::new();
    for path in paths {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let in_path = |error: io::Error| format!("{}: {error}", path.display());
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(in_path)?;
        let real = directory.canonicalize().map_err(in_path)?;
        if !known.contains(&real) {
            let listener = listen_at(path).map_err(in_path)?;
            let path = path.clone();
            listeners.push(Listener { listener, path });
            known.push(real);
        }
    }
    Ok(listeners)
}

fn listen_at(path: &Path) -> io::Result<UnixListener> {
    if fs::metadata(path).is_ok_and(|known| known.file_type().is_socket()) {
        if UnixStream::connect(path).is_ok() {
            let what = "another xenstored is running";
            return Err(io::Error::new(ErrorKind::AddrInUse, what));
        }
        fs::remove_file(path)?;
    }
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    rustix::io::fcntl_setfd(listener.as_fd(), rustix::io::FdFlags::CLOEXEC)?;
    Ok(listener)
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
