//! `xl sharing`: what guests share with each other, which is nothing here.

use clap::Parser;
use serde::Serialize;
use toolstack::domain::DomainInfo;

use super::list::mib;
use crate::context::{Context, shown_name};
use crate::failure::Outcome;
use crate::output;
use crate::table::Verb;

/// Show how much memory the domains share: none, since no pages are shared here
#[derive(Debug, Parser)]
pub struct Sharing {
    /// Only this domain: name, id or UUID
    domain: Option<String>,
}

#[derive(Serialize)]
struct Json<'a> {
    domid: u16,
    name: Option<&'a str>,
    shared_kib: u64,
}

impl Verb for Sharing {
    fn run(self, context: &Context) -> Outcome {
        let domains = match &self.domain {
            Some(name) => vec![context.find(name)?],
            None => context.toolstack()?.list()?,
        };
        if context.json() {
            let shared = domains.iter().map(|domain| Json {
                domid: domain.domid,
                name: domain.name.as_deref(),
                shared_kib: 0,
            });
            return output::print_json("sharing", shared.collect::<Vec<_>>());
        }
        output::print(&text(&domains))
    }
}

/// Gives the table.
pub fn text(domains: &[DomainInfo]) -> String {
    let mut text = String::from("Name                                        ID   Mem Shared\n");
    for domain in domains {
        text.push_str(&format!(
            "{:<40} {:>5} {:>5}  {:>5}\n",
            shown_name(domain),
            domain.domid,
            mib(domain.tot_pages + domain.outstanding_pages),
            0,
        ));
    }
    text
}
