//! The command line. Names and meanings are those of Xen's daemon where it has them.

use std::path::PathBuf;

/// Connects guests' consoles to terminals, whose names it writes to xenstore for `xl console`, and to logs
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "xenconsoled", version)]
pub(crate) struct Options {
    /// Stay in the foreground and tell on standard error, not to syslog
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Tell of more than warnings and errors
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// What to log to files; SIGHUP has them opened anew
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
    #[arg(short, long, value_enum, default_value = "none")]
    pub(crate) timestamp: What,
    /// What becomes of output that no terminal has taken, above the limit: its oldest is discarded, or the guest waits
    #[arg(short, long, value_enum, default_value = "discard")]
    pub(crate) overflow_data: Overflow,
    /// Replace the escape character by a dot in logs
    #[arg(long)]
    pub(crate) replace_escape: bool,
    /// File with the daemon's process id, locked while it runs
    #[arg(long, default_value = "/run/xen/xenconsoled.pid")]
    pub(crate) pid_file: PathBuf,
}

impl Options {
    /// Makes all paths absolute, so that they stay what they are when the daemon leaves its directory.
    ///
    /// # Errors
    /// There is no working directory, or an empty path.
    pub(crate) fn absolute(mut self) -> std::io::Result<Self> {
        self.pid_file = std::path::absolute(&self.pid_file)?;
        self.log_dir = std::path::absolute(&self.log_dir)?;
        Ok(self)
    }
}

/// What becomes of output above the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Overflow {
    /// The oldest goes
    Discard,
    /// All stays, and the guest's ring is not emptied
    Keep,
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

    #[test]
    fn the_letters_are_those_of_xens_daemon() {
        use clap::Parser;
        let line = "xenconsoled -v -i -t all -o keep --replace-escape --log=guest --log-dir=/d --pid-file=/p";
        let options = Options::try_parse_from(line.split(' ')).unwrap();
        assert!(options.verbose && options.interactive && options.replace_escape);
        assert_eq!(options.timestamp, What::All);
        assert_eq!(options.overflow_data, Overflow::Keep);
        let none = Options::try_parse_from(["xenconsoled"]).unwrap();
        assert_eq!(none.overflow_data, Overflow::Discard);
    }
}
