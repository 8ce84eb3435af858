//! `xl pause` and `xl unpause`.

use clap::Parser;

use crate::context::Context;
use crate::failure::Outcome;
use crate::table::Verb;

/// Stop a domain's vCPUs
#[derive(Debug, Parser)]
pub struct Pause {
    /// Domains: names, ids or UUIDs
    #[arg(required = true)]
    domains: Vec<String>,
}

/// Let a paused domain go on
#[derive(Debug, Parser)]
pub struct Unpause {
    /// Domains: names, ids or UUIDs
    #[arg(required = true)]
    domains: Vec<String>,
}

impl Verb for Pause {
    fn run(self, context: &Context) -> Outcome {
        self.domains
            .iter()
            .try_for_each(|name| Ok(context.toolstack()?.pause(context.find(name)?.domid)?))
    }
}

impl Verb for Unpause {
    fn run(self, context: &Context) -> Outcome {
        self.domains
            .iter()
            .try_for_each(|name| Ok(context.toolstack()?.unpause(context.find(name)?.domid)?))
    }
}
