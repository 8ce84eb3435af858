//! What verbs share: the global flags, and the ways to the hypervisor and to xenstore, opened when first used.

use std::cell::{Cell, OnceCell, RefCell};

use toolstack::config::{DomainConfig, HostConfig, Message, Rejected};
use toolstack::domain::DomainInfo;
use toolstack::{Hyper, Lock, Toolstack};

use crate::config_file::note_warnings;
use crate::failure::{Failure, Outcome, no_domain};
use crate::output;

/// The host's own settings, as for Xen's xl.
const HOST_FILE: &str = "/etc/xen/xl.conf";

/// Flags before the verb.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Globals {
    /// `-v`, as often as given.
    pub verbose: u8,
    /// `-N`: do nothing, say what would be done.
    pub dry_run: bool,
    /// `-t`: a carriage return before each message, for progress lines.
    pub carriage_return: bool,
    /// `-T`: a time and the process id before each message.
    pub timestamps: bool,
}

/// What a verb works with.
#[derive(Debug, Default)]
pub struct Context {
    /// Flags before the verb.
    pub globals: Globals,
    toolstack: OnceCell<Toolstack>,
    json: Cell<bool>,
    found: RefCell<Vec<u16>>,
    hyper: OnceCell<Hyper>,
    host: OnceCell<(HostConfig, Vec<Message>)>,
}

impl Context {
    /// Makes one with nothing opened yet.
    pub fn new(globals: Globals) -> Self {
        Self {
            globals,
            ..Self::default()
        }
    }

    /// Uses a toolstack that is open already.
    pub fn over(toolstack: Toolstack) -> Self {
        Self {
            toolstack: OnceCell::from(toolstack),
            ..Self::default()
        }
    }

    /// True where the verb answers in JSON.
    pub fn json(&self) -> bool {
        self.json.get()
    }

    /// Has the verb answer in JSON.
    pub fn set_json(&self) {
        self.json.set(true);
    }

    /// Notes a domain that the verb does something to.
    pub fn note_domain(&self, domid: u16) {
        self.found.borrow_mut().push(domid);
    }

    /// Gives the answer of a verb that has none of its own: which domains it did something to.
    pub fn domains_json(&self) -> serde_json::Value {
        serde_json::json!({"domains": *self.found.borrow()})
    }

    /// Answers in JSON what was made or changed, where that is asked for; says nothing else.
    ///
    /// # Errors
    /// stdout cannot be written.
    pub fn answer(&self, verb: &str, data: impl serde::Serialize) -> Outcome {
        if self.json() {
            output::print_json(verb, data)
        } else {
            Ok(())
        }
    }

