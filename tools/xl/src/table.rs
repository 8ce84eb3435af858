//! The command table: every verb of xl's, and what serves it or why nothing does.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command, Parser};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output;
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
    /// A list of what no domain has here: its header, as xl prints it, and whether it is of a domain that is named.
    Nothing {
        /// What is printed; xl prints no header for some.
        header: &'static str,
        /// Domains that must be named at least.
        domains: usize,
    },
}

impl Entry {
    const fn served<V: Verb>(name: &'static str) -> Self {
        Self::with::<V>(name, false, false)
    }

    const fn dry<V: Verb>(name: &'static str) -> Self {
        Self::with::<V>(name, true, false)
    }

    const fn hidden<V: Verb>(name: &'static str) -> Self {
        Self::with::<V>(name, false, true)
    }

    const fn with<V: Verb>(name: &'static str, dry_run: bool, hidden: bool) -> Self {
        Self {
            name,
            kind: Kind::Served {
                command: V::command,
                run: run::<V>,
                dry_run,
                hidden,
            },
        }
    }

    const fn nothing(name: &'static str, header: &'static str, domains: usize) -> Self {
        Self {
            name,
            kind: Kind::Nothing { header, domains },
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
            } => {
                let command = command()
                    .name(self.name)
                    .bin_name(format!("xl {}", self.name))
                    .hide(hidden);
                let json = Arg::new(JSON)
                    .long(JSON)
                    .action(ArgAction::SetTrue)
                    .help("Print JSON with a schema version, errors too");
                let has_answer = !WITHOUT_ANSWER.contains(&self.name);
                Some(if has_answer {
                    command.arg(json)
                } else {
                    command
                })
            }
            Kind::Unserved(_) | Kind::Nothing { .. } => None,
        }
    }
}

/// Verbs that have no answer: one talks to a guest, the other is our own.
const WITHOUT_ANSWER: [&str; 2] = ["console", "monitor"];

/// The option that all others have.
const JSON: &str = "json";

fn run<V: Verb>(command: &Command, context: &Context, words: &[OsString]) -> Outcome {
    // First: what is wrong with the words is told in that form as well.
    if words.iter().any(|word| word == "--json") && !WITHOUT_ANSWER.contains(&command.get_name()) {
        output::answer_in_json(command.get_name());
        context.set_json();
    }
    let parsed = command
        .clone()
        .no_binary_name(true)
        .try_get_matches_from(words)
        .and_then(|matches| V::from_arg_matches(&matches));
    parsed
        .map_err(|error| Failure::from_clap(&error))?
        .run(context)?;
    // What has no answer of its own says which domains it was about.
    if context.json() && !output::has_answered() {
        output::print_json(command.get_name(), context.domains_json())?;
    }
    Ok(())
}

const LATER: &str = "saving, restoring and migrating come in a later release";
const PASSTHROUGH: &str = "passing devices through is not served";
const DEVICE: &str = "there is no such virtual device for PVH guests here";
const POOLS: &str = "there is one CPU pool, Pool-0, with all CPUs";
const FLASK: &str = "there is no FLASK policy in this hypervisor";
const PSR: &str = "the CPU's resource controls are not served";

const CHANNELS: &str = "Idx BE state evt-ch ring-ref connection                               \n";
const TPMS: &str =
    "Idx BE Uuid                                 handle state evt-ch ring-ref BE-path   \n";
const KEYBOARDS: &str =
    "Idx BE handle state evt-ch    ref ID         BE-type    BE-path                       \n";

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
    Entry::hidden::<monitor::Monitor>("monitor"),
    Entry::unserved("save", LATER),
    Entry::unserved("restore", LATER),
    Entry::unserved("migrate", LATER),
    Entry::unserved("migrate-receive", LATER),
    Entry::unserved("suspend", LATER),
    Entry::unserved("resume", LATER),
    Entry::unserved("remus", LATER),
    Entry::unserved("pci-attach", PASSTHROUGH),
    Entry::unserved("pci-detach", PASSTHROUGH),
    Entry::nothing("pci-list", "", 1),
    Entry::unserved("pci-assignable-add", PASSTHROUGH),
    Entry::unserved("pci-assignable-remove", PASSTHROUGH),
    Entry::nothing("pci-assignable-list", "", 0),
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
    Entry::served::<sharing::Sharing>("sharing"),
    Entry::unserved(
        "sched-rtds",
        "the scheduler is credit2; see xl sched-credit2",
    ),
    Entry::unserved(
        "set-parameters",
        "the hypervisor's options are read at boot: change its command line",
    ),
    Entry::nothing("channel-list", CHANNELS, 1),
    Entry::unserved("vtpm-attach", DEVICE),
    Entry::nothing("vtpm-list", TPMS, 1),
    Entry::unserved("vtpm-detach", DEVICE),
    Entry::unserved("vkb-attach", DEVICE),
    Entry::nothing("vkb-list", KEYBOARDS, 1),
    Entry::unserved("vkb-detach", DEVICE),
    Entry::unserved("vdispl-attach", DEVICE),
    Entry::nothing("vdispl-list", "", 1),
    Entry::unserved("vdispl-detach", DEVICE),
    Entry::unserved("vsnd-attach", DEVICE),
    Entry::nothing("vsnd-list", "", 1),
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
    Entry::nothing("usb-list", "", 1),
    Entry::unserved("qemu-monitor-command", "there is no device model"),
    Entry::unserved("dt-overlay", "device trees are ARM's"),
    Entry::unserved(
        "xenstore-quota-get",
        "`xenstore-control quota` shows them, `xenstore-control quota DOMID` what a domain uses",
    ),
    Entry::unserved(
        "xenstore-quota-set",
        "`xenstore-control quota set NAME VALUE` sets one, for all domains",
    ),
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
    fn every_verb_answers_in_json() {
        for entry in VERBS {
            if let Some(command) = entry.command() {
                let has = command.get_arguments().any(|arg| arg.get_id() == JSON);
                assert_eq!(has, !WITHOUT_ANSWER.contains(&entry.name), "{}", entry.name);
            }
        }
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
