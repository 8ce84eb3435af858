//! xenstored: keeps the tree in which toolstack, backends and guests meet, and outlives its own death.
//!
//! Where is what: [`tree`] (nodes), [`access`] (rights and quotas), [`transaction`], [`watch`], [`outbox`] are pure;
//! [`core`] ties them together, [`request`] serves the wire's requests, [`control`] the daemon's own commands.
//! [`ring`], [`rings`] and [`devices`] reach the guests, [`server`] the local clients, [`journal`], [`record`] and
//! [`restore`] survive a kill; [`engine`] is one round of all that.
#![forbid(unsafe_code)]

mod access;
mod background;
mod control;
mod core;
mod devices;
mod engine;
mod journal;
mod logging;
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

use std::{error::Error, fs, process::ExitCode};

use clap::Parser;

use devices::{Devices, NoDevices, XenDevices};
use engine::Engine;
use logging::Sink;
use options::Options;
use server::Server;

fn main() -> ExitCode {
    let options = Options::parse();
    if options.daemon && !background::is_child() {
        return background::start_child().unwrap_or_else(|error| {
            eprintln!("xenstored: cannot go to the background: {error}");
            ExitCode::FAILURE
        });
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
    eprintln!("xenstored: {error}");
    ExitCode::FAILURE
}

fn run(options: &Options, is_on_stderr: bool) -> Result<(), Box<dyn Error>> {
    if options.daemon {
        background::leave_terminal()?;
    }
    if let Err(error) = server::raise_file_limit() {
        log::warn!("the limit of open files stays as it is: {error}");
    }
    // First: whoever has the sockets is the only xenstored.
    let listeners = server::listen(&options.sockets())?;
    let engine = start_engine(options)?;
    if let Some(path) = &options.pid_file {
        let pid = format!("{}\n", std::process::id());
        let directory = path.parent().unwrap_or(path);
        fs::create_dir_all(directory)
            .and_then(|()| fs::write(path, pid))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    background::tell_manager();
    if options.daemon {
        background::tell_ready(!is_on_stderr)?;
    }
    log::info!("serving");
    Server::new(engine, listeners).run()
}

/// Opens the log; true if it is on stderr.
fn start_log(options: &Options) -> Result<bool, Box<dyn Error>> {
    let sink = match &options.log_file {
        Some(path) => Sink::file(path).map_err(|error| format!("{}: {error}", path.display()))?,
        None if options.syslog => Sink::syslog().map_err(|error| format!("/dev/log: {error}"))?,
        // Without syslog the terminal, or the console, is all there is.
        None if options.daemon => Sink::syslog().unwrap_or(Sink::Stderr),
        None => Sink::Stderr,
    };
    let is_on_stderr = matches!(sink, Sink::Stderr);
    logging::start(sink, options.verbose);
    Ok(is_on_stderr)
}

fn start_engine(options: &Options) -> Result<Engine, Box<dyn Error>> {
    let devices: Box<dyn Devices> = if options.no_domain_init {
        Box::new(NoDevices)
    } else {
        Box::new(XenDevices::open()?)
    };
    let path = options.state_dir.join("journal");
    let path = (!options.no_journal).then_some(path);
    if let Some(path) = &path {
        fs::create_dir_all(&options.state_dir)?;
        if options.fresh && path.exists() {
            fs::remove_file(path)?;
        }
    }
    let has_dom0 = !options.no_domain_init;
    Engine::start(options.quotas(), devices, path.as_deref(), has_dom0)
}
