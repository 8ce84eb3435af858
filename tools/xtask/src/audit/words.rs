//! No file names the machine that it was written on: directories of people, or other registries than the public one.

use std::fs;
use std::path::Path;

use anyhow::Result;

/// Directories that are not the repository's.
const SKIPPED: [&str; 2] = ["target", ".git"];
/// What no file says, in halves, so that this one does not either.
const FORBIDDEN: [(&str, &str); 8] = [
    ("/ho", "me/"),
    ("/Us", "ers/"),
    ("/wo", "rk/"),
    ("/ro", "ot/"),
    ("C:", "\\Users"),
    ("replace-", "with"),
    ("[source.", "crates-io]"),
    ("CARGO_REGIST", "RIES_"),
];

/// Finds them.
pub(super) fn breaches(root: &Path) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    look_in(root, root, &mut breaches)?;
    Ok(breaches)
}

fn look_in(dir: &Path, root: &Path, breaches: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if SKIPPED.iter().any(|skipped| name == *skipped) {
            continue;
        }
        if path.is_dir() {
            look_in(&path, root, breaches)?;
        } else if let Ok(text) = fs::read_to_string(&path) {
            let path = path.strip_prefix(root).unwrap_or(&path);
            breaches.extend(found(&path.to_string_lossy(), &text));
        }
    }
    Ok(())
}

fn found(path: &str, text: &str) -> Vec<String> {
    let words = FORBIDDEN.map(|(begin, end)| format!("{begin}{end}"));
    let says = |line: &str| words.iter().find(|word| line.contains(word.as_str()));
    let lines = (1..).zip(text.lines());
    lines
        .filter_map(|(number, line)| Some(format!("{path}:{number}: says `{}`", says(line)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_directories_are_found_and_others_are_not() {
        let path = ["/ho", "me/me/x"].concat();
        let found_there = found("a", &format!("\nsee {path}\n"));
        assert!(found_there.len() == 1 && found_there[0].starts_with("a:2: says `/"));
        assert!(found("a", "/tmp/x, ~/.cache, /dev/xen, https://crates.io\n").is_empty());
    }
}
