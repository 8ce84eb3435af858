//! From arguments to one of the clients.

mod control;
mod list;
mod options;
mod simple;
mod text;
mod watch;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use xenstore::{Error, Ops, Store};

use options::{Mode, Options, Parsed};

/// Why a client ends early.
enum Stop {
    /// With a message, after the program's name, and this exit code.
    Say(String, u8),
    /// With this exit code alone.
    Quietly(u8),
    /// A transaction met a conflict.
    Again,
}

type Outcome = Result<(), Stop>;

/// Runs the client that `own` (argv[0]) or the first argument names.
pub(crate) fn main(own: &[u8], mut args: Vec<Vec<u8>>) -> ExitCode {
    let program = text::lossy(own);
    let base = program.rsplit('/').next().unwrap_or_default();
    let mut is_multi = false;
    let name = match base.strip_prefix("xenstore-") {
        Some(name) => name.to_owned(),
        None if args.is_empty() => {
            return end(
                base,
                Err(say(format!("Usage: {program} <mode> [-h] [...]"))),
            );
        }
        None => {
            is_multi = true;
            text::lossy(&args.remove(0))
        }
    };
    if name == "control" {
        return control::run(&program, &args);
    }
    let Some(mode) = Mode::from_name(&name) else {
        return end(base, Err(say(format!("unknown mode {name}\n"))));
    };
    let outcome = match options::parse(mode, args) {
        Parsed::Run(options) => run(&options),
        Parsed::Usage(complaint) => {
            let called = if is_multi { &name } else { &program };
            if let Some(complaint) = complaint {
                eprintln!("{called}: {complaint}");
            }
            Err(say(mode.usage(&program, is_multi)))
        }
    };
    end(base, outcome)
}

/// Says what is to be said, after the program's name as `err` does, and makes the exit code.
fn end(base: &str, outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Say(text, code)) => {
            eprintln!("{base}: {text}");
            ExitCode::from(code)
        }
        Err(Stop::Quietly(code)) => ExitCode::from(code),
        Err(Stop::Again) => ExitCode::FAILURE,
    }
}

fn run(options: &Options) -> Outcome {
    let store = Store::open().map_err(|error| say(format!("xs_open: {error}")))?;
    match options.mode {
        Mode::Ls => return list::ls(&store, options),
        Mode::Watch => return watch::run(&store, options),
        _ => {}
    }
    let mut out = Vec::new();
    if !options.needs_transaction() {
        simple::run(&store, options, &mut out)?;
    } else {
        in_transaction(&store, options, &mut out)?;
    }
    print(&out)
}

/// Runs the client in a transaction, anew after each conflict.
fn in_transaction(store: &Store, options: &Options, out: &mut Vec<u8>) -> Outcome {
    loop {
        out.clear();
        let start = |_| say("couldn't start transaction".to_owned());
        let transaction = store.begin().map_err(start)?;
        match simple::run(&transaction, options, out) {
            Ok(()) => {}
            Err(Stop::Again) => continue,
            Err(stop) => return Err(stop),
        }
        match transaction.commit() {
            Ok(()) => return Ok(()),
            Err(error) if error.is_again() => {}
            Err(_) => return Err(say("couldn't end transaction".to_owned())),
        }
    }
}

/// Writes to stdout at once; a reader that has gone is no error.
fn print(bytes: &[u8]) -> Outcome {
    match io::stdout()
        .write_all(bytes)
        .and_then(|()| io::stdout().flush())
    {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Stop::Quietly(1)),
        Err(error) => Err(say(format!("stdout: {error}"))),
    }
}

fn say(text: String) -> Stop {
    Stop::Say(text, 1)
}

/// Names what failed on which path, with the reason.
fn failed(what: &str, path: &str, error: &Error) -> Stop {
    if error.is_again() {
        return Stop::Again;
    }
    let reason = match error.refusal() {
        Some(refusal) => refusal.message().to_owned(),
        None => error.to_string(),
    };
    say(format!("{what} {path}: {reason}"))
}

/// What all clients need of a store or a transaction.
fn read(at: &impl Ops, path: &[u8]) -> Result<Vec<u8>, Error> {
    at.read(&text::lossy(path))
}
