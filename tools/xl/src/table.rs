//! The command table: every verb of xl's, and what serves it or why nothing does.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command, CommandFactory, Parser};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::verbs::*;

/// What a verb is made of: options (clap's), and what it does.
pub trait Verb: Parser {
    /// Does it.
    ///
    /// # Errors
    /// What the user is told.
    fn run(self, context: &Context) -> Outcome;
}

/// One verb.
#[derive(Clone, Copy)]
pub struct Entry {
    /// As typed; any unambiguous prefix will do.
    pub name: &'static str,
    /// What is behind it.
    pub kind: Kind,
}

/// What is behind a verb.
#[derive(Clone, Copy)]
pub enum Kind {
    /// It is served.
    Served {
        /// Its options and help.
        command: fn() -> Command,
        /// Reads its words and does it.
        run: fn(&Command, &Context, &[OsString]) -> Outcome,
        /// `-N` makes it a dry run.
        dry_run: bool,
        /// For our own use: not in help.
        hidden: bool,
    },
    /// It is not, for this reason.
    Unserved(&'static str),
}

impl Entry {
    const fn served<V: Verb>(name: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Served {
                command: V::command,
                run: run::<V>,
                dry_run: false,
                hidden: false,
            },
        }
    }

    const fn dry<V: Verb>(name: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Served {
                command: V::command,
                run: run::<V>,
                dry_run: true,
                hidden: false,
            },
        }
    }

    const fn unserved(name: &'static str, why: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Unserved(why),
        }
    }

    /// Builds the verb's clap command; `None` if it is not served.
    pub fn command(&self) -> Option<Command> {
        match self.kind {
            Kind::Served {
                command, hidden, ..
            } => Some(
                command()
                    .name(self.name)
                    .bin_name(format!("xl {}", self.name))
                    .hide(hidden),
            ),
            Kind::Unserved(_) => None,
        }
    }
}

fn run<V: Verb>(command: &Command, context: &Context, words: &[OsString]) -> Outcome {
    let parsed = command
        .clone()
        .no_binary_name(true)
        .try_get_matches_from(words)
        .and_then(|matches| V::from_arg_matches(&matches));
    parsed
        .map_err(|error| Failure::from_clap(&error))?
        .run(context)
}

const LATER: &str = "saving, restoring and migrating come in a later release";
const PASSTHROUGH: &str = "passing devices through is not served";
const DEVICE: &str = "there is no such virtual device for PVH guests here";
const POOLS: &str = "there is one CPU pool, Pool-0, with all CPUs";
const FLASK: &str = "there is no FLASK policy in this hypervisor";
const PSR: &str = "the CPU's resource controls are not served";

