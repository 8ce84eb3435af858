//! `xl monitor`, hidden: waits for the ends of domains and does what their `on_*` settings say. `xl create` starts it.

use clap::Parser;

use toolstack::{Toolstack, monitor};

use crate::context::Context;
use crate::failure::Outcome;
use crate::output;
use crate::table::Verb;

/// Act on the ends of domains until none is left (started by xl create)
#[derive(Debug, Parser)]
pub struct Monitor {}

impl Verb for Monitor {
    fn run(self, context: &Context) -> Outcome {
        let paths = context.toolstack()?.paths.clone();
        // each domain has a log of its own; where that cannot be written there is ours
        let mut note = |name: &str, text: &str| {
            if let Err(error) = monitor::log(&paths, name, text) {
                output::note(&format!("{name}: {text} ({})", error.chain()));
            }
        };
        Ok(monitor::serve(opener(), &mut note)?)
    }
}

/// Waits for one domain's end in this process, and does what follows; what it does is told on stderr.
///
/// # Errors
/// The first thing that could not be done.
pub fn follow(domid: u16) -> Outcome {
    let mut note = |_: &str, text: &str| output::note(&format!("xl: {text}"));
    let _how = monitor::follow_one(opener(), domid, &mut note)?;
    Ok(())
}

/// Connects as xl.conf says.
fn opener() -> impl Fn() -> toolstack::Result<Toolstack> {
    // a wrong file of the host's keeps nobody from acting on a domain's end
    let host = Context::default().host().cloned().unwrap_or_default();
    move || Ok(Toolstack::open()?.configured(&host))
}
