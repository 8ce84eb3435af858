//! The monitor as a process: started by whoever needs one, and only one a host.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::{Error, Paths, Result};

/// Starts `program` with `arguments` as a process that outlives its parent, its output appended to `log`.
///
/// # Errors
/// Where the log cannot be opened or the program not be started.
pub fn spawn(program: &Path, arguments: &[&OsStr], log: &Path) -> Result<u32> {
    let output = open(log)?;
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

/// The right to be the host's monitor; let go when dropped, or when its process ends.
#[derive(Debug)]
pub(super) struct Only {
    _file: File,
}

impl Only {
    /// Takes it; `None` where another process has it.
    pub(super) fn take(paths: &Paths) -> Result<Option<Self>> {
        let path = &paths.monitor;
        let file = open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(Error::file(path, error)),
        }
    }
}

/// Says whether the host has a monitor. One that is about to end looks once more after that: see [`super::serve`].
///
/// # Errors
/// The lock's file cannot be made.
pub fn is_there(paths: &Paths) -> Result<bool> {
    Ok(Only::take(paths)?.is_none())
}

fn open(path: &Path) -> Result<File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|error| Error::file(directory, error))?;
    }
    private_file::append(path).map_err(|error| Error::file(path, error))
}
