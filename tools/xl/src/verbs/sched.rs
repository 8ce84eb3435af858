//! `xl sched-credit` and `xl sched-credit2`: weights and caps.

use clap::Parser;
use guest_abi::domctl::{XEN_SCHEDULER_CREDIT, XEN_SCHEDULER_CREDIT2};
use serde::Serialize;
use toolstack::domain::DomainInfo;

use super::cpupool_list::{Pool, pools};
use super::list::pool_name;
use crate::context::{Context, shown_name};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table::Verb;

/// Show or set credit's weights and caps
#[derive(Debug, Parser)]
pub struct SchedCredit {
    #[command(flatten)]
    words: Words,
    /// Time slice in milliseconds (cannot be set)
    #[arg(short, long)]
    tslice_ms: Option<u32>,
    /// Migration delay in microseconds (cannot be set)
    #[arg(short = 'm', long)]
    migration_delay_us: Option<u32>,
}

/// Show or set credit2's weights and caps
#[derive(Debug, Parser)]
pub struct SchedCredit2 {
    #[command(flatten)]
    words: Words,
}

#[derive(Debug, clap::Args)]
struct Words {
    /// Domain to show or to set: name, id or UUID
    #[arg(short, long)]
    domain: Option<String>,
    /// Share of CPU time, 1 to 65535; 256 is usual
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    weight: Option<u16>,
    /// Limit in hundredths of a CPU; 0 is none
    #[arg(short, long)]
    cap: Option<u16>,
    /// Only this CPU pool
    #[arg(short = 'p', long)]
    cpupool: Option<String>,
    /// With -s: set the rate limit in microseconds, 100 to 500000; 0 is none
    #[arg(short, long)]
    ratelimit_us: Option<u32>,
    /// Show the scheduler's own parameters
    #[arg(short, long)]
    schedparam: bool,
}

/// One domain's parameters.
#[derive(Clone, Debug, Serialize)]
pub struct Params {
    /// Name.
    pub name: String,
    /// Id.
    pub domid: u16,
    /// Share.
    pub weight: u16,
    /// Limit in hundredths of a CPU; 0 is none.
    pub cap: u16,
}

/// Gives a scheduler's name (`public/domctl.h, XEN_SCHEDULER_*`).
pub fn scheduler_name(id: u32) -> &'static str {
    match id {
        4 => "sedf",
        XEN_SCHEDULER_CREDIT => "credit",
        XEN_SCHEDULER_CREDIT2 => "credit2",
        7 => "arinc653",
        8 => "rtds",
        9 => "null",
        _ => "unknown",
    }
}

impl Verb for SchedCredit {
    fn run(self, context: &Context) -> Outcome {
        if self.tslice_ms.is_some() || self.migration_delay_us.is_some() {
            return Err(Failure::new(
                "xl: credit's own parameters are fixed: setting them is not supported",
            ));
        }
        self.words
            .run(context, "sched-credit", XEN_SCHEDULER_CREDIT)
    }
}

impl Verb for SchedCredit2 {
    fn run(self, context: &Context) -> Outcome {
        self.words
            .run(context, "sched-credit2", XEN_SCHEDULER_CREDIT2)
    }
}

impl Words {
    fn run(&self, context: &Context, verb: &str, scheduler: u32) -> Outcome {
        if let Some(us) = self.ratelimit_us {
            return self.set_ratelimit(context, scheduler, us);
        }
        match (&self.domain, self.weight, self.cap) {
            (None, None, None) => self.show_pools(context, verb, scheduler),
            (None, ..) => Err(Failure::new("Must specify a domain.")),
            (Some(domain), weight, cap) => {
                let domain = context.find(domain)?;
                let now = params(context, &domain, scheduler)?;
                if weight.is_none() && cap.is_none() {
                    return if context.json() {
                        output::print_json(verb, [now])
                    } else {
                        output::print(&text(&[now]))
                    };
                }
                let (weight, cap) = (weight.unwrap_or(now.weight), cap.unwrap_or(now.cap));
                Ok(context
                    .hyper()?
                    .set_sched_params(domain.domid, scheduler, weight, cap)?)
            }
        }
    }

