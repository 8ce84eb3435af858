//! The command line. Letters, defaults and names of limits are those of Xen's xenstored; what it has and we have not is
//! refused by name.

use std::{io, path::PathBuf, time::Duration};

use clap::Parser;

use crate::quota::{Limit, Quotas};

/// The XenStore daemon: the tree of small strings in which toolstack, backends and guests meet.
///
/// It listens at /run/xenstored/socket for local clients, and serves dom0's kernel and each introduced guest over
/// their rings. Its state is kept in a journal, so that it can be killed and started again without a guest noticing;
/// local clients have to connect again.
///
/// It goes to the background once requests are served. SIGHUP has it open its log anew; SIGUSR1 and SIGUSR2 have it log
/// what each domain uses.
#[derive(Clone, Debug, Parser)]
#[command(version, disable_version_flag = true, disable_help_flag = true, after_help = AFTER_HELP)]
pub(crate) struct Options {
    /// Print this help
    #[arg(short = 'H', long, short_alias = 'h', action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Serve local clients only: no dom0 kernel, no guests, no /dev/xen
    #[arg(short = 'D', long)]
    pub(crate) no_domain_init: bool,
    /// Stay in the foreground
    #[arg(short = 'N', long)]
    pub(crate) no_fork: bool,
    /// Write the process id to FILE once requests are served
    #[arg(short = 'F', long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Print the process id once requests are served
    #[arg(short = 'P', long)]
    pub(crate) output_pid: bool,
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
    /// Do not start from a journal that is damaged
    #[arg(short = 'R', long)]
    pub(crate) no_recovery: bool,
    /// Log to FILE [default: syslog; stderr with --no-fork]
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
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    foreign: Foreign,
}

/// What each guest may have.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Limits of each guest")]
struct Limits {
    /// Nodes that a guest may own
    #[arg(short = 'E', long, value_name = "N")]
    entry_nb: Option<usize>,
    /// Bytes of a node's value and permissions
    #[arg(short = 'S', long, value_name = "N")]
    entry_size: Option<usize>,
    /// Watches that a guest may have
    #[arg(short = 'W', long, value_name = "N")]
    watch_nb: Option<usize>,
    /// Transactions that a guest may have under way
    #[arg(short = 't', long, value_name = "N")]
    transaction: Option<usize>,
    /// Permissions of a node
    #[arg(short = 'A', long, value_name = "N")]
    perm_nb: Option<usize>,
    /// Bytes of a path, not counting /local/domain/DOMID/ (at most 2048)
    #[arg(short = 'M', long, value_name = "N")]
    path_max: Option<usize>,
    /// Any limit by name, such as memory=4194304; repeatable
    #[arg(short = 'Q', long, value_name = "NAME=N", value_parser = quota)]
    quota: Vec<(Limit, usize)>,
    /// Log a warning once a guest is above memory=N; the only soft limit
    #[arg(short = 'q', long, value_name = "NAME=N", value_parser = soft_quota)]
    quota_soft: Option<usize>,
    /// How long unread events count against who caused them: watch-event=SECONDS [default: 20; 0: for ever]
    #[arg(short = 'w', long, value_name = "NAME=SECONDS", value_parser = timeout)]
    timeout: Option<u32>,
}

