//! No file names the machine that it was written on: directories of people, or other registries than the public one.
//! And the hypervisor uses the field's words: those of our own that were replaced by them do not come back.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::source::Source;

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

/// Names of our own, and the field's for each.
const NAMES: [(&str, &str); 12] = [
    ("Arrival", "HandOff"),
    ("News", "PendingWork"),
    ("Death", "TeardownStage"),
    ("Holds", "PauseReasons"),
    ("Ended", "ShutdownReason"),
    ("Belongings", "DomainResources"),
    ("Memo", "SoftwareTlb"),
    ("Translations", "LinearTlb"),
    ("StateBox", "StateMailbox"),
    ("Again", "Continuation, Redelivery"),
    ("adopt", "attach"),
    ("disown", "detach"),
];
/// Parts of names, between underscores.
const PARTS: [(&str, &str); 6] = [
    ("news", "pending_work"),
    ("memo", "tlb"),
    ("loan", "temporary_heap"),
    ("lent", "temporary"),
    ("anew", "over"),
    ("alarm", "timer"),
];
/// Phrases of comments likewise.
const PHRASES: [(&str, &str); 4] = [
    ("the story", "the core"),
    ("anew", "again, over"),
    ("the chip", "the CPU"),
    ("for good", "permanently"),
];
/// Where the field's words are used.
const FIELD: &str = "hypervisor/";

/// Finds them.
pub(super) fn breaches(root: &Path, sources: &[Source]) -> Result<Vec<String>> {
    let mut breaches: Vec<String> = sources.iter().flat_map(retired).collect();
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

/// Retired names in code, retired phrases in comments.
fn retired(source: &Source) -> Vec<String> {
    if !source.path.starts_with(FIELD) {
        return Vec::new();
    }
    let names = source.tokens.iter().filter(|token| token.is_word);
    let names = names.flat_map(|token| {
        let is_it = move |(word, _): &&(&str, &str)| token.text == *word;
        let is_part = move |(part, _): &&(&str, &str)| {
            let mut parts = token.text.split('_');
            parts.any(|own| own.eq_ignore_ascii_case(part))
        };
        let found = NAMES.iter().filter(is_it);
        let found = found.chain(PARTS.iter().filter(is_part));
        found.map(move |found| (token.line, found))
    });
    let lines = (1..).zip(source.text.lines());
    let comments = lines.filter(|(_, text)| text.trim_start().starts_with("//"));
    let phrases = comments.flat_map(|(line, text)| {
        let is_it = move |(phrase, _): &&(&str, &str)| has_phrase(text, phrase);
        PHRASES.iter().filter(is_it).map(move |found| (line, found))
    });
    names
        .chain(phrases)
        .map(|(line, (word, field))| {
            format!("{}:{line}: `{word}`: the field says {field}", source.path)
        })
        .collect()
}

fn has_phrase(text: &str, phrase: &str) -> bool {
    text.match_indices(phrase).any(|(at, _)| {
        let is_letter = |c: char| c.is_alphanumeric();
        !text[..at].ends_with(is_letter) && !text[at + phrase.len()..].starts_with(is_letter)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retired_words_are_found_in_the_hypervisor_only() {
        let text = "// what the story does\nfn adopt() { has_news(); }\n// \"adopt\" and stories are words\n";
        let found = |path: &str| retired(&Source::new(path, text.into()).unwrap()).len();
        assert_eq!(found("hypervisor/src/a.rs"), 3);
        assert_eq!(found("tools/xl/src/a.rs"), 0);
    }

    #[test]
    fn machines_directories_are_found_and_others_are_not() {
        let path = ["/ho", "me/me/x"].concat();
        let found_there = found("a", &format!("\nsee {path}\n"));
        assert!(found_there.len() == 1 && found_there[0].starts_with("a:2: says `/"));
        assert!(found("a", "/tmp/x, ~/.cache, /dev/xen, https://crates.io\n").is_empty());
    }
}