    fn set_ratelimit(&self, context: &Context, scheduler: u32, us: u32) -> Outcome {
        if !self.schedparam {
            return Err(Failure::new(
                "xl: -r is for the scheduler's own parameters: add -s",
            ));
        }
        let all = pools(context, context.nr_cpus()?)?;
        let pool = match &self.cpupool {
            None => all.first(),
            Some(name) => all.iter().find(|pool| pool.name == *name),
        };
        let Some(pool) = pool else {
            let name = self.cpupool.as_deref().unwrap_or_default();
            return Err(Failure::new(format!("unknown cpupool '{name}'")));
        };
        let hyper = context.hyper()?;
        Ok(hyper.set_sched_ratelimit(pool.id, scheduler, us)?)
    }

    /// Shows the pools that this scheduler runs, and their domains.
    fn show_pools(&self, context: &Context, verb: &str, scheduler: u32) -> Outcome {
        let all = pools(context, context.nr_cpus()?)?;
        let is_asked = |pool: &&Pool| {
            pool.scheduler == scheduler
                && self.cpupool.as_ref().is_none_or(|name| *name == pool.name)
        };
        let asked: Vec<_> = all.iter().filter(is_asked).collect();
        if asked.is_empty() {
            let running = all
                .first()
                .map_or("unknown", |pool| scheduler_name(pool.scheduler));
            output::note(&format!(
                "xl {verb}: no such CPU pool runs {}; the scheduler is {running}",
                scheduler_name(scheduler)
            ));
        }
        let domains = if self.schedparam {
            Vec::new()
        } else {
            context.toolstack()?.list()?
        };
        let mut whole = String::new();
        let mut rows = Vec::new();
        for pool in asked {
            whole.push_str(&pool_line(
                pool,
                context.hyper()?.sched_ratelimit(pool.id, scheduler).ok(),
                scheduler,
            ));
            let of_pool = domains
                .iter()
                .filter(|d| pool_name(context, d.cpupool) == pool.name);
            let params = of_pool
                .map(|d| params(context, d, scheduler))
                .collect::<Result<Vec<_>, _>>()?;
            if !self.schedparam {
                whole.push_str(&text(&params));
            }
            rows.extend(params);
        }
        if context.json() {
            output::print_json(verb, rows)
        } else {
            output::print(&whole)
        }
    }
}

fn params(context: &Context, domain: &DomainInfo, scheduler: u32) -> Result<Params, Failure> {
    let (weight, cap) = context.hyper()?.get_sched_params(domain.domid, scheduler)?;
    Ok(Params {
        name: shown_name(domain).to_owned(),
        domid: domain.domid,
        weight,
        cap,
    })
}

/// Gives the line of a pool.
pub fn pool_line(pool: &Pool, ratelimit_us: Option<u32>, scheduler: u32) -> String {
    match ratelimit_us {
        None => format!("Cpupool {}: [sched params unavailable]\n", pool.name),
        Some(us) if scheduler == XEN_SCHEDULER_CREDIT2 => {
            format!("Cpupool {}: ratelimit={us}us\n", pool.name)
        }
        Some(us) => format!(
            "Cpupool {}: tslice=30ms ratelimit={us}us migration-delay=0us\n",
            pool.name
        ),
    }
}

/// Gives the table.
pub fn text(params: &[Params]) -> String {
    let mut text = format!("{:<33} {:>4} {:>6} {:>4}\n", "Name", "ID", "Weight", "Cap");
    for Params {
        name,
        domid,
        weight,
        cap,
    } in params
    {
        text.push_str(&format!("{name:<33} {domid:>4} {weight:>6} {cap:>4}\n"));
    }
    text
}