/// All verbs, in the order of help.
pub const VERBS: &[Entry] = &[
    Entry::dry::<create::Create>("create"),
    Entry::dry::<config_update::ConfigUpdate>("config-update"),
    Entry::served::<list::List>("list"),
    Entry::served::<destroy::Destroy>("destroy"),
    Entry::served::<shutdown::Shutdown>("shutdown"),
    Entry::served::<shutdown::Reboot>("reboot"),
    Entry::served::<pause::Pause>("pause"),
    Entry::served::<pause::Unpause>("unpause"),
    Entry::served::<console::Console>("console"),
    Entry::served::<dump_core::DumpCore>("dump-core"),
    Entry::served::<mem::MemMax>("mem-max"),
    Entry::served::<mem::MemSet>("mem-set"),
    Entry::served::<vcpu_list::VcpuList>("vcpu-list"),
    Entry::dry::<vcpu_pin::VcpuPin>("vcpu-pin"),
    Entry::served::<vcpu_set::VcpuSet>("vcpu-set"),
    Entry::served::<vm_list::VmList>("vm-list"),
    Entry::served::<info::Info>("info"),
    Entry::served::<sched::SchedCredit>("sched-credit"),
    Entry::served::<sched::SchedCredit2>("sched-credit2"),
    Entry::served::<names::Domid>("domid"),
    Entry::served::<names::Domname>("domname"),
    Entry::served::<names::Rename>("rename"),
    Entry::served::<trigger::Trigger>("trigger"),
    Entry::served::<sysrq::Sysrq>("sysrq"),
    Entry::served::<debug_keys::DebugKeys>("debug-keys"),
    Entry::served::<dmesg::Dmesg>("dmesg"),
    Entry::served::<top::Top>("top"),
    Entry::dry::<network::NetworkAttach>("network-attach"),
    Entry::served::<network::NetworkList>("network-list"),
    Entry::served::<network::NetworkDetach>("network-detach"),
    Entry::dry::<block::BlockAttach>("block-attach"),
    Entry::served::<block::BlockList>("block-list"),
    Entry::served::<block::BlockDetach>("block-detach"),
    Entry::served::<uptime::Uptime>("uptime"),
    Entry::served::<claims::Claims>("claims"),
    Entry::served::<cpupool_list::CpupoolList>("cpupool-list"),
    Entry {
        name: "monitor",
        kind: Kind::Served {
            command: monitor::Monitor::command,
            run: run::<monitor::Monitor>,
            dry_run: false,
            hidden: true,
        },
    },
    Entry::unserved("save", LATER),
    Entry::unserved("restore", LATER),
    Entry::unserved("migrate", LATER),
    Entry::unserved("migrate-receive", LATER),
    Entry::unserved("suspend", LATER),
    Entry::unserved("resume", LATER),
    Entry::unserved("remus", LATER),
    Entry::unserved("pci-attach", PASSTHROUGH),
    Entry::unserved("pci-detach", PASSTHROUGH),
    Entry::unserved("pci-list", PASSTHROUGH),
    Entry::unserved("pci-assignable-add", PASSTHROUGH),
    Entry::unserved("pci-assignable-remove", PASSTHROUGH),
    Entry::unserved("pci-assignable-list", PASSTHROUGH),
    Entry::unserved(
        "vncviewer",
        "PVH guests have no frame buffer; see xl console",
    ),
    Entry::unserved("cd-insert", DEVICE),
    Entry::unserved("cd-eject", DEVICE),
    Entry::unserved(
        "button-press",
        "PVH guests have no buttons; see xl shutdown and xl reboot",
    ),
    Entry::unserved("sharing", "guests share no pages here"),
    Entry::unserved(
        "sched-rtds",
        "the scheduler is credit2; see xl sched-credit2",
    ),
    Entry::unserved(
        "set-parameters",
        "the hypervisor's options are read at boot: change its command line",
    ),
    Entry::unserved("channel-list", DEVICE),
    Entry::unserved("vtpm-attach", DEVICE),
    Entry::unserved("vtpm-list", DEVICE),
    Entry::unserved("vtpm-detach", DEVICE),
    Entry::unserved("vkb-attach", DEVICE),
    Entry::unserved("vkb-list", DEVICE),
    Entry::unserved("vkb-detach", DEVICE),
    Entry::unserved("vdispl-attach", DEVICE),
    Entry::unserved("vdispl-list", DEVICE),
    Entry::unserved("vdispl-detach", DEVICE),
    Entry::unserved("vsnd-attach", DEVICE),
    Entry::unserved("vsnd-list", DEVICE),
    Entry::unserved("vsnd-detach", DEVICE),
    Entry::unserved("cpupool-create", POOLS),
    Entry::unserved("cpupool-destroy", POOLS),
    Entry::unserved("cpupool-rename", POOLS),
    Entry::unserved("cpupool-cpu-add", POOLS),
    Entry::unserved("cpupool-cpu-remove", POOLS),
    Entry::unserved("cpupool-migrate", POOLS),
    Entry::unserved("cpupool-numa-split", POOLS),
    Entry::unserved("getenforce", FLASK),
    Entry::unserved("setenforce", FLASK),
    Entry::unserved("loadpolicy", FLASK),
    Entry::unserved(
        "devd",
        "backends run in dom0, where the toolstack attaches them itself",
    ),
    Entry::unserved("psr-hwinfo", PSR),
    Entry::unserved("psr-cmt-attach", PSR),
    Entry::unserved("psr-cmt-detach", PSR),
    Entry::unserved("psr-cmt-show", PSR),
    Entry::unserved("psr-cat-set", PSR),
    Entry::unserved("psr-cat-show", PSR),
    Entry::unserved("psr-mba-set", PSR),
    Entry::unserved("psr-mba-show", PSR),
    Entry::unserved("usbctrl-attach", DEVICE),
    Entry::unserved("usbctrl-detach", DEVICE),
    Entry::unserved("usbdev-attach", DEVICE),
    Entry::unserved("usbdev-detach", DEVICE),
    Entry::unserved("usb-list", DEVICE),
    Entry::unserved("qemu-monitor-command", "there is no device model"),
    Entry::unserved("dt-overlay", "device trees are ARM's"),
    Entry::unserved("xenstore-quota-get", "quotas are options of xenstored"),
    Entry::unserved("xenstore-quota-set", "quotas are options of xenstored"),
];

