//! `xl list`: domains, their memory and their states. Ganeti, Pacemaker and many scripts cut up its columns.

use std::fmt::Write as _;

use clap::Parser;
use serde::Serialize;
use toolstack::config::{self, DomainConfig, ListedDomain, Running};
use toolstack::domain::DomainInfo;
use toolstack::{DOM0, Error, Toolstack};

use super::sched::scheduler_name;
use crate::context::{Context, shown_name};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table::Verb;

/// Show the domains: memory in MiB, states r(unning) b(locked) p(aused) s(hut down), reason, d(ying)
#[derive(Debug, Parser)]
pub struct List {
    /// Show all that is known of each domain, as JSON in libxl's form
    #[arg(short, long)]
    long: bool,
    /// Show UUIDs, reasons of shutdowns and security labels
    #[arg(short, long)]
    verbose: bool,
    /// Show security labels
    #[arg(short = 'Z', long)]
    context: bool,
    /// Show CPU pools
    #[arg(short, long)]
    cpupool: bool,
    /// Show NUMA nodes
    #[arg(short, long)]
    numa: bool,
    /// Only this domain: name, id or UUID
    domain: Option<String>,
}

/// Columns that are shown only when asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Columns {
    /// UUID and reason.
    pub verbose: bool,
    /// Security label.
    pub context: bool,
    /// Memory claimed.
    pub claim: bool,
    /// CPU pool.
    pub cpupool: bool,
    /// NUMA nodes.
    pub numa: bool,
}

impl Verb for List {
    fn run(self, context: &Context) -> Outcome {
        let domains = match &self.domain {
            Some(name) => vec![context.find(name)?],
            None => context.toolstack()?.list()?,
        };
        if context.json() {
            return output::print_json(
                "list",
                domains.iter().map(JsonDomain::new).collect::<Vec<_>>(),
            );
        }
        if self.long {
            return output::print(&long(context.toolstack()?, &domains)?);
        }
        let columns = Columns {
            verbose: self.verbose,
            context: self.context,
            claim: false,
            cpupool: self.cpupool,
            numa: self.numa,
        };
        output::print(&text(&domains, columns, |pool| pool_name(context, pool)))
    }
}

/// Gives a pool's name.
pub fn pool_name(context: &Context, pool: u32) -> String {
    use xenstore::Ops;
    let node = format!("/local/pool/{pool}/name");
    let name = context
        .toolstack()
        .ok()
        .and_then(|ts| ts.store.read_string_opt(&node).ok().flatten());
    name.unwrap_or_else(|| format!("Pool-{pool}"))
}

/// Gives the table.
pub fn text(domains: &[DomainInfo], columns: Columns, pool_name: impl Fn(u32) -> String) -> String {
    let mut text =
        String::from("Name                                        ID   Mem VCPUs\tState\tTime(s)");
    if columns.verbose {
        text.push_str("   UUID                            Reason-Code\tSecurity Label");
    }
    if columns.context && !columns.verbose {
        text.push_str("   Security Label");
    }
    if columns.claim {
        text.push_str("  Claimed");
    }
    if columns.cpupool {
        text.push_str("         Cpupool");
    }
    if columns.numa {
        text.push_str(" NODE Affinity");
    }
    text.push('\n');
    for domain in domains {
        row(&mut text, domain, columns, &pool_name);
    }
    text
}

fn row(
    text: &mut String,
    domain: &DomainInfo,
    columns: Columns,
    pool_name: impl Fn(u32) -> String,
) {
    let mut put =
        |part: std::fmt::Arguments<'_>| text.write_fmt(part).expect("a String takes all text");
    put(format_args!(
        "{:<40} {:>5} {:>5} {:>5}     {}  {}",
        shown_name(domain),
        domain.domid,
        mib(domain.tot_pages + domain.outstanding_pages),
        domain.online_vcpus,
        state_letters(domain),
        tenths(domain.cpu_time_ns, 8),
    ));
    if columns.verbose {
        put(format_args!(" {}", domain.uuid));
        match domain.state.shutdown {
            Some(reason) => put(format_args!(" {reason:>8x}")),
            None => put(format_args!(" {:>8}", "-")),
        }
    }
    if columns.claim {
        put(format_args!(" {:>5}", mib(domain.outstanding_pages)));
    }
    if columns.verbose || columns.context {
        put(format_args!(" {:>16}", "-"));
    }
    if columns.cpupool {
        put(format_args!("{:>16}", pool_name(domain.cpupool)));
    }
    if columns.numa {
        put(format_args!(" all"));
    }
    put(format_args!("\n"));
}

/// Gives pages as whole MiB.
pub fn mib(pages: u64) -> u64 {
    pages >> 8
}

/// Gives nanoseconds as seconds with one decimal, right-aligned in `width`, rounded as C's `%.1f` of a `float` nearly
/// is.
pub fn tenths(ns: u64, width: usize) -> String {
    #[expect(
        clippy::cast_precision_loss,
        reason = "one decimal of seconds is shown"
    )]
    let seconds = ns as f64 / 1e9;
    format!("{seconds:>width$.1}")
}

