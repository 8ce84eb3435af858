//! A connection to xenstored, through its socket or through the kernel's device.
//!
//! Over the device (`/dev/xen/xenbus`) the kernel forwards requests on dom0's or the guest's own ring; both look the
//! same from here. The crate's front page has an example.

use std::{
    cell::RefCell,
    collections::VecDeque,
    env,
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Error, Result};
use crate::ops::{Ops, into_string, to_string};
use crate::wire::{self, Inbox, Kind, Message, Refusal, strings};
use crate::{Domid, Transaction};

/// Where the daemon listens, in the order of trying.
pub const SOCKETS: [&str; 2] = ["/run/xenstored/socket", "/var/run/xenstored/socket"];
/// The kernel's way to the daemon, in the order of trying.
pub const DEVICES: [&str; 2] = ["/dev/xen/xenbus", "/proc/xen/xenbus"];

/// How often [`Store::transaction`] tries. Others that work in earnest get on meanwhile, and then it is our turn within
/// a few attempts; a guest that rewrites a node for ever does not hold us up for longer than seconds.
pub const MOST_ATTEMPTS: usize = 1000;

/// A connection. Requests block until answered; it may move between threads, but is not shared by them.
#[derive(Debug)]
pub struct Store {
    file: File,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    inbox: Inbox,
    events: VecDeque<WatchEvent>,
    last_id: u32,
}

/// A watch fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// What changed: absolute, or relative if the watch was set so.
    pub path: String,
    /// The token given with the watch.
    pub token: String,
}

impl Store {
    /// Connects: `$XENSTORED_PATH`, else `$XENSTORED_RUNDIR/socket`, else [`SOCKETS`], else [`DEVICES`].
    ///
    /// # Errors
    /// Nothing answers; the error names each path and its reason.
    pub fn open() -> Result<Self> {
        let mut tried: Vec<(PathBuf, std::io::Error)> = Vec::new();
        for path in candidates() {
            match open_path(&path) {
                Ok(file) => return Ok(Self::over(file)),
                // Two paths to one directory: the second adds nothing to the message.
                Err(_) if tried.iter().any(|(known, _)| is_alias(known, &path)) => {}
                Err(error) => tried.push((path, error)),
            }
        }
        Err(Error::Connect { tried })
    }

