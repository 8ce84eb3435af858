//! Hotplug scripts, for those who name one: Xen's calling convention.
//!
//! Source: Xen's manual, "Hotplug scripts"; `/etc/xen/scripts/README`.

use std::process::Command;

use super::{Device, Kind};
use crate::{Error, Paths, Result};

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

/// Runs a script and waits for it.
///
/// # Errors
/// Where it cannot be run, or says that it failed: with the last line it wrote.
pub(super) fn run(device: &Device, script: &str, moment: Moment) -> Result<()> {
    let word = match (device.kind, moment) {
        (Kind::Vbd, Moment::Attach) => "add",
        (Kind::Vbd, Moment::Detach) => "remove",
        (Kind::Vif, Moment::Attach) => "online",
        (Kind::Vif, Moment::Detach) => "offline",
    };
    // what follows the script's name on its line are its own words
    let mut words = script.split_whitespace();
    let program = words.next().unwrap_or(script);
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
            .env("netdev", "");
    }
    let output = command
        .output()
        .map_err(|error| Error::file(program, error))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it wrote nothing");
    Err(Error::Refused(format!(
        "script {program} {word}: {}: {last}",
        output.status
    )))
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

    #[test]
    fn a_script_without_a_directory_is_xens() {
        let paths = Paths::default();
        assert_eq!(locate(&paths, "vif-bridge"), "/etc/xen/scripts/vif-bridge");
        assert_eq!(locate(&paths, "/opt/mine"), "/opt/mine");
    }
}
