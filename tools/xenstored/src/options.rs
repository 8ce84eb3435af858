//! The command line. Letters and names of limits are those of Xen's xenstored.

use std::path::PathBuf;

use clap::Parser;

use crate::quota::{Limit, Quotas};

/// The XenStore daemon: the tree of small strings in which toolstack, backends and guests meet.
///
/// It listens at /run/xenstored/socket for local clients, and serves dom0's kernel and each introduced guest over
/// their rings. Its state is kept in a journal, so that it can be killed and started again without a guest noticing;
/// local clients have to connect again.
#[derive(Clone, Debug, Parser)]
#[command(version, disable_version_flag = true, after_help = AFTER_HELP)]
pub(crate) struct Options {
    /// Go to the background once requests are served
    #[arg(short = 'D', long)]
    pub(crate) daemon: bool,
    /// Stay in the foreground (the default)
    #[arg(short = 'N', long, conflicts_with = "daemon")]
    no_fork: bool,
    /// Write the process id to FILE once requests are served
    #[arg(short = 'F', long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Listen at PATH only [default: /run/xenstored/socket and /var/run/xenstored/socket]
    #[arg(long, value_name = "PATH", env = "XENSTORED_PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Keep the journal in DIR
    #[arg(long, value_name = "DIR", default_value = "/run/xenstored")]
    pub(crate) state_dir: PathBuf,
    /// Keep no journal: when the daemon ends, guests lose xenstore
    #[arg(long)]
    pub(crate) no_journal: bool,
    /// Forget the journal of a former run
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Serve local clients only: no dom0 kernel, no guests, no /dev/xen
    #[arg(long)]
    pub(crate) no_domain_init: bool,
    /// Log to FILE [default: stderr; syslog with --daemon]
    #[arg(short = 'T', long, visible_alias = "trace-file", value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
    /// Log to syslog
    #[arg(long, conflicts_with = "log_file")]
    pub(crate) syslog: bool,
    /// Say more: -V debug, -VV trace
    #[arg(short = 'V', long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Print the version
    #[arg(long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Nodes that a guest may own
    #[arg(
        short = 'E',
        long,
        value_name = "N",
        help_heading = "Limits of each guest"
    )]
    entry_nb: Option<usize>,
    /// Bytes of a node's value and permissions
    #[arg(
        short = 'S',
        long,
        value_name = "N",
        help_heading = "Limits of each guest"
    )]
    entry_size: Option<usize>,
    /// Watches that a guest may have
    #[arg(
        short = 'W',
        long,
        value_name = "N",
        help_heading = "Limits of each guest"
    )]
    watch_nb: Option<usize>,
    /// Transactions that a guest may have under way
    #[arg(
        short = 't',
        long,
        value_name = "N",
        help_heading = "Limits of each guest"
    )]
    transaction: Option<usize>,
    /// Permissions of a node
    #[arg(
        short = 'A',
        long,
        value_name = "N",
        help_heading = "Limits of each guest"
    )]
    perm_nb: Option<usize>,
    /// Bytes of a path, not counting /local/domain/DOMID/ (at most 2048)
    #[arg(
        short = 'M',
        long,
        value_name = "N",
        help_heading = "Limits of each guest"
    )]
    path_max: Option<usize>,
    /// Any limit by name, such as memory=4194304; repeatable
    #[arg(short = 'Q', long, value_name = "NAME=N", value_parser = quota, help_heading = "Limits of each guest")]
    quota: Vec<(Limit, usize)>,
}

const AFTER_HELP: &str = "\
Limits, their defaults and what uses them up are shown and changed while the daemon runs:
  xenstore-control quota                  all limits
  xenstore-control quota 3                what domain 3 uses
  xenstore-control quota set nodes 2000   changes one
Every refusal is logged with the domain and the limit.";

impl Options {
    /// Returns the limits in force.
    pub(crate) fn quotas(&self) -> Quotas {
        let mut quotas = Quotas::default();
        for (limit, value) in [
            (Limit::Nodes, self.entry_nb),
            (Limit::NodeSize, self.entry_size),
            (Limit::Watches, self.watch_nb),
            (Limit::Transactions, self.transaction),
            (Limit::Permissions, self.perm_nb),
            (Limit::PathMax, self.path_max),
        ] {
            if let Some(value) = value {
                quotas.set(limit, value);
            }
        }
        for (limit, value) in &self.quota {
            quotas.set(*limit, *value);
        }
        let path_max = quotas.get(Limit::PathMax);
        quotas.set(Limit::PathMax, path_max.min(2048));
        quotas
    }

    /// Returns where to listen.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        match &self.socket {
            Some(path) => vec![path.clone()],
            None => xenstore::SOCKETS.iter().map(PathBuf::from).collect(),
        }
    }
}

fn quota(text: &str) -> Result<(Limit, usize), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=N is expected")?;
    let limit = Limit::from_name(name).ok_or_else(|| {
        let defaults = Quotas::default();
        let names: Vec<_> = defaults.iter().map(|(name, ..)| name).collect();
        format!("no limit \"{name}\"; there are {}", names.join(", "))
    })?;
    let value = value.parse().map_err(|_| "N is a number")?;
    Ok((limit, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }

    #[test]
    fn limits_are_set_by_letter_and_by_name() {
        let options = Options::parse_from(["xenstored", "-E", "5", "-Q", "memory=7", "-M", "9999"]);
        let quotas = options.quotas();
        assert_eq!(quotas.get(Limit::Nodes), 5);
        assert_eq!(quotas.get(Limit::Memory), 7);
        assert_eq!(quotas.get(Limit::PathMax), 2048);
        assert!(Options::try_parse_from(["xenstored", "-Q", "what=1"]).is_err());
    }
}
