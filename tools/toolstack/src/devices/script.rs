//! Hotplug scripts, for those who name one: Xen's calling convention.
//!
//! Source: Xen's manual, "Hotplug scripts"; `/etc/xen/scripts/README`.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group};

use xenstore::Ops;

use super::{Device, Kind};
use crate::{Error, Paths, Result, Toolstack};

/// How long a script may take: libxl's figure.
const LIMIT: Duration = Duration::from_secs(40);

/// When a script is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// The device was published.
    Attach,
    /// It is gone.
    Detach,
}

/// Where a script lies: named without a directory, among Xen's.
pub(super) fn locate(paths: &Paths, script: &str) -> String {
    if script.contains('/') {
        script.to_owned()
    } else {
        paths.scripts.join(script).display().to_string()
    }
}

impl Toolstack {
    /// Runs a device's script and waits for it, as long as libxl would.
    ///
    /// # Errors
    /// Where it cannot be run, or says that it failed: with the last line it wrote. [`Error::Timeout`] where it does
    /// not end; it is killed then, with all that it started.
    pub(super) fn run_script(&self, device: &Device, script: &str, moment: Moment) -> Result<()> {
        let node = format!("{}/gatewaydev", device.backend_path());
        let netdev = self.store.read_string_opt(&node)?.unwrap_or_default();
        run_within(command(device, script, moment, &netdev), script, LIMIT)
    }
}

fn run_within((mut command, what): (Command, String), script: &str, limit: Duration) -> Result<()> {
    let failed = |error: std::io::Error| Error::file(command_name(script), error);
    // a file and no pipe: what the script leaves running may hold it for ever
    let said = memfd_create("script", MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    let mut said = File::from(said);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone().map_err(failed)?)
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let Some(status) = wait(&mut child, limit).map_err(failed)? else {
        return Err(Error::Timeout(format!(
            "script {what} did not end within {} s and was killed",
            limit.as_secs()
        )));
    };
    if status.success() {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "script {what}: {status}: {}",
        last_line(&mut said)
            .as_deref()
            .unwrap_or("it wrote nothing")
    )))
}

/// What a script's line begins with.
fn command_name(script: &str) -> &str {
    script.split_whitespace().next().unwrap_or(script)
}

/// The script's command line and environment, and what messages call it; `netdev` is the interface that a card's
/// packets are to be routed through.
fn command(device: &Device, script: &str, moment: Moment, netdev: &str) -> (Command, String) {
    let word = match (device.kind, moment) {
        (Kind::Vbd, Moment::Attach) => "add",
        (Kind::Vbd, Moment::Detach) => "remove",
        (Kind::Vif, Moment::Attach) => "online",
        (Kind::Vif, Moment::Detach) => "offline",
    };
    // what follows the script's name on its line are its own words
    let words = script.split_whitespace().skip(1);
    let program = command_name(script);
    let mut command = Command::new(program);
    command
        .args(words)
        .arg(word)
        .env("script", program)
        .env("XENBUS_TYPE", device.kind.name())
        .env(
            "XENBUS_PATH",
            format!(
                "backend/{}/{}/{}",
                device.kind.name(),
                device.frontend,
                device.devid
            ),
        )
        .env("XENBUS_BASE_PATH", "backend");
    if device.kind == Kind::Vif {
        command
            .arg("type_if=vif")
            .env("vif", format!("vif{}.{}", device.frontend, device.devid))
            .env("netdev", netdev);
    }
    (command, format!("{program} {word}"))
}

/// Waits for a process; `None` where it did not end in time, and was killed with its group.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            kill_process_group(Pid::from_child(child), Signal::KILL)?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// The last line of a file that says something.
fn last_line(file: &mut File) -> Option<String> {
    let mut text = Vec::new();
    file.rewind().ok()?;
    file.read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: Device = Device {
        kind: Kind::Vif,
        frontend: 3,
        backend: 0,
        devid: 1,
    };

    /// Runs a script as a toolstack without a gateway would.
    fn run(device: &Device, script: &str, moment: Moment) -> Result<()> {
        run_within(command(device, script, moment, ""), script, LIMIT)
    }

    #[test]
    fn a_card_that_is_routed_tells_its_script_through_what() {
        let bench = crate::testing::Bench::new();
        let told = bench.files.path().join("told");
        let (_files, script) = shell(&format!("echo $netdev $* >{}\n", told.display()));
        let read = || std::fs::read_to_string(&told).unwrap();
        bench.ts.run_script(&CARD, &script, Moment::Attach).unwrap();
        assert_eq!(read(), "online type_if=vif\n");
        let node = format!("{}/gatewaydev", CARD.backend_path());
        bench.ts.store.write(&node, "eth1").unwrap();
        for (moment, word) in [(Moment::Attach, "online"), (Moment::Detach, "offline")] {
            bench.ts.run_script(&CARD, &script, moment).unwrap();
            assert_eq!(read(), format!("eth1 {word} type_if=vif\n"));
        }
    }

    #[test]
    fn a_script_is_told_what_and_when_and_its_complaint_is_passed_on() {
        let files = tempfile::tempdir().unwrap();
        let (script, told) = (files.path().join("script"), files.path().join("told"));
        let text = format!(
            "echo $* $vif $XENBUS_PATH $XENBUS_TYPE >{}\n",
            told.display()
        );
        std::fs::write(&script, text).unwrap();
        run(
            &CARD,
            &format!("/bin/sh {} bridge=b", script.display()),
            Moment::Attach,
        )
        .unwrap();
        let told = std::fs::read_to_string(told).unwrap();
        assert_eq!(
            told,
            "bridge=b online type_if=vif vif3.1 backend/vif/3/1 vif\n"
        );
        let error = run(&CARD, "/no/such/script", Moment::Attach).unwrap_err();
        assert!(error.chain().starts_with("/no/such/script: No such file"));
        let failed = run(&CARD, "/bin/false", Moment::Attach)
            .unwrap_err()
            .chain();
        assert!(
            failed.starts_with("script /bin/false online: exit status: 1"),
            "{failed}"
        );
    }

    fn shell(text: &str) -> (tempfile::TempDir, String) {
        let files = tempfile::tempdir().unwrap();
        let script = files.path().join("script");
        std::fs::write(&script, text).unwrap();
        let words = format!("/bin/sh {}", script.display());
        (files, words)
    }

    #[test]
    fn a_script_that_does_not_end_is_killed_with_what_it_started() {
        let (files, script) = shell("cd \"${0%/*}\"; (sleep 3; touch late) & sleep 60\n");
        let limit = Duration::from_millis(100);
        let error =
            run_within(command(&CARD, &script, Moment::Attach, ""), &script, limit).unwrap_err();
        assert_eq!(
            error.chain(),
            "script /bin/sh online did not end within 0 s and was killed"
        );
        std::thread::sleep(Duration::from_millis(3500));
        assert!(!files.path().join("late").exists());
    }

    #[test]
    fn what_a_script_leaves_running_is_not_waited_for() {
        let (_files, script) = shell("sleep 30 & echo no bridge >&2; exit 3\n");
        let start = Instant::now();
        let error = run(&CARD, &script, Moment::Attach).unwrap_err();
        assert_eq!(
            error.chain(),
            "script /bin/sh online: exit status: 3: no bridge"
        );
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_script_without_a_directory_is_xens() {
        let paths = Paths::default();
        assert_eq!(locate(&paths, "vif-bridge"), "/etc/xen/scripts/vif-bridge");
        assert_eq!(locate(&paths, "/opt/mine"), "/opt/mine");
    }
}
