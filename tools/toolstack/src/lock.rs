//! One at a time: whoever makes a domain, names one, or changes what it is made of holds the host's lock meanwhile.
//!
//! A name, or a disk that nobody else writes, is free when it is looked at and taken when it is published; between the
//! two nobody else may look. What needs that takes a [`Lock`] as proof. Looking on and destroying need none.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
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
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(PAUSE),
                Err(error) => return Err(failed(error.into())),
            }
        }
        note(&format!(
            "waiting for another xl, which holds {}",
            path.display()
        ));
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
}
