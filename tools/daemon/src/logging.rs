//! Where messages go: stderr, a file (which can be opened anew once it was renamed), or syslog.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// syslog's facility for daemons, shifted to its place.
const DAEMON: u8 = 3 << 3;

/// Where to.
#[derive(Debug)]
pub enum Sink {
    /// Standard error.
    Stderr,
    /// A file, appended to.
    File(LogFile),
    /// /dev/log.
    Syslog(Syslog),
}

/// A log file, known by its absolute path.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let file = private_file::append(&path)?;
        Ok(Self { path, file })
    }
}

/// A connection to syslog, at which nothing waits: what a reader that is slow or gone does not take is lost.
#[derive(Debug)]
pub struct Syslog {
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
    program: &'static str,
    sink: Mutex<Sink>,
}

/// The one of this process.
static LOGGER: OnceLock<Logger> = OnceLock::new();

impl Sink {
    /// Opens a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn file(path: &Path) -> io::Result<Self> {
        LogFile::open(path).map(Self::File)
    }

    /// Connects to syslog.
    ///
    /// # Errors
    /// There is none.
    pub fn syslog() -> io::Result<Self> {
        Syslog::connect(Path::new("/dev/log")).map(Self::Syslog)
    }

    fn write(
        &mut self,
        program: &str,
        level: Level,
        text: std::fmt::Arguments<'_>,
    ) -> io::Result<()> {
        let pid = std::process::id();
        match self {
            Self::Stderr => writeln!(io::stderr(), "{program}: {}: {text}", name(level)),
            Self::File(log) => {
                let line = format!("{program}[{pid}]: {}: {text}\n", name(level));
                log.file.write_all(line.as_bytes())
            }
            Self::Syslog(syslog) => {
                let priority = DAEMON | severity(level);
                let line = format!("<{priority}>{program}[{pid}]: {text}");
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
        // There is nowhere to say that saying failed.
        let _ = self
            .sink()
            .write(self.program, record.level(), *record.args());
    }

    fn flush(&self) {}
}

impl Logger {
    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the messages of `program` up to `level` go to `sink`.
pub fn start(program: &'static str, sink: Sink, level: LevelFilter) {
    let sink = Mutex::new(sink);
    let logger = LOGGER.get_or_init(|| Logger { program, sink });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
    }
}

/// Opens the log anew where it is a file: it may have been renamed. Failing that, the old one stays in use.
///
/// # Errors
/// It cannot be opened: the error names it.
pub fn reopen() -> io::Result<()> {
    let path = match LOGGER.get().map(Logger::sink).as_deref() {
        Some(Sink::File(log)) => log.path.clone(),
        _ => return Ok(()),
    };
    go_on_in(&path).map_err(|error| {
        let text = format!("{}: {error}", path.display());
        io::Error::new(error.kind(), text)
    })
}

/// Has messages go to the file at `path` from now on. Failing that, they go where they went.
///
/// # Errors
/// It cannot be opened.
pub fn go_on_in(path: &Path) -> io::Result<()> {
    let new = LogFile::open(path)?;
    if let Some(logger) = LOGGER.get() {
        *logger.sink() = Sink::File(new);
    }
    Ok(())
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
        let sent = (0..5000).filter(|n| sink.write("x", Level::Info, format_args!("{n}")).is_ok());
        let sent = sent.count();
        assert!((1..5000).contains(&sent));
        assert_eq!(received(&reader).len(), sent);
        sink.write("x", Level::Warn, format_args!("later")).unwrap();
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
        assert!(sink.write("x", Level::Info, format_args!("lost")).is_err());
        let reader = UnixDatagram::bind(&path).unwrap();
        sink.write("x", Level::Info, format_args!("found")).unwrap();
        assert!(received(&reader)[0].ends_with("]: found"));
    }

    #[test]
    fn a_log_that_was_renamed_is_opened_anew() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("log"), directory.path().join("old"));
        start("x", Sink::file(&path).unwrap(), LevelFilter::Info);
        log::info!("one");
        std::fs::rename(&path, &old).unwrap();
        log::info!("two");
        reopen().unwrap();
        log::info!("three");
        let read = |path| std::fs::read_to_string(path).unwrap().lines().count();
        assert_eq!((read(&old), read(&path)), (2, 1));
        // What cannot be opened changes nothing.
        assert!(go_on_in(Path::new("/proc/x/log")).is_err());
        log::info!("four");
        assert_eq!(read(&path), 2);
    }
}
