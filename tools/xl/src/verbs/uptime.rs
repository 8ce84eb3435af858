//! `xl uptime`: for how long each domain has been there.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use serde::Serialize;
use toolstack::DOM0;
use toolstack::domain::DomainInfo;
use xenstore::Ops;

use crate::context::{Context, shown_name};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table::Verb;

/// Show for how long domains have been there
#[derive(Debug, Parser)]
pub struct Uptime {
    /// Show one short line each, with the time of day (UTC)
    #[arg(short)]
    short: bool,
    /// Only these domains
    domains: Vec<String>,
}

/// One domain's time.
#[derive(Clone, Debug, Serialize)]
pub struct Up {
    /// Name.
    pub name: String,
    /// Id.
    pub domid: u16,
    /// Seconds since it was created.
    pub seconds: u64,
}

impl Verb for Uptime {
    fn run(self, context: &Context) -> Outcome {
        let domains = context.named_or_all(&self.domains)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut ups = Vec::new();
        for domain in &domains {
            if let Some(seconds) = seconds(context, domain, now)? {
                ups.push(Up {
                    name: shown_name(domain).to_owned(),
                    domid: domain.domid,
                    seconds,
                });
            }
        }
        if context.json() {
            return output::print_json("uptime", &ups);
        }
        output::print(&if self.short {
            short_text(&ups, now)
        } else {
            text(&ups)
        })
    }
}

/// Gives seconds: dom0's are its kernel's, a guest's count from its creation.
fn seconds(context: &Context, domain: &DomainInfo, now: u64) -> Result<Option<u64>, Failure> {
    let whole = |text: &str| {
        text.split(['.', ' '])
            .next()
            .and_then(|s| s.trim().parse::<u64>().ok())
    };
    if domain.domid == DOM0 {
        return Ok(whole(&std::fs::read_to_string("/proc/uptime")?));
    }
    let store = &context.toolstack()?.store;
    let start = store.read_string_opt(&format!("/vm/{}/start_time", domain.uuid))?;
    Ok(start
        .as_deref()
        .and_then(whole)
        .map(|start| now.saturating_sub(start)))
}

/// Gives the table.
pub fn text(ups: &[Up]) -> String {
    let mut text = format!("{:<33} {:>4} {}\n", "Name", "ID", "Uptime");
    for up in ups {
        text.push_str(&format!(
            "{:<33} {:>4} {}\n",
            up.name,
            up.domid,
            duration(up.seconds, true)
        ));
    }
    text
}

fn short_text(ups: &[Up], now: u64) -> String {
    let of_day = now % 86_400;
    let clock = format!(
        "{:02}:{:02}:{:02}",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    );
    ups.iter()
        .map(|up| {
            format!(
                " {clock} up {}, {} ({})\n",
                duration(up.seconds, false),
                up.name,
                up.domid
            )
        })
        .collect()
}

/// Spells `[N day[s], ]HH:MM[:SS]`.
pub fn duration(seconds: u64, with_seconds: bool) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let days = match days {
        0 => String::new(),
        1 => "1 day, ".to_owned(),
        _ => format!("{days} days, "),
    };
    let rest = if with_seconds {
        format!(":{:02}", seconds % 60)
    } else {
        String::new()
    };
    format!("{days}{hours:>2}:{minutes:02}{rest}")
}
