//! From the words of the command line to a verb: global flags, unique prefixes, help, exit codes.
//!
//! Only the verb's own clap command is built: the whole tree costs more instructions than `xl list` itself.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::context::{Context, Globals};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table::{Entry, Found, Kind, VERBS, find};

/// Runs the program.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words = words.into_iter();
    let program = words.next().unwrap_or_default();
    let words: Vec<OsString> = words.collect();
    let is_xentop = is_called(&program, "xentop");
    let asks_version = words.iter().any(|word| word == "-V" || word == "--version");
    let outcome = if is_xentop && asks_version {
        output::print(&format!("xentop {}\n", env!("CARGO_PKG_VERSION")))
    } else if is_xentop {
        let words: Vec<_> = std::iter::once("top".into()).chain(words).collect();
        dispatch(&words)
    } else {
        dispatch(&words)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => end(&failure),
    }
}

fn is_called(program: &OsString, name: &str) -> bool {
    std::path::Path::new(program)
        .file_name()
        .is_some_and(|file| file == name)
}

fn end(failure: &Failure) -> ExitCode {
    if failure.code != 0
        && let Some(json) = output::failure_json(failure)
    {
        let _nobody_listens = output::print(&json);
    } else if failure.to_stdout {
        let _nobody_listens = output::print(&failure.text);
    } else if !failure.text.is_empty() {
        output::note(failure.text.trim_end_matches('\n'));
    }
    ExitCode::from(failure.code)
}

fn dispatch(words: &[OsString]) -> Outcome {
    let (globals, rest) = globals(words)?;
    output::set_messages(globals);
    let Some((typed, words)) = rest.split_first() else {
        return Err(Failure::new(usage(false)));
    };
    let typed = typed.to_string_lossy();
    if typed == "help" || typed == "--help" || typed == "-h" {
        return help(words, globals.verbose > 0);
    }
    if typed == "--version" || typed == "-V" {
        return output::print(&format!("xl {}\n", env!("CARGO_PKG_VERSION")));
    }
    match find(&typed) {
        Found::One(entry) => run(entry, globals, words),
        Found::Ambiguous => {
            let names: Vec<_> = VERBS
                .iter()
                .map(|e| e.name)
                .filter(|name| name.starts_with(&*typed))
                .collect();
            Err(Failure::new(format!(
                "xl: \"{typed}\" may be {}",
                names.join(", ")
            )))
        }
        Found::None => {
            let near = toolstack::config::nearest(&typed, VERBS.iter().map(|entry| entry.name));
            let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
            Err(Failure::new(format!(
                "xl: command \"{typed}\" is not supported{hint} (xl help lists what is)"
            )))
        }
    }
}

fn run(entry: &'static Entry, globals: Globals, words: &[OsString]) -> Outcome {
    match (entry.kind, entry.command()) {
        (Kind::Served { dry_run: false, .. }, _) if globals.dry_run => Err(Failure::new(format!(
            "xl: {} does not know -N (dry run)",
            entry.name
        ))),
        (Kind::Served { run, .. }, Some(command)) => run(&command, &Context::new(globals), words),
        (Kind::Unserved(why), _) => {
            // it parses nothing, but who reads JSON reads its failure as well
            if words.iter().any(|word| word == "--json") {
                output::answer_in_json(entry.name);
            }
            Err(unserved(entry.name, why))
        }
        (Kind::Nothing { header, domains }, _) => {
            nothing(entry.name, header, domains, &Context::new(globals), words)
        }
        (Kind::Served { .. }, None) => Err(unserved(entry.name, "it has no options")),
    }
}

/// What a list of nothing is.
const NOTHING: &str = "lists what no domain has here: its header alone, as xl does";

/// Lists what no domain has; one that is named must be there.
fn nothing(
    name: &str,
    header: &str,
    domains: usize,
    context: &Context,
    words: &[OsString],
) -> Outcome {
    let (flags, names): (Vec<_>, Vec<_>) = words
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .partition(|word| word.starts_with('-'));
    if flags.iter().any(|flag| flag == "-h" || flag == "--help") {
        return output::print(&format!("xl {name}: {NOTHING}\n"));
    }
    let is_json = flags.iter().any(|flag| flag == "--json");
    if is_json {
        output::answer_in_json(name);
    }
    // -n of pci-assignable-list asks for names, of which there are none as well
    if let Some(flag) = flags
        .iter()
        .find(|flag| !["--json", "-n"].contains(&flag.as_str()))
    {
        return Err(Failure::usage(format!(
            "xl {name}: there is no option {flag}"
        )));
    }
    if names.len() < domains {
        return Err(Failure::usage(format!("xl {name}: name a domain")));
    }
    for domain in names
        .iter()
        .take(if domains == 0 { 0 } else { names.len() })
    {
        context.find(domain)?;
    }
    if is_json {
        output::print_json(name, [(); 0])
    } else {
        output::print(header)
    }
}

fn unserved(name: &str, why: &str) -> Failure {
    Failure::new(format!("xl {name}: not supported: {why}"))
}

