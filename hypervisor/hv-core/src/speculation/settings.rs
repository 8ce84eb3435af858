//! `spec-ctrl=`: what the user wants otherwise. Xen's grammar and names.
//!
//! Source: Xen's `docs/misc/xen-command-line.pandoc, spec-ctrl`.

use super::Defences;
use crate::options::value;

/// What the user wants on or off; everything else is as the CPU needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    on: Defences,
    off: Defences,
}

/// Why the option is not taken, with the name of what is wrong with it.
pub type RefusedSetting = &'static str;

/// What `no`, `off` and `xen=no` switch off.
const ALL_OF_OURS: Defences = Defences::all()
    .difference(Defences::GUEST_CONTROLS)
    .difference(Defences::GUEST_IBPB);

/// A sub-option that is a boolean, with what `yes` and `no` stand for.
struct Row {
    name: &'static str,
    on: Defences,
    off: Defences,
}

const fn row(name: &'static str, on: Defences, off: Defences) -> Row {
    Row { name, on, off }
}

const RETURN_STACK: Defences = Defences::RSB_STUFF.union(Defences::RSB_ONE);
const HISTORY: Defences = Defences::BHB_SHORT.union(Defences::BHB_LONG);

const ROWS: &[Row] = &[
    row("msr-sc", Defences::GUEST_CONTROLS, Defences::GUEST_CONTROLS),
    row("rsb", Defences::RSB_STUFF, RETURN_STACK),
    row("verw", Defences::VERW, Defences::VERW),
    row("md-clear", Defences::VERW, Defences::VERW),
    row("bhb-entry", Defences::BHB_LONG, HISTORY),
    row(
        "ibrs",
        Defences::IBRS,
        Defences::IBRS.union(Defences::AUTO_IBRS),
    ),
    row("ibpb", Defences::IBPB_DOMAIN, Defences::IBPB_DOMAIN),
    row("ibpb-entry", Defences::IBPB_ENTRY, Defences::IBPB_ENTRY),
    row("ssbd", Defences::SSBD, Defences::SSBD),
    row("l1d-flush", Defences::L1D_FLUSH, Defences::L1D_FLUSH),
    row("bhi-dis-s", Defences::BHI_DIS_S, Defences::BHI_DIS_S),
    row(
        "bp-spec-reduce",
        Defences::SPEC_REDUCE,
        Defences::SPEC_REDUCE,
    ),
];

/// What Xen has and we have not, and why.
const REFUSED: &[(&str, RefusedSetting)] = &[
    (
        "bti-thunk",
        "asks for bti-thunk: the hypervisor is built without thunks, and has IBRS in their place",
    ),
    (
        "bhb-seq",
        "asks for bhb-seq: its length follows from the CPU",
    ),
    (
        "ibpb-alt",
        "asks for ibpb-alt: it is ibpb-entry without hardware for it",
    ),
    ("pv", "asks for pv: there are no PV guests"),
    (
        "stibp",
        "asks for stibp: the other threads of a core run nothing",
    ),
    ("psfd", "asks for psfd: ssbd does it"),
    (
        "eager-fpu",
        "asks for eager-fpu: extended state is always switched eagerly",
    ),
    (
        "branch-harden",
        "asks for branch-harden: indices from guests are always masked",
    ),
    (
        "srb-lock",
        "asks for srb-lock: it stays as the firmware left it",
    ),
    (
        "unpriv-mmio",
        "asks for unpriv-mmio: no guest but dom0 has a device",
    ),
    (
        "gds-mit",
        "asks for gds-mit: it stays as the firmware left it",
    ),
    (
        "div-scrub",
        "asks for div-scrub: the divider is left as it is",
    ),
    ("lock-harden", "asks for lock-harden: it is not supported"),
];

impl Settings {
    /// All as the CPU needs it.
    pub const DEFAULT: Self = Self {
        on: Defences::empty(),
        off: Defences::empty(),
    };

    /// Reads a list of sub-options; of one given twice the last counts.
    ///
    /// # Errors
    /// [`RefusedSetting`] where one is unknown, malformed, or of Xen's and not ours.
    pub fn parse(self, text: &str) -> Result<Self, RefusedSetting> {
        text.split(',').try_fold(self, Self::take)
    }

