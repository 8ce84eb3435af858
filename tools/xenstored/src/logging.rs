//! Where messages go: stderr, a file, or syslog.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// syslog's facility for daemons, shifted to its place.
const DAEMON: u8 = 3 << 3;

/// Where to.
#[derive(Debug)]
pub(crate) enum Sink {
    /// Standard error.
    Stderr,
    /// A file, appended to.
    File(File),
    /// /dev/log.
    Syslog(Syslog),
}

/// A connection to syslog, at which nothing waits: what a reader that is slow or gone does not take is lost.
#[derive(Debug)]
pub(crate) struct Syslog {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Syslog {
    fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(path)?;
        let path = path.to_owned();
        Ok(Self { path, socket })
    }

    /// Sends a line; to another reader if the one that we knew is gone.
    fn send(&mut self, line: &[u8]) -> io::Result<()> {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotConnected};
        match self.socket.send(line) {
            Err(error)
                if matches!(
                    error.kind(),
                    ConnectionRefused | ConnectionReset | NotConnected
                ) =>
            {
                *self = Self::connect(&self.path)?;
                self.socket.send(line).map(drop)
            }
            result => result.map(drop),
        }
    }
}

#[derive(Debug)]
struct Logger {
    sink: Mutex<Sink>,
}

impl Sink {
    /// Opens a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn file(path: &Path) -> io::Result<Self> {
        let file = private_file::append(path)?;
        Ok(Self::File(file))
    }

    /// Connects to syslog.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn syslog() -> io::Result<Self> {
        Syslog::connect(Path::new("/dev/log")).map(Self::Syslog)
    }

    fn write(&mut self, level: Level, text: std::fmt::Arguments<'_>) -> io::Result<()> {
        let pid = std::process::id();
        match self {
            Self::Stderr => writeln!(io::stderr(), "xenstored: {}: {text}", name(level)),
            Self::File(file) => {
                let line = format!("xenstored[{pid}]: {}: {text}\n", name(level));
                file.write_all(line.as_bytes())
            }
            Self::Syslog(syslog) => {
                let priority = DAEMON | severity(level);
                let line = format!("<{priority}>xenstored[{pid}]: {text}");
                syslog.send(line.as_bytes())
            }
        }
    }
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        // There is nowhere to say that saying failed.
        let _ = sink.write(record.level(), *record.args());
    }

    fn flush(&self) {}
}

/// Has messages go to `sink`; `verbose` is how often more was asked for.
pub(crate) fn start(sink: Sink, verbose: u8) {
    let sink = Mutex::new(sink);
    if log::set_boxed_logger(Box::new(Logger { sink })).is_ok() {
        log::set_max_level(match verbose {
            0 => LevelFilter::Info,
            1 => LevelFilter::Debug,
            _ => LevelFilter::Trace,
        });
    }
}

const fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

const fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(reader: &UnixDatagram) -> Vec<String> {
        reader.set_nonblocking(true).unwrap();
        let mut buffer = [0; 256];
        let all =
            std::iter::from_fn(|| reader.recv(&mut buffer).map(|n| buffer[..n].to_vec()).ok());
        all.map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn a_syslog_that_reads_nothing_blocks_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let reader = UnixDatagram::bind(&path).unwrap();
        let mut sink = Sink::Syslog(Syslog::connect(&path).unwrap());
        let sent = (0..5000).filter(|n| sink.write(Level::Info, format_args!("{n}")).is_ok());
        let sent = sent.count();
        assert!((1..5000).contains(&sent));
        assert_eq!(received(&reader).len(), sent);
        sink.write(Level::Warn, format_args!("later")).unwrap();
        assert!(received(&reader)[0].ends_with("]: later"));
    }

    #[test]
    fn a_syslog_that_was_started_anew_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let reader = UnixDatagram::bind(&path).unwrap();
        let mut sink = Sink::Syslog(Syslog::connect(&path).unwrap());
        drop(reader);
        std::fs::remove_file(&path).unwrap();
        assert!(sink.write(Level::Info, format_args!("lost")).is_err());
        let reader = UnixDatagram::bind(&path).unwrap();
        sink.write(Level::Info, format_args!("found")).unwrap();
        assert!(received(&reader)[0].ends_with("]: found"));
    }
}