/// Gives the six letters: r b p s, reason, d.
pub fn state_letters(domain: &DomainInfo) -> String {
    let state = domain.state;
    let flag = |is: bool, letter| if is { letter } else { '-' };
    // The reason's letters by its number: power-off has none.
    let reason = state.shutdown.map_or('-', |reason| {
        b"-rscwS"
            .get(usize::from(reason))
            .map_or('?', |c| char::from(*c))
    });
    [
        flag(state.running, 'r'),
        flag(state.blocked, 'b'),
        flag(state.paused, 'p'),
        flag(state.shutdown.is_some(), 's'),
        reason,
        flag(state.dying, 'd'),
    ]
    .iter()
    .collect()
}

/// One domain as `--json` shows it.
#[derive(Serialize)]
struct JsonDomain<'a> {
    domid: u16,
    name: Option<&'a str>,
    uuid: String,
    memory_kib: u64,
    max_memory_kib: u64,
    claimed_kib: u64,
    vcpus: u32,
    max_vcpus: u32,
    state: JsonState,
    cpu_time_ns: u64,
    cpupool: u32,
}

#[derive(Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "the states are independent")]
struct JsonState {
    running: bool,
    blocked: bool,
    paused: bool,
    shutdown: bool,
    shutdown_reason: Option<u8>,
    shutdown_reason_name: Option<&'static str>,
    dying: bool,
}

/// Gives a shutdown's reason as libxl calls it.
fn reason_name(reason: u8) -> &'static str {
    const NAMES: [&str; 6] = [
        "poweroff",
        "reboot",
        "suspend",
        "crash",
        "watchdog",
        "soft_reset",
    ];
    NAMES.get(usize::from(reason)).copied().unwrap_or("unknown")
}

impl<'a> JsonDomain<'a> {
    fn new(domain: &'a DomainInfo) -> Self {
        Self {
            domid: domain.domid,
            name: domain.name.as_deref(),
            uuid: domain.uuid.to_string(),
            memory_kib: domain.tot_pages.saturating_mul(4),
            max_memory_kib: domain.max_pages.saturating_mul(4),
            claimed_kib: domain.outstanding_pages.saturating_mul(4),
            vcpus: domain.online_vcpus,
            max_vcpus: domain.max_vcpu_id + 1,
            state: JsonState {
                running: domain.state.running,
                blocked: domain.state.blocked,
                paused: domain.state.paused,
                shutdown: domain.state.shutdown.is_some(),
                shutdown_reason: domain.state.shutdown,
                shutdown_reason_name: domain.state.shutdown.map(reason_name),
                dying: domain.state.dying,
            },
            cpu_time_ns: domain.cpu_time_ns,
            cpupool: domain.cpupool,
        }
    }
}

/// `None` of a domain that ended since it was listed: that is no failure of the others.
fn unless_gone<T>(result: toolstack::Result<T>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.root(), Error::NoDomain(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives `list -l`'s text: for each domain what it was created from, with what has changed since.
fn long(toolstack: &Toolstack, domains: &[DomainInfo]) -> Result<String, Failure> {
    let scheduler = toolstack.hyper.scheduler()?;
    let nr_cpus = toolstack.hyper.physinfo()?.max_cpu_id + 1;
    let mut found: Vec<(&DomainInfo, Option<DomainConfig>)> = Vec::new();
    for domain in domains {
        let config = match domain.domid {
            DOM0 => Some(None),
            domid => unless_gone(toolstack.kept_config(domid))?,
        };
        found.extend(config.map(|config| (domain, config)));
    }
    let mut listed = Vec::new();
    for (domain, config) in &found {
        let (weight, cap) = toolstack
            .hyper
            .get_sched_params(domain.domid, scheduler)
            .unwrap_or((256, 0));
        let now_kib = domain.tot_pages.saturating_mul(4);
        let target_kib = toolstack.memory_target(domain.domid)?.unwrap_or(now_kib);
        let max_kib = config
            .as_ref()
            .map_or(target_kib, |config| config.max_memory_kib.max(target_kib));
        let now = Running {
            name: shown_name(domain),
            scheduler: scheduler_name(scheduler),
            weight: weight.into(),
            cap: cap.into(),
            target_kib,
            max_kib,
        };
        listed.push(ListedDomain {
            domid: domain.domid,
            config: config.as_ref(),
            now,
        });
    }
    Ok(config::list_json(&listed, nr_cpus))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_that_ended_meanwhile_is_left_out() {
        assert_eq!(unless_gone(Ok(7)).unwrap(), Some(7));
        let gone = Err::<u8, _>(Error::NoDomain("7".into()));
        assert_eq!(unless_gone(gone).unwrap(), None);
        let refused = Err::<u8, _>(Error::Refused("no".into()));
        assert!(unless_gone(refused).is_err());
    }
}
