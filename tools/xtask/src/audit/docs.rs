//! What is documented in the hypervisor, and how much: each file and each type says what it is; a doc comment of a few
//! words on a field, a variant or a function says what its name says already, and is not there.

use super::source::Source;

/// Where the rule holds.
const WHERE: &str = "hypervisor/";
/// Columns of a comment, at most; rows of tables and of route cards are as long as they have to be.
const WIDTH: usize = 120;
/// The most words that say nothing.
const EMPTY: usize = 3;
/// What has to say what it is, or is allowed to in few words.
const TYPES: [&str; 7] = [
    "struct",
    "enum",
    "union",
    "trait",
    "type",
    "mod",
    "macro_rules!",
];

/// Finds files and public types without a description, and descriptions of other things that say nothing.
pub(super) fn breaches(sources: &[Source]) -> Vec<String> {
    let described = sources
        .iter()
        .filter(|source| source.path.starts_with(WHERE) && source.in_use().next().is_some())
        .flat_map(breaches_in);
    described.chain(sources.iter().flat_map(too_wide)).collect()
}

fn too_wide(source: &Source) -> Vec<String> {
    let is_row = |line: &str| {
        ["//! |", "/// |", "//! - "]
            .iter()
            .any(|row| line.starts_with(row))
    };
    (1..)
        .zip(source.text.lines())
        .filter(|(_, text)| text.trim_start().starts_with("//") && !is_row(text.trim_start()))
        .filter(|(_, text)| text.chars().count() > WIDTH)
        .map(|(line, _)| {
            format!(
                "{}:{line}: a comment of more than {WIDTH} columns",
                source.path
            )
        })
        .collect()
}

fn breaches_in(source: &Source) -> Vec<String> {
    let path = &source.path;
    let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
    let mut breaches = Vec::new();
    if !source.header.contains("//!") {
        breaches.push(format!("{path}:1: no //! says what the file is for"));
    }
    for (i, line) in lines.iter().enumerate() {
        let number = i + 1;
        if is_lone_doc(&lines, i) {
            let item = item_below(&lines, i);
            let words = line.split_whitespace().count() - 1;
            if words <= EMPTY && !is_type(item) && !is_constant(item) {
                breaches.push(format!(
                    "{path}:{number}: `{line}` says no more than the name below it"
                ));
            }
        }
        // a macro hands on what its user says
        let is_public = line.starts_with("pub")
            && is_type(line)
            && !line.contains(" mod ")
            && !line.contains('$');
        if is_public && !is_documented(&lines, i) {
            breaches.push(format!("{path}:{number}: `{line}` does not say what it is"));
        }
    }
    breaches
}

fn is_doc(line: &str) -> bool {
    line.starts_with("///")
}

/// Says whether the line is a doc comment of one line.
fn is_lone_doc(lines: &[&str], i: usize) -> bool {
    let is_doc_at = |i: usize| lines.get(i).is_some_and(|line| is_doc(line));
    is_doc(lines[i]) && !is_doc_at(i + 1) && (i == 0 || !is_doc_at(i - 1))
}

/// The line of the item that a comment is above, below its attributes, also those of several lines.
fn item_below<'a>(lines: &[&'a str], i: usize) -> &'a str {
    let mut is_open = false;
    let mut below = lines.iter().skip(i + 1).copied();
    let item = below.find(|line| {
        let is_attribute = is_open || line.starts_with("#[");
        is_open = is_attribute && !line.ends_with(']');
        !is_attribute
    });
    item.unwrap_or("")
}

/// Looks above the attributes of the item in line `i`, also those of several lines.
fn is_documented(lines: &[&str], i: usize) -> bool {
    let above = lines[..i].iter().rev();
    let mut code = above.skip_while(|line| {
        line.starts_with("#[") || line.ends_with(',') || matches!(**line, ")]" | ")")
    });
    code.next().is_some_and(|line| is_doc(line))
}

fn is_type(line: &str) -> bool {
    keyword(line).is_some_and(|word| TYPES.contains(&word))
}

/// Constants of the hardware and of the ABI are documented by their place in a manual, which may be short.
fn is_constant(line: &str) -> bool {
    matches!(keyword(line), Some("const" | "static"))
}

/// The first word of an item behind its visibility.
fn keyword(line: &str) -> Option<&str> {
    line.split_whitespace()
        .find(|word| !word.starts_with("pub") && !matches!(*word, "unsafe" | "crate)" | "super)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        breaches(&[Source::new("hypervisor/src/a.rs", text.into()).unwrap()])
    }

    #[test]
    fn empty_docs_and_what_is_not_documented_are_found() {
        let text = "fn f() {}\n/// Serves it.\n#[inline]\nfn g() {}\npub struct A {\n    /// The frame.\n    frame: u8,\n}\n";
        let found = found(text);
        let begins = [
            "hypervisor/src/a.rs:1: no //!",
            "hypervisor/src/a.rs:2: `/// Serves it.`",
            "hypervisor/src/a.rs:5: `pub struct A {`",
            "hypervisor/src/a.rs:6: `/// The frame.`",
        ];
        assert_eq!(found.len(), begins.len(), "{found:?}");
        assert!(
            found
                .iter()
                .zip(begins)
                .all(|(found, begin)| found.starts_with(begin)),
            "{found:?}"
        );
    }

    #[test]
    fn wide_comments_are_found_and_rows_of_tables_are_not() {
        let wide = "x".repeat(WIDTH);
        let text =
            format!("//! {wide}\n//! | {wide} |\n//! - {wide}\nconst A: &str = \"{wide}\";\n");
        let found = found(&text);
        assert!(
            found.len() == 1 && found[0].starts_with("hypervisor/src/a.rs:1: a comment"),
            "{found:?}"
        );
    }

    #[test]
    fn short_names_of_types_constants_and_docs_of_more_lines_are_not() {
        let text = "//! A file.\n/// A domain.\n#[derive(\n    Debug,\n)]\npub struct Domain;\n/// CR0.PG.\nconst PG: u64 = 1;\n/// Serves it.\n///\n/// # Errors\n/// ENOMEM.\nfn g() {}\n/// Returns the frame that was mapped there before.\nfn h() {}\nfn i() {}\n";
        assert_eq!(found(text), [""; 0]);
    }
}
