//! Going into the background, and being the only one.
//!
//! The program starts itself again as the daemon and waits until that is ready, so that whoever started it knows that
//! terminals will come, and why not otherwise. That takes no fork in a process that has state.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::FlockOperation;

use crate::options::Options;

/// Set in the environment of the daemon's own process.
const MARK: &str = "XENCONSOLED_READY_ON_STDOUT";

/// What the daemon's process prints when it is ready.
const READY: &[u8] = b"ready\n";

/// Why the daemon cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Another has the lock.
    #[error("another one runs already: {0} is locked")]
    Another(String),
    /// A file or process.
    #[error("{what}: {why}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's reason.
        why: std::io::Error,
    },
    /// The daemon's process said nothing.
    #[error("the daemon did not start")]
    NotReady,
    /// The daemon's own reason.
    #[error(transparent)]
    Daemon(#[from] crate::daemon::Error),
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    move |why| Error::Io { what, why }
}

/// Runs `daemon` (which calls its second argument when it is ready) in the foreground if asked, else behind us.
///
/// # Errors
/// It did not come up.
pub(crate) fn run(
    options: &Options,
    daemon: impl FnOnce(&Options, &mut dyn FnMut()) -> Result<(), crate::daemon::Error>,
) -> Result<(), Error> {
    let is_child = is_child();
    if !options.interactive && !is_child {
        return start();
    }
    let _lock = lock(&options.pid_file)?;
    daemon(options, &mut || {
        if is_child {
            leave();
        }
    })?;
    Ok(())
}

/// Tells whether this is the daemon's own process.
pub(crate) fn is_child() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Starts the daemon's process and waits for its word.
fn start() -> Result<(), Error> {
    let program = std::env::current_exe().map_err(io("finding this program"))?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(io("starting the daemon"))?;
    let mut said = Vec::new();
    if let Some(mut out) = child.stdout.take() {
        out.read_to_end(&mut said)
            .map_err(io("waiting for the daemon"))?;
    }
    if said == READY {
        Ok(())
    } else {
        Err(Error::NotReady)
    }
}

/// Says that the daemon is ready, and lets go of terminal and session.
fn leave() {
    let mut out = std::io::stdout();
    let _ = out.write_all(READY).and_then(|()| out.flush());
    let _ = rustix::process::setsid();
    let _ = std::env::set_current_dir("/");
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        // Our starter reads to the end of this stream.
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// Writes and locks the file with our process id; it is ours as long as the result lives.
fn lock(path: &Path) -> Result<File, Error> {
    let shown = path.display();
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(io(format!("making {}", dir.display())))?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(io(format!("opening {shown}")))?;
    match rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(errno) if errno.kind() == ErrorKind::WouldBlock => {
            return Err(Error::Another(shown.to_string()));
        }
        Err(errno) => return Err(io(format!("locking {shown}"))(errno.into())),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(io(format!("writing {shown}")))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_daemon_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/pid");
        let first = lock(&path).unwrap();
        assert!(matches!(lock(&path), Err(Error::Another(_))));
        drop(first);
        lock(&path).unwrap();
        let pid = std::fs::read_to_string(path).unwrap();
        assert_eq!(pid.trim(), std::process::id().to_string());
    }
}
