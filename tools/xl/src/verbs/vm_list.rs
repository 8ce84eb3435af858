//! `xl vm-list`: UUIDs, ids and names.

use clap::Parser;
use serde::Serialize;
use toolstack::domain::DomainInfo;

use crate::context::{Context, shown_name};
use crate::failure::Outcome;
use crate::output;
use crate::table::Verb;

/// Show the UUIDs, ids and names of all domains
#[derive(Debug, Parser)]
pub struct VmList {}

#[derive(Serialize)]
struct Vm<'a> {
    uuid: String,
    domid: u16,
    name: Option<&'a str>,
}

impl Verb for VmList {
    fn run(self, context: &Context) -> Outcome {
        let domains = context.toolstack()?.list()?;
        if context.json() {
            let vm = |d| {
                let d: &DomainInfo = d;
                Vm {
                    uuid: d.uuid.to_string(),
                    domid: d.domid,
                    name: d.name.as_deref(),
                }
            };
            return output::print_json("vm-list", domains.iter().map(vm).collect::<Vec<_>>());
        }
        output::print(&text(&domains))
    }
}

/// Gives the table.
pub fn text(domains: &[DomainInfo]) -> String {
    let mut text = String::from("UUID                                  ID    name\n");
    for domain in domains {
        text.push_str(&format!(
            "{}  {}    {:<30}\n",
            domain.uuid,
            domain.domid,
            shown_name(domain)
        ));
    }
    text
}
