//! The hypervisor's core is in layers that only look down: nothing in `hypervisor/src` names a layer above its own, in
//! code or in a link of a comment.

use super::source::Source;

/// The layers, top first: the modules at the top of the core.
const LAYERS: [&str; 11] = [
    "boot",
    "main_loop",
    "exit",
    "hypercall",
    "runner",
    "pcpu",
    "console",
    "power",
    "guest_mem",
    "domain",
    "machine",
];
const CORE: &str = "hypervisor/src/";

/// Finds names of layers above, and modules that are in no layer.
pub(super) fn breaches(sources: &[Source]) -> Vec<String> {
    sources
        .iter()
        .filter_map(|source| Some((source, module(&source.path)?)))
        .flat_map(|(source, own)| match rank(own) {
            Some(rank) => arrows_up(source, own, rank),
            None => vec![format!(
                "{}:1: `{own}` is none of the core's layers: {}",
                source.path,
                LAYERS.join(", ")
            )],
        })
        .collect()
}

/// The layer that a file of the core would be in; `None` for the core's own head, its tests, and other crates.
fn module(path: &str) -> Option<&str> {
    let inner = path.strip_prefix(CORE)?;
    let first = inner.split('/').next()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(name, "lib" | "tests")).then_some(name)
}

fn rank(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|known| *known == layer)
}

fn arrows_up(source: &Source, own: &str, rank_of_own: usize) -> Vec<String> {
    let in_code = source
        .tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| token.text == "crate")
        .flat_map(|(i, token)| targets(source, i).map(move |target| (token.line, target)));
    let in_comments = (1..)
        .zip(source.text.lines())
        .filter(|(_, text)| text.trim_start().starts_with("//"))
        .filter_map(|(line, text)| {
            let (_, rest) = text.split_once("crate::")?;
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            Some((line, &rest[..end.unwrap_or(rest.len())]))
        });
    in_code
        .chain(in_comments)
        .filter(|(_, target)| rank(target).is_some_and(|rank| rank < rank_of_own))
        .map(|(line, target)| {
            format!(
                "{}:{line}: `{own}` names `{target}`, a layer above it",
                source.path
            )
        })
        .collect()
}

/// The modules that `crate::…` at token `i` names: one, or each first word of a group's members.
fn targets(source: &Source, i: usize) -> impl Iterator<Item = &str> {
    let is_path = source.at(i + 1) == ":" && source.at(i + 2) == ":";
    let is_group = is_path && source.at(i + 3) == "{";
    let single = (is_path && !is_group).then(|| source.at(i + 3));
    let end = if is_group { closing(source, i + 3) } else { 0 };
    let members = (i + 4..end.max(i + 4))
        .filter(move |at| depth(source, i + 3, *at) == 1 && matches!(source.at(at - 1), "{" | ","));
    single.into_iter().chain(members.map(|at| source.at(at)))
}

/// The token that closes the group that begins at `open`.
fn closing(source: &Source, open: usize) -> usize {
    (open + 1..source.tokens.len())
        .find(|at| depth(source, open, *at) == 0)
        .unwrap_or(source.tokens.len())
}

/// How many groups are open at token `at`, that at `open` among them.
fn depth(source: &Source, open: usize, at: usize) -> usize {
    (open..=at).fold(0, |depth: usize, i| match source.at(i) {
        "{" => depth + 1,
        "}" => depth.saturating_sub(1),
        _ => depth,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        breaches(&[Source::new(path, text.into()).unwrap()])
    }

    #[test]
    fn layers_may_look_down_and_into_themselves() {
        let text = "use crate::machine::memory;\nuse crate::domain::{Domain, vcpu};\nuse crate::runner::Next;\n";
        assert_eq!(found("hypervisor/src/runner/mod.rs", text), [""; 0]);
        assert_eq!(
            found("hypervisor/src/lib.rs", "pub use crate::boot::start;"),
            [""; 0]
        );
        assert_eq!(found("tools/xl/src/main.rs", "use crate::boot;"), [""; 0]);
    }

    #[test]
    fn arrow_up_is_found_with_file_and_line() {
        let single = found(
            "hypervisor/src/machine/memory.rs",
            "\nuse crate::domain::share;\n",
        );
        assert_eq!(
            single,
            ["hypervisor/src/machine/memory.rs:2: `machine` names `domain`, a layer above it"]
        );
        let group = "use crate::{machine::host, exit::{self, io}, power};";
        let found_in_group = found("hypervisor/src/pcpu/irq.rs", group);
        assert_eq!(found_in_group.len(), 1, "{found_in_group:?}");
        assert!(found_in_group[0].contains("`exit`"));
        let inline = "fn f() {\n    crate::runner::raise();\n}";
        assert_eq!(found("hypervisor/src/domain/life.rs", inline).len(), 1);
        let link = "/// See [`crate::boot::start`].\nfn f() {}";
        assert_eq!(found("hypervisor/src/domain/life.rs", link).len(), 1);
    }

    #[test]
    fn module_outside_the_layers_is_found() {
        assert_eq!(found("hypervisor/src/misc.rs", "").len(), 1);
    }
}
