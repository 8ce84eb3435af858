//! `xl claims`: memory that is promised and not yet given.

use clap::Parser;
use serde::Serialize;

use super::list::{self, Columns};
use crate::context::Context;
use crate::failure::Outcome;
use crate::output;
use crate::table::Verb;

/// Show the memory that is claimed for domains
#[derive(Debug, Parser)]
pub struct Claims {}

#[derive(Serialize)]
struct Claim<'a> {
    domid: u16,
    name: Option<&'a str>,
    claimed_kib: u64,
}

impl Verb for Claims {
    fn run(self, context: &Context) -> Outcome {
        let domains = context.toolstack()?.list()?;
        if context.json() {
            let claims: Vec<_> = domains
                .iter()
                .map(|d| Claim {
                    domid: d.domid,
                    name: d.name.as_deref(),
                    claimed_kib: d.outstanding_pages.saturating_mul(4),
                })
                .collect();
            return output::print_json("claims", claims);
        }
        output::print(&list::text(
            &domains,
            Columns {
                claim: true,
                ..Columns::default()
            },
            |_| String::new(),
        ))
    }
}
