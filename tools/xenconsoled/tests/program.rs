//! The daemon as a process, where there is no hypervisor.

use std::process::{Command, Stdio};

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_xenconsoled"))
}

#[test]
fn nobody_listening_to_an_error_is_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = command();
    command
        .arg("-i")
        .arg("--pid-file")
        .arg(directory.path().join("pid"));
    let status = command.stderr(Stdio::from(writer)).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_start_that_fails_says_why() {
    let directory = tempfile::tempdir().unwrap();
    for interactive in [&["-i"][..], &[]] {
        let mut command = command();
        command
            .args(interactive)
            .arg("--pid-file")
            .arg(directory.path().join("pid"));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("/dev/xen/"), "{said}");
    }
}
