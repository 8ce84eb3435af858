//! Going to the background: the command ends once its child serves requests, or with the child's error.
//!
//! The child is this program started again, told by the environment; its standard output is a pipe on which it says
//! that it is ready. So there is no fork of a process that has state.

use std::{
    env,
    io::{self, Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    process::{Command, Stdio},
};

/// Set in the child's environment.
const CHILD: &str = "XENSTORED_BACKGROUND";
const READY: &[u8] = b"ready\n";

/// Tells whether this is the child.
pub(crate) fn is_child() -> bool {
    env::var_os(CHILD).is_some()
}

/// Starts the child and waits until it is ready or has ended; returns its process id if it is ready.
///
/// # Errors
/// It cannot be started.
pub(crate) fn start_child() -> io::Result<Option<u32>> {
    let mut child = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut said)?;
    }
    if said == READY {
        return Ok(Some(child.id()));
    }
    // It has said on stderr why.
    child.wait()?;
    Ok(None)
}

/// Leaves the terminal; said by the child before it begins.
///
/// # Errors
/// The system's.
pub(crate) fn leave_terminal() -> io::Result<()> {
    rustix::process::setsid()?;
    env::set_current_dir("/")
}

/// Tells the waiting command that requests are served, and lets go of its output; of stderr as well if `is_silent`.
///
/// # Errors
/// The system's.
pub(crate) fn tell_ready(is_silent: bool) -> io::Result<()> {
    io::stdout().write_all(READY)?;
    io::stdout().flush()?;
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    if is_silent {
        rustix::stdio::dup2_stderr(&null)?;
    }
    Ok(())
}

/// Tells a service manager that waits at `$NOTIFY_SOCKET` that requests are served.
pub(crate) fn tell_manager() {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let name = name.as_encoded_bytes();
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(String::from_utf8_lossy(name).as_ref()),
    };
    let sent = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.send_to_addr(b"READY=1", &address)
    });
    if let Err(error) = sent {
        log::warn!("the service manager cannot be told: {error}");
    }
}
