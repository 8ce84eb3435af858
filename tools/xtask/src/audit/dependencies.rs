//! Each dependency is used: one of a crate is named in its sources, one of the workspace by a member; and all of them
//! come from the public registry.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::source::{self, Source};

/// The tables of a manifest that name dependencies, and the directories whose code may use them.
const TABLES: [(&str, &[&str]); 3] = [
    ("dependencies", &["src/", "benches/"]),
    (
        "dev-dependencies",
        &["src/", "tests/", "benches/", "examples/"],
    ),
    ("build-dependencies", &["build.rs"]),
];
/// Where packages may come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Finds dependencies without a use, and packages from elsewhere.
pub(super) fn breaches(root: &Path, sources: &[Source]) -> Result<Vec<String>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for dir in source::SOURCES {
        source::collect(&root.join(dir), "toml", &mut files)?;
    }
    files.retain(|file| file.ends_with("Cargo.toml"));
    let mut breaches = Vec::new();
    let mut used = BTreeSet::new();
    for file in files {
        let manifest = read(&file)?;
        let dir = file.strip_prefix(root).unwrap_or(&file).with_file_name("");
        let dir = dir.to_string_lossy();
        used.extend(of_workspace(&manifest));
        breaches.extend(unused(&dir, &manifest, sources));
    }
    let manifest = read(&root.join("Cargo.toml"))?;
    breaches.extend(unused_by_all(&manifest, &used));
    let lock = fs::read_to_string(root.join("Cargo.lock"))?;
    breaches.extend(foreign(&lock));
    Ok(breaches)
}

fn read(file: &Path) -> Result<Table> {
    let text = fs::read_to_string(file)?;
    text.parse()
        .with_context(|| format!("cannot read {}", file.display()))
}

/// The entries of the table `name`, and of those under each target.
fn table<'a>(manifest: &'a Table, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let of_targets = targets.into_iter().flat_map(Table::values);
    let tables = of_targets.filter_map(Value::as_table).chain([manifest]);
    tables
        .filter_map(move |table| table.get(name)?.as_table())
        .flatten()
}

/// The dependencies that a member takes from the workspace.
fn of_workspace(manifest: &Table) -> Vec<String> {
    let all = TABLES.iter().flat_map(|(name, _)| table(manifest, name));
    let is_workspaces = |value: &Value| value.get("workspace").is_some();
    all.filter(|(_, value)| is_workspaces(value))
        .map(|(name, _)| name.clone())
        .collect()
}

/// The dependencies of the crate in `dir` that its sources do not name.
fn unused(dir: &str, manifest: &Table, sources: &[Source]) -> Vec<String> {
    let mut breaches = Vec::new();
    for (kind, places) in TABLES {
        for (name, _) in table(manifest, kind) {
            let word = name.replace('-', "_");
            let is_place = |source: &&Source| {
                let path = source.path.strip_prefix(dir);
                path.is_some_and(|path| places.iter().any(|place| path.starts_with(place)))
            };
            let names = |source: &Source| source.tokens.iter().any(|t| t.is_word && t.text == word);
            if !sources.iter().filter(is_place).any(names) {
                breaches.push(format!(
                    "{dir}Cargo.toml: `{name}` of [{kind}] is used nowhere in {}",
                    places.join(", ")
                ));
            }
        }
    }
    breaches
}

/// The dependencies of the workspace that no member takes.
fn unused_by_all(manifest: &Table, used: &BTreeSet<String>) -> Vec<String> {
    let workspace = manifest.get("workspace").and_then(Value::as_table);
    let all = workspace
        .into_iter()
        .flat_map(|workspace| table(workspace, "dependencies"));
    all.filter(|(name, _)| !used.contains(*name))
        .map(|(name, _)| format!("Cargo.toml: no crate uses the workspace's dependency `{name}`"))
        .collect()
}

/// The sources of a lock file that are not the public registry.
fn foreign(lock: &str) -> Vec<String> {
    let sources = (1..)
        .zip(lock.lines())
        .filter(|(_, line)| line.starts_with("source = "));
    sources
        .filter(|(_, line)| line.trim_start_matches("source = ").trim_matches('"') != REGISTRY)
        .map(|(line, text)| format!("Cargo.lock:{line}: {text}: not the public registry"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependency_that_no_source_names_is_found() {
        let manifest = "[dependencies]\na-b.workspace = true\nc = \"1\"\n[dev-dependencies]\nd.workspace = true\n[target.'cfg(e)'.dependencies]\nf.workspace = true\n";
        let manifest: Table = manifest.parse().unwrap();
        let source = |path: &str, text: &str| Source::new(path, text.into()).unwrap();
        let sources = [
            source("x/src/lib.rs", "// c\nuse a_b::y;\n"),
            source("x/tests/t.rs", "use d::z;\n"),
            source("other/src/lib.rs", "use c::y;\n"),
        ];
        assert_eq!(
            unused("x/", &manifest, &sources),
            ["f", "c"].map(|name| format!(
                "x/Cargo.toml: `{name}` of [dependencies] is used nowhere in src/, benches/"
            ))
        );
        assert_eq!(of_workspace(&manifest), ["f", "a-b", "d"]);
    }

    #[test]
    fn dependency_that_no_member_takes_is_found() {
        let manifest: Table = "[workspace.dependencies]\na = \"1\"\nb = \"1\"\n"
            .parse()
            .unwrap();
        let used = BTreeSet::from(["a".to_owned()]);
        let found = unused_by_all(&manifest, &used);
        assert!(found.len() == 1 && found[0].contains("`b`"), "{found:?}");
    }

    #[test]
    fn package_from_elsewhere_is_found() {
        let good = format!("[[package]]\nname = \"a\"\nsource = \"{REGISTRY}\"\n");
        assert!(foreign(&good).is_empty());
        assert_eq!(
            foreign("\nsource = \"registry+https://mirror.example/index\"\n").len(),
            1
        );
    }
}