/// What a typed verb means.
#[derive(Clone, Copy)]
pub enum Found {
    /// This one.
    One(&'static Entry),
    /// A prefix of several.
    Ambiguous,
    /// None.
    None,
}

/// Finds a verb by its name or by an unambiguous prefix; an exact name wins over those it begins.
pub fn find(typed: &str) -> Found {
    let mut found = Found::None;
    for entry in VERBS
        .iter()
        .filter(|entry| entry.name.starts_with(typed) && !typed.is_empty())
    {
        if entry.name == typed {
            return Found::One(entry);
        }
        // Hidden verbs take no prefix away from the others.
        if matches!(entry.kind, Kind::Served { hidden: true, .. }) {
            continue;
        }
        found = match found {
            Found::None => Found::One(entry),
            _ => Found::Ambiguous,
        };
    }
    found
}

/// What may stand before the verb.
pub const GLOBALS: [(char, &str); 5] = [
    ('v', "Say more: how long each step of create took"),
    ('N', "Do nothing, say what would be done"),
    ('t', "Write a carriage return before each message"),
    ('T', "Write the time and the process id before each message"),
    ('f', "Nothing: xl took it to go on beside xend"),
];

/// Builds the whole tree, for completions and man pages.
pub fn whole_command() -> Command {
    let flag = |(short, help): (char, &'static str)| {
        Arg::new(help)
            .short(short)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    Command::new("xl")
        .about("Creates and manages domains: the guests of the hypervisor")
        .version(env!("CARGO_PKG_VERSION"))
        .args(GLOBALS.map(flag))
        .subcommand_required(true)
        .subcommands(
            VERBS
                .iter()
                .filter_map(Entry::command)
                .filter(|command| !command.is_hide_set()),
        )
        .subcommand(
            Command::new("help")
                .about("Show what xl can do, or how a verb is used")
                .arg(Arg::new("VERB")),
        )
        .disable_help_subcommand(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(typed: &str) -> Option<&'static str> {
        match find(typed) {
            Found::One(entry) => Some(entry.name),
            _ => None,
        }
    }

    #[test]
    fn any_unambiguous_prefix_is_the_verb() {
        assert_eq!(found("li"), Some("list"));
        assert_eq!(found("cr"), Some("create"));
        assert_eq!(found("uns"), None);
        assert_eq!(found("dmes"), Some("dmesg"));
        assert_eq!(found("mem-s"), Some("mem-set"));
        assert_eq!(found("sched-credit"), Some("sched-credit"));
        assert_eq!(found("migrate"), Some("migrate"));
        assert!(matches!(find("mem"), Found::Ambiguous));
        assert!(matches!(find(""), Found::None));
    }

    #[test]
    fn every_verb_of_xl_is_here_once() {
        let mut names: Vec<_> = VERBS
            .iter()
            .map(|entry| entry.name)
            .filter(|name| *name != "monitor")
            .collect();
        assert_eq!(names.len(), 97);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 97);
    }

    #[test]
    fn the_tree_is_sound() {
        whole_command().debug_assert();
        for entry in VERBS {
            if let Some(command) = entry.command() {
                assert!(command.get_about().is_some(), "{}", entry.name);
                command.debug_assert();
            }
        }
    }
}
