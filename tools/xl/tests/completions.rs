//! What the shells offer behind `xl`: each shell is asked itself, where it is installed.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// What is typed, and what there is for its last word.
const OFFERED: [(&[&str], &[&str]); 10] = [
    (&["destroy", "w"], &["web one"]),
    (&["destroy", ""], &["web one", "mail"]),
    (&["-v", "console", "m"], &["mail"]),
    (&["create", "so"], &["some.cfg"]),
    (&["help", "vcpu-p"], &["vcpu-pin"]),
    (&["rename", "mail", "w"], &[]),
    (&["pause", "mail", "w"], &["web one"]),
    (&["block-attach", "mail", "so"], &["some.cfg"]),
    (&["vcpu-set", "mail", "s"], &[]),
    (&["shutd"], &["shutdown"]),
];

/// Makes a directory with the completions, a file, and an xl that lists two domains.
fn prepared() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let docs = Command::new(env!("CARGO_BIN_EXE_xl-docs"))
        .arg(path)
        .status();
    assert!(docs.unwrap().success());
    let listed = "Name                                        ID   Mem VCPUs\tState\tTime(s)\n\
        web one                                      3   512     4     -b----      98.8\n\
        mail                                         4   512     4     r-----       8.8\n";
    let program = path.join("xl");
    fs::write(&program, format!("#!/bin/sh\nprintf '{listed}'\n")).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    fs::write(path.join("some.cfg"), "").unwrap();
    directory
}

/// Runs a shell in that directory and returns what it prints; `None` where it is not installed.
fn run(directory: &Path, shell: &str, words: &[&str]) -> Option<String> {
    let path = format!("{}:/usr/bin:/bin", directory.display());
    let output = Command::new(shell)
        .args(words)
        .env("PATH", path)
        .env("HOME", directory)
        .current_dir(directory)
        .output();
    let Ok(output) = output else {
        println!("{shell} is not installed: not tested");
        return None;
    };
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{shell}: {told}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn bash_completes_domains_files_and_verbs() {
    let directory = prepared();
    for (words, expected) in OFFERED {
        let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
        let script = format!(
            "source bash/xl.bash; COMP_WORDS=(xl {}); COMP_CWORD={}; _xl_arguments xl '{}' xl; \
             for reply in \"${{COMPREPLY[@]}}\"; do echo \"$reply\"; done",
            quoted.join(" "),
            words.len(),
            words.last().unwrap(),
        );
        let Some(offered) = run(directory.path(), "bash", &["--norc", "-c", &script]) else {
            return;
        };
        assert_eq!(offered.lines().collect::<Vec<_>>(), expected, "{words:?}");
    }
}

#[test]
fn fish_completes_domains_files_and_verbs() {
    let directory = prepared();
    for (words, expected) in OFFERED {
        let script = format!("source fish/xl.fish; complete -C 'xl {}'", words.join(" "));
        let Some(offered) = run(directory.path(), "fish", &["--no-config", "-c", &script]) else {
            return;
        };
        // A tab and a description may follow; fish sorts.
        let mut names: Vec<_> = offered
            .lines()
            .map(|line| line.split('\t').next())
            .collect();
        let mut expected: Vec<_> = expected.iter().copied().map(Some).collect();
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected, "{words:?}");
    }
}

/// Has an interactive zsh complete each line that follows, and prints the lines as they are then.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PS1=; autoload -U compinit; compinit -u -D; source ./zsh/_xl; unset zle_bracketed_paste
    show() { print -r -- "<<$BUFFER>>" }; zle -N show; bindkey "^X" show; print READ""Y'
zpty -r shell out "*READY*"
for line in "$@"; do
    zpty -w -n shell "$line"$'\t\x18'
    zpty -r shell out "*<<*>>*"
    out=${out##*<<}
    print -r -- "${out%%>>*}"
    zpty -w -n shell $'\x15'
done
"#;

#[test]
fn zsh_completes_domains_files_and_verbs() {
    let directory = prepared();
    // What is not unique is left as it was typed.
    let unique = OFFERED.iter().filter(|(_, offered)| offered.len() < 2);
    let lines: Vec<_> = unique
        .clone()
        .map(|(words, _)| format!("xl {}", words.join(" ")))
        .collect();
    let mut words = vec!["-f", "-c", ZSH, "zsh"];
    words.extend(lines.iter().map(String::as_str));
    let Some(completed) = run(directory.path(), "zsh", &words) else {
        return;
    };
    for ((words, offered), completed) in unique.zip(completed.lines()) {
        let (_, before) = words.split_last().unwrap();
        let last = match offered {
            [one] => format!("{} ", one.replace(' ', "\\ ")),
            _ => (*words.last().unwrap()).to_owned(),
        };
        let expected = format!("xl {}", [before, &[last.as_str()]].concat().join(" "));
        assert_eq!(completed, expected);
    }
    assert_eq!(completed.lines().count(), lines.len());
}
