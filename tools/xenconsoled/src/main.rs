//! xenconsoled: moves guests' console output to terminals (and logs), and what is typed there back.
//!
//! One thread, one `poll`. No guest can hold up another or the daemon: a ring is emptied at most once a round and no
//! faster than its rate, what no terminal takes waits in a bounded backlog that loses its oldest bytes, and nothing
//! read from a ring is believed. The round is in [`daemon`], one guest's console in [`console`]; [`backlog`], [`rate`]
//! and [`log`] are the rules, tested without a hypervisor.
//!
//! Source: `public/io/console.h`; xenstore-paths, `/local/domain/N/console`.
#![forbid(unsafe_code)]
// A message that nobody listens to is no end: `complain` instead.
#![deny(clippy::print_stderr, clippy::print_stdout)]

mod background;
mod backlog;
mod console;
mod daemon;
mod hypervisor_log;
mod log;
mod options;
mod rate;
mod terminal;

use std::process::ExitCode;

use ::daemon::{
    complain,
    logging::{self, Sink},
};
use clap::Parser;

use crate::options::Options;

fn main() -> ExitCode {
    let options = match Options::parse().absolute() {
        Ok(options) => options,
        Err(error) => {
            complain(format_args!("xenconsoled: no working directory: {error}"));
            return ExitCode::FAILURE;
        }
    };
    start_telling(&options);
    match background::run(&options, daemon::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !options.interactive && background::is_child() {
                ::log::error!("{error}");
            }
            complain(format_args!("xenconsoled: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Has messages go to standard error in the foreground and to syslog in the background.
fn start_telling(options: &Options) {
    let sink = if options.interactive {
        Sink::Stderr
    } else {
        Sink::syslog().unwrap_or(Sink::Stderr)
    };
    let level = if options.verbose {
        ::log::LevelFilter::Debug
    } else {
        ::log::LevelFilter::Warn
    };
    logging::start("xenconsoled", sink, level);
}
