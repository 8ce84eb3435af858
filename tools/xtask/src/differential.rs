//! `xl` beside Xen's own xl 4.17, as Debian packages it: each reads every file of `tests/xl-files` in a dry run; exit
//! codes and JSON are the same but for the differences that `differences.toml` there names, with their reasons. A
//! difference that is named and does not show is an error as well.
//!
//! Xen's xl wants a hypervisor and a xenstored even for that. It gets a file in the place of /dev/xen/privcmd, below a
//! /dev of its own (a mount namespace), ioctls on it that return 0 (strace injects that), and a socket that takes
//! connections.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{debian, paths, shell};

/// What `cargo xtask test --filter` calls it.
pub(crate) const NAME: &str = "xl-files";
/// What it shows, for lists.
pub(crate) const ABOUT: &str =
    "our xl reads configurations as Xen's xl 4.17 does, but for named differences";

/// So many differences of one file are shown.
const SHOWN: usize = 8;

/// Runs both on every file: how many agree, and the ones that do not, each with what is wrong.
///
/// # Errors
/// Xen's xl cannot be run here, or the files not be read.
pub(crate) fn run() -> Result<(usize, Vec<String>)> {
    shell::step(
        "building xl",
        Command::new(paths::cargo())
            .args(["build", "--quiet", "-p", "xl", "--bin", "xl"])
            .current_dir(paths::root()),
    )?;
    let xen = Xen::prepare()?;
    let files = paths::root().join("tests/xl-files");
    let named = Named::read(&files.join("differences.toml"))?;
    let mut passed = 0;
    let mut failed = Vec::new();
    for file in configurations(&files)? {
        let stem = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let wrong = compare(&ours(&file)?, &xen.read(&file)?, &stem, &named)?;
        if wrong.is_empty() {
            passed += 1;
        } else {
            failed.push(format!("{stem}: {}", wrong.join("; ")));
        }
    }
    Ok((passed, failed))
}

fn configurations(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
    let mut files = entries.collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|e| e == "cfg"));
    files.sort();
    Ok(files)
}

/// How a dry run ended.
struct Read {
    exits: i64,
    json: Option<Value>,
}

impl Read {
    fn new(output: &Output, who: &str) -> Result<Self> {
        let exits = output
            .status
            .code()
            .with_context(|| format!("{who} was killed"))?;
        let json = (exits == 0).then(|| serde_json::from_slice(&output.stdout));
        Ok(Self {
            exits: exits.into(),
            json: json
                .transpose()
                .with_context(|| format!("{who} printed no JSON"))?,
        })
    }
}

fn ours(file: &Path) -> Result<Read> {
    let program = paths::root().join("target/debug/xl");
    let output = Command::new(program)
        .args(["-N", "create"])
        .arg(file)
        .output()?;
    Read::new(&output, "our xl")
}

/// Xen's xl, and what it takes for xenstored.
struct Xen {
    directory: PathBuf,
    _xenstored: UnixListener,
}

impl Xen {
    fn prepare() -> Result<Self> {
        let directory = paths::out().join(NAME);
        fs::create_dir_all(&directory)?;
        let socket = directory.join("xenstored");
        if socket.exists() {
            fs::remove_file(&socket)?;
        }
        let xen = Self {
            _xenstored: UnixListener::bind(&socket)?,
            directory,
        };
        // what it does not know is no configuration's fault
        let probe = xen.command(&["help".as_ref()])?.output()?;
        ensure!(
            probe.status.success(),
            "Xen's xl cannot be run here (a user and a mount namespace, and ptrace, are needed): {}",
            String::from_utf8_lossy(&probe.stderr)
        );
        Ok(xen)
    }

    fn read(&self, file: &Path) -> Result<Read> {
        let words = ["-N".as_ref(), "create".as_ref(), file.as_os_str()];
        Read::new(&self.command(&words)?.output()?, "Xen's xl")
    }

    fn command(&self, words: &[&std::ffi::OsStr]) -> Result<Command> {
        // The first ioctl asks whether there is such a device, and is to be refused.
        const SCRIPT: &str = "mount -t tmpfs none /dev && mkdir /dev/xen && : >/dev/xen/privcmd && : >/dev/null && \
            exec timeout 60 strace -f -qq -o /dev/null -e trace=ioctl -P /dev/xen/privcmd \
            -e inject=ioctl:retval=0:when=2+ \"$@\"";
        let root = debian::userland()?;
        let libraries = library_directories(&root)?;
        let program = root.join("usr/lib/xen-4.17/bin/xl");
        let is_root = shell::output(Command::new("id").arg("-u"))?.trim() == "0";
        let mut command = Command::new("unshare");
        command
            .args(if is_root { &["-m"][..] } else { &["-r", "-m"] })
            .args(["sh", "-c", SCRIPT, "xl"])
            .arg(root.join("lib64/ld-linux-x86-64.so.2"))
            .arg("--library-path")
            .arg(libraries)
            .arg(program)
            .args(words)
            .env("XENSTORED_PATH", self.directory.join("xenstored"))
            .stdin(Stdio::null());
        Ok(command)
    }
}

/// Gives the directories of a root file system that have libraries, as the dynamic loader takes them.
fn library_directories(root: &Path) -> Result<String> {
    let mut found = Vec::new();
    for place in [
        "lib/x86_64-linux-gnu",
        "usr/lib/x86_64-linux-gnu",
        "usr/lib/xen-4.17/lib/x86_64-linux-gnu",
    ] {
        let directory = root.join(place);
        if directory.exists() {
            found.push(directory.display().to_string());
        }
    }
    if found.is_empty() {
        bail!(
            "{} has no libraries: run `cargo xtask setup`",
            root.display()
        );
    }
    Ok(found.join(":"))
}

