//! Each option of the hypervisor has an effect: the field that it sets is read outside `hv-core/src/options`, and so is
//! what it is handed on in, through a variable with a name of [`HOLDERS`]. Copying a field into one of the same name is
//! no reading.

use super::source::Source;

/// Where options are read from text, and the structs that hold them.
const OPTIONS: &str = "hypervisor/hv-core/src/options/";
const STRUCTS: [(&str, &str); 3] = [
    ("hypervisor/hv-core/src/options/mod.rs", "Options"),
    ("hypervisor/hv-core/src/options/mod.rs", "Features"),
    ("hypervisor/hv-hw/src/virt/backend.rs", "Switches"),
];
/// What variables and fields of these types are called.
const HOLDERS: [&str; 5] = ["options", "features", "switches", "o", "s"];
/// Where readers are.
const READERS: [&str; 2] = ["boot/", "hypervisor/"];

/// Finds fields that nobody reads.
pub(super) fn breaches(sources: &[Source]) -> Vec<String> {
    let mut breaches = Vec::new();
    for (path, name) in STRUCTS {
        let fields = sources.iter().find(|source| source.path == path);
        let fields = fields
            .map(|source| fields_of(source, name))
            .unwrap_or_default();
        if fields.is_empty() {
            breaches.push(format!("{path}: has no struct {name} with options"));
        }
        for (field, line) in fields {
            if !sources.iter().any(|source| reads(source, field)) {
                breaches.push(format!(
                    "{path}:{line}: nobody reads the option `{name}.{field}`"
                ));
            }
        }
    }
    breaches
}

/// The fields of `struct name`, with their lines.
fn fields_of<'a>(source: &'a Source, name: &str) -> Vec<(&'a str, usize)> {
    let is_head = |i: usize| source.at(i) == "struct" && source.at(i + 1) == name;
    let Some(head) = (0..source.tokens.len()).find(|i| is_head(*i)) else {
        return Vec::new();
    };
    let body = source.tokens.iter().enumerate().skip(head);
    body.take_while(|(_, token)| token.text != "}")
        .filter(|(i, token)| {
            token.is_word
                && source.at(i + 1) == ":"
                && source.at(i + 2) != ":"
                && source.before(*i, 1) != ":"
        })
        .map(|(_, token)| (token.text.as_str(), token.line))
        .collect()
}

/// Says whether `source` does something by `….field`.
fn reads(source: &Source, field: &str) -> bool {
    let is_reader = READERS.iter().any(|place| source.path.starts_with(place))
        && !source.path.starts_with(OPTIONS);
    is_reader
        && source.in_use().any(|(i, token)| {
            token.text == field
                && source.before(i, 1) == "."
                && HOLDERS.contains(&source.before(i, 2))
                && !is_set(source, i)
                && !is_copied(source, i)
        })
}

/// Says whether the field at `i` is assigned to.
fn is_set(source: &Source, i: usize) -> bool {
    source.at(i + 1) == "=" && source.at(i + 2) != "="
}

/// Says whether the field at `i` ends `field: path.to.field`.
fn is_copied(source: &Source, i: usize) -> bool {
    let is_path =
        |text: &str| text == "." || text.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let path = (1..=i)
        .take_while(|back| is_path(source.before(i, *back)))
        .count();
    source.before(i, path + 1) == ":"
        && source.before(i, path + 2) == source.at(i)
        && matches!(source.at(i + 1), "," | "}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(reader: &str) -> Vec<String> {
        let options = "pub struct Options { pub quick: bool, pub features: Features }\npub struct Features { pub wide: bool }\n";
        let switches = "pub struct Switches { pub wide: bool }\n";
        let texts = [
            ("hypervisor/hv-core/src/options/mod.rs", options),
            (
                "hypervisor/hv-core/src/options/table.rs",
                "fn f(o: &mut Options) { o.quick = g(o.features.wide); }\n",
            ),
            ("hypervisor/hv-hw/src/virt/backend.rs", switches),
            ("hypervisor/src/a.rs", reader),
        ];
        let sources = texts.map(|(path, text)| Source::new(path, text.into()).unwrap());
        breaches(&sources)
    }

    #[test]
    fn option_that_is_read_nowhere_is_found() {
        let found = found(
            "fn f(o: Options) { o.quick = true; g(o.features); }\n#[cfg(test)]\nmod tests { fn f() { switches.wide; } }\n",
        );
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found[0].starts_with("hypervisor/hv-core/src/options/mod.rs:1: ")
                && found[0].contains("Options.quick")
        );
    }

    #[test]
    fn option_that_is_only_handed_on_is_found() {
        let found =
            found("fn f(o: Options) { if o.quick == x { Switches { wide: o.features.wide } } }\n");
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn options_that_are_read_are_right() {
        let reader = "fn f(o: Options) { if o.quick { g(o.features) } }\nfn h(switches: Switches) { use_it(switches.wide); }\n";
        assert!(found(reader).is_empty());
    }
}
