//! Writes xl's shell completions and man pages: `xl-docs DIRECTORY` makes `man8/`, `bash/`, `zsh/` and `fish/` below
//! it.

mod completions;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap::builder::Resettable;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        let _ignored = writeln!(io::stderr(), "usage: xl-docs DIRECTORY");
        return ExitCode::FAILURE;
    };
    match write_all(Path::new(&directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ignored = writeln!(io::stderr(), "xl-docs: {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

fn write_all(directory: &Path) -> io::Result<()> {
    let command = xl::table::whole_command();
    completions::write_all(&command, directory)?;
    let pages = directory.join("man8");
    fs::create_dir_all(&pages)?;
    write_page(&command, "xl", &pages)?;
    for verb in command.get_subcommands() {
        write_page(verb, &format!("xl-{}", verb.get_name()), &pages)?;
    }
    Ok(())
}

/// Gives a section whose lines and columns stay as they are: tables would be filled into paragraphs.
fn as_it_stands(text: &str) -> String {
    let mut section = String::from(".SH NOTES\n.nf\n");
    for line in text.lines() {
        // a dot or a quote at the beginning would be a request
        section.push_str("\\&");
        section.push_str(&line.replace('\\', "\\e").replace('-', "\\-"));
        section.push('\n');
    }
    section + ".fi\n"
}

fn write_page(command: &Command, name: &str, into: &Path) -> io::Result<()> {
    let mut page = Vec::new();
    // The page's name is the program's and the verb's; clap wants a static string.
    let notes = command.get_after_help().map(ToString::to_string);
    let command = command
        .clone()
        .after_help(Resettable::Reset)
        .name(Box::leak(name.to_owned().into_boxed_str()) as &'static str);
    clap_mangen::Man::new(command)
        .section("8")
        .manual("Hematite")
        .render(&mut page)?;
    if let Some(notes) = notes {
        page.extend(as_it_stands(&notes).into_bytes());
    }
    fs::write(into.join(format!("{name}.8")), page)
}
