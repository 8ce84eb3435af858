//! Where unsafe code and naked functions may be, and the ledger of the former in hypervisor/README.md.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use super::source::Source;
use crate::paths;

/// Where a function may be naked: `forbid(unsafe_code)` does not catch them.
const NAKED: [&str; 3] = ["boot/", "hypervisor/hv-hw/", "tests/guest-rt/"];

/// The README that has the ledger, and the lines around it.
const LEDGER_FILE: &str = "hypervisor/README.md";
const LEDGER_BEGIN: &str = "<!-- unsafe ledger: begin (cargo xtask ci --write-ledger) -->";
const LEDGER_END: &str = "<!-- unsafe ledger: end -->";

/// The unsafe code of a file: blocks; and functions, impls and attributes.
struct Unsafe {
    blocks: usize,
    items: usize,
}

fn count(source: &Source) -> Unsafe {
    let places = (0..source.tokens.len()).filter(|i| source.at(*i) == "unsafe");
    let (blocks, items): (Vec<_>, Vec<_>) = places.partition(|i| source.at(i + 1) == "{");
    Unsafe {
        blocks: blocks.len(),
        items: items.len(),
    }
}

fn has_unsafe(source: &Source) -> bool {
    source.tokens.iter().any(|token| token.text == "unsafe")
}

/// Finds unsafe code without a reason, reasons without unsafe code, and naked functions in wrong places.
pub(super) fn breaches(sources: &[Source]) -> Vec<String> {
    sources.iter().flat_map(breaches_in).collect()
}

fn breaches_in(source: &Source) -> Vec<String> {
    let mut breaches = Vec::new();
    let path = &source.path;
    let has_reason = source.header.contains("UNSAFETY:");
    if has_unsafe(source) && !has_reason {
        breaches.push(format!(
            "{path}: has unsafe code, but no `UNSAFETY: why` in its header"
        ));
    }
    if !has_unsafe(source) && has_reason {
        breaches.push(format!("{path}: says UNSAFETY, but has no unsafe code"));
    }
    let mut words = source.tokens.iter();
    let is_naked = words.any(|token| token.text == "naked" || token.text == "naked_asm");
    if is_naked && !NAKED.iter().any(|place| path.starts_with(place)) {
        breaches.push(format!(
            "{path}: has a naked function outside {}",
            NAKED.join(", ")
        ));
    }
    breaches
}

/// Lists every file with unsafe code: how much, and why.
pub(super) fn ledger(sources: &[Source]) -> String {
    let mut text =
        String::from("| File | Unsafe blocks | Unsafe items | Why |\n|---|---|---|---|\n");
    let (mut all_blocks, mut all_items) = (0, 0);
    for source in sources.iter().filter(|s| has_unsafe(s)) {
        let why = why(&source.header);
        let Unsafe { blocks, items } = count(source);
        let _ = writeln!(text, "| {} | {blocks} | {items} | {why} |", source.path);
        all_blocks += blocks;
        all_items += items;
    }
    let _ = write!(text, "| all | {all_blocks} | {all_items} | |");
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

/// Says where the README's ledger differs.
pub(super) fn compare_ledger(ledger: &str) -> Option<String> {
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

/// Writes the ledger into the README.
pub(super) fn replace_ledger(ledger: &str) -> Result<()> {
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
        Source::new(path, text.into()).unwrap()
    }

    #[test]
    fn only_code_counts_as_unsafe() {
        let text = "//! unsafe\n// unsafe {\nfn f() { let s = \"unsafe {\"; m!(unsafe { g() }); }\nunsafe fn g() {}\n";
        let found = count(&source("a.rs", text));
        assert_eq!((found.blocks, found.items), (1, 1));
    }

    #[test]
    fn unsafe_without_a_reason_is_a_breach() {
        let bad = source("a.rs", "//! A.\nunsafe fn g() {}\n");
        assert_eq!(breaches_in(&bad).len(), 1);
        let good = source(
            "a.rs",
            "//! A.\n//!\n//! UNSAFETY: it must. Really.\nunsafe fn g() {}\n",
        );
        assert!(breaches_in(&good).is_empty());
        assert_eq!(why(&good.header), "it must");
    }

    #[test]
    fn a_naked_function_elsewhere_is_a_breach() {
        let text = "// UNSAFETY: x\n#[unsafe(naked)]\nfn f() { naked_asm!(\"ret\") }\n";
        assert_eq!(breaches_in(&source("hypervisor/src/a.rs", text)).len(), 1);
        assert!(breaches_in(&source("hypervisor/hv-hw/src/a.rs", text)).is_empty());
    }
}
