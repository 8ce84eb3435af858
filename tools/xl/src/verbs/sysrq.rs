//! `xl sysrq`: a magic SysRq key for a Linux guest.

use clap::Parser;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::table::Verb;

/// Send a magic SysRq key to a guest
#[derive(Debug, Parser)]
pub struct Sysrq {
    /// Domain: name, id or UUID
    domain: String,
    /// One letter, as in s or h
    key: String,
}

impl Verb for Sysrq {
    fn run(self, context: &Context) -> Outcome {
        let domain = context.find(&self.domain)?;
        let mut letters = self.key.chars();
        match (letters.next(), letters.next()) {
            (Some(key), None) => Ok(context.toolstack()?.sysrq(domain.domid, key)?),
            _ => Err(Failure::new("Invalid sysrq.")),
        }
    }
}
