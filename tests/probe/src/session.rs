//! Talks to a program on a terminal of its own, as a user of `xl console` does: waits for a text, types an answer.
//!
//! Everything the program prints goes to a file, so that a script can look at it afterwards. Each wait begins where the
//! one before has ended.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// How long a program may take to end after the last answer before it is ended.
const GRACE: Duration = Duration::from_secs(5);

/// Runs `words`: pairs of texts to wait for and lines to type, `--`, the command. An empty line types nothing; the text
/// `EXIT` waits for the program's end.
pub(crate) fn run(seconds: &str, transcript: &str, words: &[&str]) -> Result<String, String> {
    let seconds = seconds
        .parse()
        .map_err(|_| format!("{seconds} is no number of seconds"))?;
    let until = Instant::now() + Duration::from_secs(seconds);
    let split = words.iter().position(|&word| word == "--");
    let (steps, command) = words.split_at(split.ok_or("a session has a -- before its command")?);
    let (steps, rest) = steps.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(format!("{rest:?} has no answer"));
    }
    let mut talk = Talk::start(command.get(1..).unwrap_or_default(), transcript)?;
    for [text, answer] in steps {
        if *text == "EXIT" {
            talk.wait_for_end(until)?;
            continue;
        }
        talk.wait_for(text, until)?;
        if !answer.is_empty() {
            talk.send(&format!("{answer}\r"))?;
        }
    }
    let count = talk.text.len();
    talk.end();
    Ok(format!("{} answers, {count} bytes", steps.len()))
}

struct Talk {
    near: File,
    child: Child,
    transcript: File,
    text: Vec<u8>,
    /// Where the next wait begins.
    cursor: usize,
    is_over: bool,
}

impl Talk {
    fn start(command: &[&str], transcript: &str) -> Result<Self, String> {
        let (program, args) = command.split_first().ok_or("a session has a command")?;
        let (near, far) = terminal().map_err(|errno| format!("no terminal: {errno}"))?;
        let failed = |e: std::io::Error| format!("{program}: {e}");
        let far = File::from(far);
        let child = Command::new(program)
            .args(args)
            .stdin(far.try_clone().map_err(failed)?)
            .stdout(far.try_clone().map_err(failed)?)
            .stderr(far)
            .spawn()
            .map_err(failed)?;
        Ok(Self {
            near: File::from(near),
            child,
            transcript: File::create(transcript).map_err(|e| format!("{transcript}: {e}"))?,
            text: Vec::new(),
            cursor: 0,
            is_over: false,
        })
    }

    fn wait_for(&mut self, text: &str, until: Instant) -> Result<(), String> {
        // nothing to wait for: the answer is typed at once
        if text.is_empty() {
            return Ok(());
        }
        loop {
            let tail = self.text.get(self.cursor..).unwrap_or_default();
            if let Some(at) = tail.windows(text.len()).position(|w| w == text.as_bytes()) {
                self.cursor += at + text.len();
                return Ok(());
            }
            // Only the end can be the start of the text; looking at all of it again would take squared time.
            self.cursor = self.cursor.max(self.text.len().saturating_sub(text.len()));
            if self.is_over {
                return Err(format!("the program ended before {text:?}"));
            }
            if Instant::now() >= until {
                return Err(format!("{text:?} did not come"));
            }
            self.read(until)?;
        }
    }

    fn wait_for_end(&mut self, until: Instant) -> Result<(), String> {
        while !self.is_over {
            if Instant::now() >= until {
                return Err("the program did not end".to_owned());
            }
            self.read(until)?;
        }
        Ok(())
    }

    /// Takes what comes within a second at most.
    fn read(&mut self, until: Instant) -> Result<(), String> {
        let pause = until
            .saturating_duration_since(Instant::now())
            .min(Duration::from_secs(1));
        let pause = Timespec {
            tv_sec: i64::try_from(pause.as_secs()).unwrap_or(0),
            tv_nsec: pause.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.near, PollFlags::IN)];
        poll(&mut fds, Some(&pause)).map_err(|errno| format!("waiting: {errno}"))?;
        let ready = fds[0].revents();
        if ready.is_empty() {
            return Ok(());
        }
        let mut piece = [0; 4096];
        match self.near.read(&mut piece) {
            // A terminal that nobody has open any more reads as an error.
            Ok(0) | Err(_) => self.is_over = true,
            Ok(count) => {
                let new = piece.get(..count).unwrap_or_default();
                self.text.extend_from_slice(new);
                self.transcript
                    .write_all(new)
                    .map_err(|e| format!("the transcript: {e}"))?;
            }
        }
        Ok(())
    }

    fn send(&mut self, text: &str) -> Result<(), String> {
        self.near
            .write_all(text.as_bytes())
            .map_err(|e| format!("typing: {e}"))
    }

    fn end(mut self) {
        // A console that was not left by the guest's end is left by its escape.
        let _ = self.send("\x1d");
        let until = Instant::now() + GRACE;
        while Instant::now() < until && !matches!(self.child.try_wait(), Ok(Some(_))) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Opens a terminal that echoes nothing and changes no byte.
fn terminal() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&near)?;
    unlockpt(&near)?;
    let name = ptsname(&near, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let far = rustix::fs::open(name.as_c_str(), flags, Mode::empty())?;
    let mut mode = tcgetattr(&far)?;
    mode.make_raw();
    tcsetattr(&far, OptionalActions::Now, &mode)?;
    Ok((near, far))
}
