//! `xl shutdown` and `xl reboot`: a guest is asked, and with `-w` waited for.

use std::time::Duration;

use clap::Parser;
use toolstack::domain::{Button, DomainInfo, Shutdown as Ask};
use toolstack::{DOM0, Error, Toolstack};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table::Verb;

/// How long a guest may take to say that it heard; libxl's figure.
const HEARD_WITHIN: Duration = Duration::from_secs(60);

/// Ask a guest to shut down
#[derive(Debug, Parser)]
pub struct Shutdown {
    #[command(flatten)]
    words: Words,
}

/// Ask a guest to reboot
#[derive(Debug, Parser)]
pub struct Reboot {
    #[command(flatten)]
    words: Words,
}

#[derive(Debug, clap::Args)]
struct Words {
    /// All guests
    #[arg(short, long)]
    all: bool,
    /// Wait until it has ended; twice: until it is destroyed
    #[arg(short, long, action = clap::ArgAction::Count)]
    wait: u8,
    /// Press the power or reset button where the guest has no drivers to hear
    #[arg(short = 'F')]
    fallback: bool,
    /// Domain: name, id or UUID
    domain: Option<String>,
}

impl Verb for Shutdown {
    fn run(self, context: &Context) -> Outcome {
        self.words.run(context, Ask::Poweroff)
    }
}

impl Verb for Reboot {
    fn run(self, context: &Context) -> Outcome {
        self.words.run(context, Ask::Reboot)
    }
}

impl Words {
    fn run(&self, context: &Context, what: Ask) -> Outcome {
        let toolstack = context.toolstack()?;
        let domains = match (&self.domain, self.all) {
            (Some(name), false) => vec![context.find(name)?],
            (None, true) => toolstack
                .list()?
                .into_iter()
                .filter(|domain| domain.domid != DOM0)
                .collect(),
            (Some(_), true) => return Err(Failure::new("xl: either -a or a domain, not both")),
            (None, false) => return Err(Failure::new("You must specify -a or a domain id.")),
        };
        // Before anybody ends, so that no end is missed.
        if self.wait > 0 {
            toolstack.store.watch("@releaseDomain", "wait")?;
        }
        let mut failed = None;
        for domain in domains.iter().filter(|_| self.all) {
            context.note_domain(domain.domid);
        }
        for domain in &domains {
            if let Err(failure) = ask(toolstack, domain, what, self.fallback) {
                // With -a the others are asked all the same.
                output::note(&failure.text);
                failed = Some(Failure {
                    text: String::new(),
                    ..failure
                });
            }
        }
        if let Some(failure) = failed {
            return Err(failure);
        }
        if self.wait > 0 {
            wait(toolstack, &domains, self.wait == 1)
        } else {
            Ok(())
        }
    }
}

fn ask(toolstack: &Toolstack, domain: &DomainInfo, what: Ask, fallback: bool) -> Outcome {
    let (doing, button) = match what {
        Ask::Reboot => ("Rebooting", Button::Reset),
        _ => ("Shutting down", Button::Power),
    };
    output::note(&format!("{doing} domain {}", domain.domid));
    match toolstack.ask(domain.domid, what, HEARD_WITHIN) {
        Ok(()) => Ok(()),
        Err(error) if fallback && matches!(error.root(), Error::Refused(_)) => {
            output::note("PV control interface not available: sending ACPI button event.");
            toolstack
                .press(domain.domid, button, 0)
                .map_err(|error| no_button(domain, &error))
        }
        Err(error) => Err(error.into()),
    }
}

/// Says that the button helped no more than asking did, and what is left to do.
fn no_button(domain: &DomainInfo, error: &Error) -> Failure {
    match error.root() {
        Error::Refused(_) => Failure::new(format!(
            "xl: domain {0} has no buttons either, being PVH: wait until its kernel has loaded its Xen drivers, or end it \
             at once by `xl destroy {0}`",
            domain.domid
        )),
        _ => Failure::new(format!("xl: {}", error.chain())),
    }
}

/// Waits until each of them is gone, or, if that counts, has shut down.
fn wait(toolstack: &Toolstack, domains: &[DomainInfo], shutdown_counts: bool) -> Outcome {
    output::note(&format!("Waiting for {} domains", domains.len()));
    let mut left: Vec<_> = domains.to_vec();
    loop {
        let mut still = Vec::new();
        for domain in left {
            match toolstack.info(domain.domid) {
                // An id may be given anew; the UUID tells.
                Ok(now) if now.uuid == domain.uuid && !now.state.dying => {
                    match now.state.shutdown {
                        Some(reason) if shutdown_counts => output::note(&format!(
                            "Domain {} has been shut down, reason code {reason}",
                            domain.domid
                        )),
                        _ => still.push(domain),
                    }
                }
                Ok(_) => output::note(&format!("Domain {} has been destroyed", domain.domid)),
                Err(error) if matches!(error.root(), Error::NoDomain(_)) => {
                    output::note(&format!("Domain {} has been destroyed", domain.domid));
                }
                Err(error) => return Err(error.into()),
            }
        }
        if still.is_empty() {
            return Ok(());
        }
        left = still;
        // xenstored fires it for a shutdown as well as for a destroyed domain; a look a second covers what it misses.
        let _looked_again = toolstack.store.next_event(Some(Duration::from_secs(1)))?;
    }
}
