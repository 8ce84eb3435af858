//! The rules of the house that no lint checks: where unsafe code may be, where naked functions may be, who makes files
//! that others may read, and that the route cards point somewhere.
//!
//! Files are read as tokens, so words in comments and strings do not count, and those inside macros do.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::paths;

/// Where our Rust is.
const SOURCES: [&str; 5] = ["boot", "guest-abi", "hypervisor", "tests", "tools"];

/// Where a function may be naked: `forbid(unsafe_code)` does not catch them.
const NAKED: [&str; 3] = ["boot/", "hypervisor/hv-hw/", "tests/guest-rt/"];

/// Who may make files by other means than the crate `private-file`, and which: others may read those.
const PUBLIC_FILES: [(&str, &str); 5] = [
    ("tools/private-file/", "it is the means"),
    ("tools/xtask/", "what is built, and the logs of tests"),
    ("tools/xl/src/bin/xl-docs.rs", "manual pages"),
    ("tools/xenconsoled/src/background.rs", "the process id"),
    ("tools/xenstored/src/main.rs", "the process id"),
];

/// The README that has the ledger, and the lines around it.
const LEDGER_FILE: &str = "hypervisor/README.md";
const LEDGER_BEGIN: &str = "<!-- unsafe ledger: begin (cargo xtask ci --write-ledger) -->";
const LEDGER_END: &str = "<!-- unsafe ledger: end -->";

/// What was found in one file.
struct Source {
    path: String,
    /// The header: inner doc and plain comments before the first item.
    header: String,
    blocks: usize,
    others: usize,
    has_naked: bool,
    /// Makes files outside its tests.
    makes_files: bool,
    lines: usize,
}

/// Checks the rules; prints the ledger of unsafe code, and compares it with the README or writes it there.
///
/// # Errors
/// All breaches, one a line.
pub(crate) fn run(write_ledger: bool) -> Result<()> {
    let sources = sources()?;
    let mut breaches = Vec::new();
    for source in &sources {
        breaches.extend(unsafe_breaches(source));
        breaches.extend(route_breaches(source));
        breaches.extend(file_breach(source));
    }
    let ledger = ledger(&sources);
    println!("{ledger}");
    println!("{}", sizes(&sources));
    if write_ledger {
        replace_ledger(&ledger)?;
    } else {
        breaches.extend(compare_ledger(&ledger));
    }
    if breaches.is_empty() {
        return Ok(());
    }
    bail!("{}", breaches.join("\n"))
}

fn sources() -> Result<Vec<Source>> {
    let root = paths::root();
    let mut files = Vec::new();
    for dir in SOURCES {
        collect(&root.join(dir), &mut files)?;
    }
    files.sort();
    files.iter().map(|file| Source::read(file, &root)).collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

impl Source {
    fn read(file: &Path, root: &Path) -> Result<Self> {
        let text = fs::read_to_string(file)?;
        let path = file
            .strip_prefix(root)
            .unwrap_or(file)
            .to_string_lossy()
            .into_owned();
        let tokens: TokenStream = text.parse().map_err(|e| anyhow::anyhow!("{path}: {e}"))?;
        let is_code = |line: &&str| {
            let line = line.trim_start();
            !line.is_empty() && !line.starts_with("//")
        };
        let mut source = Self {
            path,
            header: text
                .lines()
                .take_while(|l| l.starts_with("//") || l.is_empty())
                .collect::<Vec<_>>()
                .join("\n"),
            blocks: 0,
            others: 0,
            has_naked: false,
            makes_files: false,
            lines: text.lines().filter(is_code).count(),
        };
        source.makes_files = makes_files(tokens.clone());
        source.count(tokens);
        Ok(source)
    }

    /// Counts the unsafe blocks and the unsafe functions, impls and attributes.
    fn count(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (i, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => self.count(group.stream()),
                TokenTree::Ident(word) if word == "unsafe" => {
                    let is_block = matches!(
                        tokens.get(i + 1),
                        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace
                    );
                    if is_block {
                        self.blocks += 1;
                    } else {
                        self.others += 1;
                    }
                }
                TokenTree::Ident(word) if word == "naked" || word == "naked_asm" => {
                    self.has_naked = true
                }
                _ => {}
            }
        }
    }

    fn has_unsafe(&self) -> bool {
        self.blocks + self.others > 0
    }
}

