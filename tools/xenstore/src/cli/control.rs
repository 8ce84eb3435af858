//! control: a command to the daemon itself.

use std::process::ExitCode;

use xenstore::{Refusal, Store};

use super::text::lossy;

/// Sends the words given, and prints the answer.
pub(super) fn run(program: &str, words: &[Vec<u8>]) -> ExitCode {
    if words.is_empty() {
        eprintln!("Usage:\n{program} <command> [<arg>...]");
        return ExitCode::from(2);
    }
    let Ok(store) = Store::open() else {
        eprintln!("Failed to contact Xenstored.");
        return ExitCode::from(1);
    };
    let words: Vec<_> = words.iter().map(|word| lossy(word)).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    match store.control(&words) {
        Ok(answer) if answer.is_empty() => ExitCode::SUCCESS,
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            match (error.refusal(), store.control(&["help"])) {
                (Some(Refusal::Invalid), Ok(help)) => {
                    eprintln!("Command not supported. Valid commands are:\n{help}");
                }
                _ => eprintln!("Error when executing command: {error}"),
            }
            ExitCode::from(3)
        }
    }
}