    /// Connects to one path: a socket, or a device of the kernel.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open_at(path: &Path) -> Result<Self> {
        match open_path(path) {
            Ok(file) => Ok(Self::over(file)),
            Err(error) => Err(Error::Connect {
                tried: vec![(path.to_owned(), error)],
            }),
        }
    }

    /// Speaks over a stream that is already connected.
    #[must_use]
    pub fn from_stream(stream: UnixStream) -> Self {
        Self::over(File::from(OwnedFd::from(stream)))
    }

    fn over(file: File) -> Self {
        Self {
            file,
            state: RefCell::default(),
        }
    }

    /// Starts a transaction; dropped without [`Transaction::commit`], it changes nothing.
    ///
    /// # Errors
    /// The daemon refused, or the connection broke.
    pub fn begin(&self) -> Result<Transaction<'_>> {
        Transaction::start(self)
    }

    /// Runs `body` in a transaction, anew where others interfere, [`MOST_ATTEMPTS`] times. `body` must do nothing that
    /// cannot be repeated.
    ///
    /// # Errors
    /// What `body` returns (its changes are dropped); that the commit was refused for another reason than a conflict;
    /// [`Error::Conflicts`] if every attempt met one.
    pub fn transaction<T, E: From<Error>>(
        &self,
        mut body: impl FnMut(&Transaction<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        for _ in 0..MOST_ATTEMPTS {
            let transaction = self.begin()?;
            let value = body(&transaction)?;
            match transaction.commit() {
                Ok(()) => return Ok(value),
                Err(error) if error.is_again() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Conflicts.into())
    }

    /// Watches a path and all below. One event comes at once. Special paths: `@introduceDomain`, `@releaseDomain`.
    ///
    /// # Errors
    /// EEXIST if the same path is watched with the same token; E2BIG or ENOSPC above a guest's quota.
    pub fn watch(&self, path: &str, token: &str) -> Result<()> {
        let parts: [&[u8]; 4] = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
        self.request(Kind::Watch, path, &parts).map(drop)
    }

    /// Watches a path and `depth` levels below it. For a special path depth 1 adds `/<domid>` to the event's path.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn watch_depth(&self, path: &str, token: &str, depth: u32) -> Result<()> {
        let depth = format!("{depth}\0");
        let (path_, token) = (path.as_bytes(), token.as_bytes());
        let parts: [&[u8]; 5] = [path_, b"\0", token, b"\0", depth.as_bytes()];
        self.request(Kind::Watch, path, &parts).map(drop)
    }

    /// Removes a watch; events that came before stay queued.
    ///
    /// # Errors
    /// ENOENT if there is no such watch.
    pub fn unwatch(&self, path: &str, token: &str) -> Result<()> {
        let parts: [&[u8]; 4] = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
        self.request(Kind::Unwatch, path, &parts).map(drop)
    }

    /// Waits for the next event: `None` after `timeout`; for ever without one; `Some(Duration::ZERO)` looks only.
    ///
    /// # Errors
    /// The connection broke.
    pub fn next_event(&self, timeout: Option<Duration>) -> Result<Option<WatchEvent>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if let Some(event) = self.state.borrow_mut().events.pop_front() {
                return Ok(Some(event));
            }
            if let Some(message) = self.message()? {
                self.sort(message)?;
            } else if !self.wait(deadline)? {
                return Ok(None);
            } else {
                self.receive()?;
            }
        }
    }

    /// Tells xenstored to serve a domain whose ring is in frame `gfn` (also behind grant 1), and listens on its `port`.
    ///
    /// # Errors
    /// EACCES without privilege; EINVAL if the domain cannot be mapped.
    pub fn introduce(&self, domid: Domid, gfn: u64, port: u32) -> Result<()> {
        let text = format!("{domid}\0{gfn}\0{port}\0");
        self.about_domain(Kind::Introduce, domid, text.as_bytes())
            .map(drop)
    }

    /// Tells xenstored to leave a domain.
    ///
    /// # Errors
    /// EACCES without privilege; ENOENT if it is not introduced.
    pub fn release(&self, domid: Domid) -> Result<()> {
        self.about_domain(Kind::Release, domid, &number(domid))
            .map(drop)
    }

    /// Tells xenstored that a domain runs again after a shutdown, so that its next one is told.
    ///
    /// # Errors
    /// EACCES without privilege; ENOENT if it is not introduced.
    pub fn resume(&self, domid: Domid) -> Result<()> {
        self.about_domain(Kind::Resume, domid, &number(domid))
            .map(drop)
    }

    /// Tells whether xenstored serves a domain.
    ///
    /// # Errors
    /// The connection broke.
    pub fn is_domain_introduced(&self, domid: Domid) -> Result<bool> {
        let reply = self.about_domain(Kind::IsDomainIntroduced, domid, &number(domid))?;
        Ok(reply.first() == Some(&b'T'))
    }

    /// Gives `domid` the rights that `target` has, as a stub domain needs.
    ///
    /// # Errors
    /// EACCES without privilege; ENOENT if either is not introduced.
    pub fn set_target(&self, domid: Domid, target: Domid) -> Result<()> {
        let text = format!("{domid}\0{target}\0");
        self.about_domain(Kind::SetTarget, domid, text.as_bytes())
            .map(drop)
    }

    /// Sends a command to the daemon itself; each word is one string.
    ///
    /// # Errors
    /// EACCES without privilege; EINVAL or ENOSYS for what it does not know.
    pub fn control(&self, words: &[&str]) -> Result<String> {
        let mut payload = Vec::new();
        for word in words {
            payload.extend_from_slice(word.as_bytes());
            payload.push(0);
        }
        let subject = words.first().copied().unwrap_or_default();
        self.request(Kind::Control, subject, &[&payload])
            .map(into_string)
    }

    fn about_domain(&self, kind: Kind, domid: Domid, payload: &[u8]) -> Result<Vec<u8>> {
        self.request(kind, &format!("domain {domid}"), &[payload])
    }

    /// Sends one request in transaction `tx_id` and returns its reply; events met on the way are queued.
    pub(crate) fn exchange(
        &self,
        kind: Kind,
        tx_id: u32,
        subject: &str,
        parts: &[&[u8]],
    ) -> Result<Vec<u8>> {
        let req_id = self.send(kind, tx_id, subject, parts)?;
        loop {
            let Some(message) = self.message()? else {
                self.receive()?;
                continue;
            };
            if message.req_id != req_id || message.kind == Kind::WatchEvent.number() {
                self.sort(message)?;
            } else if message.kind == Kind::Error.number() {
                let reason = Refusal::from_name(&message.payload).unwrap_or(Refusal::Invalid);
                let subject = subject.to_owned();
                return Err(Error::Refused {
                    reason,
                    kind,
                    subject,
                });
            } else if message.kind == kind.number() {
                return Ok(message.payload);
            } else {
                return Err(Error::Protocol("a reply of another kind"));
            }
        }
    }

    fn send(&self, kind: Kind, tx_id: u32, subject: &str, parts: &[&[u8]]) -> Result<u32> {
        let mut state = self.state.borrow_mut();
        // 0 marks watch events.
        state.last_id = state.last_id.checked_add(1).unwrap_or(1);
        let mut bytes = Vec::new();
        wire::encode(&mut bytes, kind.number(), state.last_id, tx_id, parts).map_err(|_| {
            Error::TooLong {
                kind,
                subject: subject.to_owned(),
            }
        })?;
        (&self.file).write_all(&bytes)?;
        Ok(state.last_id)
    }

    /// Takes a whole message out of what was received.
    fn message(&self) -> Result<Option<Message>> {
        let taken = self.state.borrow_mut().inbox.pop();
        taken.map_err(|_| Error::Protocol("a message longer than 4096 bytes"))
    }

    /// Queues an event; a reply that nobody waits for any more is dropped.
    fn sort(&self, message: Message) -> Result<()> {
        if message.kind != Kind::WatchEvent.number() {
            return Ok(());
        }
        let mut fields = strings(&message.payload);
        let (Some(path), Some(token)) = (fields.next(), fields.next()) else {
            return Err(Error::Protocol("an event without path or token"));
        };
        let (path, token) = (to_string(path), to_string(token));
        let mut state = self.state.borrow_mut();
        state.events.push_back(WatchEvent { path, token });
        Ok(())
    }

    /// Waits until there is something to read; false when `deadline` has passed.
    fn wait(&self, deadline: Option<Instant>) -> Result<bool> {
        loop {
            let rest = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let rest = rest.and_then(|rest| Timespec::try_from(rest).ok());
            let mut fds = [PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut fds, rest.as_ref()) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads what has arrived, or waits for it.
    fn receive(&self) -> Result<()> {
        let mut buffer = [0; wire::HEADER_SIZE + wire::XENSTORE_PAYLOAD_MAX];
        loop {
            match (&self.file).read(&mut buffer) {
                Ok(0) => return Err(Error::Closed),
                Ok(count) => {
                    let bytes = buffer.get(..count).unwrap_or_default();
                    self.state.borrow_mut().inbox.push(bytes);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Ops for Store {
    fn request(&self, kind: Kind, subject: &str, parts: &[&[u8]]) -> Result<Vec<u8>> {
        self.exchange(kind, 0, subject, parts)
    }
}

impl AsFd for Store {
    /// For `poll`: readable means that [`Store::next_event`] may have something, after all queued events were taken.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn candidates() -> Vec<PathBuf> {
    if let Some(path) = env::var_os("XENSTORED_PATH") {
        return vec![path.into()];
    }
    if let Some(directory) = env::var_os("XENSTORED_RUNDIR") {
        return vec![Path::new(&directory).join("socket")];
    }
    let all = SOCKETS.iter().chain(&DEVICES);
    all.map(PathBuf::from).collect()
}

fn open_path(path: &Path) -> std::io::Result<File> {
    if std::fs::metadata(path)?.file_type().is_socket() {
        let stream = UnixStream::connect(path)?;
        return Ok(File::from(OwnedFd::from(stream)));
    }
    OpenOptions::new().read(true).write(true).open(path)
}

fn is_alias(one: &Path, other: &Path) -> bool {
    let without_var = |path: &Path| {
        path.strip_prefix("/var")
            .map(|rest| Path::new("/").join(rest))
    };
    without_var(other).is_ok_and(|path| path == one)
}

fn number(domid: Domid) -> Vec<u8> {
    format!("{domid}\0").into_bytes()
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
