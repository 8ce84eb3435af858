//! What documents and headers name is there: the files and functions of route cards, and those that the Markdown files
//! name.
//!
//! A place is `path/file.rs`, a directory `path/`, or `path/file.rs:name` for a function, type or test in that file;
//! from the top of the repository; in a document also from its own directory or one above that, in a route card from
//! one of [`BASES`]. A route card says for each Rust file which function the way leads through.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::source::{self, SOURCES, Source};

/// Where paths of route cards may start from.
const BASES: [&str; 3] = ["", "hypervisor", "hypervisor/hv-core"];
/// How files end that documents name.
const EXTENSIONS: [&str; 7] = [".rs", ".S", ".ld", ".toml", ".sh", ".md", ".txt"];

/// Finds places that are not there.
pub(super) fn breaches(root: &Path, sources: &[Source]) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for source in sources {
        for (word, line) in card_words(&source.header) {
            let why = breach(root, &BASES.map(Path::new), word).or_else(|| unnamed(word));
            breaches.extend(
                why.map(|why| format!("{}:{line}: its route card names {why}", source.path)),
            );
        }
    }
    for document in documents(root)? {
        let text = fs::read_to_string(root.join(&document))?;
        let bases: Vec<&Path> = document.ancestors().skip(1).collect();
        for (word, line) in document_words(&text) {
            let why = breach(root, &bases, word);
            breaches.extend(why.map(|why| format!("{}:{line}: names {why}", document.display())));
        }
    }
    Ok(breaches)
}

/// The Markdown files, from the top: those at the top and those beside our sources.
fn documents(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root).context("the top of the repository cannot be read")? {
        let path = entry?.path();
        if path.is_file() && path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
    for dir in SOURCES {
        source::collect(&root.join(dir), "md", &mut files)?;
    }
    files.sort();
    let from_top = |file: PathBuf| Some(file.strip_prefix(root).ok()?.to_owned());
    Ok(files.into_iter().filter_map(from_top).collect())
}

/// Says which file of a route card has no function.
fn unnamed(word: &str) -> Option<String> {
    let is_bare = word.ends_with(".rs");
    is_bare.then(|| format!("`{word}` without a function"))
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
        .filter(|(word, _)| names_file(word))
        .collect()
}

/// Says whether a document's word is meant as a file or a directory: `and/or` is not.
fn names_file(word: &str) -> bool {
    let file = word.split(':').next().unwrap_or(word);
    file.ends_with('/') || EXTENSIONS.iter().any(|end| file.ends_with(end))
}

/// The words of `text` that are places: no spaces, at least one slash, letters on both sides of it.
fn places(text: &str) -> impl Iterator<Item = &str> {
    let is_in_place =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | ':');
    text.split(move |c: char| !is_in_place(c))
        .map(|word| word.trim_matches(['.', ':', '-']))
        .filter(|word| word.contains('/') && !word.starts_with('/') && !word.contains("//"))
}

/// Says what is wrong with a place, which starts from the first of `bases` where there is such a file.
fn breach(root: &Path, bases: &[&Path], word: &str) -> Option<String> {
    let (file, name) = word.split_once(':').unwrap_or((word, ""));
    let found = bases
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
            .filter_map(|(word, _)| {
                breach(dir.path(), &BASES.map(Path::new), word).or_else(|| unnamed(word))
            })
            .collect()
    }

    #[test]
    fn card_to_files_and_functions_that_exist_is_right() {
        let good = card(
            "hypervisor/src/run.rs:walk, src/run.rs:run (the loop), then hypervisor/src/: all of it",
        );
        assert_eq!(card_words(&good).len(), 3);
        assert!(found(&good).is_empty());
    }

    #[test]
    fn card_to_no_file_or_no_function_is_a_breach() {
        assert_eq!(
            found(&card("hypervisor/src/gone.rs:run → src/run.rs:run")).len(),
            1
        );
        assert_eq!(
            found(&card("src/run.rs:stroll")),
            ["`src/run.rs:stroll`: the file has no `stroll`"]
        );
        assert_eq!(
            found(&card("src/run.rs")),
            ["`src/run.rs` without a function"]
        );
    }

    #[test]
    fn documents_name_files_in_tables_and_code() {
        let text = "| made | `src/domain/create.rs` | and/or |\nread src/a.rs/x in prose\n- kept in src/b.rs:test_of_it\n1. `cpu/entry.S` in `src/cpu/`\n";
        let words: Vec<&str> = document_words(text)
            .into_iter()
            .map(|(word, _)| word)
            .collect();
        assert_eq!(
            words,
            [
                "src/domain/create.rs",
                "src/b.rs:test_of_it",
                "cpu/entry.S",
                "src/cpu/"
            ]
        );
    }

    #[test]
    fn a_documents_places_start_from_its_own_directory_or_one_above() {
        let dir = tempfile::tempdir().unwrap();
        let crate_dir = dir.path().join("tools/saw");
        fs::create_dir_all(crate_dir.join("src")).unwrap();
        for source in SOURCES {
            fs::create_dir_all(dir.path().join(source)).unwrap();
        }
        fs::write(crate_dir.join("src/lib.rs"), "fn cut() {}\n").unwrap();
        fs::write(
            crate_dir.join("README.md"),
            "- `src/lib.rs:cut`\n- `saw/src/lib.rs:cut`\n- `src/lib.rs:glue`\n",
        )
        .unwrap();
        assert_eq!(
            breaches(dir.path(), &[]).unwrap(),
            ["tools/saw/README.md:3: names `src/lib.rs:glue`: the file has no `glue`"]
        );
    }
}
