//! Each `pub` has a user: its name occurs in code that is neither a test nor its definition, a re-export or the head of
//! its own `impl`; a function without `self` is not used by `x.name`. rustc finds what is dead within a crate; this, by
//! names alone, what only other crates could use and none does. What has the name of something alive escapes it.
//! `guest-abi` is not looked at: it says what Xen's headers say.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::source::{self, Source, Token};

/// Crates whose definitions are looked at, with those that may use them. In `tests/` all code is a test, and a user.
const CRATES: [(&[&str], &[&str]); 3] = [
    (
        &["boot/", "hypervisor/"],
        &["boot/", "hypervisor/", "tools/toolstack/"],
    ),
    (&["tools/"], &["tools/", "tests/"]),
    (&[TESTS], &[TESTS, "tools/xtask/"]),
];
const TESTS: &str = "tests/";
/// What stands in for hardware in tests that are outside its crate.
const STAND_INS: [&str; 1] = ["hypervisor/hv-hw/src/virt/fake.rs"];
/// What has no user but the tests of another crate, and why that is right.
const ALLOWED: &[(&str, &str)] = &[
    ("serialize", "serde is told of it in an attribute"),
    ("anonymous", "a page without a guest, for tests of rings"),
    (
        "of_file_pages",
        "the toolstack's fake hypervisor has guests' memory in files",
    ),
    (
        "open_at",
        "tests start a xenstored with a socket of its own",
    ),
    ("from_stream", "tests serve a store over a pair of sockets"),
];

/// Finds definitions without a user, and allowances without a definition.
pub(super) fn breaches(sources: &[Source], assembly: &HashSet<String>) -> Vec<String> {
    breaches_but(sources, assembly, ALLOWED)
}

fn breaches_but(
    sources: &[Source],
    assembly: &HashSet<String>,
    allowed: &[(&'static str, &str)],
) -> Vec<String> {
    let mut allowed: HashMap<&str, bool> = allowed.iter().map(|(name, _)| (*name, false)).collect();
    let mut breaches = Vec::new();
    for (places, user_places) in CRATES {
        let users = users(sources, user_places);
        let is_looked_at = |source: &&Source| {
            is_in(&source.path, places) && !STAND_INS.contains(&source.path.as_str())
        };
        for source in sources.iter().filter(is_looked_at) {
            for found in definitions(source) {
                let Definition { name, line, .. } = found;
                if users.have(&found) || assembly.contains(name) {
                    continue;
                }
                match allowed.get_mut(name) {
                    Some(was_needed) => *was_needed = true,
                    None => breaches.push(format!("{}:{line}: `{name}` has no user", source.path)),
                }
            }
        }
    }
    let stale = allowed.iter().filter(|(_, was_needed)| !**was_needed);
    breaches.extend(stale.map(|(name, _)| format!("audit/dead.rs: `{name}` needs no allowance")));
    breaches
}

fn is_in(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| path.starts_with(place))
}

/// The tokens that count in a file.
fn counted(source: &Source) -> impl Iterator<Item = (usize, &Token)> {
    let is_tests = source.path.starts_with(TESTS);
    let tokens = source.tokens.iter().enumerate();
    tokens.filter(move |(_, token)| is_tests || !token.is_test)
}

/// The words of our assembly and linker scripts.
pub(super) fn assembly_words(root: &Path) -> Result<HashSet<String>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for dir in source::SOURCES {
        for extension in ["S", "ld"] {
            source::collect(&root.join(dir), extension, &mut files)?;
        }
    }
    let mut words = HashSet::new();
    for file in files {
        let text = fs::read_to_string(file)?;
        let found = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.extend(found.map(str::to_owned));
    }
    Ok(words)
}

/// A name that is made known.
struct Definition<'a> {
    name: &'a str,
    line: usize,
    /// A function with `self`.
    is_method: bool,
}

impl<'a> Definition<'a> {
    /// Of the name at `i`.
    fn at(source: &'a Source, i: usize) -> Option<Self> {
        let token = source.tokens.get(i)?;
        let is_function = source.before(i, 1) == "fn";
        Some(Self {
            name: &token.text,
            line: token.line,
            is_method: is_function && has_receiver(source, i + 1),
        })
    }
}

/// Says whether the parameters of the function whose name is before `i` begin with `self`.
fn has_receiver(source: &Source, mut i: usize) -> bool {
    let mut generics = 0i32;
    while source.at(i) != "(" || generics > 0 {
        match source.at(i) {
            "" => return false,
            "<" => generics += 1,
            ">" if source.before(i, 1) != "-" => generics -= 1,
            _ => {}
        }
        i += 1;
    }
    let first = (i + 1..i + 6).map(|i| source.at(i));
    first
        .take_while(|text| !matches!(*text, ")" | "," | ":"))
        .any(|text| text == "self")
}

