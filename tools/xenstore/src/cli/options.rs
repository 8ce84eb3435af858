//! The options, as getopt takes them: bundled letters, long names, options after operands, `--` ends them.

use super::text::lossy;

/// Which client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Read,
    Write,
    Rm,
    Exists,
    List,
    Ls,
    Chmod,
    Watch,
}

/// What was asked for.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) mode: Mode,
    pub(super) is_flat: bool,
    pub(super) has_prefix: bool,
    pub(super) is_tidy: bool,
    pub(super) is_upto: bool,
    pub(super) is_recursive: bool,
    pub(super) is_raw: bool,
    pub(super) count: Option<u64>,
    pub(super) depth: Option<u32>,
    pub(super) operands: Vec<Vec<u8>>,
}

/// The outcome of parsing.
#[derive(Debug)]
pub(super) enum Parsed {
    Run(Options),
    /// Complain, if there is something to complain of, and print the usage.
    Usage(Option<String>),
}

impl Mode {
    const ALL: [(Self, &str, &str); 8] = [
        (Self::Read, "read", "[-h] [-p] [-s] [-R] key [...]"),
        (Self::Write, "write", "[-h] [-s] [-R] key value [...]"),
        (Self::Rm, "rm", "[-h] [-s] [-t] key [...]"),
        (Self::Exists, "exists", "[-h] [-p] [-s] key [...]"),
        (Self::List, "list", "[-h] [-p] [-s] key [...]"),
        (Self::Ls, "ls", "[-h] [-f] [-p] [-s] [path]"),
        (
            Self::Chmod,
            "chmod",
            "[-h] [-u] [-r] [-s] key <mode [modes...]>",
        ),
        (Self::Watch, "watch", "[-h] [-n NR] [-d DEPTH] key"),
    ];

    /// Finds a client by its name after `xenstore-`.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, known, _)| *known == name);
        found.map(|(mode, ..)| *mode)
    }

    /// Returns the usage; `is_multi` if the client is an argument.
    pub(super) fn usage(self, program: &str, is_multi: bool) -> String {
        let found = Self::ALL.iter().find(|(mode, ..)| *mode == self);
        let (name, rest) = found.map_or(("", ""), |(_, name, rest)| (*name, *rest));
        let name = if is_multi {
            format!("{name} ")
        } else {
            String::new()
        };
        format!("Usage: {program} {name}{rest}")
    }

    /// Tells whether the client takes an option.
    fn takes(self, letter: char) -> bool {
        let taken = match self {
            Self::Read => "pR",
            Self::Write => "R",
            Self::Rm => "t",
            Self::Exists => "",
            Self::List => "p",
            Self::Ls => "fp",
            Self::Chmod => "ur",
            Self::Watch => "nd",
        };
        // Xen's -s asks for the socket, which is what we try first anyway.
        letter == 's' || taken.contains(letter)
    }
}

/// Options, by letter and long name.
const OPTIONS: [(char, &str); 10] = [
    ('h', "help"),
    ('f', "flat"),
    ('p', "prefix"),
    ('s', "socket"),
    ('t', "tidy"),
    ('u', "upto"),
    ('r', "recurse"),
    ('n', "number"),
    ('R', "raw"),
    ('d', "depth"),
];

/// Finds an option by its letter, its long name or a prefix of that which no other has.
fn letter(name: &str) -> Option<char> {
    let mut letters = name.chars();
    if let (Some(letter), None) = (letters.next(), letters.next()) {
        let known = OPTIONS.iter().any(|(known, _)| *known == letter);
        return known.then_some(letter);
    }
    let mut starts = OPTIONS.iter().filter(|(_, long)| long.starts_with(name));
    match (starts.next(), starts.next()) {
        (Some((letter, _)), None) => Some(*letter),
        _ => None,
    }
}

impl Options {
    /// Tells whether what is done must be done at once.
    pub(super) fn needs_transaction(&self) -> bool {
        match self.mode {
            Mode::Read => self.operands.len() > 1,
            Mode::Write => self.operands.len() > 2,
            Mode::Ls | Mode::Watch => false,
            _ => true,
        }
    }

    fn set(&mut self, letter: char, value: Option<&str>) -> Option<()> {
        match letter {
            's' => {}
            'f' => self.is_flat = true,
            'p' => self.has_prefix = true,
            't' => self.is_tidy = true,
            'u' => self.is_upto = true,
            'r' => self.is_recursive = true,
            'R' => self.is_raw = true,
            // Xen's -1 means what no -n means.
            'n' => self.count = value?.parse::<i64>().ok()?.try_into().ok(),
            'd' => self.depth = Some(value?.parse().ok()?),
            _ => return None,
        }
        Some(())
    }

