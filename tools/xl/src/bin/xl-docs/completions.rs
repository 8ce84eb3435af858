//! Completions of the shells: clap's, which know verbs and options, and what completes arguments behind them.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::{Shell, generate};

/// Arguments that are a domain, those that are any number of them, and those that are files.
const DOMAIN: &[&str] = &["domain"];
const DOMAINS: &[&str] = &["domains"];
const FILES: &[&str] = &["words", "file", "spec"];

/// Writes the files below `directory`, by shell.
///
/// # Errors
/// The directory cannot be written.
pub(crate) fn write_all(command: &Command, directory: &Path) -> io::Result<()> {
    type Finish = fn(&Command, String) -> String;
    let all: [(Shell, &str, Finish); 3] = [
        (Shell::Bash, "bash/xl.bash", with_arguments_of_bash),
        (Shell::Zsh, "zsh/_xl", with_arguments_of_zsh),
        (Shell::Fish, "fish/xl.fish", with_arguments_of_fish),
    ];
    for (shell, name, finish) in all {
        let mut of_clap = Vec::new();
        generate(shell, &mut command.clone(), "xl", &mut of_clap);
        let of_clap = String::from_utf8(of_clap).map_err(io::Error::other)?;
        let file = directory.join(name);
        fs::create_dir_all(file.parent().unwrap_or(directory))?;
        fs::write(file, finish(command, of_clap))?;
    }
    Ok(())
}

fn with_arguments_of_bash(command: &Command, of_clap: String) -> String {
    let added = include_str!("arguments.bash")
        .replace("@VERBS@", &verbs(command).join(" "))
        .replace("@DOMAIN@", &taking(command, DOMAIN).join("|"))
        .replace("@DOMAINS@", &taking(command, DOMAINS).join("|"))
        .replace("@FILES@", &taking(command, FILES).join("|"));
    of_clap + &added
}

fn with_arguments_of_fish(command: &Command, of_clap: String) -> String {
    let added = include_str!("arguments.fish")
        .replace("@VERBS@", &verbs(command).join(" "))
        .replace("@DOMAIN@", &taking(command, DOMAIN).join(" "))
        .replace("@DOMAINS@", &taking(command, DOMAINS).join(" "))
        .replace("@FILES@", &taking(command, FILES).join(" "));
    of_clap + &added
}

/// zsh's `_arguments` counts words itself; only what completes each is put in the place of clap's `_default`.
fn with_arguments_of_zsh(_: &Command, of_clap: String) -> String {
    let mut text = String::new();
    for line in of_clap.lines() {
        if line.starts_with("if [ \"$funcstack[1]\"") {
            text.push_str(include_str!("arguments.zsh"));
        }
        match line.strip_suffix(":_default' \\") {
            Some(argument) => {
                let action = action_of_zsh(argument);
                text.push_str(&format!("{argument}:{action}' \\"));
            }
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Names what completes an argument, given as `':name -- what it is` or `'--option=[what it does]:NAME`.
fn action_of_zsh(argument: &str) -> &'static str {
    let name = if argument.starts_with("'-") {
        argument.rsplit(':').next()
    } else {
        let name = argument.trim_start_matches(['\'', '*', ':']);
        name.split(' ').next()
    };
    let name = name.unwrap_or_default().to_ascii_lowercase();
    match name.as_str() {
        "verb" => "_xl_commands",
        name if DOMAIN.contains(&name) || DOMAINS.contains(&name) => "_xl_domains",
        name if FILES.contains(&name) => "_files",
        // Nothing is offered; what is wanted is shown.
        _ => " ",
    }
}

fn verbs(command: &Command) -> Vec<&str> {
    command.get_subcommands().map(Command::get_name).collect()
}

/// Lists the verbs with an argument of such a name.
fn taking<'c>(command: &'c Command, ids: &[&str]) -> Vec<&'c str> {
    let takes = |verb: &&Command| {
        let mut arguments = verb.get_positionals();
        arguments.any(|argument| ids.contains(&argument.get_id().as_str()))
    };
    let taking = command.get_subcommands().filter(takes);
    taking.map(Command::get_name).collect()
}