fn unsafe_breaches(source: &Source) -> Vec<String> {
    let mut breaches = Vec::new();
    let path = &source.path;
    if source.has_unsafe() && !source.header.contains("UNSAFETY:") {
        breaches.push(format!(
            "{path}: has unsafe code, but no `UNSAFETY: why` in its header"
        ));
    }
    if !source.has_unsafe() && source.header.contains("UNSAFETY:") {
        breaches.push(format!("{path}: says UNSAFETY, but has no unsafe code"));
    }
    if source.has_naked && !NAKED.iter().any(|room| path.starts_with(room)) {
        breaches.push(format!(
            "{path}: has a naked function outside {}",
            NAKED.join(", ")
        ));
    }
    breaches
}

/// Says whether code outside `#[cfg(test)]` makes files: `File::create…`, `fs::write`, or `create(true)` of options.
fn makes_files(tokens: TokenStream) -> bool {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let word = |at: usize| tokens.get(at).map(ToString::to_string).unwrap_or_default();
    let is_call = |at: usize| match (word(at).as_str(), word(at + 3).as_str()) {
        ("File", "create" | "create_new") | ("fs", "write" | "copy") => word(at + 1) == ":",
        (".", _) => {
            matches!(word(at + 1).as_str(), "create" | "create_new") && word(at + 2) == "(true)"
        }
        _ => false,
    };
    let mut is_test = false;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) if group.to_string() == "[cfg (test)]" => is_test = true,
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace && is_test => {
                is_test = false;
            }
            TokenTree::Group(group) if makes_files(group.stream()) => return true,
            _ if !is_test && is_call(at) => return true,
            _ => {}
        }
    }
    false
}

/// Checks that what a tool writes down of guests is for its owner alone.
fn file_breach(source: &Source) -> Option<String> {
    let path = &source.path;
    let is_tests = path.contains("/tests") || path.contains("/testing/") || path.contains("_tests");
    let may = PUBLIC_FILES.iter().any(|(room, _)| path.starts_with(room));
    (source.makes_files && path.starts_with("tools/") && !is_tests && !may).then(|| {
        format!(
            "{path}: makes a file that others may read: use private_file, or say why in the audit"
        )
    })
}

/// Checks the paths of a route card: the backticked words with a slash after a header line that begins with "Route".
fn route_breaches(source: &Source) -> Vec<String> {
    let card = source
        .header
        .lines()
        .map(|line| line.trim_start_matches("//!").trim())
        .skip_while(|line| !line.trim_start_matches(['#', ' ']).starts_with("Route"));
    let mut breaches = Vec::new();
    for line in card {
        for word in line
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|word| word.contains('/'))
        {
            if !exists(word) {
                breaches.push(format!(
                    "{}: its route card names `{word}`, which is not there",
                    source.path
                ));
            }
        }
    }
    breaches
}

/// Says whether a route card's word is a file, from the top or from `hypervisor/`, with or without `.rs`.
fn exists(word: &str) -> bool {
    let file = word.split(':').next().unwrap_or(word);
    let root = paths::root();
    ["", "hypervisor", "hypervisor/src"].iter().any(|room| {
        let base = root.join(room);
        base.join(file).exists() || base.join(format!("{file}.rs")).exists()
    })
}

/// Lists every file with unsafe code: how much, and why.
fn ledger(sources: &[Source]) -> String {
    let mut text =
        String::from("| File | Unsafe blocks | Unsafe items | Why |\n|---|---|---|---|\n");
    let (mut blocks, mut others) = (0, 0);
    for source in sources.iter().filter(|s| s.has_unsafe()) {
        let why = why(&source.header);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {why} |",
            source.path, source.blocks, source.others
        );
        blocks += source.blocks;
        others += source.others;
    }
    let _ = write!(text, "| all | {blocks} | {others} | |");
    text
}

/// Takes the reason from a header: from `UNSAFETY:` to the end of its sentence or paragraph.
fn why(header: &str) -> String {
    let Some((_, rest)) = header.split_once("UNSAFETY:") else {
        return String::new();
    };
    let lines = rest
        .lines()
        .map(|line| line.trim_start_matches("//").trim_start_matches('!').trim());
    let paragraph: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    let text = paragraph.join(" ");
    let sentence = text
        .split_once(". ")
        .map_or(text.as_str(), |(first, _)| first);
    sentence.trim_end_matches('.').replace('|', "\\|")
}

