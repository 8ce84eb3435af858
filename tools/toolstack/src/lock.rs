//! One at a time: whoever makes a domain, names one, or changes what it is made of holds the host's lock meanwhile.
//!
//! A name, or a disk that nobody else writes, is free when it is looked at and taken when it is published; between the
//! two nobody else may look. What needs that takes a [`Lock`] as proof. Looking on and destroying need none.
//!
//! Xen's own xl locks the same file, by a record lock (`fcntl`), which processes have: both kinds are taken, so that
//! neither two threads nor two toolstacks are in there at once.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;

use crate::{Error, Result, Toolstack};

/// How long it is waited for before somebody is told.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is tried meanwhile.
const PAUSE: Duration = Duration::from_millis(10);

/// The host's lock, held; let go when dropped, or when its process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Toolstack {
    /// Takes the host's lock, and waits for it as long as it takes; after a second `note` is told.
    ///
    /// # Errors
    /// The lock's file cannot be made.
    pub fn lock(&self, note: &mut dyn FnMut(&str)) -> Result<Lock> {
        let path = &self.paths.lock;
        let failed = |error: std::io::Error| Error::file(path, error).during("taking the lock");
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        // who can open it can hold it
        let file = private_file::append(path).map_err(failed)?;
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            match lock_both(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock { _file: file }),
                // a record lock says EACCES on some systems
                Err(Errno::WOULDBLOCK | Errno::ACCESS | Errno::INTR) => std::thread::sleep(PAUSE),
                Err(error) => return Err(failed(error.into())),
            }
        }
        note(&format!(
            "waiting for another xl, which holds {}",
            path.display()
        ));
        loop {
            match lock_both(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
    }
}

/// Takes both locks; a first one is kept where the second is not there yet, and taking it again does nothing.
fn lock_both(file: &File, how: FlockOperation) -> rustix::io::Result<()> {
    flock(file, how)?;
    fcntl_lock(file, how)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::create::Options;
    use crate::testing::Bench;

    #[test]
    fn of_two_that_make_the_same_domain_at_once_one_is_refused() {
        let bench = Bench::new();
        let config = bench.config("web");
        let make = || {
            let ts = bench.connect();
            let config = config.clone();
            std::thread::spawn(move || {
                let ts = ts();
                let lock = ts.lock(&mut |_| {}).unwrap();
                ts.create(&lock, &config, Options::default()).is_ok()
            })
        };
        let both = [make(), make()].map(|thread| thread.join().unwrap());
        assert_eq!(both.iter().filter(|made| **made).count(), 1);
        assert_eq!(bench.host.state().domains.len(), 2);
    }

    #[test]
    fn who_waits_longer_than_a_second_says_so() {
        let bench = Bench::new();
        let held = bench.lock();
        let ts = bench.connect();
        let (told, was_told) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            let _lock = ts()
                .lock(&mut |text| told.send(text.to_owned()).unwrap())
                .unwrap();
        });
        let text = was_told.recv().unwrap();
        assert!(text.starts_with("waiting for another xl, "), "{text}");
        assert!(!waiter.is_finished());
        drop(held);
        waiter.join().unwrap();
    }

    /// Names the file that the process below is to lock.
    const LOCKED: &str = "LOCKED_BY_ANOTHER_PROCESS";

    #[test]
    #[ignore = "a process of the test below"]
    fn holds_the_lock_as_xen_does_until_its_input_ends() {
        let file = std::fs::File::options()
            .write(true)
            .open(std::env::var_os(LOCKED).unwrap())
            .unwrap();
        fcntl_lock(&file, FlockOperation::LockExclusive).unwrap();
        println!("\nlocked");
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    }

    #[test]
    fn xens_own_xl_is_waited_for() {
        let bench = Bench::new();
        let path = &bench.ts.paths.lock;
        drop(bench.lock());
        let name = "lock::tests::holds_the_lock_as_xen_does_until_its_input_ends";
        let mut xen = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--ignored", "--nocapture"])
            .env(LOCKED, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(xen.stdout.take().unwrap()).lines();
        assert!(
            lines
                .map_while(std::io::Result::ok)
                .any(|line| line == "locked")
        );
        let stdin = xen.stdin.take();
        let mut was_told = false;
        let release = std::cell::Cell::new(stdin);
        let _lock = bench
            .ts
            .lock(&mut |_| {
                was_told = true;
                drop(release.take());
            })
            .unwrap();
        assert!(was_told, "the lock was had while another process held it");
        xen.wait().unwrap();
    }
}
