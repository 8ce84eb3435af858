//! xenstored: keeps the tree in which toolstack, backends and guests meet, and outlives its own death.
//!
//! Where is what: [`tree`] (of [`node`]s), [`access`] (rights and quotas), [`transaction`], [`watch`], [`outbox`] are
//! pure; [`core`] ties them together, [`request`] serves the wire's requests, [`control`] the daemon's own commands.
//! [`ring`], [`rings`] and [`devices`] reach the guests, [`server`] the local clients, [`journal`] (with its
//! [`journal_reader`]), [`record`] and [`restore`] survive a kill; [`engine`] is one round of all that.
#![forbid(unsafe_code)]
// A message that nobody listens to is no end: `complain` instead.
#![deny(clippy::print_stderr, clippy::print_stdout)]

mod access;
mod background;
mod control;
mod core;
mod devices;
mod engine;
mod journal;
mod journal_reader;
mod node;
mod options;
mod outbox;
mod quota;
mod record;
mod request;
mod restore;
mod ring;
mod rings;
mod server;
mod transaction;
mod transactions;
mod tree;
mod watch;

use std::{
    error::Error,
    fs,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use daemon::{
    complain,
    logging::{self, Sink},
    signals::Signals,
};

use devices::{Devices, NoDevices, XenDevices};
use engine::{Engine, JournalOptions};
use options::Options;
use server::Server;

fn main() -> ExitCode {
    let options = match Options::parse().absolute() {
        Ok(options) => options,
        Err(error) => return fail(&format!("no working directory: {error}")),
    };
    if let Some(refusal) = options.refusal() {
        return fail(&format!("not supported: {refusal}"));
    }
    if !options.no_fork && !background::is_child() {
        return match background::start_child() {
            Ok(Some(pid)) => {
                tell_pid(&options, pid);
                ExitCode::SUCCESS
            }
            Ok(None) => ExitCode::FAILURE,
            Err(error) => fail(&format!("cannot go to the background: {error}")),
        };
    }
    let mut is_on_stderr = true;
    let result = start_log(&options).and_then(|on_stderr| {
        is_on_stderr = on_stderr;
        run(&options, on_stderr)
    });
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    if !is_on_stderr {
        log::error!("{error}");
    }
    fail(&error)
}

fn fail(why: &dyn std::fmt::Display) -> ExitCode {
    complain(format_args!("xenstored: {why}"));
    ExitCode::FAILURE
}

/// Prints the process id, if that is asked for.
fn tell_pid(options: &Options, pid: u32) {
    if options.output_pid {
        // Whoever asked for it and does not listen has no use for it.
        let _ = writeln!(io::stdout(), "{pid}");
    }
}

fn run(options: &Options, is_on_stderr: bool) -> Result<(), Box<dyn Error>> {
    if !options.no_fork {
        background::leave_terminal()?;
    }
    // From here on a signal is a request.
    let signals = Signals::take_over()?;
    if let Err(error) = server::raise_file_limit() {
        log::warn!("the limit of open files stays as it is: {error}");
    }
    // First: whoever has the sockets is the only xenstored.
    let listeners = server::listen(&options.sockets())?;
    let server = Server::new(start_engine(options)?, listeners, signals)?;
    if let Some(path) = &options.pid_file {
        let pid = format!("{}\n", std::process::id());
        let directory = path.parent().unwrap_or(path);
        fs::create_dir_all(directory)
            .and_then(|()| fs::write(path, pid))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    background::tell_manager();
    if options.no_fork {
        tell_pid(options, std::process::id());
    } else {
        background::tell_ready(!is_on_stderr)?;
    }
    log::info!("serving");
    server.run()
}

/// Opens the log; true if it is on stderr.
fn start_log(options: &Options) -> Result<bool, Box<dyn Error>> {
    let sink = match &options.log_file {
        Some(path) => Sink::file(path).map_err(|error| format!("{}: {error}", path.display()))?,
        None if options.syslog => Sink::syslog().map_err(|error| format!("/dev/log: {error}"))?,
        // Without syslog the terminal, or the console, is all there is.
        None if !options.no_fork => Sink::syslog().unwrap_or(Sink::Stderr),
        None => Sink::Stderr,
    };
    let is_on_stderr = matches!(sink, Sink::Stderr);
    let level = match options.verbose {
        0 => log::LevelFilter::Info,
        1 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    };
    logging::start("xenstored", sink, level);
    Ok(is_on_stderr)
}

fn start_engine(options: &Options) -> Result<Engine, Box<dyn Error>> {
    let devices: Box<dyn Devices> = if options.no_domain_init {
        Box::new(NoDevices)
    } else {
        Box::new(XenDevices::open()?)
    };
    let directory = &options.state_dir;
    let journal = JournalOptions {
        path: directory.join("journal"),
        recovers: !options.no_recovery,
    };
    let journal = (!options.no_journal).then_some(journal);
    if let Some(JournalOptions { path, .. }) = &journal {
        fs::create_dir_all(directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
        if options.fresh && path.exists() {
            fs::remove_file(path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    let has_dom0 = !options.no_domain_init;
    let mut engine = Engine::start(options.quotas(), devices, journal.as_ref(), has_dom0)?;
    engine.core.event_timeout = options.event_timeout();
    Ok(engine)
}
