//! The daemon as a process: over its socket, and killed at any moment.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, setrlimit};
use xenstore::{Ops, Perm, Refusal, Store};

/// Beyond this something hangs, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);
/// Source: `public/io/xs_wire.h`.
const XS_WATCH: u32 = 4;

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

    /// Starts it with a log in the directory.
    fn start_with_log(directory: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xenstored"));
        command.arg("-T").arg(directory.join("log"));
        Self::start_by(command, directory)
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn start_by(command: Command, directory: &Path) -> Self {
        Self::start_by_with(command, directory, Stdio::null())
    }

    fn start_by_with(mut command: Command, directory: &Path, stderr: Stdio) -> Self {
        let process = command
            .args(["--no-fork", "--no-domain-init", "--state-dir"])
            .arg(directory)
            .arg("--socket")
            .arg(directory.join("socket"))
            .stderr(stderr)
            .spawn()
            .unwrap();
        let directory = directory.to_owned();
        Self { process, directory }
    }

    fn connect(&self) -> Store {
        let deadline = Instant::now() + PATIENCE;
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

    /// Kills it, by SIGKILL.
    fn kill(self) {}
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

#[test]
fn two_clients_meet_in_the_tree() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(directory.path());
    let (one, other) = (daemon.connect(), daemon.connect());
    other.watch("/a", "tok").unwrap();
    let first = other.next_event(Some(PATIENCE)).unwrap();
    assert_eq!(first.unwrap().path, "/a");
    one.transaction(|tx| {
        tx.write("/a/b", "1")?;
        tx.set_perms("/a/b", &[Perm::none(0), Perm::read(7)])
    })
    .unwrap();
    let event = other.next_event(Some(PATIENCE)).unwrap();
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
    assert!(began.elapsed() < PATIENCE);
    let next = || slow.next_event(Some(PATIENCE)).unwrap().unwrap();
    while next().path != "/n/2999" {}
    daemon.kill();
}

/// Lets this process, and the daemons that it starts, have so many files open.
fn allow_files(most: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= most) {
        return;
    }
    let current = Some(most);
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
}

/// Connects, sets a watch that nothing fires, and waits until the daemon has it.
fn watch_idly(socket: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    let body = b"/idle\0t\0";
    let length = u32::try_from(body.len()).unwrap();
    let mut request: Vec<u8> = [XS_WATCH, 0, 0, length]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    request.extend(body);
    stream.write_all(&request).unwrap();
    let mut answer = [0; 16];
    stream.read_exact(&mut answer).unwrap();
    stream
}