/// Counts lines of code (neither empty nor comments) by directory.
fn sizes(sources: &[Source]) -> String {
    let mut text = String::from("lines of code:");
    for dir in SOURCES {
        let own = sources
            .iter()
            .filter(|s| s.path.starts_with(&format!("{dir}/")));
        let _ = write!(text, " {dir} {}", own.map(|s| s.lines).sum::<usize>());
    }
    let _ = write!(
        text,
        ", all {}",
        sources.iter().map(|s| s.lines).sum::<usize>()
    );
    text
}

fn compare_ledger(ledger: &str) -> Option<String> {
    let readme = fs::read_to_string(paths::root().join(LEDGER_FILE)).unwrap_or_default();
    let (_, rest) = match readme.split_once(LEDGER_BEGIN) {
        Some(parts) => parts,
        None => return Some(format!("{LEDGER_FILE}: has no line `{LEDGER_BEGIN}`")),
    };
    let written = rest.split(LEDGER_END).next().unwrap_or_default();
    (written.trim() != ledger.trim()).then(|| {
        format!("{LEDGER_FILE}: the unsafe ledger is out of date: cargo xtask ci --write-ledger")
    })
}

fn replace_ledger(ledger: &str) -> Result<()> {
    let file = paths::root().join(LEDGER_FILE);
    let readme = fs::read_to_string(&file).with_context(|| format!("cannot read {LEDGER_FILE}"))?;
    let parts = readme.split_once(LEDGER_BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(LEDGER_END)?;
        Some((before, after))
    });
    let (before, after) =
        parts.with_context(|| format!("{LEDGER_FILE} lacks `{LEDGER_BEGIN}` … `{LEDGER_END}`"))?;
    fs::write(
        file,
        format!("{before}{LEDGER_BEGIN}\n\n{ledger}\n\n{LEDGER_END}{after}"),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        Source::read(&file, dir.path()).unwrap()
    }

    #[test]
    fn only_code_counts_as_unsafe() {
        let text = "//! unsafe\n// unsafe {\nfn f() { let s = \"unsafe {\"; m!(unsafe { g() }); }\nunsafe fn g() {}\n";
        let source = source("a.rs", text);
        assert_eq!((source.blocks, source.others), (1, 1));
    }

    #[test]
    fn unsafe_without_a_reason_is_a_breach() {
        assert_eq!(
            unsafe_breaches(&source("a.rs", "//! A.\nunsafe fn g() {}\n")).len(),
            1
        );
        let good = source(
            "a.rs",
            "//! A.\n//!\n//! UNSAFETY: it must. Really.\nunsafe fn g() {}\n",
        );
        assert!(unsafe_breaches(&good).is_empty());
        assert_eq!(why(&good.header), "it must");
    }

    #[test]
    fn a_naked_function_elsewhere_is_a_breach() {
        let text = "// UNSAFETY: x\n#[unsafe(naked)]\nfn f() { naked_asm!(\"ret\") }\n";
        assert_eq!(
            unsafe_breaches(&source("hypervisor/src/a.rs", text)).len(),
            1
        );
        assert!(unsafe_breaches(&source("hypervisor/hv-hw/src/a.rs", text)).is_empty());
    }

    #[test]
    fn a_file_that_others_may_read_is_a_breach() {
        let breach = |path: &str, text: &str| file_breach(&source(path, text));
        for call in [
            "File::create(p)",
            "std::fs::write(p, b)",
            "OpenOptions::new().append(true).create(true).open(p)",
        ] {
            let text = format!("fn f() {{ if x {{ {call}?; }} }}");
            assert!(breach("tools/a/src/b.rs", &text).is_some(), "{call}");
            assert!(breach("tools/a/src/tests.rs", &text).is_none());
            assert!(breach("tools/xtask/src/b.rs", &text).is_none());
            let test = format!("fn f() {{}} #[cfg(test)] mod tests {{ {text} }}");
            assert!(breach("tools/a/src/b.rs", &test).is_none(), "{call}");
        }
        let own = "fn f() { File::open(p)?; private_file::create(p)?; }";
        assert!(breach("tools/a/src/b.rs", own).is_none());
    }

    #[test]
    fn no_tool_makes_files_that_others_may_read() {
        let breaches: Vec<_> = sources().unwrap().iter().filter_map(file_breach).collect();
        assert_eq!(breaches, [] as [String; 0]);
    }

    #[test]
    fn a_route_to_nowhere_is_a_breach() {
        let text = "//! A.\n//!\n//! # Route: VM exit\n//!\n//! 1. `hypervisor/hv-core/src/lib.rs`\n//! 2. `no/where`\n";
        assert_eq!(route_breaches(&source("a.rs", text)).len(), 1);
    }
}
