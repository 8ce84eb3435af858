//! The machine's serial line: everything it printed, waiting for a text, sending keys.
//!
//! The emulator connects to a listener of ours, so there is no race about who is first and no port to guess. A thread
//! copies what arrives to memory and to the log file; those who wait sleep on a condition.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock::{Clock, Limit};

/// How often somebody who waits looks at the clock: it may run slower than the host's, never faster than by the number
/// of the emulator's threads.
const LOOK: Duration = Duration::from_millis(50);

/// What waiting for a text ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The text came; the line it is in, as far as it has arrived.
    Found(String),
    /// The time was over first.
    TimedOut,
    /// Nothing came for as long as silence was allowed.
    Silent,
    /// The emulator ended or closed the line.
    Closed,
}

/// A connected serial line.
pub struct Console {
    shared: Arc<Shared>,
    writer: TcpStream,
    log: PathBuf,
    /// What limits are counted by.
    clock: Clock,
    /// When something had come last, on that clock.
    last_byte: Duration,
    /// Everything before this was looked at by an earlier wait.
    cursor: usize,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    text: Vec<u8>,
    /// Whether something came since the last look at the clock.
    has_news: bool,
    is_closed: bool,
}

impl Console {
    /// Starts reading `stream` into memory and into the file `log`; `tap` is handed each piece as it comes. Silence is
    /// counted by `clock`.
    ///
    /// # Errors
    /// The log cannot be written, or the stream not be cloned.
    pub fn start(
        stream: TcpStream,
        log: &Path,
        clock: Clock,
        mut tap: impl FnMut(&[u8]) + Send + 'static,
    ) -> Result<Self> {
        let mut file =
            File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        stream.set_nodelay(true)?;
        let mut reader = stream.try_clone()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                text: Vec::new(),
                has_news: true,
                is_closed: false,
            }),
            changed: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut piece) {
                let bytes = &piece[..n];
                let _ = file.write_all(bytes);
                tap(bytes);
                let mut state = theirs.lock();
                state.text.extend_from_slice(bytes);
                state.has_news = true;
                drop(state);
                theirs.changed.notify_all();
            }
            theirs.lock().is_closed = true;
            theirs.changed.notify_all();
        });
        Ok(Self {
            shared,
            writer: stream,
            log: log.to_owned(),
            clock,
            last_byte: clock.now(),
            cursor: 0,
        })
    }

    /// Types `text`.
    ///
    /// # Errors
    /// The emulator has ended.
    pub fn send(&mut self, text: &[u8]) -> Result<()> {
        self.writer
            .write_all(text)
            .context("the emulator has closed its serial line")
    }

    /// Returns another handle to type with.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn writer(&self) -> Result<TcpStream> {
        Ok(self.writer.try_clone()?)
    }

    /// Waits until one of `texts` was printed after what earlier waits found, or until `limit` is reached. Returns the
    /// line that has the first of them.
    pub fn wait_for(&mut self, texts: &[&str], limit: Limit) -> Seen {
        let mut state = self.shared.lock();
        let mut looked_at = self.cursor;
        loop {
            if let Some((at, len)) = find_first(&state.text, looked_at, texts) {
                self.cursor = at + len;
                return Seen::Found(line_around(&state.text, at));
            }
            // A text may begin in what has come already and end in what has not.
            let longest = texts.iter().map(|t| t.len()).max().unwrap_or(0);
            looked_at = self.cursor.max(state.text.len().saturating_sub(longest));
            if std::mem::take(&mut state.has_news) {
                self.last_byte = self.clock.now();
            }
            if state.is_closed {
                return Seen::Closed;
            } else if limit.is_reached() {
                return Seen::TimedOut;
            } else if self.clock.now() >= self.last_byte.saturating_add(limit.silence) {
                return Seen::Silent;
            }
            let waited = self.shared.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the line under the cursor's end is complete, at most `for_at_most`.
    pub fn finish_line(&mut self, for_at_most: Duration) -> String {
        let start = self.cursor;
        let _ = self.wait_for(&["\n"], self.clock.after(for_at_most));
        let state = self.shared.lock();
        line_around(&state.text, start.saturating_sub(1))
    }

    /// Returns everything printed so far, without the carriage returns.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.shared.lock().text).replace('\r', "")
    }

    /// Returns the last `n` lines printed.
    #[must_use]
    pub fn tail(&self, n: usize) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(n)..].join("\n")
    }

    /// Returns what limits are counted by: the emulator's work.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Returns the file that has everything.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds the earliest occurrence of any of `texts` at or after `from`: where, and how long.
fn find_first(haystack: &[u8], from: usize, texts: &[&str]) -> Option<(usize, usize)> {
    let tail = haystack.get(from..)?;
    texts
        .iter()
        .filter(|text| !text.is_empty())
        .filter_map(|text| {
            let at = tail
                .windows(text.len())
                .position(|w| w == text.as_bytes())?;
            Some((from + at, text.len()))
        })
        .min()
}

fn line_around(text: &[u8], at: usize) -> String {
    let at = at.min(text.len());
    let start = text[..at]
        .iter()
        .rposition(|&b| b == b'\n')
        .map_or(0, |i| i + 1);
    let end = text[at..]
        .iter()
        .position(|&b| b == b'\n')
        .map_or(text.len(), |i| at + i);
    String::from_utf8_lossy(&text[start..end])
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (Console, TcpStream, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let machine = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        let console = Console::start(ours, &dir.path().join("log"), Clock::wall(), |_| {}).unwrap();
        (console, machine, dir)
    }

    fn soon() -> Limit {
        Clock::wall().after(LONG)
    }

    /// Longer than any host takes for a few bytes.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_text_split_over_two_pieces_is_found() {
        let (mut console, mut machine, _dir) = pair();
        machine.write_all(b"one\ntw").unwrap();
        assert_eq!(console.wait_for(&["tw"], soon()), Seen::Found("tw".into()));
        machine.write_all(b"o thr").unwrap();
        machine.write_all(b"ee\n").unwrap();
        assert_eq!(
            console.wait_for(&["three\n"], soon()),
            Seen::Found("two three".into())
        );
    }

    #[test]
    fn a_wait_does_not_find_what_an_earlier_one_has_found() {
        let (mut console, mut machine, _dir) = pair();
        machine.write_all(b"again\n").unwrap();
        assert!(matches!(
            console.wait_for(&["again"], soon()),
            Seen::Found(_)
        ));
        let short = Clock::wall().after(Duration::from_millis(20));
        assert_eq!(console.wait_for(&["again"], short), Seen::TimedOut);
    }

    #[test]
    fn silence_and_the_end_are_told_apart() {
        let (mut console, machine, _dir) = pair();
        assert_eq!(
            console.wait_for(&["x"], Clock::wall().limit(LONG, Duration::from_millis(20))),
            Seen::Silent
        );
        drop(machine);
        assert_eq!(console.wait_for(&["x"], soon()), Seen::Closed);
    }
}
