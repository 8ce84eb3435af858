//! `xl dmesg`: the hypervisor's log.

use clap::Parser;

use crate::context::Context;
use crate::failure::Outcome;
use crate::output;
use crate::table::Verb;

/// Show the hypervisor's log
#[derive(Debug, Parser)]
pub struct Dmesg {
    /// Clear it after reading
    #[arg(short, long)]
    clear: bool,
}

impl Verb for Dmesg {
    fn run(self, context: &Context) -> Outcome {
        let (log, _) = context.hyper()?.read_console(0, self.clear)?;
        let text = String::from_utf8_lossy(&log);
        if context.json() {
            return output::print_json("dmesg", text.lines().collect::<Vec<_>>());
        }
        output::print(&text)
    }
}
