//! Code that guests drive logs through the domain, whose lines are bounded: the macros for the hypervisor's own lines
//! are for boot, and for files or lines that say why no guest reaches them, or why one that does can do so only once.

use super::source::Source;

/// Where the rule holds.
const GUEST_DRIVEN: &str = "hypervisor/src/";
/// What runs before the first guest does.
const BOOT: [&str; 1] = ["hypervisor/src/boot/"];
/// The macros of the hypervisor's own lines.
const MACROS: [&str; 3] = ["error", "warn", "info"];
/// What a header, or a comment before the line, says with its reason.
const MARK: &str = "HOST LOG:";

/// Finds the macros where guests lead.
pub(super) fn breaches(sources: &[Source]) -> Vec<String> {
    sources.iter().flat_map(breaches_in).collect()
}

fn breaches_in(source: &Source) -> Vec<String> {
    let path = &source.path;
    let is_exempt = !path.starts_with(GUEST_DRIVEN)
        || BOOT.iter().any(|place| path.starts_with(place))
        || source.header.contains(MARK);
    if is_exempt {
        return Vec::new();
    }
    let lines: Vec<&str> = source.text.lines().collect();
    source
        .in_use()
        .filter(|(i, _)| is_host_line(source, *i))
        .filter(|(_, token)| !is_marked(&lines, token.line))
        .map(|(_, token)| {
            format!(
                "{path}:{}: `{}` where guests lead: use guest_log! or domain_log!, or say `{MARK} why` in a comment before it",
                token.line, token.text
            )
        })
        .collect()
}

/// Says whether the token at `i` begins a line of the hypervisor's own: a macro, its function, or a macro under another
/// name.
fn is_host_line(source: &Source, i: usize) -> bool {
    let next = source.at(i + 1);
    let is_renamed = next == "as" && is_import_of_macros(source, i);
    let is_macro = MACROS.contains(&source.at(i)) && (next == "!" || is_renamed);
    let is_function = source.at(i) == "message" && next == "(" && source.before(i, 3) == "log";
    is_macro || is_function
}

/// Says whether the word at `i` is in a `use hv_hw::…`.
fn is_import_of_macros(source: &Source, i: usize) -> bool {
    let begin = (1..=i).find(|back| matches!(source.before(i, *back), "use" | ";"));
    begin.is_some_and(|back| source.before(i, back - 1) == "hv_hw")
}

/// Looks for the mark on the line and in the comments right before it.
fn is_marked(lines: &[&str], line: usize) -> bool {
    let before = lines.get(..line - 1).unwrap_or_default();
    let comments = before
        .iter()
        .rev()
        .take_while(|text| text.trim_start().starts_with("//"));
    let own = lines.get(line - 1).into_iter();
    own.chain(comments).any(|text| text.contains(MARK))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        breaches(&[Source::new(path, text.into()).unwrap()])
    }

    #[test]
    fn host_line_where_guests_lead_is_a_breach_with_file_and_line() {
        let text = "fn f() {\n    g();\n    hv_hw::info!(\"x\");\n}\n";
        let found = found("hypervisor/src/exit/a.rs", text);
        assert!(
            found.len() == 1 && found[0].starts_with("hypervisor/src/exit/a.rs:3: `info`"),
            "{found:?}"
        );
    }

    #[test]
    fn other_names_and_the_function_itself_are_breaches() {
        let text =
            "use hv_hw::info as say;\nfn f() { hv_hw::console::log::message(level, text); }\n";
        assert_eq!(found("hypervisor/src/domain/a.rs", text).len(), 2);
    }

    #[test]
    fn boot_marked_lines_marked_files_and_domains_logs_are_not() {
        let host = "fn f() { info!(\"x\"); }\n";
        assert!(found("hypervisor/src/boot/a.rs", host).is_empty());
        let marked = "fn f() {\n    // HOST LOG: once, as the machine ends\n    // for good\n    error!(\"x\");\n}\n";
        assert!(found("hypervisor/src/domain/a.rs", marked).is_empty());
        let header = "//! A.\n//!\n//! HOST LOG: asked for\n\nfn f() { info!(\"x\"); }\n";
        assert!(found("hypervisor/src/a.rs", header).is_empty());
        let good = "fn f(error: E) { guest_log!(d.log, Info, \"info!\"); let info = error; }\nuse crate::domain::info as record;\n";
        assert!(found("hypervisor/src/a.rs", good).is_empty());
    }
}
