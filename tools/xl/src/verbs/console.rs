//! `xl console`: the terminal becomes the guest's, until Ctrl-] or the guest's end.
//!
//! xenconsoled puts a guest's console on a pseudo-terminal and writes its name to xenstore: `console/tty`. Its own end
//! there shows as a hang-up here.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use toolstack::DOM0;
use xenstore::Ops;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table::Verb;

/// Ctrl-], which ends it.
pub const ESCAPE: u8 = 0x1d;
/// How long xenconsoled may take to make a new guest's terminal.
const TTY_WITHIN: Duration = Duration::from_secs(10);

/// Attach to a domain's console; Ctrl-] ends it
#[derive(Debug, Parser)]
pub struct Console {
    /// Kind of console: pv is the one there is
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<String>,
    /// Number of the console: 0 is the one there is
    #[arg(short = 'n', value_name = "NUMBER")]
    number: Option<u32>,
    /// Character that ends it instead of Ctrl-]
    #[arg(short, value_name = "CHARACTER")]
    escape: Option<String>,
    /// Domain: name, id or UUID
    domain: String,
}

impl Verb for Console {
    fn run(self, context: &Context) -> Outcome {
        if let Some(kind) = self.kind.as_deref().filter(|kind| *kind != "pv") {
            return Err(Failure::new(format!(
                "xl console: type {kind} is not supported: pv is"
            )));
        }
        if let Some(number) = self.number.filter(|number| *number != 0) {
            return Err(Failure::new(format!(
                "xl console: there is no console {number}: guests have number 0"
            )));
        }
        let escape = self.escape.as_deref().map_or(Ok(ESCAPE), escape_of)?;
        let domain = context.find(&self.domain)?;
        if domain.domid == DOM0 {
            return Err(Failure::new(
                "xl console: Domain-0's console is the host's own",
            ));
        }
        attach(context, domain.domid, escape, || Ok(()))
    }
}

/// Reads `^x` or a single character.
fn escape_of(text: &str) -> Result<u8, Failure> {
    match text.as_bytes() {
        [b'^', c] => Ok(c.to_ascii_uppercase() & 0x1f),
        [c] => Ok(*c),
        _ => Err(Failure::new(format!(
            "xl console: \"{text}\" is no character: x or ^x"
        ))),
    }
}

/// Attaches this terminal to a domain's console; `when_attached` is done before the first byte is moved.
///
/// # Errors
/// There is no console, or `when_attached` failed.
pub fn attach(
    context: &Context,
    domid: u16,
    escape: u8,
    when_attached: impl FnOnce() -> Outcome,
) -> Outcome {
    let tty = open(&tty_of(context, domid)?)?;
    let _raw_guest = RawMode::set(tty.as_fd());
    let stdin = io::stdin();
    let _raw_here = RawMode::set(stdin.as_fd());
    when_attached()?;
    let result = shuttle(&tty, stdin.as_fd(), &mut io::stdout(), escape);
    // The shell's prompt starts on a line of its own.
    if io::stdout().is_terminal() {
        output::print("\r\n")?;
    }
    result.map_err(|error| Failure::new(format!("xl console: {error}")))
}

/// Waits for the terminal's name.
fn tty_of(context: &Context, domid: u16) -> Result<String, Failure> {
    let toolstack = context.toolstack()?;
    let node = format!("/local/domain/{domid}/console/tty");
    let token = "console-tty";
    toolstack.store.watch(&node, token)?;
    let deadline = Instant::now() + TTY_WITHIN;
    let name = loop {
        if let Some(name) = toolstack
            .store
            .read_string_opt(&node)?
            .filter(|name| !name.is_empty())
        {
            break name;
        }
        // A domain that ended meanwhile gets no terminal any more.
        toolstack.info(domid)?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::new(format!(
                "xl console: domain {domid} has no console terminal after {} s: is xenconsoled running?",
                TTY_WITHIN.as_secs()
            )));
        }
        let _changed = toolstack
            .store
            .next_event(Some(left.min(Duration::from_secs(1))))?;
    };
    toolstack.store.unwatch(&node, token)?;
    Ok(name)
}

fn open(path: &str) -> Result<File, Failure> {
    // Not to become our controlling terminal: its hang-up would end us.
    rustix::fs::open(
        path,
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map(File::from)
    .map_err(|error| Failure::new(format!("xl console: {path}: {error}")))
}

/// A terminal in raw mode; as it was again when dropped.
struct RawMode<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawMode<'a> {
    /// Sets raw mode where this is a terminal.
    fn set(terminal: BorrowedFd<'a>) -> Option<Self> {
        let before = tcgetattr(terminal).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(terminal, OptionalActions::Now, &raw).ok()?;
        Some(Self { terminal, before })
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        let _gone = tcsetattr(self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// Moves bytes both ways until the escape character or the guest's end.
fn shuttle(
    mut tty: &File,
    stdin: BorrowedFd<'_>,
    stdout: &mut impl Write,
    escape: u8,
) -> io::Result<()> {
    let mut buffer = [0u8; 4096];
    let mut reads_stdin = true;
    loop {
        let mut fds = [
            PollFd::new(&tty, PollFlags::IN),
            PollFd::from_borrowed_fd(stdin, PollFlags::IN),
        ];
        // A closed pipe is reported for ever, whatever is asked of it: it is left out.
        let polled = if reads_stdin { &mut fds } else { &mut fds[..1] };
        match poll(polled, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let [guest, user] = fds.map(|fd| fd.revents());
        if guest.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            match tty.read(&mut buffer) {
                // A hang-up reads as an end or as EIO.
                Ok(0) => return Ok(()),
                Err(error)
                    if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error),
                Ok(count) => {
                    stdout.write_all(buffer.get(..count).unwrap_or_default())?;
                    stdout.flush()?;
                }
            }
        }
        if reads_stdin && user.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            // Past the buffer of std's stdin: what it holds back would not wake poll.
            let count = rustix::io::read(stdin, &mut buffer)?;
            let typed = buffer.get(..count).unwrap_or_default();
            match typed.iter().position(|byte| *byte == escape) {
                Some(at) => {
                    tty.write_all(typed.get(..at).unwrap_or_default())?;
                    return Ok(());
                }
                None if typed.is_empty() => reads_stdin = false,
                None => tty.write_all(typed)?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use rustix::time::{ClockId, clock_gettime};

    use super::*;

    fn cpu_time() -> Duration {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::try_from(now).unwrap()
    }

    #[test]
    fn a_closed_stdin_costs_no_time_while_the_guest_talks() {
        let (tty, mut guest) = UnixStream::pair().unwrap();
        let tty = File::from(OwnedFd::from(tty));
        let (stdin, writer) = rustix::pipe::pipe().unwrap();
        drop(writer);
        let talker = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            guest.write_all(b"login:").unwrap();
        });
        let (mut heard, before) = (Vec::new(), cpu_time());
        shuttle(&tty, stdin.as_fd(), &mut heard, ESCAPE).unwrap();
        let took = cpu_time() - before;
        talker.join().unwrap();
        assert_eq!(heard, b"login:");
        assert!(took < Duration::from_millis(50), "{took:?}");
    }

    #[test]
    fn the_escape_character_may_be_chosen() {
        assert_eq!(escape_of("^]").unwrap(), ESCAPE);
        assert_eq!(escape_of("^a").unwrap(), 1);
        assert_eq!(escape_of("~").unwrap(), b'~');
        assert!(escape_of("abc").is_err());
    }
}
