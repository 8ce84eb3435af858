//! The terminal that `xl console` opens: a pty whose far end we keep open too, so that it outlives each visitor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, ioctl_fionread};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// A pty in raw mode.
#[derive(Debug)]
pub(crate) struct Terminal {
    near: OwnedFd,
    far: OwnedFd,
    name: String,
}

impl Terminal {
    /// Opens a new one.
    ///
    /// # Errors
    /// The system has none left.
    pub(crate) fn open() -> Result<Self, Errno> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let near = openpt(flags)?;
        grantpt(&near)?;
        unlockpt(&near)?;
        let name = ptsname(&near, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let far = rustix::fs::open(name.as_c_str(), flags, Mode::empty())?;
        let mut mode = tcgetattr(&far)?;
        mode.make_raw();
        tcsetattr(&far, OptionalActions::Now, &mode)?;
        rustix::io::ioctl_fionbio(&near, true)?;
        Ok(Self {
            near,
            far,
            name: name.to_string_lossy().into_owned(),
        })
    }

    /// Returns its path, for visitors.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Writes what it takes without waiting; returns how much that was.
    pub(crate) fn write(&self, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        rustix::io::write(&self.near, bytes).unwrap_or(0)
    }

    /// Reads what was typed, without waiting; returns how much that was.
    pub(crate) fn read(&self, bytes: &mut [u8]) -> usize {
        rustix::io::read(&self.near, bytes).unwrap_or(0)
    }

    /// Says whether there is output that no visitor has read: closing it now would lose that.
    pub(crate) fn has_unread(&self) -> bool {
        ioctl_fionread(&self.far).is_ok_and(|count| count > 0)
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.near.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn bytes_pass_unchanged_both_ways() {
        let terminal = Terminal::open().unwrap();
        let mut visitor = OpenOptions::new()
            .read(true)
            .write(true)
            .open(terminal.name())
            .unwrap();
        assert_eq!(terminal.write(b"a\r\nb\x03\n"), 6);
        // It passes bytes on in its own time.
        while !terminal.has_unread() {
            std::thread::yield_now();
        }
        let mut got = [0; 6];
        visitor.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"a\r\nb\x03\n");
        assert!(!terminal.has_unread());
        visitor.write_all(b"x\x04\r").unwrap();
        let mut typed = Vec::new();
        while typed.len() < 3 {
            let mut piece = [0; 8];
            let count = terminal.read(&mut piece);
            typed.extend_from_slice(&piece[..count]);
        }
        assert_eq!(typed, b"x\x04\r");
        drop(visitor);
        // Without a visitor, and after one: still no error.
        assert_eq!(terminal.read(&mut typed), 0);
        assert_eq!(terminal.write(b"later"), 5);
    }

    #[test]
    fn a_terminal_that_nobody_reads_takes_a_bounded_amount() {
        let terminal = Terminal::open().unwrap();
        let mut taken = 0;
        for _ in 0..1000 {
            match terminal.write(&[b'x'; 4096]) {
                0 => return,
                more => taken += more,
            }
        }
        panic!("{taken} bytes and no end");
    }
}
