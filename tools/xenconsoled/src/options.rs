//! The command line. Names and meanings are those of Xen's daemon where it has them.

use std::path::PathBuf;

/// Connects guests' consoles to terminals, whose names it writes to xenstore for `xl console`, and to logs
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "xenconsoled", version)]
pub(crate) struct Options {
    /// Stay in the foreground and tell on standard error
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// What to log to files
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) log: What,
    /// Directory of guest-NAME.log and hypervisor.log
    #[arg(long, default_value = "/var/log/xen/console")]
    pub(crate) log_dir: PathBuf,
    /// Size in KiB at which a log is renamed to NAME.1 and begun anew
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(4..))]
    pub(crate) log_limit: u32,
    /// How many renamed logs are kept
    #[arg(long, default_value_t = 2)]
    pub(crate) log_keep: u32,
    /// Which logs get the time at the start of each line
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) timestamp: What,
    /// File with the daemon's process id, locked while it runs
    #[arg(long, default_value = "/run/xen/xenconsoled.pid")]
    pub(crate) pid_file: PathBuf,
}

/// A choice of logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum What {
    /// No log
    None,
    /// The guests' consoles
    Guest,
    /// The hypervisor's messages
    Hv,
    /// Both
    All,
}

impl What {
    /// Says whether the guests are in the choice.
    pub(crate) fn has_guests(self) -> bool {
        matches!(self, Self::Guest | Self::All)
    }

    /// Says whether the hypervisor is in the choice.
    pub(crate) fn has_hypervisor(self) -> bool {
        matches!(self, Self::Hv | Self::All)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }
}
