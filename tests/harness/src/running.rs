//! A started machine. It ends with its handle: a test that returns early leaves no emulator behind.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::clock::{Clock, Limit};
use crate::console::Console;
use crate::machine::{Machine, Model};
use crate::{bochs, qemu};

/// A machine that runs, and its serial line.
pub struct Running {
    child: Child,
    /// The first serial port.
    pub console: Console,
}

/// How long an emulator may take to open its serial line, in time of its own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

impl Running {
    /// Starts `machine`; its console goes to the file `log`, and to `tap` as it comes.
    ///
    /// # Errors
    /// The emulator cannot be started, or ends before it opens its serial line: the message has what it printed.
    pub fn start(
        machine: &Machine,
        log: &Path,
        tap: impl FnMut(&[u8]) + Send + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no port for the serial line")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        std::fs::create_dir_all(&machine.work)?;
        let mut command = if machine.model.is_qemu() {
            qemu::command(machine, port)?
        } else {
            bochs::command(machine, port)?
        };
        let program = command.get_program().to_owned();
        let program = Path::new(&program).display();
        let printed = machine.work.join("emulator.out");
        let out = File::create(&printed)?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let clock = Clock::of_process(child.id(), wall_share(&machine.model));
        match accept(&listener, &mut child, clock.after(CONNECT_TIMEOUT)) {
            Ok(stream) => Ok(Self {
                child,
                console: Console::start(stream, log, clock, tap)?,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let said = std::fs::read_to_string(&printed).unwrap_or_default();
                let lines: Vec<&str> = said.lines().collect();
                let tail = lines[lines.len().saturating_sub(15)..].join("\n");
                Err(error.context(format!("{program} said:\n{tail}")))
            }
        }
    }

    /// Says whether the emulator has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Returns a limit in the machine's own time: see [`Clock`].
    #[must_use]
    pub fn limit(&self, duration: Duration, silence: Duration) -> Limit {
        self.console.clock().limit(duration, silence)
    }

    /// Waits for the emulator to end by itself, at most until `limit`; says whether it did.
    pub fn wait_for_end(&mut self, limit: Limit) -> bool {
        while !self.has_ended() {
            if limit.is_reached() {
                return false;
            }
            thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Wall time counts for this part of itself where the emulator has done less than that. Bochs sleeps only while it gets
/// no CPU; QEMU, where idle time takes the time it takes, as often as its guests.
fn wall_share(model: &Model) -> u32 {
    if model.is_qemu() { 4 } else { 16 }
}

fn accept(listener: &TcpListener, child: &mut Child, limit: Limit) -> Result<TcpStream> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e).context("the serial line cannot be accepted"),
        }
        if let Some(status) = child.try_wait()? {
            bail!("the emulator ended at once ({status})");
        }
        if limit.is_reached() {
            bail!("the emulator did not open its serial line");
        }
        thread::sleep(Duration::from_millis(5));
    }
}
