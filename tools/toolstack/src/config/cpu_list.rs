//! Lists of CPUs as people write them: `all`, `0-3,5,^1`, `node:0`, `nodes:0-1,^node:1`.
//!
//! A list is kept as written, since what it means depends on the host: [`CpuList::resolve`] asks for that.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A checked list of CPUs; later terms override earlier ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuList {
    text: String,
    terms: Vec<Term>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Term {
    exclude: bool,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    All,
    Cpus(u32, u32),
    Nodes(u32, u32),
}

/// Says which part of a list is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no list of CPUs: say all, 0-3, 0,2,^1 or node:0")]
pub struct CpuListError(pub String);

impl CpuList {
    /// Names every CPU of the host.
    pub fn all() -> Self {
        Self {
            text: "all".into(),
            terms: vec![Term {
                exclude: false,
                what: What::All,
            }],
        }
    }

    /// Names these CPUs, as ranges; `None` where there is none.
    pub fn of(cpus: &BTreeSet<u32>) -> Option<Self> {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for cpu in cpus {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
                _ => ranges.push((*cpu, *cpu)),
            }
        }
        let spell = |(first, last): &(u32, u32)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        let text = ranges.iter().map(spell).collect::<Vec<_>>().join(",");
        let terms = ranges.iter().map(|(first, last)| Term {
            exclude: false,
            what: What::Cpus(*first, *last),
        });
        (!ranges.is_empty()).then(|| Self {
            text,
            terms: terms.collect(),
        })
    }

    /// Gives the CPUs below `nr_cpus` that the list names; `node_of` tells a CPU's node.
    pub fn resolve(&self, nr_cpus: u32, node_of: impl Fn(u32) -> u32) -> BTreeSet<u32> {
        let mut chosen = BTreeSet::new();
        // A list that starts by leaving out starts from all.
        if self.terms.first().is_some_and(|t| t.exclude) {
            chosen.extend(0..nr_cpus);
        }
        for term in &self.terms {
            let named = |cpu: &u32| match term.what {
                What::All => true,
                What::Cpus(from, to) => (from..=to).contains(cpu),
                What::Nodes(from, to) => (from..=to).contains(&node_of(*cpu)),
            };
            for cpu in (0..nr_cpus).filter(named) {
                if term.exclude {
                    chosen.remove(&cpu);
                } else {
                    chosen.insert(cpu);
                }
            }
        }
        chosen
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<CpuList> for String {
    fn from(list: CpuList) -> Self {
        list.text
    }
}

impl TryFrom<String> for CpuList {
    type Error = CpuListError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for CpuList {
    type Err = CpuListError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let terms = text
            .split(',')
            .map(|part| term(part.trim()).ok_or_else(|| CpuListError(text.to_owned())))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            text: text.to_owned(),
            terms,
        })
    }
}

fn term(part: &str) -> Option<Term> {
    let (exclude, rest) = part
        .strip_prefix('^')
        .map_or((false, part), |rest| (true, rest));
    let nodes = rest
        .strip_prefix("nodes:")
        .or_else(|| rest.strip_prefix("node:"));
    let what = match (nodes, rest) {
        (None, "all") | (Some("all"), _) => What::All,
        (Some(nodes), _) => range(nodes).map(|(from, to)| What::Nodes(from, to))?,
        (None, cpus) => range(cpus).map(|(from, to)| What::Cpus(from, to))?,
    };
    Some(Term { exclude, what })
}

fn range(text: &str) -> Option<(u32, u32)> {
    let number = |s: &str| s.trim().parse::<u32>().ok();
    let (from, to) = match text.split_once('-') {
        Some((from, to)) => (number(from)?, number(to.trim_start_matches('^'))?),
        None => (number(text)?, number(text)?),
    };
    (from <= to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Vec<u32> {
        text.parse::<CpuList>()
            .unwrap()
            .resolve(8, |cpu| cpu / 4)
            .into_iter()
            .collect()
    }

    #[test]
    fn lists_add_and_leave_out_in_order() {
        assert_eq!(resolve("all"), (0..8).collect::<Vec<_>>());
        assert_eq!(resolve("0-3,5,^1"), [0, 2, 3, 5]);
        assert_eq!(resolve("^0"), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(resolve("node:1,^6"), [4, 5, 7]);
        assert_eq!(resolve("nodes:0-1,^node:0"), [4, 5, 6, 7]);
        assert_eq!(resolve("0-100"), (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn wrong_lists_are_refused() {
        for bad in ["", "a", "3-1", "1,,2", "-1", "node:", "^"] {
            assert!(bad.parse::<CpuList>().is_err(), "{bad}");
        }
    }
}
