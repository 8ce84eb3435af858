//! The program itself, on a host without a hypervisor: exit codes, what goes to stdout and what to stderr.

use std::path::Path;
use std::process::{Command, Output};

fn xl(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xl"));
    command.args(words).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

#[test]
fn a_file_that_cannot_be_read_exits_3() {
    let output = xl(&["create", "/nonexistent.cfg"]);
    assert_eq!(code(&output), 3);
    assert_eq!(
        text(&output.stderr),
        "Failed to read config file: /nonexistent.cfg: No such file or directory\n"
    );
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn a_dry_run_needs_no_hypervisor_and_prints_json_for_xendomains() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.cfg");
    std::fs::write(
        &file,
        "name = \"web\"\nkernel = \"/boot/vmlinuz\"\nmemory = 256\nmemmory = 3\n",
    )
    .unwrap();
    let file = file.display().to_string();
    let output = xl(&["create", "--quiet", "--dryrun", "--defconfig", &file]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let name = printed.lines().find_map(|line| {
        line.trim_start()
            .strip_prefix("\"name\": \"")?
            .strip_suffix("\",")
    });
    assert_eq!(name, Some("web"));
    assert_eq!(text(&output.stderr), "");
    // the same with the global flag, and with words of the command line: what is told is on stderr, as xl has it
    let output = xl(&["-N", "create", &file, "name='db'", "memory=64"]);
    let printed = text(&output.stdout);
    assert!(printed.starts_with("{\n    \"c_info\": {\n"), "{printed}");
    serde_json::from_str::<serde_json::Value>(&printed).unwrap();
    let told = text(&output.stderr);
    assert!(
        told.starts_with(&format!("Parsing config from {file}\n")),
        "{told}"
    );
    assert!(told.contains("web.cfg:4:1: unknown key memmory is ignored; did you mean memory?"));
    assert!(printed.contains("\"name\": \"db\"") && printed.contains("\"max_memkb\": 65536"));
}

#[test]
fn what_is_printed_besides_a_domain_is_on_stderr() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.cfg");
    std::fs::write(&file, "name='web'\nkernel='/k'\nmemory=1\n").unwrap();
    let output = xl(&["create", "-d", &file.display().to_string()]);
    assert_eq!((code(&output), text(&output.stdout)), (1, String::new()));
    assert!(text(&output.stderr).contains("\n    \"c_info\": {\n"));
}

#[test]
fn a_file_that_is_all_wrong_is_told_in_one_run() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.cfg");
    let text_of = "# web\nnmae='x'\nkernel='/k'\nmemory='2G'\nvcpus=two\ndeep=";
    std::fs::write(&file, text_of.to_owned() + &"[".repeat(9000)).unwrap();
    let output = xl(&["create", "-n", &file.display().to_string()]);
    assert_eq!((code(&output), text(&output.stdout)), (1, String::new()));
    let told = text(&output.stderr);
    for what in [
        "bad.cfg:4:8: memory takes a number, not \"2G\"; it is in MiB: 2048",
        "bad.cfg:5:7: expected a value",
        "expected no more than 32 lists within each other",
        "bad.cfg:2:1: unknown key nmae",
    ] {
        assert!(told.contains(what), "{what}: {told}");
    }
}

#[test]
fn paths_that_are_no_text_are_taken() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(OsStr::from_bytes(b"caf\xe9.cfg"));
    std::fs::write(&file, "name='web'\nkernel='/k'\nmemory=1\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_xl"))
        .args(["create", "-n"])
        .args([file.as_os_str(), OsStr::from_bytes(b"ramdisk='/caf\xe9'")])
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
}

#[test]
fn a_wrong_file_exits_1_with_place_and_caret() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.cfg");
    std::fs::write(&file, "name = 'x'\nkernel = '/k'\nmemory = 'lots'\n").unwrap();
    let output = xl(&["create", "-q", &file.display().to_string()]);
    assert_eq!((code(&output), text(&output.stdout)), (1, String::new()));
    let told = text(&output.stderr);
    assert!(told.ends_with("bad.cfg:3:10: memory takes a number, not \"lots\"\n    memory = 'lots'\n             ^^^^^^\n"), "{told}");
}

