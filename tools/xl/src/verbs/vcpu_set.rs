//! `xl vcpu-set`: how many of its vCPUs a guest should use.

use clap::Parser;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::table::Verb;

/// Ask a guest to use so many of its vCPUs
#[derive(Debug, Parser)]
pub struct VcpuSet {
    /// Allow more vCPUs than the host has CPUs
    #[arg(short, long)]
    ignore_host: bool,
    /// Domain: name, id or UUID
    domain: String,
    /// vCPUs
    count: u32,
}

impl Verb for VcpuSet {
    fn run(self, context: &Context) -> Outcome {
        let domain = context.find(&self.domain)?;
        let cpus = context.nr_cpus()?;
        if !self.ignore_host && self.count > domain.online_vcpus && self.count > cpus {
            return Err(Failure::new(format!(
                "xl: {} vCPUs are more than the host's {cpus} CPU(s); --ignore-host allows it",
                self.count
            )));
        }
        Ok(context.toolstack()?.set_vcpus(domain.domid, self.count)?)
    }
}
