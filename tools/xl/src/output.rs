//! What verbs print: their text at once, or JSON in an envelope that names its schema.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::context::Globals;
use crate::failure::{Failure, Outcome};

/// Version of the JSON of all verbs: rises when a field goes or changes its meaning, not when one is added.
pub const SCHEMA: &str = "hematite.xl/2";

#[derive(Serialize)]
struct Envelope<'a, T> {
    schema: &'static str,
    verb: &'a str,
    data: T,
}

/// Prints text on stdout. A reader that went away (`xl list | head -1`) is no error.
///
/// # Errors
/// stdout cannot be written.
pub fn print(text: &str) -> Outcome {
    ANSWERED.store(true, Ordering::Relaxed);
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// How messages on stderr begin: set once, by the flags before the verb.
static MESSAGES: OnceLock<Globals> = OnceLock::new();

/// Sets how messages begin.
pub fn set_messages(globals: Globals) {
    // The first one counts; there is one command line.
    let _already_set = MESSAGES.set(globals);
}

/// Prints a line on stderr; where that fails there is nobody to tell.
pub fn note(text: &str) {
    let globals = MESSAGES.get().copied().unwrap_or_default();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let _nobody_listens = writeln!(
        io::stderr(),
        "{}{text}",
        beginning(globals, now, std::process::id())
    );
}

/// Gives what `-t` and `-T` put before a message.
fn beginning(globals: Globals, now: u64, pid: u32) -> String {
    let mut text = String::new();
    if globals.carriage_return {
        text.push('\r');
    }
    if globals.timestamps {
        let of_day = now % 86_400;
        text.push_str(&format!(
            "{:02}:{:02}:{:02} UTC [{pid}] ",
            of_day / 3600,
            of_day / 60 % 60,
            of_day % 60
        ));
    }
    text
}

/// Gives a verb's JSON: `{"schema": …, "verb": …, "data": …}` and a newline.
pub fn json(verb: &str, data: impl Serialize) -> String {
    let envelope = Envelope {
        schema: SCHEMA,
        verb,
        data,
    };
    serde_json::to_string_pretty(&envelope).expect("plain data always serializes") + "\n"
}

/// Prints a verb's JSON.
///
/// # Errors
/// stdout cannot be written.
pub fn print_json(verb: &str, data: impl Serialize) -> Outcome {
    print(&json(verb, data))
}

/// Prints one of a verb's answers on a line of its own, so that who reads them needs no parser of streams.
///
/// # Errors
/// stdout cannot be written.
pub fn print_json_line(verb: &str, data: impl Serialize) -> Outcome {
    print(&json_line(verb, data))
}

fn json_line(verb: &str, data: impl Serialize) -> String {
    let envelope = Envelope {
        schema: SCHEMA,
        verb,
        data,
    };
    serde_json::to_string(&envelope).expect("plain data always serializes") + "\n"
}

/// The verb that answers in JSON, and whether it has.
static JSON_VERB: OnceLock<String> = OnceLock::new();
static ANSWERED: AtomicBool = AtomicBool::new(false);

/// Has a failure of this verb told in JSON.
pub fn answer_in_json(verb: &str) {
    // The first one counts; there is one verb.
    let _already_set = JSON_VERB.set(verb.to_owned());
}

/// Tells whether anything was printed on stdout.
pub fn has_answered() -> bool {
    ANSWERED.load(Ordering::Relaxed)
}

#[derive(Serialize)]
struct Failed<'a> {
    schema: &'static str,
    verb: &'a str,
    error: ErrorJson<'a>,
}

#[derive(Serialize)]
struct ErrorJson<'a> {
    message: &'a str,
    exit_code: u8,
    details: &'a [String],
}

/// Gives a failure as the answer of the verb that was to be in JSON; `None` where it was not.
pub fn failure_json(failure: &Failure) -> Option<String> {
    let verb = JSON_VERB.get()?;
    Some(failure_json_of(verb, failure))
}

fn failure_json_of(verb: &str, failure: &Failure) -> String {
    let failed = Failed {
        schema: SCHEMA,
        verb,
        error: ErrorJson {
            message: failure.text.trim_end(),
            exit_code: failure.code,
            details: &failure.details,
        },
    };
    serde_json::to_string_pretty(&failed).expect("plain data always serializes") + "\n"
}

/// Tells whether progress may be shown: stderr is a terminal.
pub fn shows_progress() -> bool {
    io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_begin_as_the_flags_say() {
        let globals = Globals {
            carriage_return: true,
            timestamps: true,
            ..Globals::default()
        };
        assert_eq!(
            beginning(globals, 86_400 + 3 * 3600 + 62, 7),
            "\r03:01:02 UTC [7] "
        );
        assert_eq!(beginning(Globals::default(), 1, 7), "");
    }

    #[test]
    fn a_failure_is_an_answer_too_and_a_line_is_one_line() {
        let failure = Failure::of_messages(&["a".into(), "b".into()]);
        let value: serde_json::Value =
            serde_json::from_str(&failure_json_of("create", &failure)).unwrap();
        let error = serde_json::json!({"message": "a\nb", "exit_code": 1, "details": ["a", "b"]});
        assert_eq!(
            value,
            serde_json::json!({"schema": SCHEMA, "verb": "create", "error": error})
        );
        let line = json_line("top", [1, 2]);
        assert_eq!(line.trim_end().lines().count(), 1);
    }

    #[test]
    fn json_names_its_schema_and_verb() {
        let value: serde_json::Value = serde_json::from_str(&json("domid", 3)).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"schema": "hematite.xl/2", "verb": "domid", "data": 3})
        );
    }
}
