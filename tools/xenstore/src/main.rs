//! The small clients: xenstore-read, -write, -ls, -list, -rm, -chmod, -exists, -watch and -control in one program.
//!
//! Which one is the name it was started under, or its first argument (`xenstore read /path`). Output and exit codes are
//! those of Xen's. There is no argument parser but the few lines here: a `xenstore-read` is mostly process start.
#![forbid(unsafe_code)]

#[path = "cli/mod.rs"]
mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().map(|arg| arg.into_encoded_bytes());
    let own = args.next().unwrap_or_default();
    let rest: Vec<_> = args.collect();
    cli::main(&own, rest)
}
