//! The rules of the project that no lint checks, a file each. A rule is a function from what was read to its breaches,
//! one line each, which name file and line; its tests show it a good sample and a bad one.
//!
//! Files are read as tokens ([`source`]), so words in comments and strings do not count, and those inside macros do.

mod dead;
mod dependencies;
mod docs;
mod files;
mod layers;
mod logs;
mod options;
mod routes;
mod source;
mod statics;
mod unsafe_code;
mod words;

use std::fmt::Write as _;

use anyhow::{Result, bail};

use crate::paths;
use source::{SOURCES, Source};

/// Checks the rules; prints the ledger of unsafe code, and compares it with the README or writes it there.
///
/// # Errors
/// All breaches, one a line.
pub(crate) fn run(write_ledger: bool) -> Result<()> {
    let root = paths::root();
    let sources = source::all(&root)?;
    let ledger = unsafe_code::ledger(&sources);
    println!("{ledger}");
    println!("{}", sizes(&sources));
    let mut breaches = unsafe_code::breaches(&sources);
    if write_ledger {
        unsafe_code::replace_ledger(&ledger)?;
    } else {
        breaches.extend(unsafe_code::compare_ledger(&ledger));
    }
    breaches.extend(routes::breaches(&root, &sources)?);
    breaches.extend(logs::breaches(&sources));
    breaches.extend(files::breaches(&sources));
    breaches.extend(docs::breaches(&sources));
    breaches.extend(layers::breaches(&sources));
    breaches.extend(statics::breaches(&sources));
    breaches.extend(dead::breaches(&sources, &dead::assembly_words(&root)?));
    breaches.extend(options::breaches(&sources));
    breaches.extend(dependencies::breaches(&root, &sources)?);
    breaches.extend(words::breaches(&root, &sources)?);
    if breaches.is_empty() {
        return Ok(());
    }
    bail!("{}", breaches.join("\n"))
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
