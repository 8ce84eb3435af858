//! What a tool writes down of guests is for its owner alone to read: files are made by the crate `private-file`, and
//! the few that others may read are named here.

use super::source::Source;

/// Where the rule holds.
const TOOLS: &str = "tools/";
/// Who may make files by other means, and which.
const PUBLIC: [(&str, &str); 5] = [
    ("tools/private-file/", "it is the means"),
    ("tools/xtask/", "what is built, and the logs of tests"),
    ("tools/xl/src/bin/xl-docs/", "manual pages, completions"),
    ("tools/xenconsoled/src/background.rs", "the process id"),
    ("tools/xenstored/src/main.rs", "the process id"),
];

/// Finds who makes files that others may read.
pub(super) fn breaches(sources: &[Source]) -> Vec<String> {
    sources.iter().flat_map(breaches_in).collect()
}

fn breaches_in(source: &Source) -> Vec<String> {
    let path = &source.path;
    let may = PUBLIC.iter().any(|(room, _)| path.starts_with(room));
    if !path.starts_with(TOOLS) || may {
        return Vec::new();
    }
    source
        .in_use()
        .filter(|(i, _)| makes_file(source, *i))
        .map(|(_, token)| {
            let line = token.line;
            format!("{path}:{line}: makes a file that others may read: use private_file, or say why not in the audit")
        })
        .collect()
}

/// Says whether at `i` is `File::create…`, `fs::write`, `fs::copy`, or `.create(true)` of options.
fn makes_file(source: &Source, i: usize) -> bool {
    let call = (source.at(i), source.at(i + 3));
    match call {
        ("File", "create" | "create_new") | ("fs", "write" | "copy") => source.at(i + 1) == ":",
        _ => {
            source.at(i) == "."
                && matches!(source.at(i + 1), "create" | "create_new")
                && source.at(i + 2) == "("
                && source.at(i + 3) == "true"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        breaches(&[Source::new(path, text.into()).unwrap()])
    }

    #[test]
    fn a_file_that_others_may_read_is_a_breach() {
        for call in [
            "File::create(p)",
            "std::fs::write(p, b)",
            "OpenOptions::new().append(true).create(true).open(p)",
        ] {
            let text = format!("fn f() {{\n if x {{ {call}?; }}\n}}\n");
            let told = found("tools/a/src/b.rs", &text);
            assert!(
                told.len() == 1 && told[0].starts_with("tools/a/src/b.rs:2:"),
                "{told:?}"
            );
            assert!(found("tools/xtask/src/b.rs", &text).is_empty());
            assert!(found("hypervisor/src/b.rs", &text).is_empty());
            let test = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{ {text} }}\n");
            assert!(found("tools/a/src/b.rs", &test).is_empty(), "{call}");
        }
        let own = "fn f() { File::open(p)?; private_file::create(p)?; }";
        assert!(found("tools/a/src/b.rs", own).is_empty());
    }

    #[test]
    fn no_tool_makes_such_a_file() {
        let sources = super::super::source::all(&crate::paths::root()).unwrap();
        assert_eq!(breaches(&sources), [] as [String; 0]);
    }
}
