//! The daemon's own commands, as `xenstore-control` sends them.
//!
//! Texts follow Xen's where people read them (`quota`, `help`); an unknown command is EINVAL, upon which the client
//! shows the help.

use std::fmt::Write;
use std::io::{self, Write as _};
use std::path::Path;

use daemon::logging;
use xenstore::{Domid, Refusal, wire};

use crate::core::Core;
use crate::quota::{Limit, Quotas};
use crate::record::Record;
use crate::request::number;

/// Commands, with what may follow them.
const COMMANDS: [(&str, &str); 8] = [
    ("check", ""),
    ("log", "on|off|error|warn|info|debug"),
    ("logfile", "<file>"),
    ("memreport", "[<file>]"),
    ("print", "<string>"),
    ("quota", "[set <name> <val>|<domid>]"),
    ("quota-soft", "[set <name> <val>]"),
    ("help", ""),
];

impl Core {
    /// Serves a command; each word is one string.
    ///
    /// # Errors
    /// EINVAL for what is not understood, ENOENT for a domain that is not known.
    pub(crate) fn control(&mut self, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        let words: Option<Vec<_>> = wire::strings(payload)
            .map(|word| str::from_utf8(word).ok())
            .collect();
        let words = words.ok_or(Refusal::Invalid)?;
        let text = match words.as_slice() {
            ["help"] => help(),
            ["check"] => self.check(),
            ["log", level] => set_log(level)?,
            ["logfile", path] => done(logging::go_on_in(Path::new(path)))?,
            ["memreport"] => self.memreport(),
            ["memreport", path] => done(self.report_to(Path::new(path)))?,
            ["print", words @ ..] => {
                log::info!("control: {}", words.join(" "));
                "OK".to_owned()
            }
            ["quota"] => quotas(&self.quotas),
            ["quota", "set", name, value] => self.set_quota(name, value)?,
            ["quota-soft"] => {
                let soft = self.quotas.soft();
                format!(
                    "Quota settings:\n{:<17}: {soft:>8} bytes per domain\n",
                    "memory"
                )
            }
            ["quota-soft", "set", "memory", value] => self.set_soft(value)?,
            ["quota", domid] => self.domain_usage(number(domid.as_bytes())?)?,
            _ => return Err(Refusal::Invalid),
        };
        let mut reply = text.into_bytes();
        reply.truncate(wire::XENSTORE_PAYLOAD_MAX - 1);
        reply.push(0);
        Ok(reply)
    }

    fn set_quota(&mut self, name: &str, value: &str) -> Result<String, Refusal> {
        let limit = Limit::from_name(name).ok_or(Refusal::Invalid)?;
        let value = most(value)?;
        self.quotas.set(limit, value);
        log::info!("quota {name} set to {value}");
        let name = name.into();
        self.records.push(Record::Quota { name, value });
        Ok("OK".to_owned())
    }

    fn set_soft(&mut self, value: &str) -> Result<String, Refusal> {
        self.quotas.set_soft(most(value)?);
        let changed = self.quotas.changed().map(|(name, value)| Record::Quota {
            name: name.into(),
            value,
        });
        self.records.extend(changed);
        Ok("OK".to_owned())
    }

    fn report_to(&self, path: &Path) -> io::Result<()> {
        private_file::create(path)?.write_all(self.memreport().as_bytes())
    }

    fn domain_usage(&self, domid: Domid) -> Result<String, Refusal> {
        let domain = self.domains.get(&domid).ok_or(Refusal::NotFound)?;
        let conn = self.conns.get(&domain.conn).ok_or(Refusal::NotFound)?;
        let usage = self.tree.usage(domid);
        let watches = self.watches.usage(domain.conn);
        let mut text = format!("Domain {domid}:\n");
        for (name, value) in [
            ("nodes", usage.nodes),
            ("watches", watches.nodes),
            ("transactions", self.transactions.of(domain.conn).count()),
            ("outstanding", conn.outstanding.get()),
            ("memory", self.charged(domain.conn)),
        ] {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<16}: {value:>8}");
        }
        Ok(text)
    }

    /// Returns what each domain uses, and what is unread in all.
    pub(crate) fn memreport(&self) -> String {
        let mut text = String::new();
        let mut owners: Vec<_> = self.tree.owners().collect();
        owners.sort_by_key(|(domid, _)| *domid);
        for (domid, usage) in owners {
            let (nodes, bytes) = (usage.nodes, usage.bytes);
            let _ = writeln!(text, "domain {domid}: {nodes} nodes, {bytes} bytes");
        }
        let unread: usize = self.conns.values().map(|conn| conn.outbox.len()).sum();
        let conns = self.conns.len();
        let _ = write!(text, "{conns} connections, {unread} bytes unread");
        text
    }

    /// Counts the nodes again and compares with the accounts.
    fn check(&self) -> String {
        let mut counted = std::collections::HashMap::<Domid, usize>::new();
        self.tree
            .walk(&mut |_, node| *counted.entry(node.owner()).or_default() += 1);
        let agrees = |(domid, nodes): (&Domid, &usize)| self.tree.usage(*domid).nodes == *nodes;
        if counted.iter().all(agrees) {
            "OK".to_owned()
        } else {
            log::error!("check: the accounts do not agree with the tree");
            "the accounts do not agree with the tree".to_owned()
        }
    }
}

fn help() -> String {
    COMMANDS
        .iter()
        .map(|(name, rest)| format!("{name}\t{rest}\n"))
        .collect()
}

/// Answers for what had to do with a file.
fn done(result: io::Result<()>) -> Result<String, Refusal> {
    result.map_err(|error| {
        log::error!("control: {error}");
        let errno = rustix::io::Errno::from_io_error(&error);
        let known = Refusal::ALL.iter().find(|r| Some(r.errno()) == errno);
        known.copied().unwrap_or(Refusal::Io)
    })?;
    Ok("OK".to_owned())
}

fn set_log(level: &str) -> Result<String, Refusal> {
    let level = match level {
        "on" => log::LevelFilter::Debug,
        "off" => log::LevelFilter::Info,
        name => name.parse().map_err(|_| Refusal::Invalid)?,
    };
    log::set_max_level(level);
    Ok("OK".to_owned())
}

/// Reads a limit; none is 0, as in Xen.
fn most(text: &str) -> Result<usize, Refusal> {
    let value = number::<std::num::NonZero<usize>>(text.as_bytes())?;
    Ok(value.get())
}

fn quotas(quotas: &Quotas) -> String {
    let mut text = "Quota settings:\n".to_owned();
    for (name, value, meaning) in quotas.iter() {
        let _ = writeln!(text, "{name:<17}: {value:>8} {meaning}");
    }
    text
}