/// The names that `source` makes known outside its file: `pub` items, functions of traits, new names in `pub use`.
fn definitions(source: &Source) -> Vec<Definition<'_>> {
    let mut found = Vec::new();
    let mut depth = 0usize;
    // the depth inside the trait that is being read
    let mut in_trait = None;
    let mut is_trait_ahead = false;
    let mut is_in_export = false;
    for (i, token) in counted(source) {
        match token.text.as_str() {
            "{" => {
                depth += 1;
                if std::mem::take(&mut is_trait_ahead) {
                    in_trait = Some(depth);
                }
            }
            "}" => {
                if in_trait == Some(depth) {
                    in_trait = None;
                }
                depth = depth.saturating_sub(1);
            }
            "pub" => found.extend(public(source, i + 1)),
            "macro_rules" => found.extend(Definition::at(source, i + 2)),
            "fn" if in_trait == Some(depth) => found.extend(Definition::at(source, i + 1)),
            "use" => is_in_export = is_export(source, i),
            ";" => is_in_export = false,
            "as" if is_in_export && source.at(i + 1) != "_" => {
                found.extend(Definition::at(source, i + 1));
            }
            "trait" => is_trait_ahead = true,
            _ => {}
        }
    }
    found
}

/// The name that the `pub` before `i` makes known, where that is no module, re-export or field.
fn public(source: &Source, mut i: usize) -> Option<Definition<'_>> {
    if source.at(i) == "(" {
        i += (0..)
            .take_while(|ahead| source.at(i + ahead) != ")")
            .count()
            + 1;
    }
    while is_qualifier(source, i) {
        i += 1;
    }
    let is_item = DEFINERS.contains(&source.at(i)) && !matches!(source.at(i + 1), "_" | "$");
    is_item.then(|| Definition::at(source, i + 1))?
}

/// Words before a name that is being defined.
const DEFINERS: [&str; 8] = [
    "fn", "const", "static", "struct", "enum", "union", "trait", "type",
];

fn is_qualifier(source: &Source, i: usize) -> bool {
    match source.at(i) {
        "unsafe" | "async" | "extern" => true,
        "const" => matches!(source.at(i + 1), "fn" | "unsafe" | "extern"),
        text => text.starts_with('"'),
    }
}

/// The names that are used.
#[derive(Default)]
struct Users<'a> {
    after_dot: HashSet<&'a str>,
    others: HashSet<&'a str>,
}

impl Users<'_> {
    fn have(&self, found: &Definition) -> bool {
        let name = found.name;
        let is_called = found.is_method && self.after_dot.contains(name);
        is_called || self.others.contains(name)
    }
}

fn users<'s>(sources: &'s [Source], places: &[&str]) -> Users<'s> {
    let mut users = Users::default();
    let is_user = |source: &&Source| is_in(&source.path, places);
    for source in sources.iter().filter(is_user) {
        let mut is_in_export = false;
        for (i, token) in counted(source) {
            match token.text.as_str() {
                "use" => is_in_export = is_export(source, i),
                ";" => is_in_export = false,
                _ => {}
            }
            if token.is_word && !is_in_export && !is_own(source, i) {
                let names = match source.before(i, 1) {
                    "." => &mut users.after_dot,
                    _ => &mut users.others,
                };
                names.insert(token.text.as_str());
            }
        }
    }
    users
}

/// Says whether the `use` at `i` is `pub`.
fn is_export(source: &Source, i: usize) -> bool {
    source.before(i, 1) == "pub" || source.before(i, 1) == ")" && source.before(i, 4) == "pub"
}

/// Says whether the word at `i` is a definition's own: the name in it, or in the head of an `impl`.
fn is_own(source: &Source, i: usize) -> bool {
    let before = source.before(i, 1);
    // an operand of assembly
    if before == "const" && source.before(i, 2) == "=" {
        return false;
    }
    let is_macro = before == "!" && source.before(i, 2) == "macro_rules";
    DEFINERS.contains(&before) || is_macro || before == "impl" || is_implemented(source, i)
}