/// The differences that there are to be.
struct Named {
    /// By the path in the JSON, with `[]` for any element.
    everywhere: BTreeSet<String>,
    /// By file: paths, and exit codes (ours, Xen's).
    files: BTreeMap<String, OfFile>,
}

#[derive(Default)]
struct OfFile {
    paths: BTreeSet<String>,
    exits: Option<(i64, i64)>,
}

impl Named {
    fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file)?;
        Self::parse(&text).with_context(|| file.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let table: toml::Table = text.parse()?;
        let mut named = Self {
            everywhere: BTreeSet::new(),
            files: BTreeMap::new(),
        };
        for (section, entries) in &table {
            for entry in entries.as_array().context("sections are lists")? {
                let word = |key: &str| entry.get(key).and_then(toml::Value::as_str);
                ensure!(
                    word("why").is_some_and(|why| why.len() > 10),
                    "{entry}: say why"
                );
                match (section.as_str(), word("file"), word("path")) {
                    ("everywhere", None, Some(path)) => {
                        named.everywhere.insert(path.to_owned());
                    }
                    ("file", Some(file), path) => {
                        let of_file = named.files.entry(file.to_owned()).or_default();
                        of_file.paths.extend(path.map(str::to_owned));
                        let code = |key: &str| entry.get(key).and_then(toml::Value::as_integer);
                        of_file.exits = of_file.exits.or(code("ours").zip(code("xen")));
                    }
                    _ => bail!("{entry}: neither of every file nor of one"),
                }
            }
        }
        Ok(named)
    }
}

/// Gives what differs and is not to, and what is to and does not.
fn compare(ours: &Read, xen: &Read, file: &str, named: &Named) -> Result<Vec<String>> {
    let none = OfFile::default();
    let of_file = named.files.get(file).unwrap_or(&none);
    let mut wrong = Vec::new();
    let exits = (ours.exits, xen.exits);
    match of_file.exits {
        Some(expected) if expected == exits => {}
        None if ours.exits == xen.exits => {}
        _ => wrong.push(format!("our xl exits {}, Xen's {}", exits.0, exits.1)),
    }
    let (Some(ours), Some(xen)) = (&ours.json, &xen.json) else {
        return Ok(wrong);
    };
    let (mut left, mut right) = (BTreeMap::new(), BTreeMap::new());
    flatten("", ours, &mut left);
    flatten("", xen, &mut right);
    let mut differing = BTreeSet::new();
    let all: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    for path in all {
        let general = general(path);
        if left.get(path) == right.get(path) || named.everywhere.contains(&general) {
            continue;
        }
        if of_file.paths.contains(&general) {
            differing.insert(general);
        } else {
            let shown =
                |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
            let (ours, xens) = (shown(left.get(path)), shown(right.get(path)));
            wrong.push(format!("{path} is {ours}, with Xen {xens}"));
        }
    }
    wrong.truncate(SHOWN);
    for path in of_file.paths.difference(&differing) {
        wrong.push(format!("{path} is named as different, and is not"));
    }
    Ok(wrong)
}

/// Lists the values of a document that hold no others, by their paths.
fn flatten(path: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                flatten(&format!("{path}{dot}{name}"), value, into);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, value) in items.iter().enumerate() {
                flatten(&format!("{path}[{at}]"), value, into);
            }
        }
        _ => {
            into.insert(path.to_owned(), value.clone());
        }
    }
}

/// Gives a path with every element's number left out.
fn general(path: &str) -> String {
    let mut parts = path.split('[');
    let mut general = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        general.push_str("[]");
        general.push_str(part.split_once(']').map_or("", |(_, rest)| rest));
    }
    general
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(exits: i64, json: Option<&str>) -> Read {
        Read {
            exits,
            json: json.map(|text| serde_json::from_str(text).unwrap()),
        }
    }

    #[test]
    fn what_differs_must_be_named_and_what_is_named_must_differ() {
        let named = Named::parse(
            "[[everywhere]]\npath = 'a.b'\nwhy = 'it is chosen anew each time'\n\
             [[file]]\nfile = 'f'\npath = 'd[].x'\nwhy = 'only Xen has such a thing'\n\
             [[file]]\nfile = 'g'\nours = 1\nxen = 0\nwhy = 'it would lose data'\n",
        )
        .unwrap();
        let check = |ours: &str, xen: &str, file| {
            compare(&read(0, Some(ours)), &read(0, Some(xen)), file, &named).unwrap()
        };
        let (one, two) = (
            r#"{"a":{"b":1},"d":[{}]}"#,
            r#"{"a":{"b":2},"d":[{"x":1}]}"#,
        );
        assert_eq!(check(one, two, "f"), ["d[0] is {}, with Xen nothing"]);
        let named_one = r#"{"a":{"b":1},"d":[{"y":1}]}"#;
        let named_two = r#"{"a":{"b":2},"d":[{"x":1,"y":1}]}"#;
        assert_eq!(check(named_one, named_two, "f"), [] as [&str; 0]);
        assert_eq!(
            check(named_one, named_one, "f").len(),
            1,
            "named, and the same"
        );
        assert_eq!(
            check(r#"{"q":1}"#, r#"{"q":2}"#, "h"),
            ["q is 1, with Xen 2"]
        );
        let exits = |ours, xen, file| {
            compare(&read(ours, None), &read(xen, None), file, &named)
                .unwrap()
                .len()
        };
        assert_eq!(
            (
                exits(1, 0, "g"),
                exits(1, 1, "g"),
                exits(1, 0, "h"),
                exits(1, 1, "h")
            ),
            (0, 1, 1, 0)
        );
        assert!(Named::parse("[[everywhere]]\npath = 'x'\nwhy = ''\n").is_err());
    }
}
