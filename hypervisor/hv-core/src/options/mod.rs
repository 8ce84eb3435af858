//! The hypervisor's command line: text → [`Options`], with Xen's names and meanings where Xen has them.
//!
//! Nothing on the command line stops a boot: an unknown or malformed option becomes a [`Warning`] that names it, and is
//! ignored. As in Xen, `-` and `_` are the same in a name, `no-name` is `name=no`, of an option given twice the last
//! counts, and what follows ` -- ` is not ours but is appended to dom0's command line.
//!
//! One row of [`table`] is one option: its reader, its form, default and help, which README.md's list is checked
//! against.

pub mod dom0_mem;
pub mod serial;
pub mod table;
pub mod value;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::sched::DEFAULT_RATE_LIMIT_US;
use crate::speculation::Settings;

pub use dom0_mem::{Amount, Dom0Mem};
pub use serial::{Parity, Serial};
pub use table::{OPTION_TABLE, OptionInfo};

/// What the command line asks for, defaults where it says nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// How much memory dom0 gets.
    pub dom0_mem: Dom0Mem,
    /// How many vCPUs dom0 gets, where said.
    pub dom0_max_vcpus: Option<VcpuCount>,
    /// Appended to dom0's command line: what followed ` -- `.
    pub dom0_append: Option<String>,
    /// The first serial port.
    pub com1: Serial,
    /// The second serial port.
    pub com2: Serial,
    /// Where the console goes.
    pub console: Consoles,
    /// The key that, with Ctrl, three times, switches the console's input; `a` is Ctrl-a.
    pub conswitch: u8,
    /// How much of the log is kept, in bytes.
    pub conring_bytes: u32,
    /// Which messages of the hypervisor are shown.
    pub loglvl: LogThresholds,
    /// Which messages caused by guests are shown.
    pub guest_loglvl: LogThresholds,
    /// True where a crash halts instead of rebooting.
    pub noreboot: bool,
    /// How to reboot, in order of trial; `None` lets the hypervisor choose.
    pub reboot: Option<RebootMethod>,
    /// True where dom0 may call EFI's runtime services.
    pub efi_runtime: bool,
    /// True where each console write waits until the port has taken it.
    pub sync_console: bool,
    pub sched: Scheduler,
    /// How long a vCPU keeps a CPU at least, in µs, until a toolstack says otherwise; 0 for no such time.
    pub sched_ratelimit_us: u32,
    /// Defences against speculative execution that are on or off whatever the CPU needs.
    pub spec_ctrl: Settings,
    /// CPU features that may be used; each is used only where the CPU has it as well.
    pub features: Features,
}

/// CPU features that can be switched off by hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// APIC-register virtualisation and virtual-interrupt delivery.
    pub apicv: bool,
    /// Posted interrupts; need APICv.
    pub posted_interrupts: bool,
    /// Virtual-processor identifiers, which spare TLB flushes.
    pub vpid: bool,
    /// 2 MiB mappings in EPT.
    pub ept_2m: bool,
    /// 1 GiB mappings in EPT.
    pub ept_1g: bool,
    /// Executable superpages; `None` decides by the erratum of CVE-2018-12207.
    pub exec_sp: Option<bool>,
    pub tsc_scaling: bool,
}

/// Bounds on dom0's vCPUs, `min` not above `max`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VcpuCount {
    /// At least so many, also where there are fewer CPUs.
    pub min: u32,
    /// At most so many.
    pub max: u32,
}

/// Where the console goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Consoles {
    /// The first serial port.
    pub com1: bool,
    /// The second serial port.
    pub com2: bool,
    /// The VGA text screen.
    pub vga: bool,
}

/// How urgent a message is, most urgent first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LogLevel {
    /// A domain died or the host is degraded.
    Error,
    /// Somebody misbehaved and we coped.
    Warning,
    /// Boot milestones, domain life.
    Info,
    Debug,
}

/// Which messages are shown; `None` shows none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogThresholds {
    /// Messages up to this level are always shown.
    pub always: Option<LogLevel>,
    /// Less urgent ones up to this level are shown at a limited rate.
    pub limited: Option<LogLevel>,
}

