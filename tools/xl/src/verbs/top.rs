//! `xl top`: the domains by what they use, live on a terminal, or as xentop's text with `-b`.

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::{ArgAction, Parser};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table::Verb;
use crate::top::{batch, collect::Collector, live};

/// Show what the domains use, live; -b prints xentop's text
#[derive(Debug, Parser)]
pub struct Top {
    /// Print text, one block each time, instead of a live screen
    #[arg(short, long)]
    batch: bool,
    /// Seconds between updates
    #[arg(short, long, default_value_t = 3, value_name = "SECONDS")]
    delay: u64,
    /// Updates before it ends
    #[arg(short, long, value_name = "COUNT")]
    iterations: Option<u64>,
    /// Whole names, however long
    #[arg(short, long)]
    full_name: bool,
    /// Network cards, below each domain
    #[arg(short, long)]
    networks: bool,
    /// Disks, below each domain
    #[arg(short = 'x', long)]
    vbds: bool,
    /// vCPUs, below each domain
    #[arg(short, long)]
    vcpus: bool,
    /// The header again before each domain
    #[arg(short, long)]
    repeat_header: bool,
    /// Domain-0 first
    #[arg(short = 'z', long, action = ArgAction::SetTrue)]
    dom0_first: bool,
}

impl Verb for Top {
    fn run(self, context: &Context) -> Outcome {
        let mut collector = Collector::new(context)?;
        let delay = Duration::from_secs(self.delay);
        if !self.batch && !context.json() && io::stdout().is_terminal() {
            let below = [self.networks, self.vbds, self.vcpus, self.repeat_header];
            if below.contains(&true) {
                return Err(Failure::usage(
                    "xl top: -n, -x, -v and -r are for text: say -b too; the live screen has a line a domain",
                ));
            }
            let options = live::Options {
                delay,
                iterations: self.iterations,
                full_name: self.full_name,
                dom0_first: self.dom0_first,
            };
            return live::run(&mut collector, options);
        }
        let show = batch::Show {
            full_name: self.full_name,
            networks: self.networks,
            vbds: self.vbds,
            vcpus: self.vcpus,
            repeat_header: self.repeat_header,
            dom0_first: self.dom0_first,
        };
        let mut left = self.iterations.unwrap_or(u64::MAX);
        while left > 0 {
            let sample = collector.sample()?;
            if context.json() {
                output::print_json_line("top", &sample)?;
            } else {
                output::print(&batch::text(&sample, show))?;
            }
            left -= 1;
            if left > 0 {
                std::thread::sleep(delay);
            }
        }
        Ok(())
    }
}