/// Options of Xen's that we have only one value of, or none.
#[derive(Clone, Debug, clap::Args)]
struct Foreign {
    #[arg(short = 'I', long, hide = true, num_args = 0..=1, value_parser = ["on", "off"])]
    internal_db: Option<Option<String>>,
    #[arg(short = 'K', long, hide = true)]
    keep_orphans: bool,
    #[arg(short = 'e', long, hide = true)]
    event: Option<u32>,
    #[arg(short = 'm', long, hide = true)]
    master_domid: Option<u16>,
    #[arg(short = 'p', long, hide = true)]
    priv_domid: Option<u16>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    trace_control: Option<String>,
    #[arg(short = 'U', long, hide = true)]
    live_update: bool,
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
            (Limit::Nodes, self.limits.entry_nb),
            (Limit::NodeSize, self.limits.entry_size),
            (Limit::Watches, self.limits.watch_nb),
            (Limit::Transactions, self.limits.transaction),
            (Limit::Permissions, self.limits.perm_nb),
            (Limit::PathMax, self.limits.path_max),
        ] {
            if let Some(value) = value {
                quotas.set(limit, value);
            }
        }
        for (limit, value) in &self.limits.quota {
            quotas.set(*limit, *value);
        }
        let path_max = quotas.get(Limit::PathMax);
        quotas.set(Limit::PathMax, path_max.min(2048));
        if let Some(soft) = self.limits.quota_soft {
            quotas.set_soft(soft);
        }
        quotas
    }

    /// Returns how long events count against who caused them; `None`: until they are read.
    pub(crate) fn event_timeout(&self) -> Option<Duration> {
        match self.limits.timeout {
            None => Some(crate::outbox::EVENT_TIMEOUT),
            Some(0) => None,
            Some(seconds) => Some(Duration::from_secs(seconds.into())),
        }
    }

    /// Says why the daemon cannot run as asked, where Xen's could.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        let foreign = &self.foreign;
        let is_on_disk = matches!(&foreign.internal_db, Some(Some(value)) if value == "off");
        let is_other = |domid: Option<u16>| domid.is_some_and(|domid| domid != 0);
        let all = [
            (
                is_on_disk,
                "--internal-db=off: the tree is in memory; its journal is in --state-dir",
            ),
            (
                foreign.keep_orphans,
                "--keep-orphans: a dead domain's nodes would be the next one's of its number",
            ),
            (
                foreign.event.is_some(),
                "--event: the kernel tells its port, in /dev/xen/xenbus_backend",
            ),
            (
                is_other(foreign.master_domid),
                "--master-domid: xenstored runs in domain 0",
            ),
            (
                is_other(foreign.priv_domid),
                "--priv-domid: domain 0 alone is privileged",
            ),
            (
                foreign.trace_control.is_some(),
                "--trace-control: there is --verbose, and xenstore-control log",
            ),
            (
                foreign.live_update,
                "--live-update: end the old daemon and start the new one; the journal keeps all",
            ),
        ];
        let mut refused = all.into_iter().filter(|(is_refused, _)| *is_refused);
        refused.next().map(|(_, why)| why)
    }

    /// Makes all paths absolute, so that they stay what they are when the daemon leaves its directory.
    ///
    /// # Errors
    /// There is no working directory, or an empty path.
    pub(crate) fn absolute(mut self) -> io::Result<Self> {
        let optional = [&mut self.pid_file, &mut self.socket, &mut self.log_file];
        let optional = optional.into_iter().flatten();
        for path in optional.chain([&mut self.state_dir]) {
            *path = std::path::absolute(&*path)?;
        }
        Ok(self)
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

fn soft_quota(text: &str) -> Result<usize, &'static str> {
    let value = text.strip_prefix("memory=").ok_or("memory=N is expected")?;
    value.parse().map_err(|_| "N is a number")
}

fn timeout(text: &str) -> Result<u32, &'static str> {
    let value = text.strip_prefix("watch-event=");
    let value = value.ok_or("watch-event=SECONDS is expected")?;
    value.parse().map_err(|_| "SECONDS is a number")
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

    /// A command line of Xen's, and what is to be refused of it.
    #[test]
    fn the_letters_are_those_of_xens_daemon() {
        let read = |line: &str| Options::try_parse_from(line.split(' '));
        let all =
            read("xenstored -D -N -P -R -V -F /f -T /t -I -q memory=5 -w watch-event=7").unwrap();
        assert!(all.no_domain_init && all.no_fork && all.output_pid && all.no_recovery);
        assert_eq!(all.quotas().soft(), 5);
        assert_eq!(all.event_timeout(), Some(Duration::from_secs(7)));
        let none = read("xenstored").unwrap();
        assert!(!none.no_domain_init && !none.no_fork);
        for taken in ["", " -Ion", " --internal-db=on", " -m 0", " --priv-domid=0"] {
            let options = read(&format!("xenstored{taken}")).unwrap();
            assert_eq!(options.refusal(), None, "{taken}");
        }
        for refused in [
            "--internal-db=off",
            "-Ioff",
            "-K",
            "-e 3",
            "-m 1",
            "-p 1",
            "--trace-control=-obj",
            "-U",
        ] {
            let options = read(&format!("xenstored {refused}")).unwrap();
            assert!(options.refusal().is_some(), "{refused}");
        }
        let help = read("xenstored -H").unwrap_err();
        assert_eq!(help.kind(), clap::error::ErrorKind::DisplayHelp);
        assert!(read("xenstored --daemon").is_err());
    }

    #[test]
    fn names_of_later_versions_are_known() {
        let options =
            Options::parse_from(["x", "-Q", "node-permissions=9", "-Q", "path-length=100"]);
        let quotas = options.quotas();
        assert_eq!(quotas.get(Limit::Permissions), 9);
        assert_eq!(quotas.get(Limit::PathMax), 100);
    }
}
