//! `xl destroy`: a domain ends at once.

use clap::Parser;
use toolstack::DOM0;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::table::Verb;

/// End a domain at once, and give back all it has
#[derive(Debug, Parser)]
pub struct Destroy {
    /// No effect: kept for scripts that say it (dom0 is never destroyed)
    #[arg(short)]
    force: bool,
    /// Domain: name, id or UUID
    domain: String,
}

impl Verb for Destroy {
    fn run(self, context: &Context) -> Outcome {
        let domain = context.find(&self.domain)?;
        if domain.domid == DOM0 {
            return Err(Failure::new("Cannot destroy privileged domain 0."));
        }
        Ok(context.toolstack()?.destroy(domain.domid)?)
    }
}
