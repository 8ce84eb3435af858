//! `xl monitor`, hidden: waits for a domain's end and does what its `on_*` settings say. `xl create` starts it.

use clap::Parser;

use toolstack::{Toolstack, monitor};

use crate::context::Context;
use crate::failure::Outcome;
use crate::output;
use crate::table::Verb;

/// Wait for a domain's end and act on it (started by xl create)
#[derive(Debug, Parser)]
pub struct Monitor {
    /// Domain's id
    domid: u16,
}

impl Verb for Monitor {
    fn run(self, _: &Context) -> Outcome {
        follow(self.domid)
    }
}

/// Waits for a domain's end, and does what follows; what it does is told on stderr.
///
/// # Errors
/// The first thing that could not be done.
pub fn follow(domid: u16) -> Outcome {
    let mut note = |text: &str| output::note(&format!("xl: {text}"));
    // a wrong file of the host's keeps nobody from acting on a domain's end
    let context = Context::default();
    let host = context.host().cloned().unwrap_or_default();
    let open = || Ok(Toolstack::open()?.configured(&host));
    let _how = monitor::outlast(open, domid, &mut note)?;
    Ok(())
}