/// Says whether the word at `i` is the `T` of `impl … for T {`, or of `impl<…> T {`.
fn is_implemented(source: &Source, i: usize) -> bool {
    let is_head = matches!(source.at(i + 1), "{" | "<" | "where");
    let before = source.before(i, 1);
    if !is_head || !(before == "for" || before == ">") {
        return false;
    }
    let head = (1..40).map(|back| source.before(i, back));
    let mut head = head.take_while(|text| !matches!(*text, "{" | "}" | ";" | ""));
    head.any(|text| text == "impl")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(texts: &[(&str, &str)]) -> Vec<String> {
        found_but(texts, &[])
    }

    fn found_but(texts: &[(&str, &str)], allowed: &[(&'static str, &str)]) -> Vec<String> {
        let source = |(path, text): &(&str, &str)| Source::new(path, (*text).into()).unwrap();
        let sources: Vec<Source> = texts.iter().map(source).collect();
        let assembly = HashSet::from(["entered".to_owned()]);
        breaches_but(&sources, &assembly, allowed)
    }

    #[test]
    fn what_nobody_names_is_found_with_file_and_line() {
        let text = "\npub fn alone() {}\n\npub(crate) const ALONE: u8 = 1;\npub struct Lone;\nimpl Lone { pub const fn lonely(&self) {} }\nimpl<T> From<T> for Lone {}\npub trait T { fn told(&self); }\n";
        let user = "fn f(x: impl T) {}\n";
        let found = found(&[("hypervisor/src/a.rs", text), ("boot/src/b.rs", user)]);
        let names: Vec<&str> = found
            .iter()
            .filter_map(|line| line.split('`').nth(1))
            .collect();
        assert_eq!(names, ["alone", "ALONE", "Lone", "lonely", "told"]);
        assert!(found[0].starts_with("hypervisor/src/a.rs:2:"), "{found:?}");
    }

    #[test]
    fn allowance_is_for_what_has_no_user_alone() {
        let allowed = [("alone", "a test has it")];
        let text = "pub fn alone() {}\n";
        assert!(found_but(&[("boot/src/a.rs", text)], &allowed).is_empty());
        let user = "fn f() { alone() }\n";
        let stale = found_but(
            &[("boot/src/a.rs", text), ("boot/src/b.rs", user)],
            &allowed,
        );
        assert_eq!(stale.len(), 1);
    }

    #[test]
    fn tools_are_used_by_tools_and_tests_and_tests_by_tests() {
        let text = "pub fn alone() {}\npub fn used() {}\nasm!(x = const LIMIT);\n";
        let user = "pub const LIMIT: u8 = 1;\nfn f() { used() }\n";
        let found = found(&[
            ("tools/a/src/a.rs", text),
            ("tests/b/src/b.rs", user),
            ("hypervisor/src/c.rs", "fn f() { alone() }\n"),
            (
                "tests/b/src/d.rs",
                "fn g() { x = const LIMIT }\npub fn lone() {}\n",
            ),
        ]);
        let names: Vec<&str> = found
            .iter()
            .filter_map(|line| line.split('`').nth(1))
            .collect();
        assert_eq!(names, ["alone", "lone"]);
    }

    #[test]
    fn tests_exports_and_comments_are_no_users() {
        let text = "pub fn alone() {}\n";
        let user = "//! alone\npub use a::alone;\npub(crate) use a::{b, alone};\n#[cfg(test)]\nmod tests { fn f() { alone(); } }\n";
        assert_eq!(
            found(&[
                ("hypervisor/src/a.rs", text),
                ("tools/toolstack/b.rs", user)
            ])
            .len(),
            1
        );
    }

    #[test]
    fn name_after_a_dot_is_no_use_of_a_function_without_self() {
        let text = "pub fn root() {}\npub use a::b as other;\nimpl T { pub fn walk<'a, const N: usize>(&'a mut self) {} }\n";
        let user = "fn f() { x.root(); x.walk(); }\n";
        let found = found(&[("hypervisor/src/a.rs", text), ("boot/src/b.rs", user)]);
        let names: Vec<&str> = found
            .iter()
            .filter_map(|line| line.split('`').nth(1))
            .collect();
        assert_eq!(names, ["root", "other"]);
    }

    #[test]
    fn users_in_other_crates_keep_a_definition() {
        let text = "pub fn f() {}\npub unsafe extern \"C\" fn entered() {}\npub static S: u8 = 0;\n#[macro_export]\nmacro_rules! m { () => {} }\n";
        let user = "fn g() { f(); S; m!(); }\n";
        assert!(
            found(&[
                ("hypervisor/src/a.rs", text),
                ("tools/toolstack/b.rs", user)
            ])
            .is_empty()
        );
    }
}
