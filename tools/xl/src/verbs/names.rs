//! `xl domid`, `xl domname`, `xl rename`.

use clap::Parser;

use crate::context::{Context, shown_name};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table::Verb;

/// Show a domain's id
#[derive(Debug, Parser)]
pub struct Domid {
    /// Domain: name, id or UUID
    domain: String,
}

/// Show a domain's name
#[derive(Debug, Parser)]
pub struct Domname {
    /// Domain's id
    domid: String,
}

/// Give a domain another name
#[derive(Debug, Parser)]
pub struct Rename {
    /// Domain: name, id or UUID
    domain: String,
    /// Its new name
    name: String,
}

impl Verb for Domid {
    fn run(self, context: &Context) -> Outcome {
        let missing = |_| {
            Failure::new(format!(
                "Can't get domid of domain name '{}', maybe this domain does not exist.",
                self.domain
            ))
        };
        let domid = context
            .find(&self.domain)
            .map_err(|e| {
                if e.text.starts_with("xl:") {
                    e
                } else {
                    missing(e)
                }
            })?
            .domid;
        if context.json() {
            output::print_json("domid", domid)
        } else {
            output::print(&format!("{domid}\n"))
        }
    }
}

impl Verb for Domname {
    fn run(self, context: &Context) -> Outcome {
        if self.domid.parse::<u16>().is_err() {
            return Err(Failure::new("Invalid domain id."));
        }
        let missing = || {
            Failure::new(format!(
                "Can't get domain name of domain id '{}', maybe this domain does not exist.",
                self.domid
            ))
        };
        let domain = context.find(&self.domid).map_err(|e| {
            if e.text.starts_with("xl:") {
                e
            } else {
                missing()
            }
        })?;
        if domain.name.is_none() {
            return Err(missing());
        }
        let name = shown_name(&domain);
        if context.json() {
            output::print_json("domname", name)
        } else {
            output::print(&format!("{name}\n"))
        }
    }
}

impl Verb for Rename {
    fn run(self, context: &Context) -> Outcome {
        let domain = context.find(&self.domain)?;
        let held = context.lock()?;
        Ok(context
            .toolstack()?
            .rename(&held, domain.domid, &self.name)?)
    }
}
