//! xenconsoled: moves guests' console output to terminals (and logs), and what is typed there back.
//!
//! One thread, one `poll`. No guest can hold up another or the daemon: a ring is emptied at most once a round and no
//! faster than its rate, what no terminal takes waits in a bounded backlog that loses its oldest bytes, and nothing read
//! from a ring is believed. The round is in [`daemon`], one guest's console in [`console`]; [`backlog`], [`rate`] and
//! [`log`] are the rules, tested without a hypervisor.
//!
//! Source: `public/io/console.h`; xenstore-paths, `/local/domain/N/console`.
#![forbid(unsafe_code)]

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

use clap::Parser;

use crate::options::Options;

fn main() -> ExitCode {
    let options = Options::parse();
    match background::run(&options, daemon::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xenconsoled: {error}");
            ExitCode::FAILURE
        }
    }
}
