//! The main loop: waits for the sockets and for events, and has the engine do a round.
//!
//! Nothing here blocks but the one `poll`. Each connection has a turn of a few requests; what it does not read waits in
//! its own queue; so a slow client delays nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::{ErrorKind, Read, Write},
    os::{
        fd::AsFd,
        unix::{
            fs::{DirBuilderExt, FileTypeExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use xenstore::wire::Inbox;

use crate::core::{ConnId, Link};
use crate::engine::{Engine, TURN};

/// How often a guest that must wait for others to read is looked at again.
const RETRY: Duration = Duration::from_millis(250);
/// How long new clients wait after one could not be accepted: most often there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// A local client.
#[derive(Debug)]
struct Client {
    stream: UnixStream,
    inbox: Inbox,
}

/// The loop's state.
#[derive(Debug)]
pub(crate) struct Server {
    engine: Engine,
    listeners: Vec<UnixListener>,
    clients: BTreeMap<ConnId, Client>,
    /// Clients that have a whole request waiting.
    active: BTreeSet<ConnId>,
    absolved: Instant,
    /// No client is accepted before.
    accept_after: Option<Instant>,
}

/// What `poll` found.
#[derive(Debug, Default)]
struct Ready {
    has_events: bool,
    listeners: Vec<usize>,
    clients: Vec<ConnId>,
}

impl Server {
    /// Puts an engine behind sockets.
    pub(crate) fn new(engine: Engine, listeners: Vec<UnixListener>) -> Self {
        Self {
            engine,
            listeners,
            clients: BTreeMap::new(),
            active: BTreeSet::new(),
            absolved: Instant::now(),
            accept_after: None,
        }
    }

    /// Serves until something fails that cannot be mended.
    ///
    /// # Errors
    /// `poll` or the event device failed.
    pub(crate) fn run(mut self) -> Result<(), Box<dyn std::error::Error>> {
        // What waits in the rings from before the start comes first.
        let mut has_more = self.round();
        loop {
            let ready = self.wait(has_more)?;
            if ready.has_events && self.engine.rings.receive()? {
                self.engine.check_domains();
            }
            for index in ready.listeners {
                self.accept(index);
            }
            for id in ready.clients {
                self.read(id);
            }
            has_more = self.round();
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
        let accepting = match pause {
            Some(_) => 0,
            None => self.listeners.len(),
        };
        let events = self.engine.rings.devices.poll_fd();
        let mut fds: Vec<_> = events
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        let listeners = self.listeners.iter().take(accepting);
        fds.extend(listeners.map(|listener| PollFd::new(listener, PollFlags::IN)));
        let clients = self.clients.iter();
        fds.extend(clients.map(|(id, client)| PollFd::new(&client.stream, self.interest(*id))));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        }
        let mut found = fds.iter().map(|fd| !fd.revents().is_empty());
        let has_events = events.is_some() && found.next().unwrap_or(false);
        let mut listeners: Vec<_> = (0..accepting).collect();
        listeners.retain(|_| found.next().unwrap_or(false));
        let ids = self.clients.keys().copied();
        let clients = ids.zip(found).filter(|(_, is_ready)| *is_ready);
        Ok(Ready {
            has_events,
            listeners,
            clients: clients.map(|(id, _)| id).collect(),
        })
    }

    /// What is of interest: room for what waits, and requests unless too much waits.
    fn interest(&self, id: ConnId) -> PollFlags {
        let conn = self.engine.core.conns.get(&id);
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, !self.engine.core.is_behind(id));
        flags.set(
            PollFlags::OUT,
            conn.is_some_and(|conn| !conn.outbox.is_empty()),
        );
        flags
    }

    fn accept(&mut self, index: usize) {
        let Some(listener) = self.listeners.get(index) else {
            return;
        };
        let accepted = listener.accept().and_then(|(stream, _)| {
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        match accepted {
            Ok(stream) => {
                let id = self.engine.core.open(0, Link::Socket);
                let inbox = Inbox::default();
                self.clients.insert(id, Client { stream, inbox });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                self.accept_after = Instant::now().checked_add(ACCEPT_PAUSE);
                if self.engine.core.quotas.may_log(0, "accept") {
                    log::error!("cannot accept a client: {error}");
                }
            }
        }
    }

    /// Returns how long no client is accepted, if that is so.
    fn accept_pause(&mut self) -> Option<Duration> {
        let rest = self.accept_after?.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            self.accept_after = None;
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
        let ids: Vec<_> = self.clients.keys().copied().collect();
        for id in ids {
            let conn = self.engine.core.conns.get_mut(&id);
            let (Some(client), Some(conn)) = (self.clients.get_mut(&id), conn) else {
                continue;
            };
            if conn.outbox.is_empty() {
                continue;
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
pub(crate) fn listen(paths: &[PathBuf]) -> Result<Vec<UnixListener>, String> {
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
            listeners.push(listen_at(path).map_err(in_path)?);
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
