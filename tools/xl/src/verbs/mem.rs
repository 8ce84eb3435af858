//! `xl mem-set` and `xl mem-max`: a domain's memory now, and at most.

use clap::Parser;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::table::Verb;

/// Ask a domain's balloon to go to a size
#[derive(Debug, Parser)]
pub struct MemSet {
    /// Domain: name, id or UUID
    domain: String,
    /// Memory in MiB, or with a suffix: b k m g t
    memory: String,
}

/// Set the most memory a domain may have
#[derive(Debug, Parser)]
pub struct MemMax {
    /// Domain: name, id or UUID
    domain: String,
    /// Memory in MiB, or with a suffix: b k m g t
    memory: String,
}

impl Verb for MemSet {
    fn run(self, context: &Context) -> Outcome {
        let domain = context.find(&self.domain)?;
        Ok(context
            .toolstack()?
            .set_memory_target(domain.domid, size(&self.memory)?)?)
    }
}

impl Verb for MemMax {
    fn run(self, context: &Context) -> Outcome {
        let domain = context.find(&self.domain)?;
        let toolstack = context.toolstack()?;
        let kib = size(&self.memory)?;
        let held = context.lock()?;
        toolstack.set_memory_max(domain.domid, kib)?;
        if let Some(mut config) = toolstack.kept_config(domain.domid)? {
            config.max_memory_kib = kib;
            toolstack.keep_config(&held, domain.domid, &config)?;
        }
        Ok(())
    }
}

fn size(text: &str) -> Result<u64, Failure> {
    parse_size_kib(text).ok_or_else(|| Failure::new(format!("invalid memory size: {text}")))
}

/// Reads a size: MiB, or with one letter behind it; gives KiB, above 0.
pub fn parse_size_kib(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number: u64 = digits.parse().ok()?;
    let kib = match unit.to_ascii_lowercase().as_str() {
        "b" => Some(number >> 10),
        "k" => Some(number),
        "" | "m" => number.checked_mul(1 << 10),
        "g" => number.checked_mul(1 << 20),
        "t" => number.checked_mul(1 << 30),
        _ => None,
    };
    kib.filter(|kib| *kib > 0 && *kib < 1 << 44)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_mib_unless_a_letter_says_otherwise() {
        for (text, kib) in [
            ("256", Some(262_144)),
            ("256m", Some(262_144)),
            ("1G", Some(1 << 20)),
            ("1t", Some(1 << 30)),
            ("4096k", Some(4096)),
            ("1048576b", Some(1024)),
            ("0", None),
            ("", None),
            ("-1", None),
            ("12mb", None),
            ("99999999999999999999", None),
            ("18446744073709551615t", None),
        ] {
            assert_eq!(parse_size_kib(text), kib, "{text}");
        }
    }
}
