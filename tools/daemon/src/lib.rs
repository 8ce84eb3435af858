//! What the tools' daemons have in common: where their messages go ([`logging`]), and signals that end nobody
//! ([`signals`]).
#![forbid(unsafe_code)]
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod logging;
pub mod signals;

use std::fmt::Display;
use std::io::{self, Write};

/// Says a line on standard error; where nobody listens any more that is not an end.
pub fn complain(line: impl Display) {
    // There is nowhere to say that saying failed.
    let _ = writeln!(io::stderr(), "{line}");
}