/// A way to reboot the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RebootMethod {
    /// An exception that cannot be delivered.
    TripleFault,
    /// The keyboard controller's reset line.
    Keyboard,
    /// The reset register of the FADT.
    Acpi,
    Pci,
    /// I/O port 0xCF9, with a power cycle.
    PowerCycle,
    /// Not at all: halt.
    Never,
}

/// A scheduler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheduler {
    /// Weighted shares, Xen's default.
    Credit2,
    /// Each runnable vCPU in turn.
    RoundRobin,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dom0_mem: Dom0Mem::default(),
            dom0_max_vcpus: None,
            dom0_append: None,
            com1: Serial::COM1,
            com2: Serial::COM2,
            console: Consoles {
                com1: true,
                com2: false,
                vga: true,
            },
            conswitch: b'a',
            conring_bytes: 64 << 10,
            loglvl: LogThresholds {
                always: Some(LogLevel::Info),
                limited: Some(LogLevel::Info),
            },
            guest_loglvl: LogThresholds {
                always: None,
                limited: Some(LogLevel::Warning),
            },
            noreboot: false,
            reboot: None,
            efi_runtime: true,
            sync_console: false,
            sched: Scheduler::Credit2,
            sched_ratelimit_us: DEFAULT_RATE_LIMIT_US,
            spec_ctrl: Settings::DEFAULT,
            features: Features::default(),
        }
    }
}

impl Default for Features {
    fn default() -> Self {
        Self {
            apicv: true,
            posted_interrupts: true,
            vpid: true,
            ept_2m: true,
            ept_1g: true,
            exec_sp: None,
            tsc_scaling: true,
        }
    }
}

impl LogThresholds {
    /// True where a message of `level` is shown at all.
    #[cfg(test)]
    pub(crate) fn shows(self, level: LogLevel) -> bool {
        self.always.max(self.limited) >= Some(level)
    }

    /// True where a message of `level` is shown only at a limited rate.
    #[must_use]
    pub fn limits(self, level: LogLevel) -> bool {
        self.always < Some(level)
    }
}

/// An option that was ignored, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// The option as it was written.
    pub option: String,
    /// What is wrong with it.
    pub reason: Reason,
}

/// Why an option was ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// No option has that name.
    Unknown,
    /// Its value is malformed; says how.
    Malformed(&'static str),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Reason::Unknown => write!(f, "unknown option `{}` ignored", self.option),
            Reason::Malformed(how) => write!(f, "option `{}` {how}; ignored", self.option),
        }
    }
}

impl Options {
    /// Reads a command line. Words are separated by white space; there is no quoting.
    #[must_use]
    pub fn parse(command_line: &str) -> (Self, Vec<Warning>) {
        let mut options = Self::default();
        let mut warnings = Vec::new();
        let (ours, append) = split_append(command_line);
        options.dom0_append = append.map(ToString::to_string);
        for word in ours.split_whitespace() {
            if let Err(reason) = options.take(word) {
                warnings.push(Warning {
                    option: word.to_string(),
                    reason,
                });
            }
        }
        (options, warnings)
    }

    /// Reads one word, `name`, `no-name` or `name=value`; where it fails, nothing has changed.
    fn take(&mut self, word: &str) -> Result<(), Reason> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        if let Some(row) = table::find(name) {
            return row.apply(self, value);
        }
        let positive = name
            .strip_prefix("no-")
            .and_then(table::find)
            .ok_or(Reason::Unknown)?;
        match value {
            None => positive.apply(self, Some("no")),
            Some(_) => Err(Reason::Malformed("says no- and a value")),
        }
    }
}

/// Splits at the first word that is `--`.
fn split_append(command_line: &str) -> (&str, Option<&str>) {
    if let Some(all) = command_line.strip_prefix("-- ") {
        return ("", Some(all.trim()));
    }
    match command_line.split_once(" -- ") {
        Some((ours, append)) => (ours, Some(append.trim())),
        None => (
            command_line.strip_suffix(" --").unwrap_or(command_line),
            None,
        ),
    }
}

#[cfg(test)]
mod tests;
