//! `xl config-update`: what a domain is built from at its next reboot.

use std::ffi::OsString;

use clap::Parser;

use crate::config_file::{ConfigWords, make_absolute};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table::Verb;

/// Replace the configuration that a domain is built from at its next reboot
#[derive(Debug, Parser)]
pub struct ConfigUpdate {
    /// Print no messages, not even warnings; errors are told
    #[arg(short, long)]
    quiet: bool,
    /// Print the configuration as JSON
    #[arg(short)]
    debug: bool,
    /// Configuration's file
    #[arg(short = 'f', long = "defconfig", value_name = "FILE")]
    defconfig: Option<OsString>,
    /// Domain: name, id or UUID
    domain: String,
    /// File, and KEY="VALUE" that are appended to its text
    words: Vec<OsString>,
}

impl Verb for ConfigUpdate {
    fn run(self, context: &Context) -> Outcome {
        let domain = context.find(&self.domain)?;
        let words = ConfigWords::new(self.defconfig, self.words)?;
        let mut config = words.read(self.quiet, context.host_telling(self.quiet)?)?;
        if self.debug || context.globals.dry_run {
            output::print(&toolstack::config::domain_json(
                &config,
                None,
                context.nr_cpus_or_here(),
            ))?;
        }
        if context.globals.dry_run {
            return Ok(());
        }
        make_absolute(&mut config)?;
        let toolstack = context.toolstack()?;
        let held = context.lock()?;
        let Some(present) = toolstack.kept_config(domain.domid)? else {
            return Err(Failure::new(format!(
                "xl config-update: domain {} has no configuration here",
                domain.domid
            )));
        };
        // The file is kept under the UUID, and the name is xenstore's.
        config.uuid = present.uuid;
        config.name = present.name;
        for (vif, old) in config.vifs.iter_mut().zip(&present.vifs) {
            vif.mac = vif.mac.or(old.mac);
        }
        toolstack.keep_config(&held, domain.domid, &config)?;
        output::note(&format!("setting dom{} configuration", domain.domid));
        Ok(())
    }
}