/// Reads the flags before the verb: `-vv -N -t -f -T`, single or together.
fn globals(words: &[OsString]) -> Result<(Globals, &[OsString]), Failure> {
    let mut globals = Globals::default();
    let mut rest = words;
    while let Some((word, after)) = rest.split_first() {
        let Some(flags) = word
            .to_str()
            .and_then(|w| w.strip_prefix('-'))
            .filter(|f| !f.is_empty())
        else {
            break;
        };
        if flags.starts_with('-') || flags == "h" || flags == "V" {
            break;
        }
        for flag in flags.chars() {
            match flag {
                'v' => globals.verbose = globals.verbose.saturating_add(1),
                'N' => globals.dry_run = true,
                't' => globals.carriage_return = true,
                // xl's: it went on where xend ran, which it no longer does
                'f' => {}
                'T' => globals.timestamps = true,
                _ => {
                    return Err(Failure::new(format!(
                        "xl: unknown option -{flag}\n{}",
                        usage(false)
                    )));
                }
            }
        }
        rest = after;
    }
    Ok((globals, rest))
}

fn help(words: &[OsString], all: bool) -> Outcome {
    let Some(typed) = words.first().map(|word| word.to_string_lossy()) else {
        return output::print(&usage(all));
    };
    match find(&typed) {
        Found::One(entry) => match (entry.command(), entry.kind) {
            (Some(mut command), _) => output::print(&command.render_long_help().to_string()),
            (None, Kind::Unserved(why)) => {
                output::print(&format!("xl {}: not supported: {why}\n", entry.name))
            }
            (None, Kind::Nothing { .. }) => {
                output::print(&format!("xl {}: {NOTHING}\n", entry.name))
            }
            (None, Kind::Served { .. }) => Ok(()),
        },
        _ => Err(Failure::new(format!("xl: there is no command \"{typed}\""))),
    }
}

/// Gives the list of verbs; with `all`, those that are not served too.
fn usage(all: bool) -> String {
    let mut text = String::from(
        "Usage: xl [-v] [-N] [-t] [-T] VERB [OPTIONS]\n\n\
         Creates and manages domains. Any unambiguous beginning of a verb will do; xl help VERB tells its options.\n\n",
    );
    for entry in VERBS {
        if let Some(command) = entry.command().filter(|command| !command.is_hide_set()) {
            let about = command
                .get_about()
                .map(ToString::to_string)
                .unwrap_or_default();
            text.push_str(&format!(" {:<19} {about}\n", entry.name));
        }
    }
    text.push_str("\nBefore the verb:\n");
    for (flag, help) in crate::table::GLOBALS {
        text.push_str(&format!(" -{flag:<18} {help}\n"));
    }
    if all {
        text.push_str("\nNot supported:\n");
        for entry in VERBS {
            if let Kind::Unserved(why) = entry.kind {
                text.push_str(&format!(" {:<22} {why}\n", entry.name));
            }
        }
    } else {
        text.push_str("\nxl -v help also lists xl's verbs that are not supported here, and why.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn flags_before_the_verb_are_global() {
        let words = words("-vvN -t list -v");
        let (globals, rest) = globals(&words).unwrap();
        assert_eq!(
            (globals.verbose, globals.dry_run, globals.carriage_return,),
            (2, true, true)
        );
        assert_eq!(rest, &words[2..]);
        assert!(super::globals(&[OsString::from("-x")]).is_err());
    }

    #[test]
    fn what_is_not_served_says_so_and_fails() {
        for (text, what) in [
            (
                "migrate web host2",
                "not supported: saving, restoring and migrating come in a later release",
            ),
            ("pci-attach web", "not supported"),
            ("usb-list", "name a domain"),
            ("channel-list --frob", "no option --frob"),
            ("cpupool-create", "not supported"),
            ("frobnicate", "not supported"),
            ("lsit", "did you mean list?"),
            ("mem", "may be mem-max, mem-set"),
            ("-N list", "does not know -N"),
            ("", "Usage"),
        ] {
            let failure = dispatch(&words(text)).unwrap_err();
            assert!(failure.text.contains(what), "{text}: {}", failure.text);
            let exits = if text.contains("-list") { 2 } else { 1 };
            assert_eq!((failure.code, failure.to_stdout), (exits, false), "{text}");
        }
    }

    #[test]
    fn help_of_a_verb_is_no_failure() {
        let failure = dispatch(&words("list --help")).unwrap_err();
        assert_eq!((failure.code, failure.to_stdout), (0, true));
        let failure = dispatch(&words("list --frobnicate")).unwrap_err();
        assert_eq!((failure.code, failure.to_stdout), (2, false));
    }

    #[test]
    fn usage_lists_what_is_served_first() {
        let text = usage(true);
        let (served, unserved) = text.split_once("\nNot supported:\n").unwrap();
        assert!(served.contains("\n create ") && !served.contains(" monitor "));
        for flag in ["\n -v ", "\n -N ", "\n -f ", "\n -t ", "\n -T "] {
            assert!(served.contains(flag), "{flag}");
        }
        assert!(unserved.contains(" migrate "));
    }
}
