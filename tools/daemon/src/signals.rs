//! Signals as something to poll: SIGHUP (after logrotate: open the logs anew), SIGUSR1 and SIGUSR2.
//!
//! Without this each of them would end the daemon.

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGUSR1, SIGUSR2};
use signal_hook::low_level::pipe;

/// What came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// SIGHUP: the logs are to be opened anew.
    pub reopen: bool,
    /// SIGUSR1 or SIGUSR2: a report is wanted.
    pub report: bool,
}

/// The ends at which signals arrive.
#[derive(Debug)]
pub struct Signals {
    hang_up: UnixStream,
    user: UnixStream,
}

impl Signals {
    /// Takes the signals over, for this process's whole life.
    ///
    /// # Errors
    /// The system's.
    pub fn take_over() -> io::Result<Self> {
        Ok(Self {
            hang_up: end_of(&[SIGHUP])?,
            user: end_of(&[SIGUSR1, SIGUSR2])?,
        })
    }

    /// Returns what to poll for input.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.hang_up.as_fd(), self.user.as_fd()]
    }

    /// Takes what came since the last look; never waits.
    pub fn asked(&mut self) -> Asked {
        Asked {
            reopen: drain(&mut self.hang_up),
            report: drain(&mut self.user),
        }
    }
}

fn end_of(signals: &[i32]) -> io::Result<UnixStream> {
    let (near, far) = UnixStream::pair()?;
    near.set_nonblocking(true)?;
    for signal in signals {
        pipe::register(*signal, far.try_clone()?)?;
    }
    Ok(near)
}

/// Empties a stream; true if there was something.
fn drain(stream: &mut UnixStream) -> bool {
    let (mut was_any, mut buffer) = (false, [0; 64]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return was_any,
            Ok(_) => was_any = true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return was_any,
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[test]
    fn a_signal_is_seen_once_and_ends_nobody() {
        let mut signals = Signals::take_over().unwrap();
        assert_eq!(signals.asked(), Asked::default());
        let (reopen, report) = (true, true);
        for (signal, wanted) in [
            (
                Signal::HUP,
                Asked {
                    reopen,
                    report: false,
                },
            ),
            (
                Signal::USR1,
                Asked {
                    reopen: false,
                    report,
                },
            ),
            (
                Signal::USR2,
                Asked {
                    reopen: false,
                    report,
                },
            ),
        ] {
            // one of each: whichever thread the system has take it, nothing of it comes later
            kill_process(getpid(), signal).unwrap();
            let mut asked = Asked::default();
            while asked == Asked::default() {
                std::thread::yield_now();
                asked = signals.asked();
            }
            assert_eq!(asked, wanted);
            assert_eq!(signals.asked(), Asked::default());
        }
    }
}