    /// Gives the toolstack: hypervisor and xenstore.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn toolstack(&self) -> Result<&Toolstack, Failure> {
        if let Some(open) = self.toolstack.get() {
            return Ok(open);
        }
        let host = self.host()?;
        let open = Toolstack::open()?.configured(host);
        Ok(self.toolstack.get_or_init(|| open))
    }

    /// Gives what the host's administrator set in xl.conf(5).
    ///
    /// # Errors
    /// The file is there, and cannot be read or is wrong.
    pub fn host(&self) -> Result<&HostConfig, Failure> {
        if let Some((host, _)) = self.host.get() {
            return Ok(host);
        }
        let read = read_host(HOST_FILE)?;
        Ok(&self.host.get_or_init(|| read).0)
    }

    /// The same for those verbs that it is there for: what in it has no effect is told.
    ///
    /// # Errors
    /// As for [`Context::host`].
    pub fn host_telling(&self, quiet: bool) -> Result<&HostConfig, Failure> {
        let host = self.host()?;
        if let (Some((_, warnings)), false) = (self.host.get(), quiet) {
            note_warnings(warnings);
        }
        Ok(host)
    }

    /// Takes the host's lock; where that takes longer than a second, says so.
    ///
    /// # Errors
    /// Its file cannot be made, or xenstored or the hypervisor is not there.
    pub fn lock(&self) -> Result<Lock, Failure> {
        let mut note = |text: &str| output::note(&format!("xl: {text}"));
        Ok(self.toolstack()?.lock(&mut note)?)
    }

    /// Gives the hypervisor alone, for verbs that work without xenstored.
    ///
    /// # Errors
    /// It is not there: no dom0.
    pub fn hyper(&self) -> Result<&Hyper, Failure> {
        if let Some(open) = self.toolstack.get() {
            return Ok(&open.hyper);
        }
        if let Some(open) = self.hyper.get() {
            return Ok(open);
        }
        let open = Hyper::open().map_err(toolstack::Error::from)?;
        Ok(self.hyper.get_or_init(|| open))
    }

    /// Finds a domain by name, id or UUID.
    ///
    /// # Errors
    /// There is none, in xl's words.
    pub fn find(&self, text: &str) -> Result<DomainInfo, Failure> {
        let found = self.toolstack()?.find(text);
        let domain = found.map_err(|error| match error.root() {
            toolstack::Error::NoDomain(_) => no_domain(text),
            _ => error.into(),
        })?;
        self.note_domain(domain.domid);
        Ok(domain)
    }

    /// Finds the domains that a command line names; one that is not there is told of and left out, as in xl.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn find_those_there(&self, names: &[String]) -> Result<Vec<DomainInfo>, Failure> {
        let mut domains = Vec::new();
        for name in names {
            match self.toolstack()?.find(name) {
                Ok(domain) => domains.push(domain),
                Err(error) if matches!(error.root(), toolstack::Error::NoDomain(_)) => {
                    output::note(&format!("{name} is an invalid domain identifier"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(domains)
    }

    /// Finds the domains that a command line names; all where it names none.
    ///
    /// # Errors
    /// As for [`Context::find`], or the hypervisor's.
    pub fn named_or_all(&self, names: &[String]) -> Result<Vec<DomainInfo>, Failure> {
        if names.is_empty() {
            return Ok(self.toolstack()?.list()?);
        }
        names.iter().map(|name| self.find(name)).collect()
    }

    /// Leaves of the CPUs that a domain may run on those that the host's masks allow.
    ///
    /// # Errors
    /// None is left, or the hypervisor's.
    pub fn mask_cpus(&self, config: &mut DomainConfig) -> Result<(), Failure> {
        let host = self.host()?;
        if host.cpu_masks.is_empty() {
            return Ok(());
        }
        let topology = self.hyper()?.topology()?;
        let node_of = |cpu: u32| topology.cpus.get(cpu as usize).map_or(0, |at| at.node);
        host.mask_cpus(config, self.nr_cpus()?, node_of)
            .map_err(|error| Failure::new(error.to_string()))
    }

    /// Gives the number of CPUs that masks cover; where there is no hypervisor, of this machine's.
    pub fn nr_cpus_or_here(&self) -> u32 {
        self.nr_cpus().unwrap_or_else(|_| {
            let here = std::thread::available_parallelism();
            here.map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
        })
    }

    /// Gives the number of CPUs that masks cover.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn nr_cpus(&self) -> Result<u32, Failure> {
        Ok(self.hyper()?.physinfo()?.max_cpu_id + 1)
    }
}

/// Reads the host's settings; where there is no file, there are none.
fn read_host(file: &str) -> Result<(HostConfig, Vec<Message>), Failure> {
    let text = match std::fs::read(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Default::default()),
        read => read.map_err(|error| Failure::new(format!("xl: {file}: {error}")))?,
    };
    HostConfig::parse(file, &text).map_err(|Rejected { errors, .. }| {
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        Failure::of_messages(&texts)
    })
}

/// Gives a domain's name as texts show it.
pub fn shown_name(domain: &DomainInfo) -> &str {
    domain.name.as_deref().unwrap_or("(null)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_may_be_absent_and_must_be_right() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("xl.conf");
        let file = path.to_str().unwrap();
        assert_eq!(read_host(file).unwrap().0, HostConfig::default());
        std::fs::write(&path, "lockfile=\"/run/other\"\noutput_format=\"sxp\"\n").unwrap();
        let (host, warnings) = read_host(file).unwrap();
        assert_eq!(host.lockfile, Some("/run/other".into()));
        assert_eq!(warnings.len(), 1);
        std::fs::write(&path, "autoballoon=\"maybe\"\nclaim_mode=2x\n").unwrap();
        let failure = read_host(file).unwrap_err();
        assert_eq!((failure.code, failure.details.len()), (1, 2));
        assert!(
            failure
                .text
                .contains("xl.conf:1:13: autoballoon is on, off or auto")
        );
    }
}