    fn take(self, part: &str) -> Result<Self, RefusedSetting> {
        match value::boolean(part) {
            Some(false) => return Ok(self.with(Defences::all(), false)),
            Some(true) => {
                return Err("says yes: what the CPU needs is on unless it is switched off");
            }
            None => {}
        }
        let (name, text) = match part.split_once('=') {
            Some((name, text)) => (name, Some(text)),
            None => (part, None),
        };
        if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| is_name(name, refused)) {
            return Err(why);
        }
        let (name, is_on) = match (text, name.strip_prefix("no-")) {
            (None, Some(positive)) => (positive, false),
            (None, None) => (name, true),
            (Some(text), _) => (name, boolean(name, text)?),
        };
        match name {
            "xen" if is_on => {
                Err("says xen=yes: what the CPU needs is on unless it is switched off")
            }
            "xen" => Ok(self.with(ALL_OF_OURS, false)),
            "hvm" => Ok(["msr-sc", "rsb", "verw"]
                .into_iter()
                .filter_map(find)
                .fold(self, |settings, row| settings.with(row.side(is_on), is_on))),
            _ => find(name)
                .map(|row| self.with(row.side(is_on), is_on))
                .ok_or("has a sub-option that does not exist"),
        }
    }

    fn with(self, defences: Defences, is_on: bool) -> Self {
        let (on, off) = (self.on - defences, self.off - defences);
        if is_on {
            Self {
                on: on | defences,
                off,
            }
        } else {
            Self {
                on,
                off: off | defences,
            }
        }
    }

    /// What is done where `default` would be and no more than `possible` can be.
    pub(super) fn apply(&self, default: Defences, possible: Defences) -> Defences {
        let mut chosen = (default | self.on & possible) - self.off;
        if chosen.contains(Defences::RSB_STUFF) {
            chosen -= Defences::RSB_ONE;
        }
        if chosen.contains(Defences::BHB_LONG) {
            chosen -= Defences::BHB_SHORT;
        }
        if !chosen.contains(Defences::IBRS) {
            chosen -= Defences::IBRS_ENHANCED;
        }
        chosen
    }

    /// What is to be on whatever the CPU needs.
    pub(super) fn asked_for(&self) -> Defences {
        self.on
    }
}

impl Row {
    fn side(&self, is_on: bool) -> Defences {
        if is_on { self.on } else { self.off }
    }
}

/// `hvm` is what Xen takes in place of a boolean for what it does for guests of that kind; ours are all of it.
fn boolean(name: &str, text: &str) -> Result<bool, RefusedSetting> {
    let is_of_guests = matches!(
        name,
        "msr-sc" | "rsb" | "verw" | "md-clear" | "bhb-entry" | "ibpb-entry"
    );
    match text.split_once('=') {
        Some(("hvm", text)) if is_of_guests => value::boolean(text),
        _ if text == "hvm" && is_of_guests => Some(true),
        _ if text == "no-hvm" && is_of_guests => Some(false),
        _ => value::boolean(text),
    }
    .ok_or("has a sub-option that is neither on nor off")
}

fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

fn is_name(written: &str, name: &str) -> bool {
    written.strip_prefix("no-").unwrap_or(written) == name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Settings {
        Settings::DEFAULT.parse(text).unwrap()
    }

    #[test]
    fn no_switches_all_off_and_xen_leaves_guests_their_controls() {
        let all = parsed("no").apply(Defences::all(), Defences::all());
        assert_eq!(all, Defences::empty());
        let ours = parsed("xen=off").apply(Defences::all(), Defences::all());
        assert_eq!(ours, Defences::GUEST_CONTROLS | Defences::GUEST_IBPB);
    }

    #[test]
    fn last_of_two_counts() {
        let settings = parsed("no,ibrs,no-ibpb,ibpb=yes,verw,md-clear=0");
        let chosen = settings.apply(Defences::empty(), Defences::all());
        assert_eq!(chosen, Defences::IBRS | Defences::IBPB_DOMAIN);
    }

    #[test]
    fn every_sub_option_switches_something_on_and_off() {
        for row in ROWS {
            let on = Settings::DEFAULT.parse(&alloc::format!("{}=yes", row.name));
            let on = on.unwrap().apply(Defences::empty(), Defences::all());
            assert_eq!(on, row.on, "{}", row.name);
            let off = Settings::DEFAULT.parse(&alloc::format!("no-{}", row.name));
            let off = off.unwrap().apply(Defences::all(), Defences::all());
            assert!(!off.intersects(row.off), "{}", row.name);
        }
    }

    #[test]
    fn hvm_stands_for_all_of_ours() {
        assert_eq!(parsed("rsb=hvm"), parsed("rsb=yes"));
        assert_eq!(parsed("rsb=no-hvm"), parsed("rsb=no"));
        assert_eq!(parsed("verw=hvm=off"), parsed("verw=off"));
        assert_eq!(parsed("hvm=no"), parsed("no-msr-sc,no-rsb,no-verw"));
    }

    #[test]
    fn what_xen_has_and_we_have_not_is_refused_by_name() {
        for (name, _) in REFUSED {
            for text in [
                name.to_string(),
                alloc::format!("no-{name}"),
                alloc::format!("{name}=yes"),
            ] {
                let refused = Settings::DEFAULT.parse(&text).unwrap_err();
                assert!(refused.contains(name), "{text}: {refused}");
            }
        }
        for text in [
            "",
            "yes",
            "xen",
            "ibrs=maybe",
            "ibrs=hvm",
            "pv=no,ibrs",
            "retpoline",
        ] {
            assert!(Settings::DEFAULT.parse(text).is_err(), "{text}");
        }
    }

    use alloc::string::ToString;
}