    fn has_operands(&self) -> bool {
        match self.mode {
            Mode::Ls => true,
            Mode::Write => !self.operands.is_empty() && self.operands.len().is_multiple_of(2),
            _ => !self.operands.is_empty(),
        }
    }
}

/// Parses what follows the client's name.
pub(super) fn parse(mode: Mode, args: Vec<Vec<u8>>) -> Parsed {
    let mut options = Options {
        mode,
        ..Options::default()
    };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let text = lossy(&arg);
        if text == "--" {
            options.operands.extend(args);
            break;
        }
        let Some(names) = names(&text) else {
            options.operands.push(arg);
            continue;
        };
        for (name, value) in names {
            let Some(letter) = letter(&name) else {
                return Parsed::Usage(Some(unknown(&name)));
            };
            if !mode.takes(letter) {
                return Parsed::Usage(None);
            }
            let needs_value = matches!(letter, 'n' | 'd');
            let value =
                value.or_else(|| needs_value.then(|| args.next().map(|arg| lossy(&arg)))?);
            if needs_value && value.is_none() {
                let what = format!("option requires an argument -- '{letter}'");
                return Parsed::Usage(Some(what));
            }
            if options.set(letter, value.as_deref()).is_none() {
                return Parsed::Usage(None);
            }
        }
    }
    if options.has_operands() {
        Parsed::Run(options)
    } else {
        Parsed::Usage(None)
    }
}

/// Splits an argument into the options that it names; an operand is none.
fn names(text: &str) -> Option<Vec<(String, Option<String>)>> {
    if let Some(long) = text.strip_prefix("--") {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (long, None),
        };
        return Some(vec![(name.to_owned(), value)]);
    }
    let letters = text.strip_prefix('-').filter(|rest| !rest.is_empty());
    letters.map(bundle)
}

fn unknown(name: &str) -> String {
    if name.chars().count() == 1 {
        format!("invalid option -- '{name}'")
    } else {
        format!("unrecognized option '--{name}'")
    }
}

/// Splits bundled letters; what follows one that takes a value is its value.
fn bundle(letters: &str) -> Vec<(String, Option<String>)> {
    let mut names = Vec::new();
    for (at, letter) in letters.char_indices() {
        let rest = letters.get(at + letter.len_utf8()..).unwrap_or_default();
        if matches!(letter, 'n' | 'd') && !rest.is_empty() {
            names.push((letter.to_string(), Some(rest.to_owned())));
            break;
        }
        names.push((letter.to_string(), None));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(mode: Mode, args: &[&str]) -> Parsed {
        parse(
            mode,
            args.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
        )
    }

    #[test]
    fn letters_are_bundled_and_may_follow_operands() {
        let Parsed::Run(options) = parsed(Mode::Ls, &["/a", "-fp"]) else {
            panic!("refused");
        };
        assert!(options.is_flat && options.has_prefix);
        assert_eq!(options.operands, [b"/a".to_vec()]);
    }

    #[test]
    fn values_follow_with_and_without_space() {
        for args in [
            &["-n2", "/a"][..],
            &["-n", "2", "/a"],
            &["--number=2", "/a"],
        ] {
            let Parsed::Run(options) = parsed(Mode::Watch, args) else {
                panic!("refused");
            };
            assert_eq!((options.count, options.operands.len()), (Some(2), 1));
        }
    }

    #[test]
    fn wrong_options_and_numbers_of_operands_show_the_usage() {
        assert!(matches!(
            parsed(Mode::Read, &["-f", "/a"]),
            Parsed::Usage(None)
        ));
        assert!(matches!(parsed(Mode::Read, &[]), Parsed::Usage(None)));
        assert!(matches!(parsed(Mode::Write, &["/a"]), Parsed::Usage(None)));
        assert!(matches!(
            parsed(Mode::Read, &["--help"]),
            Parsed::Usage(None)
        ));
        assert!(matches!(
            parsed(Mode::Write, &["/a", "--", "-x"]),
            Parsed::Run(_)
        ));
        let usage = Mode::Rm.usage("xenstore", true);
        assert_eq!(usage, "Usage: xenstore rm [-h] [-s] [-t] key [...]");
        let unknown = parsed(Mode::Read, &["-z"]);
        assert!(matches!(unknown, Parsed::Usage(Some(what)) if what == "invalid option -- 'z'"));
    }
}
