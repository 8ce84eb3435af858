//! Where messages go: stderr, a file, or syslog.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::net::UnixDatagram,
    path::Path,
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
    Syslog(UnixDatagram),
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
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self::File(file))
    }

    /// Connects to syslog.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn syslog() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect("/dev/log")?;
        Ok(Self::Syslog(socket))
    }

    fn write(&mut self, level: Level, text: std::fmt::Arguments<'_>) -> io::Result<()> {
        let pid = std::process::id();
        match self {
            Self::Stderr => writeln!(io::stderr(), "xenstored: {}: {text}", name(level)),
            Self::File(file) => {
                let line = format!("xenstored[{pid}]: {}: {text}\n", name(level));
                file.write_all(line.as_bytes())
            }
            Self::Syslog(socket) => {
                let priority = DAEMON | severity(level);
                let line = format!("<{priority}>xenstored[{pid}]: {text}");
                socket.send(line.as_bytes()).map(drop)
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
