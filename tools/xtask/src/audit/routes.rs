//! What documents and headers name is there: the files and functions of route cards, and those that the READMEs name.
//!
//! A place is `path/file.rs`, a directory `path/`, or `path/file.rs:name` for a function, type or test in that file; from
//! the top of the repository or from a directory in [`BASES`].

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::source::Source;

/// Where paths may start from, below the top.
const BASES: [&str; 3] = ["", "hypervisor", "hypervisor/hv-core"];
/// Documents whose places are checked.
const DOCUMENTS: [&str; 3] = [
    "README.md",
    "hypervisor/README.md",
    "hypervisor/hv-core/README.md",
];

/// Finds places that are not there.
pub(super) fn breaches(root: &Path, sources: &[Source]) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for source in sources {
        for (word, line) in card_words(&source.header) {
            breaches.extend(
                breach(root, word)
                    .map(|why| format!("{}:{line}: its route card names {why}", source.path)),
            );
        }
    }
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document))?;
        for (word, line) in document_words(&text) {
            breaches
                .extend(breach(root, word).map(|why| format!("{document}:{line}: names {why}")));
        }
    }
    Ok(breaches)
}

/// The places of a header's route cards, with their lines: from a line with "Route card" to the next empty one.
fn card_words(header: &str) -> Vec<(&str, usize)> {
    let mut is_in_card = false;
    let mut words = Vec::new();
    for (line, text) in (1..).zip(header.lines()) {
        let text = text.trim_start_matches('/').trim_start_matches('!');
        is_in_card = text.contains("Route card") || is_in_card && !text.trim().is_empty();
        if is_in_card {
            words.extend(places(text).map(|word| (word, line)));
        }
    }
    words
}

/// The places of a document, with their lines: in code, or in cells of tables.
fn document_words(text: &str) -> Vec<(&str, usize)> {
    let is_told = |text: &str| text.starts_with('|') || text.starts_with('-') || text.contains('`');
    let lines = (1..).zip(text.lines()).filter(|(_, text)| is_told(text));
    lines
        .flat_map(|(line, text)| places(text).map(move |word| (word, line)))
        .filter(|(word, _)| word.contains(".rs"))
        .collect()
}

/// The words of `text` that are places: no spaces, at least one slash, letters on both sides of it.
fn places(text: &str) -> impl Iterator<Item = &str> {
    let is_in_place =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | ':');
    text.split(move |c: char| !is_in_place(c))
        .map(|word| word.trim_matches(['.', ':', '-']))
        .filter(|word| word.contains('/') && !word.starts_with('/') && !word.contains("//"))
}

/// Says what is wrong with a place.
fn breach(root: &Path, word: &str) -> Option<String> {
    let (file, name) = word.split_once(':').unwrap_or((word, ""));
    let found = BASES
        .iter()
        .map(|base| root.join(base).join(file))
        .find(|path| path.exists());
    let Some(path) = found else {
        return Some(format!("`{word}`, which is not there"));
    };
    let text = fs::read_to_string(&path).unwrap_or_default();
    let defines = |line: &str| {
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        let is_definer = |word: &str| {
            matches!(
                word,
                "fn" | "struct" | "enum" | "trait" | "const" | "static" | "macro_rules"
            )
        };
        words.by_ref().any(is_definer) && words.any(|word| word == name)
    };
    let is_there = name.is_empty() || text.lines().any(defines);
    (!is_there).then(|| format!("`{word}`: the file has no `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(places: &str) -> String {
        format!(
            "//! A.\n//!\n//! Route card, VM exit:\n//! - {places}\n//!\n//! Behind it words/like this do not count.\n"
        )
    }

    fn found(header: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hypervisor/src/run.rs");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "pub const fn run() {}\nfn walk() { run() }\n").unwrap();
        let words = card_words(header);
        words
            .iter()
            .filter_map(|(word, _)| breach(dir.path(), word))
            .collect()
    }

    #[test]
    fn card_to_files_and_functions_that_exist_is_right() {
        let good = card(
            "hypervisor/src/run.rs, src/run.rs:run (the loop), then hypervisor/src/: all of it",
        );
        assert_eq!(card_words(&good).len(), 3);
        assert!(found(&good).is_empty());
    }

    #[test]
    fn card_to_no_file_or_no_function_is_a_breach() {
        assert_eq!(found(&card("hypervisor/src/gone.rs → src/run.rs")).len(), 1);
        assert_eq!(
            found(&card("src/run.rs:stroll")),
            ["`src/run.rs:stroll`: the file has no `stroll`"]
        );
    }

    #[test]
    fn documents_name_files_in_tables_and_code() {
        let text = "| made | `src/domain/create.rs` | and/or |\nread src/a.rs/x in prose\n- kept in src/b.rs:test_of_it\n";
        let words: Vec<&str> = document_words(text)
            .into_iter()
            .map(|(word, _)| word)
            .collect();
        assert_eq!(words, ["src/domain/create.rs", "src/b.rs:test_of_it"]);
    }
}
