//! `xl cpupool-list`: CPU pools; here there is one.

use clap::Parser;
use serde::Serialize;

use super::list::pool_name;
use super::sched::scheduler_name;
use super::vcpu_list::cpus;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table::Verb;

/// Show the CPU pools
#[derive(Debug, Parser)]
pub struct CpupoolList {
    /// Show the CPUs of each
    #[arg(short, long = "cpus")]
    cpus: bool,
    /// Only this pool
    pool: Option<String>,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its scheduler's number.
    pub scheduler: u32,
    /// Domains in it.
    pub domains: u32,
    /// Its CPUs, bit by bit.
    pub cpus: Vec<u8>,
}

impl Verb for CpupoolList {
    fn run(self, context: &Context) -> Outcome {
        let nr_cpus = context.nr_cpus()?;
        let mut pools = pools(context, nr_cpus)?;
        if let Some(name) = &self.pool {
            pools.retain(|pool| pool.name == *name || pool.id.to_string() == *name);
            if pools.is_empty() {
                return Err(Failure::new(format!("Pool '{name}' does not exist")));
            }
        }
        if context.json() {
            return output::print_json(
                "cpupool-list",
                pools
                    .iter()
                    .map(|p| Json::new(p, nr_cpus))
                    .collect::<Vec<_>>(),
            );
        }
        output::print(&text(&pools, nr_cpus, self.cpus))
    }
}

/// Asks for all pools.
///
/// # Errors
/// The hypervisor's.
pub fn pools(context: &Context, nr_cpus: u32) -> Result<Vec<Pool>, Failure> {
    let hyper = context.hyper()?;
    let mut pools = Vec::new();
    let mut next = 0;
    while let Some(pool) = hyper.cpu_pool(next, nr_cpus)? {
        // Xen answers with the first pool whose number is at least the one asked for.
        let Some(after) = pool.id.checked_add(1).filter(|after| *after > next) else {
            break;
        };
        next = after;
        pools.push(Pool {
            id: pool.id,
            name: pool_name(context, pool.id),
            scheduler: pool.scheduler,
            domains: pool.domains,
            cpus: pool.cpus,
        });
    }
    Ok(pools)
}

/// Gives the table; with `list` the CPUs themselves.
pub fn text(pools: &[Pool], nr_cpus: u32, list: bool) -> String {
    let head = if list {
        "CPU list"
    } else {
        "CPUs   Sched     Active   Domain count"
    };
    let mut text = format!("{:<19}{head}\n", "Name");
    for pool in pools {
        let cpus = cpus(&pool.cpus, nr_cpus);
        let rest = if list {
            cpus.iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(",")
        } else {
            let scheduler = scheduler_name(pool.scheduler);
            format!(
                "{:>3} {scheduler:>9}       y       {:>4}",
                cpus.len(),
                pool.domains
            )
        };
        text.push_str(&format!("{:<19}{rest}\n", pool.name));
    }
    text
}

#[derive(Serialize)]
struct Json<'a> {
    id: u32,
    name: &'a str,
    scheduler: &'static str,
    domains: u32,
    cpus: Vec<u32>,
}

impl<'a> Json<'a> {
    fn new(pool: &'a Pool, nr_cpus: u32) -> Self {
        Self {
            id: pool.id,
            name: &pool.name,
            scheduler: scheduler_name(pool.scheduler),
            domains: pool.domains,
            cpus: cpus(&pool.cpus, nr_cpus),
        }
    }
}
