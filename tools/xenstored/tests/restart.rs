//! The daemon as a process: over its socket, and killed at any moment.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use xenstore::{Ops, Perm, Refusal, Store};

struct Daemon {
    process: Child,
    directory: PathBuf,
}

impl Daemon {
    fn start(directory: &Path) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_xenstored")), directory)
    }

    /// Starts it with no more than `most` files open.
    fn start_with_files(most: u32, directory: &Path) -> Self {
        let mut shell = Command::new("sh");
        let line = format!("ulimit -n {most}; exec \"$@\"");
        shell.args(["-c", &line, "sh", env!("CARGO_BIN_EXE_xenstored")]);
        shell.arg("--log-file").arg(directory.join("log"));
        Self::start_by(shell, directory)
    }

    fn start_by(mut command: Command, directory: &Path) -> Self {
        let process = command
            .args(["--no-domain-init", "--state-dir"])
            .arg(directory)
            .arg("--socket")
            .arg(directory.join("socket"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let directory = directory.to_owned();
        Self { process, directory }
    }

    fn connect(&self) -> Store {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match Store::open_at(&self.directory.join("socket")) {
                Ok(store) => return store,
                Err(error) if Instant::now() > deadline => panic!("{error}"),
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Returns the CPU time used so far, in hundredths of a second.
    fn cpu_time(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let (_, after_name) = stat.rsplit_once(')').unwrap();
        let fields: Vec<_> = after_name.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    fn kill(mut self) {
        // SIGKILL
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn two_clients_meet_in_the_tree() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(directory.path());
    let (one, other) = (daemon.connect(), daemon.connect());
    other.watch("/a", "tok").unwrap();
    let first = other.next_event(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(first.unwrap().path, "/a");
    one.transaction(|tx| {
        tx.write("/a/b", "1")?;
        tx.set_perms("/a/b", &[Perm::none(0), Perm::read(7)])
    })
    .unwrap();
    let event = other.next_event(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(event.unwrap().path, "/a/b");
    assert_eq!(other.read_string("/a/b").unwrap(), "1");
    let perms = other.get_perms("/a/b").unwrap();
    assert_eq!(perms, [Perm::none(0), Perm::read(7)]);
    assert_eq!(one.directory("/").unwrap(), ["tool", "a"]);
    let refused = one.introduce(3, 100, 5).unwrap_err();
    assert_eq!(refused.refusal(), Some(Refusal::Invalid));
    daemon.kill();
}

#[test]
fn a_slow_client_delays_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(directory.path());
    let (slow, quick) = (daemon.connect(), daemon.connect());
    slow.watch("/", "t").unwrap();
    let began = Instant::now();
    for n in 0..3000 {
        quick.write(&format!("/n/{n}"), "x").unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(20));
    let mut last = String::new();
    while let Some(event) = slow.next_event(Some(Duration::from_millis(300))).unwrap() {
        last = event.path;
    }
    assert_eq!(last, "/n/2999");
    daemon.kill();
}

#[test]
fn clients_over_the_limit_of_files_wait_and_cost_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_with_files(16, directory.path());
    let store = daemon.connect();
    let socket = directory.path().join("socket");
    let crowd: Vec<_> = (0..30).map(|_| UnixStream::connect(&socket)).collect();
    assert!(crowd.iter().all(Result::is_ok));
    store.write("/a", "1").unwrap();
    let before = daemon.cpu_time();
    thread::sleep(Duration::from_secs(1));
    let used = daemon.cpu_time() - before;
    assert!(used < 10, "{used}");
    assert_eq!(store.read_string("/a").unwrap(), "1");
    drop(crowd);
    assert_eq!(daemon.connect().read_string("/a").unwrap(), "1");
    let log = fs::read_to_string(directory.path().join("log")).unwrap();
    assert_eq!(log.matches("cannot accept").count(), 1, "{log}");
    daemon.kill();
}

#[test]
fn a_second_daemon_does_not_take_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(directory.path());
    let store = daemon.connect();
    let mut second = Daemon::start(directory.path());
    assert!(!second.process.wait().unwrap().success());
    assert!(store.exists("/tool").unwrap());
    daemon.kill();
}

/// All that was answered is there after the kill; of what was not, all or nothing of a transaction.
#[test]
fn kill_and_restart_lose_nothing_that_was_answered() {
    let directory = tempfile::tempdir().unwrap();
    let mut answered = 0u32;
    for run in 0..12u64 {
        let daemon = Daemon::start(directory.path());
        let store = daemon.connect();
        check(&store, answered);
        let killer = thread::spawn(move || {
            // Anywhere between the first requests and some hundreds.
            thread::sleep(Duration::from_micros(300 + run * 1777 % 9000));
            daemon.kill();
        });
        for n in answered..answered + 100_000 {
            let pair = store.transaction(|tx| {
                tx.write(&format!("/p/{n}/one"), n.to_string())?;
                tx.write(&format!("/p/{n}/two"), n.to_string())?;
                tx.write("/count", (n + 1).to_string())
            });
            match pair {
                Ok(()) => answered = n + 1,
                Err(_) => break,
            }
        }
        killer.join().unwrap();
        // The last may have been done though its answer was lost.
        let daemon = Daemon::start(directory.path());
        let store = daemon.connect();
        let count = store.read_string_opt("/count").unwrap();
        let count = count.map_or(0, |count| count.parse().unwrap());
        assert!(
            count == answered || count == answered + 1,
            "{count} {answered}"
        );
        answered = count;
        check(&store, answered);
        daemon.kill();
    }
    assert!(answered > 0);
}

fn check(store: &Store, answered: u32) {
    let pairs = store.directory("/p").unwrap_or_default();
    assert_eq!(pairs.len(), answered as usize);
    for n in answered.saturating_sub(5)..answered {
        for name in ["one", "two"] {
            let value = store.read_string(&format!("/p/{n}/{name}")).unwrap();
            assert_eq!(value, n.to_string());
        }
    }
}