#[test]
fn without_a_hypervisor_the_reason_is_one_line() {
    for words in [
        &["list"][..],
        &["info"],
        &["dmesg"],
        &["top", "-b", "-i", "1"],
        &["destroy", "web"],
    ] {
        let output = xl(words);
        assert_eq!(
            (code(&output), text(&output.stdout)),
            (1, String::new()),
            "{words:?}"
        );
        let told = text(&output.stderr);
        assert!(
            told.starts_with("xl: ") && told.lines().count() == 1,
            "{words:?}: {told}"
        );
    }
}

#[test]
fn help_is_on_stdout_and_mistakes_are_on_stderr() {
    for words in [
        &["help"][..],
        &["--help"],
        &["-h"],
        &["help", "create"],
        &["create", "--help"],
        &["list", "-h"],
    ] {
        let output = xl(words);
        assert_eq!(
            (code(&output), text(&output.stderr)),
            (0, String::new()),
            "{words:?}"
        );
        assert!(text(&output.stdout).contains("Usage"), "{words:?}");
    }
    // exit codes as xl 4.17 has them
    for (words, exits) in [
        (&[][..], 1),
        (&["frobnicate"], 1),
        (&["list", "--no-such"], 2),
        (&["save", "web", "f"], 1),
        (&["create"], 6),
        (&["create", "a", "b"], 2),
        (&["-x"], 1),
        (&["rename", "a"], 2),
    ] {
        let output = xl(words);
        assert_eq!(
            (code(&output), text(&output.stdout)),
            (exits, String::new()),
            "{words:?}"
        );
        let told = text(&output.stderr);
        assert!(
            !told.is_empty() && !told.contains("as a value"),
            "{words:?}: {told}"
        );
    }
}

#[test]
fn completions_and_pages_are_written_for_every_verb() {
    let directory = tempfile::tempdir().unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_xl-docs"))
        .arg(directory.path())
        .status()
        .unwrap();
    assert!(status.success());
    let read =
        |name: &str| std::fs::read_to_string(directory.path().join(Path::new(name))).unwrap();
    assert!(read("bash/xl.bash").contains("block-attach"));
    assert!(read("zsh/_xl").contains("vcpu-pin") && read("fish/xl.fish").contains("cpupool-list"));
    assert!(read("man8/xl.8").contains("xl\\-create"));
    let create = read("man8/xl-create.8");
    assert!(create.contains("timings"));
    // the table of keys keeps its lines
    let (_, notes) = create.split_once(".nf\n").unwrap();
    assert!(
        notes.contains("\n\\&  memory = 512                    MiB\n"),
        "{notes}"
    );
    assert!(!directory.path().join("man8/xl-monitor.8").exists());
}

#[test]
fn a_failure_is_json_where_json_is_asked_for() {
    for (words, exits) in [
        (&["list", "--json"][..], 1),
        (&["create", "--json", "/nonexistent.cfg"], 3),
        (&["list", "--json", "--frob"], 2),
        (&["pci-list", "--json", "web"], 1),
        (&["save", "--json", "web", "/file"], 1),
        (&["destroy", "web", "--json"], 1),
    ] {
        let output = xl(words);
        assert_eq!(
            (code(&output), text(&output.stderr)),
            (exits, String::new()),
            "{words:?}"
        );
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&value["schema"], &value["verb"]),
            (&"hematite.xl/2".into(), &words[0].into())
        );
        assert_eq!(value["error"]["exit_code"], exits, "{words:?}");
        assert!(!value["error"]["message"].as_str().unwrap().is_empty());
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.cfg");
    std::fs::write(&file, "nmae='x'\nkernel='/k'\nmemory='2G'\n").unwrap();
    let output = xl(&["create", "--json", &file.display().to_string()]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["error"]["details"].as_array().unwrap().len(), 2);
}

#[test]
fn lists_of_what_no_domain_has_are_empty() {
    let output = xl(&["pci-assignable-list"]);
    assert_eq!(
        (code(&output), text(&output.stdout), text(&output.stderr)),
        (0, String::new(), String::new())
    );
    let output = xl(&["pci-assignable-list", "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["data"], serde_json::json!([]));
}

#[test]
fn xentop_tells_its_version() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("xentop");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_xl"), &link).unwrap();
    for flag in ["-V", "--version"] {
        let output = Command::new(&link).arg(flag).output().unwrap();
        assert_eq!(code(&output), 0);
        assert!(text(&output.stdout).starts_with("xentop "));
    }
}