/// CPU time, and the best of some rounds, for what others on the machine leave in the caches counts as well: a daemon
/// that looked at each connection would take hundreds of times as long in every round.
#[test]
fn idle_watchers_cost_a_reader_nothing() {
    allow_files(4096);
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(directory.path());
    let store = daemon.connect();
    store.write("/a", "1").unwrap();
    let reads = || {
        let before = daemon.cpu_time();
        for _ in 0..10_000 {
            assert_eq!(store.read_string("/a").unwrap(), "1");
        }
        daemon.cpu_time() - before
    };
    let alone = (0..3).map(|_| reads()).max().unwrap();
    let socket = directory.path().join("socket");
    let crowd: Vec<_> = (0..2000).map(|_| watch_idly(&socket)).collect();
    let among: Vec<_> = (0..10).map(|_| reads()).collect();
    // a tick more or less is how it is measured
    let is_even = |among: &u64| 2 * among <= 3 * alone + 2;
    assert!(among.iter().any(is_even), "{alone} {among:?}");
    drop(crowd);
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
    for run in 0u64.. {
        // On a busy machine a daemon may be killed before it has answered anything.
        if run >= 12 && answered > 0 {
            break;
        }
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

/// Waits until a file holds `text`.
fn await_text(path: &Path, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !fs::read_to_string(path).unwrap_or_default().contains(text) {
        assert!(Instant::now() < deadline, "{text} in {}", path.display());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn signals_open_the_log_anew_or_ask_for_a_report() {
    let directory = tempfile::tempdir().unwrap();
    let (log, old) = (directory.path().join("log"), directory.path().join("log.1"));
    let daemon = Daemon::start_with_log(directory.path());
    let store = daemon.connect();
    fs::rename(&log, &old).unwrap();
    daemon.signal(Signal::HUP);
    // A signal arrives when it likes: another asks for something that shows.
    let deadline = Instant::now() + PATIENCE;
    while !log.exists() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(5));
    }
    daemon.signal(Signal::USR1);
    await_text(&log, "domain 0: 3 nodes");
    daemon.signal(Signal::USR2);
    store.write("/a", "1").unwrap();
    daemon.signal(Signal::USR2);
    await_text(&log, "domain 0: 4 nodes");
    assert_eq!(store.read_string("/a").unwrap(), "1");
    daemon.kill();
}

#[test]
fn a_listener_of_messages_that_is_gone_ends_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let command = Command::new(env!("CARGO_BIN_EXE_xenstored"));
    let mut daemon = Daemon::start_by_with(command, directory.path(), Stdio::piped());
    let store = daemon.connect();
    drop(daemon.process.stderr.take());
    daemon.signal(Signal::USR1);
    thread::sleep(Duration::from_millis(100));
    daemon.signal(Signal::HUP);
    store.write("/a", "1").unwrap();
    assert!(daemon.process.try_wait().unwrap().is_none());
    daemon.kill();
}

/// As an init script starts it: the command ends when requests are served.
#[test]
fn by_default_it_is_a_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_xenstored"));
    command.current_dir(directory.path());
    command.args(["-D", "-P", "--state-dir", "state", "--socket", "socket"]);
    command.args(["-F", "pid", "-T", "log"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let pid: i32 = fs::read_to_string(at("pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("{pid}\n")
    );
    let store = Store::open_at(&at("socket")).unwrap();
    store.write("/a", "1").unwrap();
    assert!(at("state/journal").exists());
    await_text(&at("log"), "serving");
    let pid = Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn a_failed_start_says_where_and_leaves_no_socket() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    for no_fork in [&["-N"][..], &[]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xenstored"));
        command.args(no_fork).args(["-D", "--state-dir", "/proc/x"]);
        let output = command.arg("--socket").arg(&socket).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("/proc/x: "), "{said}");
        assert!(!socket.exists());
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_xenstored"));
    let output = command.args(["-D", "--keep-orphans"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("xenstored: not supported: --keep-orphans: "),
        "{said}"
    );
}

#[test]
fn a_damaged_journal_gives_back_what_is_whole_and_says_what_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(directory.path());
    let store = daemon.connect();
    for n in 0..20 {
        store.write(&format!("/n/{n}"), "value").unwrap();
    }
    daemon.kill();
    let journal = directory.path().join("journal");
    let mut bytes = fs::read(&journal).unwrap();
    let at = bytes
        .windows(5)
        .position(|window| window == b"/n/11")
        .unwrap();
    bytes[at] ^= 1;
    fs::write(&journal, &bytes).unwrap();
    // Who does not want a part of it gets nothing, and the journal stays.
    let mut command = Command::new(env!("CARGO_BIN_EXE_xenstored"));
    command
        .args(["-N", "-D", "-R", "--state-dir"])
        .arg(directory.path());
    let output = command
        .arg("--socket")
        .arg(directory.path().join("s"))
        .output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(said.contains("1 frames are damaged"), "{said}");
    assert_eq!(fs::read(&journal).unwrap(), bytes);
    let daemon = Daemon::start_with_log(directory.path());
    let store = daemon.connect();
    assert_eq!(store.directory("/n").unwrap().len(), 19);
    assert!(!store.exists("/n/11").unwrap());
    await_text(&directory.path().join("log"), "1 frames are damaged");
    daemon.kill();
}
