//! Entry of the program; called as `xentop`, it is `xl top`.

use std::process::ExitCode;

fn main() -> ExitCode {
    xl::cli::main(std::env::args_os())
}
