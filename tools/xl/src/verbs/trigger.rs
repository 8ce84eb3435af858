//! `xl trigger`: buttons and lines of a domain's machine.

use clap::Parser;
use toolstack::domain::Button;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::table::Verb;

/// Send a trigger to a domain: nmi, reset, init, power, sleep
#[derive(Debug, Parser)]
pub struct Trigger {
    /// Domain: name, id or UUID
    domain: String,
    /// nmi, reset, init, power or sleep
    trigger: String,
    /// vCPU that gets it
    vcpu: Option<String>,
}

impl Verb for Trigger {
    fn run(self, context: &Context) -> Outcome {
        let domain = context.find(&self.domain)?;
        let button = match self.trigger.as_str() {
            "nmi" => Button::Nmi,
            "reset" => Button::Reset,
            "init" => Button::Init,
            "power" => Button::Power,
            "sleep" => Button::Sleep,
            "s3resume" => {
                return Err(Failure::new(
                    "xl trigger: s3resume is not supported: guests do not sleep",
                ));
            }
            other => return Err(Failure::new(format!("Invalid trigger \"{other}\""))),
        };
        let vcpu = match self.vcpu.as_deref().map(str::parse) {
            None => 0,
            Some(Ok(vcpu)) => vcpu,
            Some(Err(_)) => return Err(Failure::new("xl trigger: the vCPU is a number")),
        };
        Ok(context.toolstack()?.press(domain.domid, button, vcpu)?)
    }
}
